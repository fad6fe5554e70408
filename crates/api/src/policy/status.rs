//! What the operator reports of a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthPolicyStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `KeysReady`, `Enforced`, `Ready`, and `Stalled` when a person is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The two rings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub key_rings: Vec<KeyRingStatus>,
    /// Their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kid"]))]
    pub keys: Vec<KeyStatus>,
    /// Who enforces it: a snapshot of the moment at which it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
}

/// One ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRingStatus {
    /// Which.
    pub name: StatusRing,
    /// The key that signs.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "activeKID")]
    pub active_kid: Option<String>,
    /// When the key that signs began to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation_time: Option<Time>,
    /// When the next one takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation_time: Option<Time>,
    /// The `revision` that was last acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_revision: Option<String>,
    /// The value of the rotate annotation that was last acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_rotation: Option<String>,
}

crate::settings::words! {
    /// A policy's ring.
    StatusRing {
        /// Signs access tokens.
        Access,
        /// Signs API keys.
        APIKey,
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Its name.
    pub kid: String,
    /// Its ring.
    pub ring: StatusRing,
    /// What it signs with.
    pub algorithm: String,
    /// What it does.
    pub state: RingKeyState,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Time>,
    /// When it began to sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_time: Option<Time>,
    /// When it ceased to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement_time: Option<Time>,
}

crate::settings::words! {
    /// What a key does.
    RingKeyState {
        /// It is published and verifies; it doesn't sign yet.
        Pending,
        /// It signs.
        Active,
        /// It only verifies.
        Retiring,
        /// It is trusted no more.
        Revoked,
    }
}

/// Who enforces a generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// The generation of the spec.
    pub generation: i64,
    /// The generation of its bundle.
    pub bundle_generation: i64,
    /// When every required verifier held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_time: Option<Time>,
    /// How many verifiers are required.
    pub verifiers: i32,
    /// How many of them hold it.
    pub acknowledged: i32,
    /// Both, for people: `41/41`.
    pub summary: String,
    /// The issuers that hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuers: Option<IssuerEnforcement>,
    /// Some of the verifiers that don't.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub lagging: Vec<String>,
}

/// Issuers that hold a generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerEnforcement {
    /// How many there are.
    pub replicas: i32,
    /// How many hold it.
    pub acknowledged: i32,
}
