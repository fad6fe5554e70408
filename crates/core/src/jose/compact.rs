//! The compact serialisation (RFC 7515 section 3.1) of a JWT (RFC 7519), parsed but not believed.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    MAX_DEPTH, base64url, plain_json,
    strict_json::{self, StrictJsonError},
};
use crate::claims::{ClaimSet, NotClaims};

/// The longest token that is looked at, bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a text is no token. The detail is fixed and safe to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A token in its parts. Nothing in here has been verified.
#[derive(Clone, Debug)]
pub struct Compact<'a> {
    /// The protected header.
    pub header: Header,
    /// The claims.
    pub payload: Map<String, Value>,
    /// What the signature is over: header and payload as they were sent.
    pub signing_input: &'a [u8],
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

/// A JWS in its parts, whatever its payload is. Nothing in here has been verified.
#[derive(Clone, Debug)]
pub struct Jws<'a> {
    /// The protected header.
    pub header: Header,
    /// The payload's bytes.
    pub payload: Vec<u8>,
    /// What the signature is over: header and payload as they were sent.
    pub signing_input: &'a [u8],
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

/// What counts in a header. `jwk`, `jku`, `x5u`, `x5c` and whatever else it may carry is ignored: a key is never taken from
/// the token that it is to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<T = String> {
    /// `alg`, as sent: it is compared with the key's and chooses nothing.
    pub alg: T,
    /// `kid`.
    pub kid: Option<T>,
    /// `typ`.
    pub typ: Option<T>,
}

/// A token whose parts are decoded and nothing more, all in one allocation.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    /// Header, payload and signature, one after the other.
    bytes: Vec<u8>,
    header_end: usize,
    payload_end: usize,
    signing_input: &'a [u8],
}

impl<'a> Decoded<'a> {
    /// Decodes the parts of a text.
    pub fn new(text: &'a str) -> Result<Self, Malformed> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Malformed("the token is over 16 KiB"));
        }
        let (header, payload, signature) = three_parts(text)?;
        let signing_input = &text.as_bytes()[..header.len() + 1 + payload.len()];
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
        let mut decode = |part, fault| match base64url::decode_onto(&mut bytes, part) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(Malformed(fault)),
        };
        let header_end = decode(header, "the header is not base64url without padding")?;
        let payload_end = decode(payload, "the payload is not base64url without padding")?;
        decode(signature, "the signature is not base64url without padding")?;
        Ok(Self { bytes, header_end, payload_end, signing_input })
    }

    /// The protected header.
    pub fn header(&self) -> Result<Header<Cow<'_, str>>, Malformed> {
        let json = &self.bytes[..self.header_end];
        if let Some(header) = plain_header(json) {
            return Ok(header);
        }
        let Header { alg, kid, typ } = Header::try_from(object(json, &HEADER_FAULTS)?)?;
        Ok(Header { alg: Cow::Owned(alg), kid: kid.map(Cow::Owned), typ: typ.map(Cow::Owned) })
    }

    /// The claims.
    pub fn claims(&self) -> Result<ClaimSet, Malformed> {
        ClaimSet::parse(self.payload()).map_err(|not_claims| match not_claims {
            NotClaims::Json(error) => PAYLOAD_FAULTS.of(error),
            NotClaims::NotAnObject => PAYLOAD_FAULTS.not_an_object,
        })
    }

    /// The payload's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.header_end..self.payload_end]
    }

    /// What the signature is over: header and payload as they were sent.
    pub fn signing_input(&self) -> &'a [u8] {
        self.signing_input
    }

    /// The signature's bytes.
    pub fn signature(&self) -> &[u8] {
        &self.bytes[self.payload_end..]
    }
}

/// Takes a token apart.
pub fn parse(token: &str) -> Result<Compact<'_>, Malformed> {
    let Jws { header, payload, signing_input, signature } = parse_jws(token)?;
    let payload = object(&payload, &PAYLOAD_FAULTS)?;
    Ok(Compact { header, payload, signing_input, signature })
}

