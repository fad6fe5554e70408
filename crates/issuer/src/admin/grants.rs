//! `sessions`, `api-keys`, `blocks` and `audit`: what accounts hold, and what keeps addresses out.

use axum::{
    Json,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use countersign_core::{
    revocation::{Entry, Kind, LIFTED},
    time::UnixMillis,
};
use countersign_store::{AddressBlock, Appended, Followed, Link, NewRevocation, StoreError, Tx, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    Content, OfQuery,
    administered::Administered,
    body_of,
    users::{found, network},
};
use crate::{
    addresses::Blocking,
    audit::EventKind,
    call::Call,
    closing,
    openapi::shapes,
    problem::{Failed, Problem},
    public::{self, audit},
};

/// The most of anything that is listed.
const MAX_LISTED: u32 = 1000;
/// Events of the trail that one call follows, at least.
const EVENTS_OF_PART: u64 = 20_000;
/// How long a block lasts unless asked otherwise, and at most, seconds.
const BLOCK_S: i64 = 30 * 86_400;
const MAX_BLOCK_S: i64 = 31_536_000;

#[derive(Deserialize)]
pub(super) struct OfId {
    id: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfSubject {
    /// The account's id, name or e-mail address.
    subject: Option<String>,
    /// What the page before gave as `next_cursor`.
    cursor: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

impl OfSubject {
    fn subject(&self) -> Result<&str, Problem> {
        self.subject.as_deref().ok_or_else(|| Problem::validation("the query lacks subject (id, name or e-mail address)"))
    }

    fn limit(&self) -> Result<u32, Problem> {
        let limit = self.limit.unwrap_or(MAX_LISTED);
        let fits = (1..=MAX_LISTED).contains(&limit);
        fits.then_some(limit).ok_or_else(|| Problem::validation(format!("limit is 1 to {MAX_LISTED}")))
    }
}

#[utoipa::path(
    get,
    path = "/sessions",
    tag = "administration",
    summary = "List an account's sessions",
    params(OfSubject),
    security(("bearer" = [])),
    responses((status = 200, description = "A page of those that live", body = shapes::administration::SessionsOf))
)]
pub(super) async fn sessions(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let subject = found(call, of.subject()?).await?.id;
    let now = call.now().await?;
    let (store, policy, limit) = (call.store(), &call.policy.name, of.limit()?);
    let after = match &of.cursor {
        Some(id) => {
            let held = store.session(policy, id).await?.filter(|session| session.subject == subject);
            Some(held.ok_or_else(|| Problem::validation("cursor is none that a page of this account's sessions gave"))?)
        }
        None => None,
    };
    let sessions = store.sessions(policy, &subject, after.as_ref(), limit, now).await?;
    let next = sessions.last().filter(|_| sessions.len() >= limit as usize).map(|session| session.id.clone());
    let shown: Vec<Value> = sessions
        .iter()
        .map(|session| {
            let mut shown = public::session_shown(session, None);
            shown["subject"] = json!(session.subject);
            shown
        })
        .collect();
    Ok(Json(json!({"sessions": shown, "next_cursor": next})))
}

#[utoipa::path(
    delete,
    path = "/sessions",
    tag = "administration",
    summary = "End an account's sessions",
    params(OfSubject),
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_sessions(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Response, Failed> {
    let call = &asking.0;
    let subject = found(call, of.subject()?).await?.id;
    let policy = &call.policy;
    let over = transact!(call.store(), |tx| {
        tx.lock_subject(&policy.name, &subject).await?;
        let now = tx.database_now().await?;
        let over = tx.end_sessions(&policy.name, &subject, None, &policy.ending(now, "ended by an administrator")).await?;
        call.tell_ended(tx, &subject, &over, Some(("by", "administrator")), now).await?;
        Ok(over)
    })?;
    let count = over.sessions.len();
    public::ended(call, Some(over.revocations), count).await
}

#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    tag = "administration",
    summary = "End a session",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_session(asking: Administered, Path(of): Path<OfId>) -> Result<Response, Failed> {
    let call = &asking.0;
    let policy = &call.policy;
    let held = call.store().session(&policy.name, &of.id).await?;
    let session = held.ok_or_else(|| Problem::not_found("there is no such session"))?;
    let over = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &session.subject).await?;
        let now = tx.database_now().await?;
        let over = tx.end_session(&policy.name, &of.id, &policy.ending(now, "ended by an administrator")).await?;
        if let Some(over) = &over {
            call.tell_ended(tx, &session.subject, over, Some(("by", "administrator")), now).await?;
        }
        Ok(over)
    })?;
    let count = over.as_ref().map_or(0, |over| over.sessions.len());
    public::ended(call, over.map(|over| over.revocations), count).await
}

