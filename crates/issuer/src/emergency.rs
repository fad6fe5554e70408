//! Emergency tokens in the audit trail: those that are made here, and each use of one, here and at every verifier.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use countersign_core::{
    check::{EmergencyUse, NoRoom, Witness},
    names::PolicyName,
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, OutboxError, ReportedUse, UseKeeper};
use countersign_store::{AuditEvent, AuditFilter, Store, StoreError, Tx, transact};
use serde_json::{Value, json};

use crate::{audit::EventKind, minter::new_id};

/// What this process calls itself as one that allowed a use.
const ISSUER: &str = "issuer";

/// The witness of one judgement at an issuer: what it notes is written down before anything is done.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<Vec<ReportedUse>>);

impl Witness for Noted {
    fn record(&self, used: &EmergencyUse<'_>) -> Result<(), NoRoom> {
        let used = ReportedUse::new(new_id(), ISSUER, used);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(used);
        Ok(())
    }
}

impl Noted {
    /// Writes down what was noted. Until this has returned nothing is allowed.
    pub(crate) async fn write(&self, store: &Store) -> Result<(), StoreError> {
        let uses = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if uses.is_empty() { Ok(()) } else { write(store, &uses).await }
    }
}

/// Writes uses that verifiers report into the audit trail.
#[derive(Clone, Debug)]
pub struct UseAudit(Arc<Store>);

impl UseAudit {
    /// The audit trail of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }
}

impl UseKeeper for UseAudit {
    fn keep<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move { write(&self.0, uses).await.map_err(|error| OutboxError(Box::new(error))) })
    }
}

/// Writes uses down. Several issuers may have read the same from the feed server: who comes second finds them written.
async fn write(store: &Store, uses: &[ReportedUse]) -> Result<(), StoreError> {
    let subjects: BTreeSet<(&PolicyName, &str)> = uses.iter().map(|used| (&used.policy, used.subject.as_str())).collect();
    transact!(store, |tx| {
        // In one order, so that no two wait for each other.
        for (policy, subject) in &subjects {
            tx.lock_subject(policy, subject).await?;
        }
        let written = written(tx, uses).await?;
        for used in uses.iter().filter(|used| !written.contains(&used.id)) {
            tx.append_audit(&event(used)).await?;
        }
        Ok(())
    })
}

/// The ids of uses that were written since the first of these, as far as one page of each policy's trail tells.
async fn written(tx: &mut Tx, uses: &[ReportedUse]) -> Result<HashSet<String>, StoreError> {
    let mut since: BTreeMap<&PolicyName, UnixMillis> = BTreeMap::new();
    for used in uses {
        let first = since.entry(&used.policy).or_insert(used.at);
        *first = used.at.min(*first);
    }
    let mut ids = HashSet::new();
    for (policy, since) in since {
        let kind = Some(EventKind::EmergencyUsed.word().to_owned());
        let filter = AuditFilter { kind, since: Some(since), limit: 1000, ..AuditFilter::default() };
        for kept in tx.audit(policy, &filter).await? {
            let details = serde_json::from_str::<Value>(&kept.event.details).unwrap_or_default();
            ids.extend(details["use_id"].as_str().map(str::to_owned));
        }
    }
    Ok(ids)
}

fn event(used: &ReportedUse) -> AuditEvent {
    let details = json!({
        "use_id": used.id,
        "token_id": used.token_id,
        "roles": used.roles,
        "reason": used.reason,
        "verifier": used.verifier,
        "request": used.request,
        "expires_at": used.expires.map(UnixMillis::as_secs),
    });
    AuditEvent {
        policy: used.policy.clone(),
        time: used.at,
        kind: EventKind::EmergencyUsed.word().to_owned(),
        severity: EventKind::EmergencyUsed.severity(),
        subject: Some(used.subject.clone()),
        session: used.session_id.clone(),
        ip: used.ip.clone(),
        user_agent: used.user_agent.clone(),
        request: None,
        details: details.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use countersign_store::Severity;

    use super::*;

    fn used(id: &str, subject: &str) -> ReportedUse {
        ReportedUse {
            id: id.into(),
            at: UnixMillis(1_800_000_000_123),
            policy: "shop/shop".parse().unwrap(),
            verifier: "node-1".into(),
            subject: subject.into(),
            token_id: Some("t".into()),
            session_id: Some("s".into()),
            roles: vec!["admin".into()],
            expires: Some(UnixMillis(1_800_000_900_000)),
            reason: "because".into(),
            ip: Some("192.0.2.1".into()),
            user_agent: None,
            request: Some("GET /".into()),
        }
    }

    #[tokio::test]
    async fn a_use_that_several_issuers_take_out_is_written_once_and_critical() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store.db")).await.unwrap());
        let uses = [used("1", "bob"), used("2", "alice"), used("3", "bob")];
        let (one, other) = (UseAudit::new(store.clone()), UseAudit::new(store.clone()));
        let (first, second) = tokio::join!(one.keep(&uses[..2]), other.keep(&uses));
        first.unwrap();
        second.unwrap();
        let events = store.audit(&uses[0].policy, &AuditFilter { limit: 10, ..AuditFilter::default() }).await.unwrap();
        let mut ids: Vec<String> = Vec::new();
        for kept in events {
            assert_eq!((kept.event.kind.as_str(), kept.event.severity), ("EMERGENCY_USED", Severity::Critical));
            let details: Value = serde_json::from_str(&kept.event.details).unwrap();
            assert_eq!((&details["reason"], &details["expires_at"]), (&json!("because"), &json!(1_800_000_900)));
            ids.push(details["use_id"].as_str().unwrap().to_owned());
        }
        ids.sort();
        assert_eq!(ids, ["1", "2", "3"]);
    }
}
