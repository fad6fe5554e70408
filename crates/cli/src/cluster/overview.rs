//! Every part of an installation, as far as the caller may look.

use countersign_api::cluster::LEASE;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, core::DynamicObject};
use serde_json::{Value, json};

use super::{Cluster, name_of, refusal::Need, rings};
use crate::{commands::text, failure::Failure};

/// What was found.
pub(crate) struct Overview {
    /// Who leads; none when nobody ever did.
    pub(crate) leader: Result<Option<Leader>, Failure>,
    /// What the operator says of itself, the feed and the fleet.
    pub(crate) operator: Result<Value, Failure>,
    /// The policies.
    pub(crate) policies: Vec<PolicyState>,
    /// The namespace that was looked at; absent: all.
    pub(crate) namespace: Option<String>,
}

/// The operator that holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its name; empty when the last one gave the Lease back.
    pub(crate) name: String,
    /// For how long it has led.
    pub(crate) leads_ms: i64,
    /// How long ago it said so.
    pub(crate) renewed_ms: i64,
    /// For how long that holds.
    pub(crate) valid_ms: i64,
}

impl Leader {
    /// Whether it leads now. The clock here and the leader's may differ by as long as the Lease holds.
    pub(crate) fn leads(&self) -> bool {
        !self.name.is_empty() && self.renewed_ms < self.valid_ms * 2
    }
}

/// A policy, in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyState {
    /// `NAMESPACE/NAME`.
    pub(crate) name: String,
    /// The conditions' `status`.
    pub(crate) ready: String,
    /// Likewise.
    pub(crate) enforced: String,
    /// On how many verifiers it is in force, as the admin API has it.
    pub(crate) verifiers: Value,
    /// Where its rings stand, as the admin API has them.
    pub(crate) keys: Value,
    /// The spec's generation.
    pub(crate) generation: i64,
    /// Its issuer.
    pub(crate) issuer: String,
    /// What isn't as it should be, or is to be heeded.
    pub(crate) problems: Vec<String>,
    /// The operator has reported on the latest edit.
    pub(crate) observed: bool,
}

impl Cluster {
    /// Looks at every part. `namespace` narrows the policies; without it all are meant, or, where the caller may not list
    /// them, those of the context's namespace.
    pub(crate) async fn overview(&self, namespace: Option<&str>) -> Result<Overview, Failure> {
        let (leader, operator, everywhere) =
            tokio::join!(self.leader(), self.operator_get("/operator/v1/status"), self.list(namespace));
        let (found, namespace) = match (everywhere, namespace) {
            (Ok(found), _) => (found, namespace.map(str::to_owned)),
            (Err(failure), Some(_)) => return Err(failure),
            (Err(failure), None) => match self.list(Some(&self.namespace)).await {
                Ok(found) => (found, Some(self.namespace.clone())),
                Err(_) => return Err(failure),
            },
        };
        let mut policies: Vec<PolicyState> = found.iter().filter_map(state).collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Overview { leader, operator, policies, namespace })
    }

    async fn leader(&self) -> Result<Option<Leader>, Failure> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let need = Need {
            verb: "get",
            resource: "leases.coordination.k8s.io",
            name: Some(LEASE),
            namespace: Some(&self.system_namespace),
        };
        let lease = self.call(need, api.get_opt(LEASE)).await?;
        Ok(lease.and_then(|lease| lease.spec).map(|spec| {
            let now = jiff::Timestamp::now();
            let age = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>| {
                time.map_or(i64::MAX, |time| now.as_millisecond() - time.0.as_millisecond())
            };
            Leader {
                name: spec.holder_identity.unwrap_or_default(),
                leads_ms: age(spec.acquire_time.as_ref()),
                renewed_ms: age(spec.renew_time.as_ref()),
                valid_ms: i64::from(spec.lease_duration_seconds.unwrap_or(15)) * 1000,
            }
        }))
    }
}

fn state(object: &DynamicObject) -> Option<PolicyState> {
    let (ready, enforced) = (rings::condition(object, "Ready"), rings::condition(object, "Enforced"));
    let generation = object.metadata.generation.unwrap_or(0);
    // `Ready` only repeats the first of these that fails.
    let conditions = ["Accepted", "KeysReady", "Enforced"].map(|kind| rings::condition(object, kind));
    let remarks = conditions.iter().filter(|condition| !condition.status.is_empty()).filter_map(rings::Condition::remark);
    let observed = object.data["status"]["observedGeneration"].as_i64().unwrap_or(0);
    let problems = if observed < generation {
        vec!["the operator has not looked at its latest edit yet".to_owned()]
    } else {
        remarks.collect()
    };
    let name = name_of(object)?;
    Some(PolicyState {
        verifiers: rings::enforced(object, 0).document(),
        keys: rings::document(&name, object)["status"].take(),
        name: name.to_string(),
        ready: known(ready.status),
        enforced: known(enforced.status),
        generation,
        issuer: text(&object.data["spec"], "issuer").to_owned(),
        problems,
        observed: observed >= generation,
    })
}

/// A condition's `status` for programs; null is unknown.
fn truth(status: &str) -> Value {
    match status {
        "True" => json!(true),
        "False" => json!(false),
        _ => Value::Null,
    }
}

fn known(status: String) -> String {
    if status.is_empty() { "Unknown".into() } else { status }
}

impl PolicyState {
    /// Whether all is well with it.
    pub(crate) fn healthy(&self) -> bool {
        self.observed && self.ready == "True" && self.enforced == "True"
    }

    /// For programs.
    pub(crate) fn document(&self) -> Value {
        json!({
            "policy": self.name,
            "ready": truth(&self.ready),
            "enforced": truth(&self.enforced),
            "verifiers": self.verifiers,
            "keys": self.keys,
            "generation": self.generation,
            "issuer": self.issuer,
            "problems": self.problems,
        })
    }
}
