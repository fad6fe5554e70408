//! An AuthPolicy's status, in the documents of `dev`'s admin API.

use std::collections::BTreeMap;

use countersign_core::names::PolicyName;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::commands::{text, texts};

/// A policy's two rings: as the admin API, the status, and the command line call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Signs access tokens.
    Access,
    /// Signs API keys.
    ApiKey,
}

impl Ring {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Access, Self::ApiKey];

    /// Its name in documents.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api_key",
        }
    }

    /// Its name in a status.
    pub(super) fn in_status(self) -> &'static str {
        match self {
            Self::Access => "Access",
            Self::ApiKey => "APIKey",
        }
    }

    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api-key",
        }
    }
}

/// Why a published key doesn't sign, as long as the operator has no reason to name anyone.
const UNACKNOWLEDGED: &str =
    "a new key is published and doesn't sign yet: `countersign fleet` shows whether every verifier is there";

/// Nothing is reported.
const UNSEEN: &str = "the operator has not reported on it yet";

/// A condition's `status`, `reason` and `message`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// `True`, `False`, `Unknown`; empty when it isn't there.
    pub(crate) status: String,
    /// Why, as a word.
    pub(crate) reason: String,
    /// Why, for people.
    pub(crate) message: String,
    /// The generation of the spec that it is about.
    pub(crate) generation: i64,
}

impl Condition {
    /// Whether it holds.
    pub(crate) fn holds(&self) -> bool {
        self.status == "True"
    }

    /// What it says that a person would want to know: why it doesn't hold, or what is to be heeded although it does (a
    /// rotation that waits, a warning).
    pub(crate) fn remark(&self) -> Option<String> {
        let all_is_well = self.holds() && matches!(self.reason.as_str(), "Accepted" | "Active" | "Enforced" | "Ready");
        (!all_is_well).then(|| sentence(self))
    }
}

/// A condition of a policy.
pub(crate) fn condition(object: &DynamicObject, kind: &str) -> Condition {
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| text(c, "type") == kind).map_or_else(Condition::default, |c| Condition {
        status: text(c, "status").into(),
        reason: text(c, "reason").into(),
        message: text(c, "message").into(),
        generation: c["observedGeneration"].as_i64().unwrap_or_else(|| observed(object)),
    })
}

fn observed(object: &DynamicObject) -> i64 {
    object.data["status"]["observedGeneration"].as_i64().unwrap_or(0)
}

/// On how many verifiers a generation of the spec is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Enforced {
    /// How many there are.
    pub(crate) total: u64,
    /// How many hold it.
    pub(crate) confirmed: u64,
    /// Some of those that don't.
    pub(crate) lagging: Vec<String>,
    /// The condition `Enforced` holds for this generation.
    pub(crate) holds: bool,
    /// Why it doesn't.
    pub(crate) why: String,
}

impl Enforced {
    /// As the admin API's documents have it.
    pub(crate) fn document(&self) -> Value {
        json!({"total": self.total, "confirmed": self.confirmed, "lagging": self.lagging})
    }
}

/// What the status says about the enforcement of a generation of the spec, at least.
pub(crate) fn enforced(object: &DynamicObject, generation: i64) -> Enforced {
    let enforcement = &object.data["status"]["enforcement"];
    let (said, condition) = (enforcement["generation"].as_i64().unwrap_or(0), condition(object, "Enforced"));
    let number = |name: &str| enforcement[name].as_u64().unwrap_or(0);
    if said < generation || condition.generation < generation {
        let refused = ["Accepted", "KeysReady"].map(|kind| self::condition(object, kind));
        let why = refused.into_iter().find(|c| c.status == "False" && c.generation >= generation);
        let why = why.map_or_else(|| UNSEEN.to_owned(), |c| sentence(&c));
        return Enforced { total: number("verifiers"), why, ..Enforced::default() };
    }
    let holds = condition.holds();
    Enforced {
        total: number("verifiers"),
        confirmed: number("acknowledged"),
        lagging: texts(enforcement, "lagging"),
        holds,
        why: if holds { String::new() } else { sentence(&condition) },
    }
}

