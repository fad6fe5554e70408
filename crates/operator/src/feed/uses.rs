//! Uses of emergency tokens, where no issuer is installed that keeps an audit: told in this log and by events.

use countersign_feed::{BoxFuture, OutboxError, ReportedUse, UseKeeper};

use crate::{jwks::reference, run::Context};

/// Tells uses to people.
pub(super) struct UseTeller(pub(super) Context);

impl UseKeeper for UseTeller {
    fn keep<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), OutboxError>> {
        for used in uses {
            tracing::warn!(
                target: "countersign_operator::audit",
                id = used.id,
                policy = %used.policy,
                at = %used.at,
                verifier = used.verifier,
                subject = used.subject,
                token_id = used.token_id,
                roles = ?used.roles,
                reason = used.reason,
                ip = used.ip,
                request = used.request,
                "an emergency token was used"
            );
            if let Some(view) = self.0.registry.policy(&used.policy) {
                let note = format!(
                    "an emergency token was used for {} (id {}, by {}) because: {}",
                    used.subject,
                    used.token_id.as_deref().unwrap_or("unknown"),
                    used.verifier,
                    used.reason,
                );
                self.0.events.warning(&reference(&view), "EmergencyUsed", note);
            }
        }
        Box::pin(async { Ok(()) })
    }
}
