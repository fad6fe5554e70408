//! The CSRF token that a cookie needs beside it on an unsafe method: [`countersign_core::csrf`].

use countersign_core::{check::Authenticated, csrf, policy::Policy, time::UnixMillis};
use http::{HeaderMap, Method};

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
    csrf::belongs(own, session, token, now, |kid| app.is_key_revoked(policy, kid))
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
