//! Ending things: what a request means, and how it gets to every verifier.

mod credential;
mod request;

use std::{sync::Arc, time::Duration};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position},
    time::UnixMillis,
};
use countersign_feed::{Publication, Publisher};
use countersign_store::{Appended, Failure, Store, StoreError, Tx, transact};
use serde_json::json;
use tokio::sync::Notify;

pub use request::{InvalidRevocation, RevocationRequest};

use self::credential::Belongs;
use crate::{
    Health, addresses,
    audit::{Event, EventKind},
    call::Call,
    closing::{both, tell_keys},
    fleet::{Enforcement, Fleet},
    issued::Issued,
    policies::{IssuerPolicy, Policies},
    rotations,
};

/// How long a revocation may take to the feed before the answer is "pending".
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);

/// The most addresses and networks that a policy blocks at once.
const MAX_BLOCKS: u64 = 10_000;

/// Writes revocations, publishes them, and tells where they are in force.
#[derive(Clone, Debug)]
pub struct Revoker {
    store: Arc<Store>,
    publisher: Arc<Publisher>,
    issued: Issued,
    fleet: Fleet,
    health: Health,
    /// Rung when a key was revoked: whoever keeps the rings acts on it at once.
    key_revoked: Arc<Notify>,
}

/// A revocation that is written.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// What was revoked.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// Where it stands in the feed; absent while that is out of reach.
    pub position: Option<Position>,
    /// On how many verifiers it is in force.
    pub verifiers: Enforcement,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The request.
    #[error(transparent)]
    Invalid(#[from] InvalidRevocation),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure for RevokeError {
    fn of_store(&self) -> Option<&StoreError> {
        if let Self::Store(error) = self { Some(error) } else { None }
    }
}

impl Revoker {
    pub(crate) fn new(
        store: Arc<Store>,
        publisher: Arc<Publisher>,
        issued: Issued,
        fleet: Fleet,
        health: Health,
        key_revoked: Arc<Notify>,
    ) -> Self {
        Self { store, publisher, issued, fleet, health, key_revoked }
    }

    /// Ends what `request` names, and writes down that somebody asked for it. Waits up to `wait` for every verifier.
    pub(crate) async fn revoke(
        &self,
        call: &Call,
        request: &RevocationRequest,
        source: &str,
        wait: Duration,
    ) -> Result<Revoked, RevokeError> {
        let policy = &*call.policy;
        let (kind, id, appended) = transact!(&*self.store, RevokeError, |tx| {
            // Whom a cut-off concerns gets no token between its time and its row.
            match (request.kind, &request.id) {
                (Some(Kind::Policy), _) => tx.lock_policy(&policy.name).await?,
                (Some(Kind::Subject), Some(id)) => tx.lock_subject(&policy.name, id).await?,
                // In the order in which a logout takes them.
                (Some(Kind::Session), Some(id)) => {
                    if let Some(session) = tx.session(&policy.name, id).await? {
                        tx.lock_subject(&policy.name, &session.subject).await?;
                    }
                }
                _ => {}
            }
            let now = self.issued.cut(tx, &policy.name).await?;
            let new = request.to_revocation(policy, source, now)?;
            if new.entry.kind == Kind::Ip {
                addresses::block(tx, call, &new.entry, now).await.map_err(no_room)?;
            }
            if new.entry.kind == Kind::Ip && tx.other_blocks(&policy.name, &new.entry.id, now).await? >= MAX_BLOCKS {
                return Err(InvalidRevocation::TooManyBlocks.into());
            }
            let entry = new.entry.clone();
            let appended = tx.revoke(&[new], now, |_| policy.max_entries).await?;
            let held = end_held(tx, call, &entry, now).await?;
            if let Some(event) = told(call, &entry) {
                event.write(tx, now).await?;
            }
            if entry.kind == Kind::Key {
                // Told with who asked: the ring, which loses the key next, has nothing to add.
                tx.note_once(&rotations::revoked(&policy.name, &entry.id)).await?;
            }
            Ok((entry.kind, entry.id, both(appended, held)))
        })?;
        let publication = self.published(policy, appended).await;
        if kind == Kind::Key {
            self.key_revoked.notify_one();
        }
        let Some(position) = publication else {
            return Ok(Revoked { kind, id, position: None, verifiers: Enforcement::default() });
        };
        let verifiers = self.enforcement(position, wait).await;
        Ok(Revoked { kind, id, position: Some(position), verifiers })
    }

    /// Publishes what a transaction has ended, within a second; absent when the feed is out of reach: it is published later.
    pub(crate) async fn published(&self, policy: &IssuerPolicy, ended: Appended) -> Option<Position> {
        for merged in &ended.merged {
            let max_entries = policy.max_entries;
            tracing::warn!(policy = %merged, max_entries, "too many live revocations: one cut-off of the access ring takes their place");
        }
        match self.publisher.publish(ended.ids, PUBLISH_WITHIN).await {
            Publication::Published(position) => Some(position),
            Publication::Pending => None,
        }
    }

