//! Emergency tokens in the audit trail: those that are made here, and each use of one, here and at every verifier.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use countersign_core::{
    check::{EmergencyUse, NoRoom, Witness},
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, OutboxError, ReportedUse, UseKeeper};
use countersign_store::{AuditEvent, Store, StoreError, transact};
use serde_json::json;

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

async fn write(store: &Store, uses: &[ReportedUse]) -> Result<(), StoreError> {
    transact!(store, |tx| {
        for used in uses {
            tx.append_audit(&event(used)).await?;
        }
        Ok(())
    })
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