/// Takes a JWS apart that need not carry claims.
pub fn parse_jws(text: &str) -> Result<Jws<'_>, Malformed> {
    let decoded = Decoded::new(text)?;
    let Header { alg, kid, typ } = decoded.header()?;
    Ok(Jws {
        header: Header { alg: alg.into_owned(), kid: kid.map(Cow::into_owned), typ: typ.map(Cow::into_owned) },
        payload: decoded.payload().to_vec(),
        signing_input: decoded.signing_input(),
        signature: decoded.signature().to_vec(),
    })
}

fn three_parts(token: &str) -> Result<(&str, &str, &str), Malformed> {
    const COUNT: Malformed = Malformed("the token is not three parts joined by dots");
    let (header, rest) = token.split_once('.').ok_or(COUNT)?;
    let (payload, signature) = rest.split_once('.').ok_or(COUNT)?;
    if signature.contains('.') {
        return Err(COUNT);
    }
    if header.is_empty() || payload.is_empty() || signature.is_empty() {
        return Err(Malformed("a part of the token is empty"));
    }
    Ok((header, payload, signature))
}

struct Faults {
    syntax: Malformed,
    duplicate: Malformed,
    depth: Malformed,
    not_an_object: Malformed,
}

const HEADER_FAULTS: Faults = Faults {
    syntax: Malformed("the header is not JSON"),
    duplicate: Malformed("the header has two members of one name"),
    depth: Malformed("the header nests deeper than 64"),
    not_an_object: Malformed("the header is not a JSON object"),
};

const PAYLOAD_FAULTS: Faults = Faults {
    syntax: Malformed("the payload is not JSON"),
    duplicate: Malformed("the payload has two members of one name"),
    depth: Malformed("the payload nests deeper than 64"),
    not_an_object: Malformed("the payload is not a JSON object"),
};

fn object(json: &[u8], faults: &Faults) -> Result<Map<String, Value>, Malformed> {
    match strict_json::parse(json, MAX_DEPTH) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(faults.not_an_object),
        Err(error) => Err(faults.of(error)),
    }
}

impl Faults {
    const fn of(&self, error: StrictJsonError) -> Malformed {
        match error {
            StrictJsonError::Syntax => self.syntax,
            StrictJsonError::DuplicateMember => self.duplicate,
            StrictJsonError::TooDeep => self.depth,
        }
    }
}

/// A header in plain JSON that names nothing but strings under the names that count; whatever else it holds is ignored, but
/// for what must not be. `None`: not that plain.
fn plain_header(json: &[u8]) -> Option<Header<Cow<'_, str>>> {
    let json = str::from_utf8(json).ok()?;
    let (mut alg, mut kid, mut typ) = (None, None, None);
    for member in plain_json::members(json)? {
        let place = match &json[member.name] {
            "alg" => &mut alg,
            "kid" => &mut kid,
            "typ" => &mut typ,
            "b64" | "crit" => return None,
            _ => continue,
        };
        let value = json[member.value].strip_prefix('"')?.strip_suffix('"')?;
        *place = Some(Cow::Borrowed(value));
    }
    Some(Header { alg: alg?, kid, typ })
}

impl TryFrom<Map<String, Value>> for Header {
    type Error = Malformed;

    fn try_from(mut members: Map<String, Value>) -> Result<Self, Malformed> {
        refuse_unencoded_payload(&members)?;
        refuse_unknown_extensions(&members)?;
        let mut text = |name: &str, fault: &'static str| match members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed(fault)),
        };
        Ok(Self {
            alg: text("alg", "alg is not a string")?.ok_or(Malformed("the header has no alg"))?,
            kid: text("kid", "kid is not a string")?,
            typ: text("typ", "typ is not a string")?,
        })
    }
}

/// `b64` (RFC 7797) may say no more than what holds anyway: a verifier that ignored `false` would check other bytes.
fn refuse_unencoded_payload(header: &Map<String, Value>) -> Result<(), Malformed> {
    match header.get("b64") {
        None | Some(Value::Bool(true)) => Ok(()),
        Some(_) => Err(Malformed("b64 is something other than true")),
    }
}

