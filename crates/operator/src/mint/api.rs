//! The operator's API for the command line.
//!
//! Each call: who asks (TokenReview), whether they may (SubjectAccessReview), and only then whether what they ask about
//! exists. Minting and forgetting are audited: who, what, for whom; never the token.

use std::{convert::Infallible, fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequestParts, Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
    routing::{get, post},
};
use countersign_api::policy::AuthPolicy;
use countersign_core::{
    jose::strict_json,
    names::PolicyName,
    revocation::{Kind as EntryKind, Revocable},
    time::UnixMillis,
};
use countersign_feed::Clock;
use countersign_reviews::{Person, Reviewer, Right};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Mint, Minted, TokenOrder, keys,
    problem::Problem,
    request::{Asked, Kind, Wanted},
};
use crate::{feed::Cutoffs, fleet, jwks::reference, registry::PolicyView, run::Context, serving::Peer};

/// The largest body.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// How deep a body's JSON may nest.
const MAX_DEPTH: usize = 16;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) context: Context,
    pub(super) cutoffs: Arc<Cutoffs>,
    pub(super) reviewer: Reviewer,
}

pub(super) fn routes(api: Api) -> Router {
    Router::new()
        .route("/operator/v1/policies/{namespace}/{name}/tokens", post(mint))
        .route("/operator/v1/policies/{namespace}/{name}/keys", get(list_keys))
        .route("/operator/v1/fleet", get(list_fleet))
        .route("/operator/v1/fleet/forget", post(forget))
        .route("/operator/v1/status", get(status))
        .fallback(async || Problem::not_found("there is no such call"))
        .method_not_allowed_fallback(async || Problem::not_found("this call takes another method"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

type InPolicy = Path<(String, String)>;

/// Who asks, until it is known.
struct Caller {
    headers: HeaderMap,
    peer: Option<Peer>,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { headers: parts.headers.clone(), peer: parts.extensions.get().cloned() })
    }
}

async fn mint(
    State(api): State<Api>,
    Path((namespace, name)): InPolicy,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let policy = policy_name(&namespace, &name)?;
    let person = api.person(&caller).await?;
    let asked = received(body).and_then(|body| read::<Asked>(&body));
    // Breaking the glass is a right of its own: neither holds the other.
    let subresource = if asked.as_ref().is_ok_and(Asked::is_emergency) { "emergency" } else { "token" };
    let right = Right { verb: "create", subresource, namespace: Some(&namespace), name: Some(&name) };
    api.reviewer.may(&person, right).await?;
    let asked = asked?;
    // Whether there is such a policy.
    api.view(&policy).await?;
    let mut wanted = None;
    let ring = asked.ring();
    let mint = Mint::new(&api.context, &api.cutoffs);
    let (view, minted) = mint
        .issue(&policy, ring, |view| {
            let (now_wanted, order) = ordered(&api, view, asked.clone())?;
            wanted = Some((now_wanted, order.session_id.clone()));
            Ok::<_, Problem>(order)
        })
        .await?;
    let (wanted, session_id) = wanted.ok_or_else(|| Problem::internal(&"a token was made that nobody ordered"))?;
    let session_id = Some(session_id).filter(|_| wanted.kind == Kind::Access);
    api.audit(&person, &view, &wanted, session_id.as_deref(), &minted);
    Ok(Json(json!({
        "token": *minted.token,
        "token_id": minted.token_id,
        "session_id": session_id,
        "expires_at": minted.expires.as_secs(),
        "warnings": wanted.warnings,
    })))
}

/// What somebody asks for, held against the policy as it stands.
fn ordered(api: &Api, view: &PolicyView, asked: Asked) -> Result<(Wanted, TokenOrder), Problem> {
    let policy = &view.name;
    let effective = view.effective.as_ref().ok_or_else(|| {
        let problem = view.problem.as_deref().unwrap_or("it is not accepted");
        Problem::unavailable(format!("the policy {policy} can't be minted for: {problem}"))
    })?;
    if effective.issuer.is_none() {
        let detail = "the policy only verifies other issuers' tokens: it has no keys to sign with (spec.issuer is absent)";
        return Err(Problem::validation(detail));
    }
    let wanted = asked.under(effective, Clock::wall())?;
    refuse_what_has_ended(api, view, &wanted)?;
    let session_id = match wanted.kind {
        Kind::Access => wanted.session_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string()),
        Kind::ApiKey => String::new(),
    };
    let order = TokenOrder {
        subject: wanted.subject.clone(),
        roles: wanted.roles.clone(),
        scopes: wanted.scopes.clone(),
        audiences: wanted.audiences.clone(),
        session_id,
        ttl_ms: wanted.ttl_ms,
        not_after: wanted.emergency,
        emergency: wanted.emergency.and(wanted.reason.clone()),
    };
    Ok((wanted, order))
}

fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(format!("the body is over {MAX_BODY} bytes")),
        _ => Problem::invalid_request(error.body_text()),
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let value = strict_json::parse(body, MAX_DEPTH)
        .map_err(|error| Problem::invalid_request(format!("the body is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(Problem::invalid_request("the body is not a JSON object"));
    }
    serde_json::from_value(value).map_err(|error| Problem::validation(error.to_string()))
}

/// A token of something that has ended for good would be refused everywhere.
fn refuse_what_has_ended(api: &Api, view: &PolicyView, wanted: &Wanted) -> Result<(), Problem> {
    let Some(own) = &view.own else { return Ok(()) };
    let credential = Revocable {
        policy: &view.name,
        issuer: Some(&own.issuer),
        own: true,
        access_ring: wanted.kind == Kind::Access,
        token_kind: if wanted.kind == Kind::Access { EntryKind::Token } else { EntryKind::ApiKey },
        token_id: None,
        session_id: wanted.session_id.as_deref(),
        subject: Some(&wanted.subject),
        kid: None,
    };
    match api.cutoffs.hit(&credential, UnixMillis::FOREVER) {
        Some(_) => {
            let detail =
                "the session, its subject, or the whole policy is revoked for good: this token would be refused everywhere";
            Err(Problem::validation(detail))
        }
        None => Ok(()),
    }
}

async fn list_keys(
    State(api): State<Api>,
    Path((namespace, name)): InPolicy,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let policy = policy_name(&namespace, &name)?;
    let person = api.person(&caller).await?;
    let right = Right { verb: "get", subresource: "", namespace: Some(&namespace), name: Some(&name) };
    api.reviewer.may(&person, right).await?;
    Ok(Json(keys::shown(&*api.view(&policy).await?)))
}

/// What concerns every policy is for those who may read every policy.
const EVERYTHING: Right<'static> = Right { verb: "list", subresource: "", namespace: None, name: None };

async fn list_fleet(State(api): State<Api>, caller: Caller) -> Result<Json<Value>, Problem> {
    let person = api.person(&caller).await?;
    api.reviewer.may(&person, EVERYTHING).await?;
    let registry = &api.context.registry;
    let (fleet, feed) = (registry.fleet(), registry.feed().borrow().clone());
    let mut written: Vec<u64> = registry.policies().iter().map(|view| view.bundle_version).collect();
    written.sort_unstable();
    let shown = |verifier: &fleet::Verifier| {
        let ack = verifier.ack.as_ref();
        let heard = fleet.heard.get(&verifier.name);
        let position = heard.and_then(|heard| heard.position);
        let revision = ack.and_then(|ack| ack.revision.parse::<u64>().ok());
        json!({
            "name": verifier.name,
            "pod": verifier.pod,
            "alive": verifier.alive,
            "absent_ms": verifier.absent_ms,
            "ended": verifier.ended.as_ref().map(|ended| match ended {
                fleet::Ended::NodeGone => "its node is deleted",
                fleet::Ended::Terminated => "its containers have ended",
            }),
            "revision": ack.map(|ack| &ack.revision),
            // Of another history it says nothing about the present bundles.
            "counts": ack.map(|ack| ack.history == fleet.history),
            "refused": ack.map(|ack| &ack.refused),
            "schemas": ack.map(|ack| &ack.schemas),
            "start_id": ack.map(|ack| &ack.start_id),
            "generation": ack.map(|ack| ack.highest_held).filter(|generation| *generation > 0),
            "acknowledged_at": heard.and_then(|heard| heard.acknowledged).map(UnixMillis::as_secs),
            // Policies whose present bundle it hasn't come to.
            "behind": revision.map(|revision| written.len() - written.partition_point(|version| *version <= revision)),
            "feed_position": position.map(|position| position.to_string()),
            // Revocations that it hasn't come to; unknown in another epoch.
            "feed_behind": feed.tail.zip(position).filter(|(tail, held)| tail.epoch() == held.epoch())
                .map(|(tail, held)| tail.place().saturating_sub(held.place())),
        })
    };
    let verifiers: Vec<Value> = fleet.verifiers.iter().map(shown).collect();
    let age_ms = feed.server_time.map(|(_, boot)| Clock::boot_millis().saturating_sub(boot));
    Ok(Json(json!({
        "verifiers": verifiers,
        "reached": fleet.reached,
        "now": Clock::wall().as_secs(),
        "feed": {"position": feed.tail.map(|tail| tail.to_string()), "age_ms": age_ms, "seeded": feed.seeded},
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forget {
    name: String,
}

/// No rotation waits any more for a verifier outside pods that will not come back.
async fn forget(
    State(api): State<Api>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let person = api.person(&caller).await?;
    let right = Right { verb: "update", subresource: "keys", namespace: None, name: None };
    api.reviewer.may(&person, right).await?;
    let Forget { name } = read(&received(body)?)?;
    let forgotten = fleet::watching::forget(&api.context, &name).await.map_err(|error| Problem::internal(&error))?;
    if !forgotten {
        return Err(Problem::not_found(format!("no verifier outside pods is remembered as {name:?}")));
    }
    tracing::info!(target: "countersign_operator::audit", by = person.name(), verifier = name, "forgotten");
    Ok(Json(json!({"forgotten": name})))
}

async fn status(State(api): State<Api>, caller: Caller) -> Result<Json<Value>, Problem> {
    let person = api.person(&caller).await?;
    api.reviewer.may(&person, EVERYTHING).await?;
    let registry = &api.context.registry;
    let feed = registry.feed().borrow().clone();
    let fleet = registry.fleet();
    let policies = registry.policies();
    let unaccepted: Vec<Value> = policies
        .iter()
        .filter(|view| view.problem.is_some() && !view.withdrawn)
        .map(|view| json!({"policy": view.name, "problem": view.problem}))
        .collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "leader": api.context.config.identity,
        "feed": {"fresh": feed.fresh, "epoch": feed.epoch, "seeded": feed.seeded, "problem": feed.problem},
        "verifiers": {"known": fleet.known(), "alive": fleet.verifiers.iter().filter(|v| v.alive).count()},
        "policies": {"held": policies.len(), "not_accepted": unaccepted},
    })))
}

fn policy_name(namespace: &str, name: &str) -> Result<PolicyName, Problem> {
    PolicyName::try_new(namespace, name).map_err(|error| Problem::invalid_request(error.to_string()))
}

impl Api {
    /// Somebody whom the API server knows.
    async fn person(&self, caller: &Caller) -> Result<Person, Problem> {
        let source = caller.peer.as_ref().map(|peer| peer.address);
        let person = self.reviewer.person(&caller.headers, source).await?;
        caller.peer.iter().for_each(Peer::admit);
        Ok(person)
    }

    /// The policy as it stands. One that this leader hasn't looked at yet is not said to be missing.
    async fn view(&self, policy: &PolicyName) -> Result<Arc<PolicyView>, Problem> {
        if let Some(view) = self.context.registry.policy(policy).filter(|view| !view.withdrawn) {
            return Ok(view);
        }
        let policies: kube::Api<AuthPolicy> = kube::Api::namespaced(self.context.client.clone(), policy.namespace());
        let stored = policies.get_metadata_opt(policy.name()).await.map_err(|error| {
            tracing::warn!(%policy, %error, "whether the policy exists could not be asked");
            Problem::unavailable("the API server can't be asked for the policy; try again")
        })?;
        match stored.filter(|stored| stored.metadata.deletion_timestamp.is_none()) {
            Some(_) => Err(Problem::unavailable(format!("the AuthPolicy {policy} hasn't been looked at yet; try again"))),
            None => Err(Problem::not_found(format!("there is no AuthPolicy {policy}"))),
        }
    }

    fn audit(&self, person: &Person, view: &PolicyView, wanted: &Wanted, session_id: Option<&str>, minted: &Minted) {
        let kind = match wanted.kind {
            Kind::Access if wanted.emergency.is_some() => "emergency token",
            Kind::Access => "access token",
            Kind::ApiKey => "API key",
        };
        tracing::info!(
            target: "countersign_operator::audit",
            by = person.name(),
            policy = %view.name,
            kind,
            subject = wanted.subject,
            roles = ?wanted.roles,
            scopes = ?wanted.scopes,
            session_id,
            token_id = minted.token_id,
            kid = minted.kid,
            issued = %minted.issued,
            expires = %minted.expires,
            reason = wanted.reason,
            "minted"
        );
        let mut note = format!(
            "{} minted an {kind} for {} (id {}, roles {:?}, until {})",
            person.name(),
            wanted.subject,
            minted.token_id,
            wanted.roles,
            minted.expires,
        );
        match (wanted.emergency, &wanted.reason) {
            (Some(_), Some(reason)) => {
                let _ = write!(note, " because: {reason}");
                self.context.events.warning(&reference(view), "TokenMinted", note);
            }
            _ => self.context.events.normal(&reference(view), "TokenMinted", note),
        }
    }
}
