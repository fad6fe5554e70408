//! What the command line changes in an AuthPolicy, with the caller's own rights.
//!
//! Both changes only add: an annotation's new value, and entries of `spec.keys.revoked`. The list is a map by `kid`, so entries
//! of others stay, and each keeps its own managers. It is written as a whole (a custom resource knows no finer merge) and
//! fenced by the resourceVersion that it was read at.

use countersign_api::policy::{ROTATE_ANNOTATION, ROTATE_API_KEY_ANNOTATION};
use countersign_core::names::PolicyName;
use kube::{
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Map, Value, json};

use super::{Cluster, FIELD_MANAGER, refusal, refusal::Need, rings::Ring};
use crate::{commands::text, failure::Failure};

/// How often somebody else may get in between.
const TRIES: usize = 8;

impl Cluster {
    /// Asks for a rotation of these rings; the policy as it is then. `value` is what the annotations get.
    pub(crate) async fn request_rotation(
        &self,
        policy: &PolicyName,
        rings: &[Ring],
        value: &str,
        dry_run: bool,
    ) -> Result<DynamicObject, Failure> {
        let annotations: Map<String, Value> =
            rings.iter().map(|ring| (annotation(*ring).to_owned(), json!(value))).collect();
        self.patch(policy, &json!({"metadata": {"annotations": annotations}}), dry_run).await
    }

    /// Puts keys among the revoked ones; the policy as it is then.
    pub(crate) async fn revoke_keys(
        &self,
        policy: &PolicyName,
        kids: &[String],
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<DynamicObject, Failure> {
        for _ in 0..TRIES {
            let object = self.policy(policy).await?;
            let Some(revoked) = with_revoked(&object.data["spec"]["keys"]["revoked"], kids, reason) else {
                return Ok(object);
            };
            let patch = json!({
                "metadata": {"resourceVersion": object.metadata.resource_version},
                "spec": {"keys": {"revoked": revoked}},
            });
            let api = self.policies(policy.namespace());
            let params = params(dry_run);
            match tokio::time::timeout(self.timeout, api.patch(policy.name(), &params, &Patch::Merge(&patch))).await {
                Ok(Ok(object)) => return Ok(object),
                // The operator writes status all the time.
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {}
                Ok(Err(error)) => return Err(refusal::failure(self, Need::policy("patch", policy), error)),
                Err(_) => return Err(refusal::too_slow(self)),
            }
        }
        Err(Failure::unable(format!("{self}: policy {policy} changes all the time; nothing was revoked")).fix("try again"))
    }

    async fn patch(&self, policy: &PolicyName, patch: &Value, dry_run: bool) -> Result<DynamicObject, Failure> {
        let api = self.policies(policy.namespace());
        let params = params(dry_run);
        self.call(Need::policy("patch", policy), api.patch(policy.name(), &params, &Patch::Merge(patch))).await
    }
}

fn params(dry_run: bool) -> PatchParams {
    PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// The annotation that rotates a ring.
fn annotation(ring: Ring) -> &'static str {
    match ring {
        Ring::Access => ROTATE_ANNOTATION,
        Ring::ApiKey => ROTATE_API_KEY_ANNOTATION,
    }
}

/// `spec.keys.revoked` with these keys as well; none when it has them all.
fn with_revoked(present: &Value, kids: &[String], reason: Option<&str>) -> Option<Vec<Value>> {
    let mut revoked = present.as_array().cloned().unwrap_or_default();
    let before = revoked.len();
    for kid in kids {
        if !revoked.iter().any(|entry| text(entry, "kid") == kid) {
            revoked.push(match reason {
                Some(reason) => json!({"kid": kid, "reason": reason}),
                None => json!({"kid": kid}),
            });
        }
    }
    (revoked.len() > before).then_some(revoked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoking_adds_to_what_is_there_and_never_twice() {
        let present = json!([{"kid": "a", "reason": "old", "unknown": 1}]);
        let kids = |kids: &[&str]| kids.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            with_revoked(&present, &kids(&["b", "b"]), Some("leaked")),
            Some(vec![present[0].clone(), json!({"kid": "b", "reason": "leaked"})])
        );
        assert_eq!(with_revoked(&present, &kids(&["a"]), None), None);
        assert_eq!(with_revoked(&Value::Null, &kids(&["a"]), None), Some(vec![json!({"kid": "a"})]));
    }
}