/// `crit` (RFC 7515 section 4.1.11) is a list without repetition, not empty, of extensions that the header holds and the
/// reader understands. We understand `b64` alone.
fn refuse_unknown_extensions(header: &Map<String, Value>) -> Result<(), Malformed> {
    let Some(crit) = header.get("crit") else { return Ok(()) };
    match crit.as_array().map(Vec::as_slice) {
        Some([Value::String(name)]) if name == "b64" && header.contains_key("b64") => Ok(()),
        _ => Err(Malformed("crit demands an extension that is not understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", base64url::encode(header), base64url::encode(payload), base64url::encode("signature"))
    }

    #[test]
    fn a_token_is_taken_apart_without_being_believed() {
        let text = token(
            r#"{"alg":"none","kid":"k","typ":null,"jku":"https://evil.example","jwk":{"kty":"oct"},"x5c":[1],"new":[]}"#,
            r#"{"sub":"me"}"#,
        );
        let parsed = parse(&text).unwrap();
        assert_eq!(parsed.header, Header { alg: "none".into(), kid: Some("k".into()), typ: None });
        assert_eq!(parsed.payload["sub"], "me");
        assert_eq!(parsed.signature, b"signature");
        assert_eq!(parsed.signing_input, text.rsplit_once('.').unwrap().0.as_bytes());
    }

    #[test]
    fn a_plain_header_is_what_the_strict_parser_reads() {
        let headers = [
            r#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#,
            r#"{"typ":"JWT","alg":"none","x5c":["a"],"jwk":{"a":1,"b":"2"}}"#,
            r#"{"alg":"RS256","typ":null}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":"RS256","kid":["a"]}"#,
            r#"{"alg":"RS256","kid":"a\"}"#,
            r#"{"alg":"RS256","kid":"a","kid":"a"}"#,
            r#"{"alg":"RS256","b64":true}"#,
            r#"{"alg":"RS256","crit":[]}"#,
            r#"{"kid":"a"}"#,
            r#"{"alg":""}"#,
            "{}",
        ];
        let mut plain = 0;
        for json in headers {
            let strict = object(json.as_bytes(), &HEADER_FAULTS).and_then(Header::try_from);
            if let Some(Header { alg, kid, typ }) = plain_header(json.as_bytes()) {
                let owned = Header { alg: alg.into_owned(), kid: kid.map(Cow::into_owned), typ: typ.map(Cow::into_owned) };
                assert_eq!(Ok(owned), strict, "{json}");
                plain += 1;
            }
        }
        assert_eq!(plain, 3, "null, other types, escapes and what must not be ignored are for the strict parser");
    }

    #[test]
    fn every_malformed_header_is_told_by_its_fault() {
        let cases = [
            ("{}", "the header has no alg"),
            (r#"{"alg":null}"#, "the header has no alg"),
            (r#"{"alg":7}"#, "alg is not a string"),
            (r#"{"alg":["HS256"]}"#, "alg is not a string"),
            (r#"{"alg":"RS256","kid":7}"#, "kid is not a string"),
            (r#"{"alg":"RS256","kid":{}}"#, "kid is not a string"),
            (r#"{"alg":"RS256","typ":true}"#, "typ is not a string"),
            (r#"{"alg":"RS256","alg":"none"}"#, "the header has two members of one name"),
            (r#"{"alg":"RS256","\u0061lg":"none"}"#, "the header has two members of one name"),
            (r#"{"alg":"RS256","kid":"a","kid":"a"}"#, "the header has two members of one name"),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":[]}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":null}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":"b64","b64":true}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":["b64"]}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":["b64","b64"],"b64":true}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":["b64","x"],"b64":true,"x":1}"#, "crit demands an extension that is not understood"),
            (r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, "b64 is something other than true"),
            (r#"{"alg":"RS256","b64":false}"#, "b64 is something other than true"),
            (r#"{"alg":"RS256","b64":null}"#, "b64 is something other than true"),
            (r#"{"alg":"RS256","b64":"true"}"#, "b64 is something other than true"),
            (r#"["RS256"]"#, "the header is not a JSON object"),
            (r#""RS256""#, "the header is not a JSON object"),
            (r#"{"alg":"RS256"} {}"#, "the header is not JSON"),
            (r#"{"alg":"RS256""#, "the header is not JSON"),
        ];
        for (header, fault) in cases {
            assert_eq!(parse(&token(header, "{}")).unwrap_err(), Malformed(fault), "{header}");
        }
        assert!(parse(&token(r#"{"alg":"RS256","crit":["b64"],"b64":true}"#, "{}")).is_ok());
    }

    #[test]
    fn every_malformed_payload_is_told_by_its_fault() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
        let cases = [
            ("not json", "the payload is not JSON"),
            ("[]", "the payload is not a JSON object"),
            ("null", "the payload is not a JSON object"),
            (r#""eyJhbGciOiJub25lIn0.e30.""#, "the payload is not a JSON object"),
            (r#"{"exp":1,"exp":2}"#, "the payload has two members of one name"),
            (r#"{"a":{"b":[{"c":1,"c":1}]}}"#, "the payload has two members of one name"),
            (r#"{"exp":1e999}"#, "the payload is not JSON"),
            (r#"{"exp":NaN}"#, "the payload is not JSON"),
            (r#"{"sub":"\ud800"}"#, "the payload is not JSON"),
            (&deep, "the payload nests deeper than 64"),
        ];
        for (payload, fault) in cases {
            assert_eq!(parse(&token(r#"{"alg":"RS256"}"#, payload)).unwrap_err(), Malformed(fault), "{payload}");
        }
    }

    #[test]
    fn what_is_not_three_strict_parts_is_malformed() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        let (header, rest) = good.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        let three = "the token is not three parts joined by dots";
        let empty = "a part of the token is empty";
        let cases = [
            (String::new(), three),
            ("eyJhbGciOiJSUzI1NiJ9".into(), three),
            (format!("{header}.{payload}"), three),
            (format!("{good}."), three),
            (format!("{good}.{signature}"), three),
            (format!("{good}.{signature}.{signature}"), three),
            ("..".into(), empty),
            (format!(".{payload}.{signature}"), empty),
            (format!("{header}..{signature}"), empty),
            (format!("{header}.{payload}."), empty),
            (format!("{header}=.{payload}.{signature}"), "the header is not base64url without padding"),
            (format!(" {good}"), "the header is not base64url without padding"),
            (format!("{good}\n"), "the signature is not base64url without padding"),
            (format!("{header}.{payload}.{signature}="), "the signature is not base64url without padding"),
            (format!("{header}.e30=.{signature}"), "the payload is not base64url without padding"),
            (format!("{header}.e31.{signature}"), "the payload is not base64url without padding"),
            (format!("{header}.{payload}.ab+/"), "the signature is not base64url without padding"),
            (format!("{header}.{payload}.\u{e9}"), "the signature is not base64url without padding"),
            (
                r#"{"payload":"e30","signatures":[{"protected":"e30","signature":"aa.bb.cc"}]}"#.into(),
                "the header is not base64url without padding",
            ),
        ];
        for (text, fault) in cases {
            assert_eq!(parse(&text).unwrap_err(), Malformed(fault), "{text:?}");
        }
    }

    #[test]
    fn sixteen_kibibytes_are_the_most() {
        let head = format!("{}.{}.", base64url::encode(r#"{"alg":"RS256"}"#), base64url::encode("{}"));
        let padding = |length: usize| format!("{head}{}", "A".repeat(length - head.len()));
        assert!(parse(&padding(MAX_TOKEN_BYTES)).is_ok());
        assert_eq!(parse(&padding(MAX_TOKEN_BYTES + 1)).unwrap_err(), Malformed("the token is over 16 KiB"));
    }
}
