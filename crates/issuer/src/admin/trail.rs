//! `audit`: the trail, and whether it is whole.

use axum::Json;
use countersign_store::{Followed, Link};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Content, OfQuery, administered::Administered, body_of};
use crate::{
    openapi::shapes,
    problem::{Failed, Problem},
    public::audit,
};

/// Events of the trail that one call follows, at least.
const EVENTS_OF_PART: u64 = 20_000;

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