    /// On how many verifiers everything up to `position` is in force.
    pub async fn enforcement(&self, position: Position, wait: Duration) -> Enforcement {
        // Who waits is answered before the process ends, with what is known then.
        let counted = tokio::select! {
            counted = self.fleet.enforcement(position, wait) => counted,
            () = self.health.draining() => self.fleet.enforcement(position, Duration::ZERO).await,
        };
        counted.unwrap_or_else(|error| {
            tracing::warn!(%error, "the fleet can't be counted");
            Enforcement { total: 1, confirmed: 0, lagging: vec!["(unknown: the feed server is out of reach)".into()] }
        })
    }

    /// Whether a text given as a name is an opaque key of a policy other than `own`, which tells its own by itself.
    pub(crate) fn is_opaque_key_of_another(policies: &Policies, own: &PolicyName, text: &str) -> bool {
        let held = policies.load();
        held.by_name.iter().any(|(name, policy)| name != own && credential::is_opaque_key(policy, text))
            && held.by_name.get(own).is_none_or(|policy| !credential::is_opaque_key(policy, text))
    }

    /// The policies that a credential belongs to: every one that knows its issuer, or the opaque key. One policy's revocation
    /// says nothing to another that trusts the same issuer. Where nobody knows it, those that take any issuer's.
    pub fn policies_of(policies: &Policies, given: &str) -> Vec<PolicyName> {
        let held = policies.load();
        let which = |wanted| {
            let belonging = held.by_name.values().filter(|policy| credential::belongs(policy, given) == Some(wanted));
            belonging.map(|policy| policy.name.clone()).collect::<Vec<_>>()
        };
        let known = which(Belongs::Known);
        if known.is_empty() { which(Belongs::AnyIssuer) } else { known }
    }
}

/// What the audit trail says of it. A key's end is an event of its own, because everything that it signed ends with it; a
/// block was told of where it was made.
fn told<'a>(call: &'a Call, entry: &Entry) -> Option<Event<'a>> {
    let event = |kind| call.event(kind).detail("reason", entry.reason.as_str());
    Some(match entry.kind {
        Kind::Ip => return None,
        Kind::Key => event(EventKind::KeyRevoked).detail("kid", entry.id.as_str()),
        kind => {
            let event = event(EventKind::AdminAction).detail("action", "revoke").detail("kind", json!(kind));
            match kind {
                Kind::Subject => event.subject(&entry.id),
                Kind::Session => event.session(&entry.id),
                _ => event.detail("id", entry.id.as_str()),
            }
        }
    })
}

fn no_room(error: StoreError) -> RevokeError {
    match error {
        StoreError::Full(_) => InvalidRevocation::TooManyBlocks.into(),
        error => error.into(),
    }
}

/// Ends what is kept here of what an entry ends: sessions with their refresh families, and API keys. A cut-off before now
/// leaves the rows alone: each is judged by its own time when it is used.
async fn end_held(tx: &mut Tx, call: &Call, entry: &Entry, now: UnixMillis) -> Result<Appended, StoreError> {
    let policy = &*call.policy;
    let nothing = Appended { ids: Vec::new(), merged: Vec::new() };
    let own = policy.own.as_ref().is_some_and(|own| entry.issuer.as_ref().is_none_or(|issuer| *issuer == own.issuer));
    if !own {
        return Ok(nothing);
    }
    let (id, reason) = (&entry.id, entry.reason.as_str());
    let ending = policy.ending(now, reason);
    Ok(match entry.kind {
        Kind::Session => {
            let Some(session) = tx.session(&policy.name, id).await? else { return Ok(nothing) };
            let Some(ended) = tx.end_session(&policy.name, id, &ending).await? else { return Ok(nothing) };
            call.tell_ended(tx, &session.subject, &ended, Some(("reason", reason)), now).await?;
            ended.revocations
        }
        Kind::Subject if entry.cutoff >= now => {
            let keys = tx.mark_api_keys_of_revoked(&policy.name, id, now).await?;
            tell_keys(tx, call, id, &keys, reason, now).await?;
            let ended = tx.end_sessions(&policy.name, id, None, &ending).await?;
            call.tell_ended(tx, id, &ended, Some(("reason", reason)), now).await?;
            ended.revocations
        }
        Kind::ApiKey => {
            if tx.mark_api_key_revoked(&policy.name, id, now).await?
                && let Some(key) = tx.api_key(&policy.name, id).await?
            {
                tell_keys(tx, call, &key.owner, std::slice::from_ref(id), reason, now).await?;
            }
            nothing
        }
        Kind::Token | Kind::Subject | Kind::Key | Kind::Policy | Kind::Ip => nothing,
    })
}
