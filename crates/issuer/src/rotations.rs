//! Tells the audit trail when a key begins to sign, or is revoked by a policy's own word: whoever decided it, each is told once
//! by one of the issuers that share a database.

use std::{collections::BTreeSet, time::Duration};

use countersign_core::{names::PolicyName, ring::KeyState};
use countersign_store::{StoreError, transact};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    IssuerPolicy,
    audit::{Event, EventKind},
    serving::Issuer,
};

/// How often the rings are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What this process has seen told: it needn't be asked for again.
pub(crate) type Seen = BTreeSet<String>;

/// Tells until `stop`.
pub(crate) async fn keep(issuer: Issuer, stop: CancellationToken) {
    let mut look_at = interval(LOOK_EVERY);
    look_at.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look_at.tick() => {}
        }
        if let Err(error) = look(&issuer, &mut seen).await {
            tracing::warn!(%error, "the audit trail can't be told of keys; it is tried again");
        }
    }
}

/// Tells what is new in the rings as they are now.
pub(crate) async fn look(issuer: &Issuer, seen: &mut Seen) -> Result<(), StoreError> {
    let policies: Vec<_> = issuer.parts.policies.load().by_name.values().cloned().collect();
    for policy in policies {
        for change in changes(&policy) {
            if seen.contains(&change.told_as) {
                continue;
            }
            tell(issuer, &policy.name, &change).await?;
            seen.insert(change.told_as);
        }
    }
    Ok(())
}

/// Under which name it is kept that the revocation of a key was told.
pub(crate) fn revoked(policy: &PolicyName, kid: &str) -> String {
    format!("told:revoked-key:{policy}:{kid}")
}

struct Change {
    kind: EventKind,
    ring: &'static str,
    kid: String,
    told_as: String,
}

fn changes(policy: &IssuerPolicy) -> Vec<Change> {
    let rings = policy.own.iter().flat_map(|own| [("access", &own.access.ring), ("api-key", &own.api_key.ring)]);
    let keys = rings.flat_map(|(name, ring)| ring.keys.iter().map(move |key| (name, key)));
    let change = keys.filter_map(|(ring, key)| {
        let kid = key.kid.clone();
        match key.state {
            KeyState::Active => {
                let told_as = format!("told:signing-key:{}:{ring}:{kid}", policy.name);
                Some(Change { kind: EventKind::KeyRotated, ring, kid, told_as })
            }
            KeyState::Revoked => {
                let told_as = revoked(&policy.name, &kid);
                Some(Change { kind: EventKind::KeyRevoked, ring, kid, told_as })
            }
            KeyState::Pending | KeyState::Retiring => None,
        }
    });
    change.collect()
}

async fn tell(issuer: &Issuer, policy: &PolicyName, change: &Change) -> Result<(), StoreError> {
    let parts = &issuer.parts;
    if change.kind == EventKind::KeyRotated {
        // A ring's first key takes the place of none.
        let first = format!("told:first-key:{policy}:{}", change.ring);
        if parts.store.meta_or_insert(&first, &change.kid).await? == change.kid {
            return Ok(());
        }
    }
    transact!(&*parts.store, |tx| {
        if tx.note_once(&change.told_as).await? {
            let now = tx.database_now().await?;
            let event = Event::new(policy, change.kind, None, &parts.metrics);
            event.detail("ring", change.ring).detail("kid", change.kid.as_str()).write(tx, now).await?;
        }
        Ok(())
    })
}
