//! Ending everything that an account holds: its sessions, its API keys, and every token that was ever issued for it.

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
    time::UnixMillis,
};
use countersign_store::{Appended, NewRevocation, StoreError, Tx};

use crate::{IssuerPolicy, audit::EventKind, call::Call};

/// Ends all that was issued for a subject up to now, in a transaction that holds it from here on, and writes down what that
/// was. What is issued later is good. Which rows to publish once it is committed.
pub(crate) async fn close(tx: &mut Tx, call: &Call, subject: &str, reason: &str) -> Result<Appended, StoreError> {
    let policy = &*call.policy;
    tx.lock_subject(&policy.name, subject).await?;
    let now = call.issuer.parts.issued.cut(tx, &policy.name).await?;
    let sessions = tx.end_sessions(&policy.name, subject, None, &policy.ending(now, reason)).await?;
    call.tell_ended(tx, subject, &sessions, Some(("reason", reason)), now).await?;
    let imported = tx.imported_api_keys(&policy.name, subject).await?;
    let keys = tx.mark_api_keys_of_revoked(&policy.name, subject, now).await?;
    tell_keys(tx, call, subject, &keys, reason, now).await?;
    let ended = |entry| NewRevocation { entry, subject: Some(subject.to_owned()), access_only: false };
    let mut ends = vec![ended(entry(policy, Kind::Subject, subject, now, now, reason))];
    ends.extend(imported.iter().map(|id| ended(opaque_key(policy, id, now, reason))));
    let all = tx.revoke(&ends, now, |_| policy.max_entries).await?;
    Ok(both(sessions.revocations, all))
}

/// Writes an event for each API key of an owner that was revoked.
pub(crate) async fn tell_keys(
    tx: &mut Tx,
    call: &Call,
    owner: &str,
    ids: &[String],
    reason: &str,
    now: UnixMillis,
) -> Result<(), StoreError> {
    for id in ids {
        let event = call.event(EventKind::ApiKeyRevoked).subject(owner).detail("id", id.as_str());
        event.detail("reason", reason).write(tx, now).await?;
    }
    Ok(())
}

/// Ends an API key, by its id, in a transaction.
pub(crate) async fn revoke_api_key(
    tx: &mut Tx,
    policy: &IssuerPolicy,
    owner: &str,
    id: &str,
    now: UnixMillis,
    reason: &str,
) -> Result<Option<Appended>, StoreError> {
    if !tx.mark_api_key_revoked(&policy.name, id, now).await? {
        return Ok(None);
    }
    let is_opaque = tx.api_key(&policy.name, id).await?.is_some_and(|key| key.hash.is_some());
    let entry = if is_opaque {
        opaque_key(policy, id, now, reason)
    } else {
        entry(policy, Kind::ApiKey, id, UnixMillis::FOREVER, now, reason)
    };
    let new = NewRevocation { entry, subject: Some(owner.to_owned()), access_only: false };
    tx.revoke(&[new], now, |_| policy.max_entries).await.map(Some)
}

/// The end of an imported API key: nobody issued it, so no cut-off of what was issued ends it, and it may live for ever.
fn opaque_key(policy: &IssuerPolicy, id: &str, now: UnixMillis, reason: &str) -> Entry {
    let entry = entry(policy, Kind::ApiKey, id, UnixMillis::FOREVER, now, reason);
    Entry { issuer: None, expires: UnixMillis::FOREVER, ..entry }
}

/// A revocation in the name of the policy's own issuer, kept as long as anything that it can match lives.
pub(crate) fn entry(
    policy: &IssuerPolicy,
    kind: Kind,
    id: &str,
    cutoff: UnixMillis,
    now: UnixMillis,
    reason: &str,
) -> Entry {
    Entry {
        policy: PolicyName::clone(&policy.name),
        kind,
        issuer: policy.own.as_ref().map(|own| own.issuer.clone()),
        id: id.to_owned(),
        cutoff,
        expires: policy.lives.all_over(now, policy.clock_skew_ms),
        version: 0,
        reason: reason.to_owned(),
        source: "issuer".to_owned(),
    }
}

/// What two transactions' parts have written, together.
pub(crate) fn both(mut one: Appended, other: Appended) -> Appended {
    one.ids.extend(other.ids);
    one.merged.extend(other.merged);
    one
}
