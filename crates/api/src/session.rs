//! `Session`: a declared session. Never one object per login: a workload's or a person's grant, delivered and renewed as a
//! Secret.

mod permitted;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{settings::settings, values::Duration};

settings! {
    /// A declared session: a workload's or a person's grant, delivered and renewed as a Secret.
    #[kube(
        group = "countersign.dev",
        version = "v1alpha1",
        kind = "Session",
        plural = "sessions",
        shortname = "authsess",
        category = "countersign",
        namespaced,
        status = "SessionStatus",
        derive = "PartialEq",
        doc = "A declared session: a workload's or a person's grant, delivered and renewed as a Secret.",
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
        printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policyRef.name"),
        printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject"),
        printcolumn(name = "Expires", type_ = "string", json_path = ".status.expirationTime"),
        printcolumn(name = "Renewed", type_ = "date", json_path = ".status.renewalTime"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Secret", type_ = "string", json_path = ".spec.secret.name", priority = 1),
        printcolumn(name = "Session-ID", type_ = "string", json_path = ".status.sessionID", priority = 1),
        printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1)
    )]
    SessionSpec => EffectiveSession {
        required {
            /// The AuthPolicy of this namespace that issues its tokens. Can't be changed.
            policy_ref: PolicyRef,
            /// Whom its tokens speak for. Must begin with the policy's `declaredSessions.subjectPrefix`. Can't be changed.
            #[schemars(length(min = 1, max = 256))]
            subject: String,
            /// The Secret that is written, with the keys `token`, `expires-at`, `session-id` and `jwks.json`.
            secret: TokenSecret,
        }
        optional {
            /// Whom its tokens are for, among the policy's audiences. Absent: all of them.
            #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)))]
            audiences: Vec<String>,
            /// How long the session lasts. Absent: until it is deleted. Raising or removing it starts a new session id.
            lifetime: Duration,
        }
        defaulted {
            /// Its roles, among the policy's `declaredSessions.roles`.
            #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
            roles: Vec<String> = Vec::new(),
            /// How long one token lives: at least `1m`, no longer than the policy's `accessTTL`.
            token_ttl as "tokenTTL": Duration = Duration::minutes(15),
            /// How long before its end a token is renewed. Less than `tokenTTL`.
            renew_before: Duration = Duration::minutes(5),
            /// `true`: its tokens die on every verifier. `false` again: a new session id and token.
            suspend: bool = false,
        }
    }
}

settings! {
    /// An AuthPolicy of this namespace.
    PolicyRef => EffectivePolicyRef {
        required {
            /// The AuthPolicy's name.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            name: String,
        }
    }
}

settings! {
    /// The Secret that a session is delivered as.
    TokenSecret => EffectiveTokenSecret {
        required {
            /// Its name.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            name: String,
        }
        defaulted {
            /// Labels for it. Names under `countersign.dev` are the operator's.
            #[schemars(extend("maxProperties" = 32, "additionalProperties" = label_value()))]
            labels: BTreeMap<String, String> = BTreeMap::new(),
            /// Annotations for it. Names under `countersign.dev` are the operator's.
            #[schemars(extend("maxProperties" = 32, "additionalProperties" = json!({"type": "string", "maxLength": 4096})))]
            annotations: BTreeMap<String, String> = BTreeMap::new(),
        }
    }
}

/// What Kubernetes takes as a label's value.
pub(crate) const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

fn label_value() -> Value {
    json!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE})
}

/// What became of a declared session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The session that its tokens belong to.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "sessionID")]
    pub session_id: Option<String>,
    /// When the present token was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_time: Option<Time>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// When it was last renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
}
