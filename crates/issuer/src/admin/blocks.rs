//! `blocks`: what keeps addresses out.

use axum::{Json, http::StatusCode, response::Response};
use countersign_core::{
    revocation::{Entry, Kind, LIFTED},
    time::UnixMillis,
};
use countersign_store::{AddressBlock, Appended, NewRevocation, StoreError, Tx, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Content, OfQuery, administered::Administered, body_of, grants::MAX_LISTED, users::network};
use crate::{
    addresses::Blocking,
    audit::EventKind,
    call::Call,
    closing,
    openapi::shapes,
    problem::{Failed, Problem},
    public,
};

/// How long a block lasts unless asked otherwise, and at most, seconds.
const BLOCK_S: i64 = 30 * 86_400;
const MAX_BLOCK_S: i64 = 31_536_000;

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

fn full(error: StoreError) -> Failed {
    match error {
        StoreError::Full(what) => {
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
