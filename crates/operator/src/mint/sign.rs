//! What a token says, when it is issued, and its signature: functions of values.

use countersign_api::bundle::RingName;
use countersign_core::{
    keys::SigningKey,
    mint::{AccessTokenSpec, ApiKeySpec, mint_access, mint_api_key, mint_emergency},
    revocation::{Kind, Revocable},
    time::UnixMillis,
    verdict::RevokedBy,
};
use serde_json::Map;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::MintError;
use crate::{feed::Cutoffs, registry::PolicyView};

/// No two clocks are compared more finely than this.
const FINEST_SKEW_MS: i64 = 1000;
/// How far ahead of a token the record is written at most, so that one write serves many.
const AHEAD_MS: i64 = 1000;

/// What a token shall say.
#[derive(Clone, Debug)]
pub(crate) struct TokenOrder {
    pub(crate) subject: String,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    /// Empty for an API key, which belongs to no session.
    pub(crate) session_id: String,
    pub(crate) ttl_ms: i64,
    /// It expires no later.
    pub(crate) not_after: Option<UnixMillis>,
    /// A break-glass token of the access ring, made for this reason.
    pub(crate) emergency: Option<String>,
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

/// When a token is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By this machine's clock.
    pub(crate) now: UnixMillis,
    /// By the feed server's, if it is in reach.
    pub(crate) server_now: Option<UnixMillis>,
    /// What was reserved for this very token.
    pub(crate) reserved: Option<UnixMillis>,
}

/// When a token is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) at: UnixMillis,
    /// That goes beyond the feed server's clock: no cut-off would know of it, unless it is reserved.
    pub(crate) is_beyond_server: bool,
    /// How far ahead of it to reserve.
    pub(crate) ahead_ms: i64,
}

impl Moment {
    /// When a token for an order is issued: now, and after every cut-off that is known for it.
    pub(crate) fn issue(
        &self,
        view: &PolicyView,
        cutoffs: &Cutoffs,
        ring: RingName,
        order: &TokenOrder,
    ) -> Result<Issue, MintError> {
        let skew_ms = view.effective.as_ref().map_or(0, |policy| policy.tokens.clock_skew.as_millis());
        let skew_ms = skew_ms.max(FINEST_SKEW_MS);
        if let Some(server_now) = self.server_now {
            let apart_ms = self.now.since(server_now).abs();
            if apart_ms > skew_ms {
                return Err(MintError::ClocksApart { apart_ms });
            }
        }
        let base = self.base(skew_ms);
        let ready = Ready::of(view, cutoffs, ring)?;
        let at = match cutoffs.latest(&order.revocable(view, ring, &ready)) {
            Some(cutoff) => base.max(cutoff.plus(1)),
            None => base,
        };
        let behind_ms = at.since(base);
        if behind_ms > skew_ms {
            return Err(MintError::ClockBehind { behind_ms });
        }
        let is_beyond_server = self.server_now.is_none_or(|server_now| at > server_now);
        Ok(Issue { at, is_beyond_server, ahead_ms: AHEAD_MS.min(skew_ms / 2) })
    }

    fn base(&self, skew_ms: i64) -> UnixMillis {
        match (self.server_now, self.reserved) {
            (Some(server_now), _) => server_now,
            // Writing it down took time.
            (None, Some(until)) if until <= self.now && self.now.since(until) <= skew_ms => until,
            (None, _) => self.now,
        }
    }
}

impl TokenOrder {
    fn revocable<'a>(&'a self, view: &'a PolicyView, ring: RingName, ready: &Ready<'a>) -> Revocable<'a> {
        let of_key = revocable(view, ready.issuer, ready.key.kid());
        match ring {
            RingName::Access => Revocable { session_id: Some(&self.session_id), subject: Some(&self.subject), ..of_key },
            RingName::ApiKey => {
                Revocable { subject: Some(&self.subject), access_ring: false, token_kind: Kind::ApiKey, ..of_key }
            }
        }
    }
}

/// Signs what is ordered with a ring's Active key.
pub(crate) fn sign(
    view: &PolicyView,
    cutoffs: &Cutoffs,
    ring: RingName,
    order: &TokenOrder,
    issued: UnixMillis,
) -> Result<Minted, MintError> {
    let ready = Ready::of(view, cutoffs, ring)?;
    let expires = issued.plus(order.ttl_ms);
    let expires = UnixMillis::from_secs(order.not_after.map_or(expires, |end| expires.min(end)).as_secs());
    let token_id = Uuid::now_v7().to_string();
    let token = match ring {
        RingName::Access => {
            let spec = AccessTokenSpec {
                issuer: ready.issuer.to_owned(),
                subject: order.subject.clone(),
                audiences: order.audiences.clone(),
                roles: order.roles.clone(),
                scopes: order.scopes.clone(),
                session_id: Some(order.session_id.clone()),
                token_id: token_id.clone(),
                issued_at: issued,
                expires,
                amr: Vec::new(),
                client_id: None,
                extra: Map::new(),
            };
            match &order.emergency {
                None => mint_access(ready.key, &spec)?,
                Some(reason) => mint_emergency(ready.key, &spec, reason)?,
            }
        }
        RingName::ApiKey => mint_api_key(
            ready.key,
            &ApiKeySpec {
                issuer: ready.issuer.to_owned(),
                subject: order.subject.clone(),
                audiences: order.audiences.clone(),
                roles: order.roles.clone(),
                scopes: order.scopes.clone(),
                token_id: token_id.clone(),
                issued_at: issued,
                expires,
            },
        )?,
    };
    Ok(Minted { token: Zeroizing::new(token), token_id, issued, expires, kid: ready.key.kid().to_owned() })
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

#[cfg(test)]
mod tests;
