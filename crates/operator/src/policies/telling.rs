//! Events and log lines about a policy.

use std::collections::BTreeMap;

use countersign_api::{bundle::RingName, key_ring::Rings, policy::AuthPolicyStatus};
use countersign_core::{names::PolicyName, ring::Action};
use countersign_feed::Clock;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;

use super::{Reconciler, caches::Declared};
use crate::registry::RotationStep;

impl Reconciler {
    /// Events and log lines of what was done to a policy's rings.
    pub(super) fn tell(
        &self,
        name: &PolicyName,
        declared: &Declared,
        before: &Rings,
        planned: &BTreeMap<RingName, Vec<Action>>,
    ) {
        let regarding = reference(declared);
        let (events, counts) = (&self.context.events, self.context.registry.counts());
        for (&name_of_ring, actions) in planned {
            let signed = before.get(&name_of_ring).and_then(|ring| ring.active()).map(|key| key.kid.as_str());
            let ring = name_of_ring.word();
            for action in actions {
                match action {
                    Action::Create { algorithm, cause } => {
                        counts.rotations.count((name_of_ring, RotationStep::Started));
                        tracing::info!(policy = %name, ring, ?cause, %algorithm, "a key is made");
                        events.normal(&regarding, "KeyGenerated", format!("a new {algorithm} key for the {ring} ring"));
                    }
                    Action::Activate { kid, unacknowledged, .. } => {
                        counts.rotations.count((name_of_ring, RotationStep::Signed));
                        counts.rotations_waited_ms.add(name_of_ring, self.waited_ms(name, name_of_ring, kid));
                        tracing::info!(policy = %name, ring, kid, unacknowledged, "the key signs");
                        events.normal(&regarding, "KeyActivated", format!("key {kid} of the {ring} ring signs"));
                        if let Some(signed) = signed {
                            let note = format!("key {signed} of the {ring} ring signs no more; what it signed is good on");
                            events.normal(&regarding, "KeyRetired", note);
                        }
                    }
                    Action::Revoke { kid } => {
                        tracing::warn!(policy = %name, ring, kid, "the key is revoked");
                        events.warning(
                            &regarding,
                            "KeyRevoked",
                            format!("key {kid} of the {ring} ring is revoked for good"),
                        );
                    }
                    Action::Remove { kid } => {
                        tracing::info!(policy = %name, ring, kid, "the key is gone");
                        events.normal(
                            &regarding,
                            "KeyRemoved",
                            format!("key {kid} of the {ring} ring is gone: nothing it signed lives"),
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    /// For how long verifiers held a key back that could have signed otherwise, as far as others were shown.
    fn waited_ms(&self, name: &PolicyName, ring: RingName, kid: &str) -> u64 {
        let view = self.context.registry.policy(name);
        let waiting = view.as_ref().and_then(|view| view.own.as_ref()?.ring(ring)?.status.waiting.as_ref());
        let since = waiting.filter(|waiting| waiting.kid == kid).map(|waiting| waiting.since.max(waiting.not_before));
        since.and_then(|since| u64::try_from(Clock::wall().since(since)).ok()).unwrap_or(0)
    }

    pub(super) fn tell_adopted(&self, name: &PolicyName, declared: &Declared) {
        tracing::info!(policy = %name, "the policy took over the keys of an earlier one of its name");
        let note = "the keys that an earlier policy of this name left are taken over";
        self.context.events.normal(&reference(declared), "Adopted", note);
    }

    pub(super) fn tell_merged(&self, name: &PolicyName, declared: &Declared, sessions: usize) {
        tracing::warn!(policy = %name, sessions, "too many declared sessions ended; every access token is cut off instead");
        let note = format!("{sessions} ended sessions are merged into one cut-off: every access token is to be got anew");
        self.context.events.warning(&reference(declared), "RevocationsMerged", note);
    }

    /// Events for what a condition says for the first time.
    pub(super) fn tell_changes(&self, declared: &Declared, before: &AuthPolicyStatus, said: &AuthPolicyStatus) {
        let regarding = reference(declared);
        let reason = |status: &AuthPolicyStatus, type_: &str| {
            status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.reason.clone(), c.message.clone()))
        };
        for (type_, reasons) in [
            ("Accepted", &["SecretNotFound", "SecretInvalid", "WeakKey", "IssuerShared", "TooLarge", "Invalid"][..]),
            ("KeysReady", &["RotationWaiting", "EmergencyUnacknowledged", "AdoptionRefused"]),
            ("Enforced", &["VerifiersRefused"]),
        ] {
            let (Some((now, message)), then) = (reason(said, type_), reason(before, type_)) else { continue };
            if then.is_some_and(|(then, _)| then == now) || !reasons.contains(&now.as_str()) {
                continue;
            }
            let event = match now.as_str() {
                "VerifiersRefused" => "BundleRefused",
                "SecretNotFound" => "SecretInvalid",
                other => other,
            };
            self.context.events.warning(&regarding, event, message);
        }
    }
}

fn reference(declared: &Declared) -> ObjectReference {
    declared.policy.object_ref(&())
}