#[utoipa::path(
    get,
    path = "/api-keys",
    tag = "administration",
    summary = "List API keys",
    description = "Of one account, or of all.",
    params(OfSubject),
    security(("bearer" = [])),
    responses((status = 200, description = "A page", body = shapes::administration::ApiKeysOf))
)]
pub(super) async fn api_keys(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let owner = match &of.subject {
        Some(subject) => Some(found(call, subject).await?.id),
        None => None,
    };
    let limit = of.limit()?;
    let keys = call.store().api_keys(&call.policy.name, owner.as_deref(), of.cursor.as_deref(), limit).await?;
    let next = keys.last().filter(|_| keys.len() >= limit as usize).map(|key| key.id.clone());
    let shown: Vec<Value> = keys
        .iter()
        .map(|key| {
            let mut shown = public::api_key_shown(key);
            shown["owner"] = json!(key.owner);
            shown
        })
        .collect();
    Ok(Json(json!({"api_keys": shown, "next_cursor": next})))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ApiKeyForRequest)]
struct NewKey {
    subject: String,
    name: String,
    scopes: Vec<String>,
    expires_in: Option<i64>,
}

#[utoipa::path(
    post,
    path = "/api-keys",
    tag = "administration",
    summary = "Make an API key for an account",
    request_body = NewKey,
    security(("bearer" = [])),
    responses((status = 201, description = "The key, shown this once", body = shapes::people::NewApiKey))
)]
pub(super) async fn create_api_key(asking: Administered, Content(bytes): Content) -> Result<Response, Failed> {
    let call = &asking.0;
    let body: NewKey = body_of(&bytes)?;
    let owner = found(call, &body.subject).await?;
    let made = public::make_api_key(call, &owner.id, None, body.name, body.scopes, body.expires_in).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    tag = "administration",
    summary = "Revoke an API key",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn revoke_api_key(asking: Administered, Path(of): Path<OfId>) -> Result<Response, Failed> {
    let call = &asking.0;
    let appended = transact!(call.store(), Failed, |tx| {
        let Some(key) = tx.api_key(&call.policy.name, &of.id).await? else {
            return Err(Problem::not_found("there is no such API key").into());
        };
        tx.lock_subject(&call.policy.name, &key.owner).await?;
        let now = tx.database_now().await?;
        let appended =
            closing::revoke_api_key(tx, &call.policy, &key.owner, &of.id, now, "revoked by an administrator").await?;
        if appended.is_some() {
            let event = call.event(EventKind::ApiKeyRevoked).subject(&key.owner).detail("id", of.id.as_str());
            event.detail("by", "administrator").write(tx, now).await?;
        }
        Ok(appended)
    })?;
    let count = usize::from(appended.is_some());
    public::ended(call, appended, count).await
}

#[utoipa::path(
    get,
    path = "/blocks",
    tag = "administration",
    summary = "List blocked addresses",
    security(("bearer" = [])),
    responses((status = 200, description = "All of them", body = shapes::administration::Blocks))
)]
pub(super) async fn blocks(asking: Administered) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let now = call.now().await?;
    let mut shown = Vec::new();
    let mut after = String::new();
    loop {
        let page = call.store().blocks(&call.policy.name, &after, MAX_LISTED, now).await?;
        shown.extend(page.iter().map(block_shown));
        match page.last() {
            Some(last) if page.len() >= MAX_LISTED as usize => after.clone_from(&last.network),
            _ => return Ok(Json(json!({"blocks": shown}))),
        }
    }
}

fn block_shown(block: &AddressBlock) -> Value {
    json!({
        "network": block.network,
        "reason": block.reason,
        "source": block.source,
        "created_at": block.created.as_secs(),
        "expires_at": block.expires.as_secs(),
    })
}

#[derive(Deserialize, ToSchema)]
#[schema(as = BlockRequest)]
struct NewBlock {
    network: String,
    reason: Option<String>,
    ttl_s: Option<i64>,
}

/// An administrator's block: logins are turned away at issuers, and verifiers deny.
#[utoipa::path(
    post,
    path = "/blocks",
    tag = "administration",
    summary = "Block an address or a network",
    description = "At issuers and at verifiers.",
    request_body = NewBlock,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is blocked", body = shapes::administration::NewBlock),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::administration::NewBlock),
    )
)]
pub(super) async fn block(asking: Administered, Content(bytes): Content) -> Result<Response, Failed> {
    let call = &asking.0;
    let body: NewBlock = body_of(&bytes)?;
    let policy = &call.policy;
    let ttl_s = body.ttl_s.unwrap_or(BLOCK_S);
    if !(1..=MAX_BLOCK_S).contains(&ttl_s) {
        return Err(Problem::validation(format!("ttl_s is 1 to {MAX_BLOCK_S}")).into());
    }
    let asked = Blocking {
        network: body.network.trim().to_owned(),
        reason: body.reason.unwrap_or_default(),
        ttl_s,
        source: "admin",
    };
    let (block, appended) = transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        let new = asked.revocation(policy, now).map_err(|error| Problem::validation(error.to_string()))?;
        let block = asked.block(tx, call, &new, now).await.map_err(full)?;
        let appended = tx.revoke(&[new], now, |_| policy.max_entries).await?;
        Ok((block, appended))
    })?;
    Ok(public::told(call, StatusCode::OK, block_shown(&block), appended).await)
}

