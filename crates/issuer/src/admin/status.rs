//! What there is to know: policies, their enforcement, the fleet, the feed.

use std::time::Duration;

use axum::{Json, extract::State};
use countersign_core::{names::PolicyName, revocation::Position};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{OfPolicy, OfQuery, held_generation, holds, keys, revocations::MAX_WAIT};
use crate::{IssuerPolicy, Verifier, openapi::shapes, problem::Problem, serving::Issuer};

/// `GET /admin/v1/policies`
#[utoipa::path(
    get,
    path = super::POLICIES,
    tag = "process",
    summary = "List policies",
    description = "With generation and issuer.",
    security(("bearer" = [])),
    responses((status = 200, description = "All of them", body = shapes::administration::PolicyList))
)]
pub(super) async fn policies(State(issuer): State<Issuer>) -> Json<Value> {
    let held = issuer.parts.policies.load();
    let shown = |policy: &IssuerPolicy| {
        json!({
            "policy": policy.name,
            "generation": policy.compiled.generation,
            "issuer": policy.own.as_ref().map(|own| &own.issuer),
            "default": held.default.as_ref() == Some(&policy.name),
        })
    };
    let policies: Vec<Value> = held.by_name.values().map(|policy| shown(policy)).collect();
    Json(json!({"policies": policies}))
}

/// `GET …/effective`
#[utoipa::path(
    get,
    path = "/effective",
    tag = "administration",
    summary = "The policy with every default filled in",
    description = "Every setting of it, as it holds.",
    security(("bearer" = [])),
    responses((status = 200, description = "The policy", body = Value))
)]
pub(super) async fn effective(State(issuer): State<Issuer>, policy: OfPolicy) -> Result<Json<Value>, Problem> {
    let effective = issuer.parts.status.effective(&policy.0.name);
    effective.map(Json).ok_or_else(|| Problem::not_found("the policy is not held here in full"))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Where something stands in the feed, as the call that ended it said.
    #[param(value_type = Option<String>)]
    position: Option<Position>,
    wait_ms: Option<u64>,
}

/// `GET …/verifiers`: on how many verifiers a position, or else the present generation, is in force.
#[utoipa::path(
    get,
    path = "/verifiers",
    tag = "administration",
    summary = "On how many verifiers a position is in force",
    description = "Or, without one, the policy's present generation.",
    params(Asked),
    security(("bearer" = [])),
    responses(
        (status = 200, description = "How many, and who lags behind", body = shapes::administration::EnforcementOfPolicy),
    )
)]
pub(super) async fn verifiers(
    State(issuer): State<Issuer>,
    policy: OfPolicy,
    OfQuery(asked): OfQuery<Asked>,
) -> Result<Json<Value>, Problem> {
    let parts = &issuer.parts;
    let enforcement = match asked.position {
        Some(position) => {
            let wait = Duration::from_millis(asked.wait_ms.unwrap_or(0)).min(MAX_WAIT);
            parts.revoker.enforcement(position, wait).await
        }
        None => held_generation(&policy.0, &alive(&issuer).await?),
    };
    Ok(Json(json!({"policy": policy.0.name, "position": asked.position, "verifiers": enforcement})))
}

async fn alive(issuer: &Issuer) -> Result<Vec<Verifier>, Problem> {
    issuer.parts.fleet.verifiers().await.map_err(|error| Problem::unavailable(error.to_string()))
}

/// `GET /admin/v1/fleet`
#[utoipa::path(
    get,
    path = super::FLEET,
    tag = "process",
    summary = "List verifiers",
    description = "With what each of them holds.",
    security(("bearer" = [])),
    responses((status = 200, description = "All of them", body = shapes::administration::FleetList))
)]
pub(super) async fn fleet(State(issuer): State<Issuer>) -> Result<Json<Value>, Problem> {
    let verifiers = alive(&issuer).await?;
    let held = issuer.parts.policies.load();
    let shown: Vec<Value> = verifiers.iter().map(|v| shown_verifier(v, held.by_name.values().map(|p| &**p))).collect();
    Ok(Json(json!({"verifiers": shown, "feed_age_ms": issuer.parts.feed.view().age_ms})))
}

