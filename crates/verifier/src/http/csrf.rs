//! The CSRF token that a cookie needs beside it on an unsafe method.
//!
//! It is a compact JWS of the policy's own access ring, `typ: csrf+jwt`, bound to the session by `sid`: whoever can verify the
//! session can verify it, and no secret is shared with verifiers. It can't pass for an access token, nor one for it, because
//! each demands its own `typ`.

use countersign_core::{
    check::Authenticated,
    jose::{Algorithm, compact},
    policy::Policy,
    time::UnixMillis,
};
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::app::App;

/// The header that carries it.
const HEADER: &str = "x-csrf-token";

/// Methods that change nothing (RFC 9110 section 9.2.1). One that isn't known counts as unsafe.
pub(crate) fn is_safe(method: Option<&str>) -> bool {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
    method.is_some_and(|method| safe.iter().any(|s| s.as_str() == method))
}

/// Whether the request carries a token that belongs to the credential's session.
pub(crate) fn holds(app: &App, policy: &Policy, credential: &Authenticated, headers: &HeaderMap, now: UnixMillis) -> bool {
    let mut sent = headers.get_all(HEADER).iter();
    let (Some(token), None) = (sent.next().and_then(|v| v.to_str().ok()), sent.next()) else { return false };
    let (Some(own), Some(session)) = (&policy.own, credential.session_id()) else { return false };
    let Ok(jws) = compact::parse(token) else { return false };
    let Ok(algorithm) = jws.header.alg.parse::<Algorithm>() else { return false };
    let Some(kid) = jws.header.kid.as_deref() else { return false };
    let claim = |name: &str| jws.payload.get(name).and_then(Value::as_str);
    let lives = jws.payload.get("exp").and_then(Value::as_i64).is_some_and(|exp| now < UnixMillis::from_secs(exp));
    jws.header.typ.as_deref() == Some("csrf+jwt")
        && claim("iss") == Some(&*own.issuer)
        && claim("sid") == Some(session)
        && lives
        && own.access.with_kid(kid).any(|entry| {
            !entry.revoked
                && !app.is_key_revoked(policy, kid)
                && entry.key.fits(algorithm)
                && entry.key.verify(algorithm, jws.signing_input, &jws.signature)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_safe_methods_are_safe() {
        for (method, safe) in
            [(Some("GET"), true), (Some("HEAD"), true), (Some("get"), false), (Some("POST"), false), (None, false)]
        {
            assert_eq!(is_safe(method), safe, "{method:?}");
        }
    }
}
