//! The compact serialisation (RFC 7515 section 3.1) of a JWT (RFC 7519), parsed but not believed.

use serde_json::{Map, Value};

use super::{
    MAX_DEPTH, base64url,
    strict_json::{self, StrictJsonError},
};

/// The longest token that is looked at, bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a text is no token. The detail is fixed and safe to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A JWS in its parts. Nothing in here has been verified.
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

/// What counts in a header. `jwk`, `jku`, `x5u`, `x5c` and whatever else it may carry is ignored: a key is never taken from
/// the token that it is to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`, as sent: it is compared with the key's and chooses nothing.
    pub alg: String,
    /// `kid`.
    pub kid: Option<String>,
    /// `typ`.
    pub typ: Option<String>,
}

/// Takes a token apart.
pub fn parse(token: &str) -> Result<Compact<'_>, Malformed> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Malformed("the token is longer than 16 KiB"));
    }
    let (header, payload, signature) = three_parts(token)?;
    let signing_input = &token.as_bytes()[..header.len() + 1 + payload.len()];

    let header = bytes(header, "the header is not base64url without padding")?;
    let payload = bytes(payload, "the payload is not base64url without padding")?;
    let signature = bytes(signature, "the signature is not base64url without padding")?;

    let header = Header::try_from(object(&header, &HEADER_FAULTS)?)?;
    let payload = object(&payload, &PAYLOAD_FAULTS)?;
    Ok(Compact { header, payload, signing_input, signature })
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

fn bytes(part: &str, fault: &'static str) -> Result<Vec<u8>, Malformed> {
    base64url::decode(part).map_err(|_| Malformed(fault))
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
        Err(StrictJsonError::Syntax) => Err(faults.syntax),
        Err(StrictJsonError::DuplicateMember) => Err(faults.duplicate),
        Err(StrictJsonError::TooDeep) => Err(faults.depth),
    }
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