fn full(error: countersign_store::StoreError) -> Failed {
    match error {
        countersign_store::StoreError::Full(what) => {
            Problem::validation(format!("there are as many {what} as there may be: block wider networks, or lift some"))
                .into()
        }
        error => error.into(),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfNetwork {
    network: String,
}

/// Lifts a block, at issuers and verifiers. Which rows to publish; absent when there was none.
pub(super) async fn lift(tx: &mut Tx, call: &Call, network: &str, now: UnixMillis) -> Result<Option<Appended>, StoreError> {
    let policy = &call.policy;
    if !tx.unblock(&policy.name, network, now).await? {
        return Ok(None);
    }
    let version = u64::try_from(now.0).unwrap_or(0);
    let entry = closing::entry(policy, Kind::Ip, network, LIFTED, now, "lifted");
    let lifted = Entry { issuer: None, version, expires: now.plus(BLOCK_S * 1000), ..entry };
    let new = NewRevocation { entry: lifted, subject: None, access_only: false };
    let appended = tx.revoke(&[new], now, |_| policy.max_entries).await?;
    call.event(EventKind::IpUnblocked).detail("network", network).write(tx, now).await?;
    Ok(Some(appended))
}

#[utoipa::path(
    delete,
    path = "/blocks",
    tag = "administration",
    summary = "Lift a block",
    params(OfNetwork),
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn unblock(asking: Administered, OfQuery(of): OfQuery<OfNetwork>) -> Result<Response, Failed> {
    let call = &asking.0;
    let network = network(&of.network)?;
    let appended = transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        let lifted = lift(tx, call, &network, now).await?;
        Ok(lifted.ok_or_else(|| Problem::not_found("that address or network is not blocked"))?)
    })?;
    public::ended(call, Some(appended), 1).await
}

#[utoipa::path(
    get,
    path = "/audit",
    tag = "administration",
    summary = "Read the audit trail",
    description = "Newest first.",
    params(audit::Asked),
    security(("bearer" = [])),
    responses((status = 200, description = "A page", body = shapes::Events))
)]
pub(super) async fn events(asking: Administered, OfQuery(asked): OfQuery<audit::Asked>) -> Result<Json<Value>, Failed> {
    audit::page(&asking.0, asked.filter()?).await
}

#[derive(Deserialize, ToSchema)]
#[schema(as = VerifyChainRequest)]
struct Heads {
    heads: Option<Vec<String>>,
    /// Where to go on: `next` of the answer before.
    from: Option<String>,
}

/// Follows the chain, a part at a time. Ends of it that were logged elsewhere show what was sealed anew.
#[utoipa::path(
    post,
    path = "/audit/verify",
    tag = "administration",
    summary = "Follow the chain of the audit trail",
    description = "Ends of it that were logged elsewhere show what was sealed anew. A long chain is followed a part at a time: ask again with `from` as long as there is `next`.",
    request_body = Heads,
    security(("bearer" = [])),
    responses((status = 200, description = "Whether it is whole", body = shapes::administration::ChainVerified))
)]
pub(super) async fn verify_events(asking: Administered, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    let body: Heads = body_of(&bytes)?;
    let known = body.heads.unwrap_or_default();
    let form = || Problem::validation("heads and from are PLACE:HASH, the hash as 64 hexadecimal digits");
    let known = known.iter().map(|text| link(text)).collect::<Option<Vec<Link>>>().ok_or_else(form)?;
    let from = body.from.as_deref().map(|text| link(text).ok_or_else(form)).transpose()?;
    let call = &asking.0;
    Ok(Json(match call.store().verify_audit_part(&call.policy.name, &known, from, EVENTS_OF_PART).await? {
        Ok(Followed { head, whole }) => {
            let hash = hex::encode(head.hash);
            let next = (!whole).then(|| format!("{}:{hash}", head.place));
            json!({"intact": true, "place": head.place, "hash": hash, "next": next})
        }
        Err(broken) => json!({"intact": false, "detail": broken.to_string()}),
    }))
}

fn link(text: &str) -> Option<Link> {
    let (place, hash) = text.split_once(':')?;
    Some(Link { place: place.parse().ok()?, hash: hex::decode(hash).ok()?.try_into().ok()? })
}
