//! What a cookie needs beside it before it may change anything: [`countersign_core::csrf`].

use axum::http::{HeaderMap, StatusCode};
use countersign_core::csrf::{self, CsrfTokenSpec, mint_csrf};
use countersign_store::Session;

use crate::{
    IssuerPolicy, cookies,
    minter::{MintError, signer},
    problem::{Failed, Problem},
    serving::Issuer,
};

/// A token that stands beside a session's cookies as long as it lives.
pub(crate) fn token(issuer: &Issuer, policy: &IssuerPolicy, session: &Session) -> Result<String, Failed> {
    let own = policy.own.as_ref().ok_or_else(|| MintError::VerifiesOnly(policy.name.clone()))?;
    let signer = signer(policy, &own.access, "access")?;
    let issued_at = issuer.parts.feed.now(policy.clock_skew_ms);
    let spec = CsrfTokenSpec { issuer: &own.issuer, session_id: &session.id, issued_at, expires: session.ends() };
    Ok(mint_csrf(signer.key(), &spec).map_err(MintError::from)?)
}

/// Whether a request carries a token that belongs to the session.
pub(crate) fn holds(issuer: &Issuer, policy: &IssuerPolicy, session: &str, headers: &HeaderMap) -> bool {
    let (Some(token), Some(own)) = (cookies::csrf_token(headers), &policy.compiled.own) else { return false };
    let now = issuer.parts.feed.now(policy.clock_skew_ms);
    // The feed may call a key revoked that the ring doesn't know of yet.
    let revocations = issuer.parts.feed.revocations();
    csrf::belongs(own, session, token, now, |kid| revocations.is_key_revoked(&policy.name, Some(&own.issuer), kid))
}

/// 403: nothing was done.
pub(crate) fn failed() -> Problem {
    let detail = "a cookie changes nothing without the X-CSRF-Token of its session";
    Problem::new(StatusCode::FORBIDDEN, "csrf_failed", detail).fix("GET /auth/csrf gives one")
}
