//! Credentials in place of names: what they are known by, and whose they are.

use countersign_core::{
    check,
    claims::Claims,
    jose::compact,
    mint::API_KEY_PREFIX,
    revocation::{Entry, IdHasher, Kind},
    time::UnixMillis,
};

use super::request::{InvalidRevocation, MAX_ID, knows};
use crate::policies::IssuerPolicy;

/// Whether a text given as a name is a credential of somebody: a token or an API key by its looks, an opaque key by its hash.
/// Shapes count that no longer verify, such as one with a line's end or its scheme before it: better one refused too many.
pub(super) fn is_one(policy: &IssuerPolicy, text: &str) -> bool {
    let bare = without_scheme(text);
    bare.starts_with(API_KEY_PREFIX) || looks_like_jws(bare) || is_opaque_key(policy, bare)
}

/// Whether a text is one of the policy's opaque keys.
pub(super) fn is_opaque_key(policy: &IssuerPolicy, text: &str) -> bool {
    policy.compiled.opaque.as_ref().is_some_and(|keys| keys.lookup(text.trim()).is_some())
}

fn without_scheme(text: &str) -> &str {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
        _ => text,
    }
}

/// `eyJ` is how base64url writes `{"`, with which every JWS begins.
fn looks_like_jws(text: &str) -> bool {
    let mut parts = text.split('.');
    let header = parts.next().is_some_and(|header| header.starts_with("eyJ"));
    (header && parts.next().is_some_and(|payload| payload.len() > 1)) || compact::parse(text).is_ok()
}

/// A token or key by the name that it bears, whether or not it verifies: who may revoke may revoke any name.
pub(super) fn of_credential(
    policy: &IssuerPolicy,
    credential: &str,
    blank: Entry,
    now: UnixMillis,
) -> Result<Entry, InvalidRevocation> {
    if let Some(opaque) = policy.compiled.opaque.as_ref().and_then(|keys| keys.lookup(credential)) {
        let expires = opaque.not_after.map_or(UnixMillis::FOREVER, |end| end.plus(policy.clock_skew_ms));
        return Ok(Entry { kind: Kind::ApiKey, id: opaque.id(), issuer: None, expires, ..blank });
    }
    let (claims, is_api_key) = read(credential).ok_or(InvalidRevocation::NoCredential)?;
    let issuer = claims.issuer.clone().ok().flatten();
    if !belongs_by_issuer(policy, issuer.as_deref()) {
        return Err(InvalidRevocation::ForeignCredential(policy.name.clone()));
    }
    // Tokens that an entry for any issuer answers for are known by their id alone.
    let issuer = issuer.filter(|i| knows(policy, i));
    let id = claims.token_id.ok().flatten().filter(|id| !id.is_empty()).ok_or(InvalidRevocation::Nameless)?;
    if id.len() > MAX_ID {
        return Err(InvalidRevocation::Id);
    }
    // The entry may go when the token has expired; a token that doesn't verify is not believed about that.
    let hasher = IdHasher::new([0; 16]);
    let verified = check::authenticate(&policy.compiled, credential, now, &hasher).ok();
    let expires = match verified.and_then(|v| v.expires_at()) {
        Some(end) => blank.expires.min(end.plus(policy.clock_skew_ms)),
        None => blank.expires,
    };
    let kind = if is_api_key { Kind::ApiKey } else { Kind::Token };
    Ok(Entry { kind, id, issuer, expires, ..blank })
}

/// A token or key taken apart, unverified, and whether it is an API key.
pub(super) fn read(credential: &str) -> Option<(Claims, bool)> {
    let (text, is_api_key) = match credential.strip_prefix(API_KEY_PREFIX) {
        Some(rest) => (rest, true),
        None => (credential, false),
    };
    let jws = compact::parse(text).ok()?;
    Some((Claims::new(jws.payload), is_api_key))
}

fn belongs_by_issuer(policy: &IssuerPolicy, issuer: Option<&str>) -> bool {
    issuer.is_some_and(|i| knows(policy, i)) || policy.trusted.iter().any(|t| t.any_issuer || t.issuer.as_deref() == issuer)
}

/// How a policy comes to take a credential for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// It knows its issuer, or the opaque key.
    Known,
    /// It takes tokens of whatever issuer.
    AnyIssuer,
}

/// Whether a credential is one of the policy's.
pub(super) fn belongs(policy: &IssuerPolicy, credential: &str) -> Option<Belongs> {
    if policy.compiled.opaque.as_ref().is_some_and(|keys| keys.lookup(credential).is_some()) {
        return Some(Belongs::Known);
    }
    let (claims, is_api_key) = read(credential)?;
    let issuer = claims.issuer.ok().flatten();
    let own = policy.own.as_ref().is_some_and(|own| Some(&own.issuer) == issuer.as_ref());
    if own || (!is_api_key && policy.trusted.iter().any(|t| !t.any_issuer && t.issuer == issuer)) {
        Some(Belongs::Known)
    } else if !is_api_key && policy.trusted.iter().any(|t| t.any_issuer) {
        Some(Belongs::AnyIssuer)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_looks_also_when_it_would_not_be_read() {
        for (text, jws) in [
            ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln", true),
            ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0", true),
            ("Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln", true),
            (" eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln\n", true),
            ("01985c2e-7a3b-7000-8000-000000000000", false),
            ("alice.b.smith", false),
            ("eyJ", false),
            ("bearer of bad news", false),
            ("", false),
        ] {
            assert_eq!(looks_like_jws(without_scheme(text)), jws, "{text:?}");
        }
    }
}