fn shown_verifier<'a>(verifier: &Verifier, policies: impl Iterator<Item = &'a IssuerPolicy>) -> Value {
    let behind: Vec<&PolicyName> =
        policies.filter(|p| !holds(verifier, p, p.compiled.generation)).map(|p| &p.name).collect();
    let ack = verifier.ack.as_ref();
    json!({
        "name": verifier.name,
        "position": verifier.position,
        "acknowledged": ack.is_some(),
        "generations": ack.map(|a| &a.generations),
        "schemas": ack.map(|a| &a.schemas),
        "start_id": ack.map(|a| &a.start_id),
        "refused": ack.map(|a| a.refused.as_slice()).unwrap_or_default(),
        "behind": behind,
    })
}

/// `GET /admin/v1/status`
#[utoipa::path(
    get,
    path = super::STATUS,
    tag = "process",
    summary = "How everything stands",
    description = "What `countersign status` shows.",
    security(("bearer" = [])),
    responses((status = 200, description = "Policies, verifiers, the feed, problems", body = Value))
)]
pub(super) async fn status(State(issuer): State<Issuer>) -> Json<Value> {
    let parts = &issuer.parts;
    let (verifiers, fleet_problem) = match parts.fleet.verifiers().await {
        Ok(verifiers) => (Some(verifiers), None),
        // Nobody knows who is there: that is not the same as nobody.
        Err(error) => (None, Some(error.to_string())),
    };
    let (view, stats, publisher) = (parts.feed.view(), parts.feed.stats(), parts.publisher.status());
    let mut body = parts.status.status();
    if !body.is_object() {
        body = json!({});
    }
    body["version"] = json!(env!("CARGO_PKG_VERSION"));
    body["feed"] = json!({
        "server": parts.fleet.describe_server(),
        "position": view.position,
        "fresh": view.fresh,
        "age_ms": view.age_ms,
        "epoch": stats.epoch,
        "entries": stats.entries,
        "outbox_pending": publisher.pending,
        "problem": publisher.problem.as_deref().or(stats.problem.as_deref()).or(fleet_problem.as_deref()),
    });
    let held = parts.policies.load();
    let entries = parts.feed.entries_by_policy();
    let broken =
        |name: &PolicyName| body["broken_policies"].as_array().is_some_and(|b| b.iter().any(|n| n == name.as_str()));
    let policies: Vec<Value> = held
        .by_name
        .values()
        .map(|policy| {
            let mut shown = shown_policy(policy, verifiers.as_deref());
            shown["default"] = json!(held.default.as_ref() == Some(&policy.name));
            shown["problem"] = json!(broken(&policy.name));
            shown["revocations"] = json!(entries.iter().find(|(name, _)| *name == policy.name).map_or(0, |(_, n)| *n));
            shown
        })
        .collect();
    let all = verifiers.as_ref().map(|verifiers| {
        let shown = verifiers.iter().map(|v| shown_verifier(v, held.by_name.values().map(|p| &**p)));
        shown.collect::<Vec<_>>()
    });
    body["verifiers"] = json!(all);
    let no_problems = body["problems"].as_array().is_none_or(Vec::is_empty);
    let all_ready = policies.iter().all(|p| p["ready"] == json!(true));
    body["healthy"] = json!(no_problems && all_ready && view.fresh && publisher.problem.is_none());
    body["policies"] = json!(policies);
    Json(body)
}

/// Without `verifiers` nobody knows who is there.
fn shown_policy(policy: &IssuerPolicy, verifiers: Option<&[Verifier]>) -> Value {
    let enforcement = verifiers.map(|verifiers| held_generation(policy, verifiers));
    let refused = verifiers
        .unwrap_or_default()
        .iter()
        .filter_map(|v| v.ack.as_ref())
        .any(|ack| ack.refused.iter().any(|r| r.policy == policy.name.as_str()));
    let signs = policy.own.as_ref().is_none_or(|own| own.access.signer.is_some() && own.api_key.signer.is_some());
    let keys = policy
        .own
        .as_ref()
        .map(|own| json!({"access": keys::ring_status(&own.access), "api_key": keys::ring_status(&own.api_key)}));
    json!({
        "policy": policy.name,
        "generation": policy.compiled.generation,
        "issuer": policy.own.as_ref().map(|own| &own.issuer),
        "ready": signs && enforcement.as_ref().is_some_and(|e| e.confirmed > 0) && !refused,
        "verifiers": enforcement,
        "keys": keys,
    })
}
