//! Signing tokens with a policy's Active access key: for declared sessions, and for people who ask through the command line.

mod api;
mod identity;
mod keys;
mod problem;
mod request;
mod server;
#[cfg(test)]
mod tests;

use countersign_api::bundle::RingName;
use countersign_core::{
    keys::{SigningKey, SigningKeyError},
    mint::{AccessTokenSpec, ApiKeySpec, mint_access, mint_api_key},
    revocation::{Kind, Revocable},
    time::UnixMillis,
    verdict::RevokedBy,
};
use serde_json::Map;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{feed::Cutoffs, registry::PolicyView};

pub use self::server::{ApiError, run};

/// What a token shall say.
#[derive(Clone, Debug)]
pub(crate) struct TokenOrder {
    pub(crate) subject: String,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) session_id: String,
    pub(crate) ttl_ms: i64,
    /// It expires no later.
    pub(crate) not_after: Option<UnixMillis>,
}

/// A token that was made.
#[derive(Clone)]
pub(crate) struct Minted {
    pub(crate) token: Zeroizing<String>,
    pub(crate) token_id: String,
    pub(crate) issued: UnixMillis,
    pub(crate) expires: UnixMillis,
    pub(crate) kid: String,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").field("token_id", &self.token_id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MintError {
    /// Nothing signs now.
    #[error("the ring {} has no Active key; `countersign keys list` says what it waits for", .0.word())]
    NoSigningKey(RingName),
    /// A cut-off lies ahead of this clock.
    #[error("this machine's clock is {behind_ms} ms behind a cut-off that was written, more than the policy's clockSkew")]
    ClockBehind {
        /// By how much.
        behind_ms: i64,
    },
    /// The library failed.
    #[error(transparent)]
    Sign(#[from] SigningKeyError),
}

/// Signs an access token, issued after every cut-off that is known for it.
pub(crate) fn sign(view: &PolicyView, cutoffs: &Cutoffs, order: TokenOrder, now: UnixMillis) -> Result<Minted, MintError> {
    let ready = Ready::of(view, cutoffs, RingName::Access)?;
    let subject = Revocable {
        session_id: Some(&order.session_id),
        subject: Some(&order.subject),
        ..revocable(view, ready.issuer, ready.key.kid())
    };
    let issued = issued_after(view, cutoffs.latest(&subject), now)?;
    let expires = issued.plus(order.ttl_ms);
    let expires = UnixMillis::from_secs(order.not_after.map_or(expires, |end| expires.min(end)).as_secs());
    let token_id = Uuid::now_v7().to_string();
    let spec = AccessTokenSpec {
        issuer: ready.issuer.to_owned(),
        subject: order.subject,
        audiences: order.audiences,
        roles: order.roles,
        scopes: order.scopes,
        session_id: Some(order.session_id),
        token_id: token_id.clone(),
        issued_at: issued,
        expires,
        amr: Vec::new(),
        client_id: None,
        extra: Map::new(),
    };
    let token = Zeroizing::new(mint_access(ready.key, &spec)?);
    Ok(Minted { token, token_id, issued, expires, kid: ready.key.kid().to_owned() })
}

/// Signs an API key, issued after every cut-off that is known for it. It belongs to no session.
pub(crate) fn sign_api_key(
    view: &PolicyView,
    cutoffs: &Cutoffs,
    order: TokenOrder,
    now: UnixMillis,
) -> Result<Minted, MintError> {
    let ready = Ready::of(view, cutoffs, RingName::ApiKey)?;
    let subject = Revocable {
        subject: Some(&order.subject),
        access_ring: false,
        token_kind: Kind::ApiKey,
        ..revocable(view, ready.issuer, ready.key.kid())
    };
    let issued = issued_after(view, cutoffs.latest(&subject), now)?;
    let expires = UnixMillis::from_secs(issued.plus(order.ttl_ms).as_secs());
    let token_id = Uuid::now_v7().to_string();
    let spec = ApiKeySpec {
        issuer: ready.issuer.to_owned(),
        subject: order.subject,
        audiences: order.audiences,
        roles: order.roles,
        scopes: order.scopes,
        token_id: token_id.clone(),
        issued_at: issued,
        expires,
    };
    let token = Zeroizing::new(mint_api_key(ready.key, &spec)?);
    Ok(Minted { token, token_id, issued, expires, kid: ready.key.kid().to_owned() })
}

/// A ring that signs.
struct Ready<'a> {
    issuer: &'a str,
    key: &'a SigningKey,
}

impl<'a> Ready<'a> {
    fn of(view: &'a PolicyView, cutoffs: &Cutoffs, ring: RingName) -> Result<Self, MintError> {
        let without = || MintError::NoSigningKey(ring);
        let own = view.own.as_ref().filter(|_| !view.withdrawn).ok_or_else(without)?;
        let key = own.ring(ring).and_then(|ring| ring.signer.as_deref()).ok_or_else(without)?;
        // What was revoked since the ring was last written signs no more.
        let of_key = Revocable { access_ring: false, ..revocable(view, &own.issuer, key.kid()) };
        let is_revoked = cutoffs.hit(&of_key, UnixMillis::FOREVER).is_some_and(|hit| hit.by == RevokedBy::Key);
        if is_revoked { Err(without()) } else { Ok(Self { issuer: &own.issuer, key }) }
    }
}

/// A token of a policy's own access ring, of which nothing is known but its key.
fn revocable<'a>(view: &'a PolicyView, issuer: &'a str, kid: &'a str) -> Revocable<'a> {
    Revocable {
        policy: &view.name,
        issuer: Some(issuer),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: None,
        session_id: None,
        subject: None,
        kid: Some(kid),
    }
}

/// When a token may be issued at the earliest: after the last cut-off that would match it.
fn issued_after(view: &PolicyView, cutoff: Option<UnixMillis>, now: UnixMillis) -> Result<UnixMillis, MintError> {
    let issued = cutoff.map_or(now, |cutoff| now.max(cutoff.plus(1)));
    let behind_ms = issued.since(now);
    let skew_ms = view.effective.as_ref().map_or(0, |policy| policy.tokens.clock_skew.as_millis());
    if behind_ms > skew_ms { Err(MintError::ClockBehind { behind_ms }) } else { Ok(issued) }
}