fn sentence(condition: &Condition) -> String {
    match (condition.reason.as_str(), condition.message.as_str()) {
        ("", "") => UNSEEN.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// The policy's rings, as `GET /admin/v1/policies/{policy}/keys` has them.
pub(crate) fn document(policy: &PolicyName, object: &DynamicObject) -> Value {
    let status = &object.data["status"];
    let ready = condition(object, "KeysReady");
    let phase = if ready.remark().is_none() { "Ready" } else { ready.reason.as_str() };
    let (mut keys_of, mut standing) = (BTreeMap::new(), BTreeMap::new());
    for ring in Ring::ALL {
        let keys = status["keys"].as_array().into_iter().flatten().filter(|key| text(key, "ring") == ring.in_status());
        let keys: Vec<Value> = keys.map(|key| shown(key, status)).collect();
        let said = ready.remark().is_some() && ready.message.contains(&format!("the {} ring", ring.word()));
        let waits = match keys.iter().any(|key| text(key, "state") == "Pending") {
            true if said => Some(ready.message.as_str()),
            true => Some(UNACKNOWLEDGED),
            false => None,
        };
        let of_ring = of_ring(object, ring);
        standing.insert(
            ring.member(),
            json!({
                "phase": phase,
                "active_kid": of_ring["activeKID"],
                "last_rotation_at": seconds(&of_ring, "lastRotationTime"),
                "next_rotation_at": seconds(&of_ring, "nextRotationTime"),
                "waiting": waits.map(|detail| json!({"detail": detail})),
            }),
        );
        keys_of.insert(ring.member(), keys);
    }
    json!({"policy": policy, "rings": keys_of, "status": standing, "detail": ready.remark()})
}

fn shown(key: &Value, status: &Value) -> Value {
    let state = text(key, "state");
    // A key signs once every verifier has it; before that the condition names who lacks it.
    let held = matches!(state, "Active" | "Retiring").then(|| {
        let enforcement = &status["enforcement"];
        json!({
            "total": enforcement["verifiers"],
            "confirmed": enforcement["acknowledged"],
            "lagging": texts(enforcement, "lagging"),
        })
    });
    json!({
        "kid": key["kid"],
        "alg": key["algorithm"],
        "state": state,
        "created_at": seconds(key, "creationTime"),
        "activated_at": seconds(key, "activationTime"),
        "retiring_at": seconds(key, "retirementTime"),
        "verifiers": held,
    })
}

/// What the status says of one ring; null when there is nothing.
fn of_ring(object: &DynamicObject, ring: Ring) -> Value {
    let rings = object.data["status"]["keyRings"].as_array().into_iter().flatten();
    rings.into_iter().find(|r| text(r, "name") == ring.in_status()).cloned().unwrap_or_default()
}

/// An RFC 3339 member in seconds since the epoch.
fn seconds(value: &Value, name: &str) -> Option<i64> {
    text(value, name).parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"name": "shop", "namespace": "shop", "generation": 2}, "status": status,
        }))
        .unwrap()
    }

    fn enforcement(generation: i64, acknowledged: u64, condition: &str) -> Value {
        json!({
            "observedGeneration": generation,
            "conditions": [{
                "type": "Enforced", "status": condition, "reason": "WaitingForVerifiers", "message": "waits for b",
                "observedGeneration": generation,
            }],
            "enforcement": {"generation": generation, "verifiers": 2, "acknowledged": acknowledged, "lagging": ["b"]},
        })
    }

    #[test]
    fn a_report_on_an_earlier_generation_is_none_on_this_one() {
        let waits = |status: Value| enforced(&policy(&status), 2);
        assert!(waits(enforcement(2, 2, "True")).holds);
        assert!(waits(enforcement(3, 2, "True")).holds, "a later generation holds what this one held");
        let earlier = waits(enforcement(1, 2, "True"));
        assert_eq!((earlier.holds, earlier.confirmed, earlier.total), (false, 0, 2), "{earlier:?}");
        let lagging = waits(enforcement(2, 1, "False"));
        assert_eq!(
            (lagging.holds, lagging.confirmed, lagging.why.as_str()),
            (false, 1, "WaitingForVerifiers: waits for b")
        );
        assert!(!waits(Value::Null).holds);
    }

    #[test]
    fn why_a_generation_is_not_enforced_is_said_when_it_was_not_even_accepted() {
        let mut status = enforcement(1, 2, "True");
        let refused = json!({
            "type": "Accepted", "status": "False", "reason": "SecretNotFound", "message": "no Secret legacy-jwt",
            "observedGeneration": 2,
        });
        status["conditions"].as_array_mut().unwrap().push(refused);
        assert_eq!(enforced(&policy(&status), 2).why, "SecretNotFound: no Secret legacy-jwt");
    }

    #[test]
    fn the_status_reads_like_the_admin_api() {
        let status = json!({
            "conditions": [{"type": "KeysReady", "status": "True", "reason": "RotationWaiting",
                            "message": "the access ring's rotation waits for b"}],
            "keyRings": [{"name": "Access", "activeKID": "k1", "nextRotationTime": "2026-03-01T00:00:00Z"}],
            "keys": [
                {"kid": "k1", "ring": "Access", "algorithm": "EdDSA", "state": "Active",
                 "creationTime": "2026-03-01T00:00:00Z"},
                {"kid": "k2", "ring": "Access", "algorithm": "EdDSA", "state": "Pending"},
                {"kid": "k3", "ring": "APIKey", "algorithm": "EdDSA", "state": "Active"},
            ],
            "enforcement": {"generation": 1, "verifiers": 2, "acknowledged": 2},
        });
        let shown = document(&"shop/shop".parse().unwrap(), &policy(&status));
        assert_eq!(shown["rings"]["access"][0]["created_at"], 1_772_323_200);
        assert_eq!(shown["rings"]["access"][0]["verifiers"]["confirmed"], 2);
        assert_eq!(shown["rings"]["access"][1]["verifiers"], Value::Null);
        assert_eq!(shown["rings"]["api_key"][0]["kid"], "k3");
        assert_eq!(shown["status"]["access"]["active_kid"], "k1");
        assert_eq!(shown["status"]["access"]["waiting"]["detail"], "the access ring's rotation waits for b");
        assert_eq!(shown["status"]["access"]["phase"], "RotationWaiting");
        assert_eq!(shown["status"]["api_key"]["waiting"], Value::Null);
    }
}
