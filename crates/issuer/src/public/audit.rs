//! `GET /auth/audit` and `GET /auth/audit/suspicious`.

use std::net::IpAddr;

use axum::Json;
use countersign_core::time::UnixMillis;
use countersign_store::{AuditCursor, AuditFilter, KeptEvent, Severity};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    bearer::Permitted,
    body::OfQuery,
    call::Call,
    openapi::shapes,
    problem::{Failed, Problem},
};

/// What lets read the audit trail.
const PERMISSION: &str = "audit:read";
/// Events of a page, unless asked otherwise, and at most.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// How far back "suspicious" looks unless asked otherwise, milliseconds.
const DAY_MS: i64 = 86_400_000;

/// What of the trail is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    event_type: Option<String>,
    /// At least.
    #[param(inline, value_type = Option<shapes::Severity>)]
    severity: Option<String>,
    subject: Option<String>,
    ip: Option<String>,
    /// Seconds, as the next.
    #[param(minimum = -9_223_372_036_854_775_i64, maximum = 9_223_372_036_854_775_i64)]
    since: Option<i64>,
    #[param(minimum = -9_223_372_036_854_775_i64, maximum = 9_223_372_036_854_775_i64)]
    until: Option<i64>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// What the page before gave as `next_cursor`.
    #[param(pattern = "^[0-9]{1,15}[.][0-9]{1,15}$")]
    cursor: Option<String>,
}

#[utoipa::path(
    get,
    path = "/auth/audit",
    tag = "audit",
    summary = "Read the audit trail",
    description = "Newest first.",
    params(Asked),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "A page", body = shapes::Events))
)]
pub(super) async fn list(permitted: Permitted, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let Permitted { call, caller } = permitted;
    caller.require(PERMISSION)?;
    page(&call, asked.filter()?).await
}

#[utoipa::path(
    get,
    path = "/auth/audit/suspicious",
    tag = "audit",
    summary = "Read what is suspicious",
    description = "Warnings and above, of the last 24 hours unless asked otherwise.",
    params(Asked),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "A page", body = shapes::Events))
)]
pub(super) async fn suspicious(permitted: Permitted, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let Permitted { call, caller } = permitted;
    caller.require(PERMISSION)?;
    let mut filter = asked.filter()?;
    filter.at_least = filter.at_least.max(Some(Severity::Warning));
    if filter.since.is_none() {
        filter.since = Some(call.now().await?.minus(DAY_MS));
    }
    page(&call, filter).await
}

pub(crate) async fn page(call: &Call, filter: AuditFilter) -> Result<Json<Value>, Failed> {
    let events = call.store().audit(&call.policy.name, &filter).await?;
    Ok(Json(shown_page(&events, filter.limit)))
}

/// A page, and where the next one begins.
pub(crate) fn shown_page(events: &[KeptEvent], limit: u32) -> Value {
    let full = events.len() >= limit as usize;
    let next = events.last().filter(|_| full).map(|last| format!("{}.{}", last.event.time.0, last.id));
    json!({"events": events.iter().map(shown).collect::<Vec<_>>(), "next_cursor": next})
}

/// An event, as lists and the audit log show it.
pub(crate) fn shown(kept: &KeptEvent) -> Value {
    let event = &kept.event;
    json!({
        "id": kept.id,
        "policy": event.policy.as_str(),
        "at": event.time.as_secs(),
        "at_ms": event.time.0,
        "event_type": event.kind,
        "severity": event.severity.word(),
        "subject": event.subject,
        "session_id": event.session,
        "ip": event.ip,
        "user_agent": event.user_agent,
        "request_id": event.request,
        "details": serde_json::from_str::<Value>(&event.details).unwrap_or(Value::Null),
        "place": kept.link.map(|link| link.place),
        "hash": kept.link.map(|link| hex::encode(link.hash)),
    })
}

impl Asked {
    /// As the store asks it.
    pub(crate) fn filter(&self) -> Result<AuditFilter, Problem> {
        let severity = match &self.severity {
            None => None,
            Some(word) => {
                let known = Severity::ALL.into_iter().find(|known| known.word().eq_ignore_ascii_case(word));
                Some(known.ok_or_else(|| Problem::validation("severity is INFO, WARNING or CRITICAL"))?)
            }
        };
        let millis = |seconds: Option<i64>, name: &str| match seconds {
            None => Ok(None),
            Some(seconds) => {
                let at = seconds.checked_mul(1000).map(UnixMillis);
                at.map(Some).ok_or_else(|| Problem::validation(format!("the query's {name} is not of its form")))
            }
        };
        let until = millis(self.until, "until")?.map(|until| AuditCursor { time: until.plus(1000), id: 0 });
        let cursor = self.cursor.as_deref().map(cursor).transpose()?;
        let before = match (cursor, until) {
            (Some(cursor), Some(until)) if (until.time, until.id) < (cursor.time, cursor.id) => Some(until),
            (cursor, until) => cursor.or(until),
        };
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::validation(format!("limit is 1 to {MAX_PAGE}")));
        }
        Ok(AuditFilter {
            subject: self.subject.clone(),
            kind: self.event_type.as_ref().map(|kind| kind.to_ascii_uppercase()),
            ip: self.ip.as_deref().map(address),
            at_least: severity,
            since: millis(self.since, "since")?,
            before,
            limit,
        })
    }
}

/// An address as it was written down, however it is asked for.
fn address(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |ip: IpAddr| ip.to_canonical().to_string())
}

fn cursor(text: &str) -> Result<AuditCursor, Problem> {
    let parsed = text
        .split_once('.')
        .and_then(|(time, id)| Some(AuditCursor { time: UnixMillis(time.parse().ok()?), id: id.parse().ok()? }));
    parsed.ok_or_else(|| Problem::validation("cursor is not one that a page gave as next_cursor"))
}
