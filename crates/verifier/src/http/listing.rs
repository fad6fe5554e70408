//! What is served: policies, keys, the feed.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use countersign_core::jose::JwkSet;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

use super::{problem::Problem, verdict};
use crate::{
    app::App,
    net::Answer,
    slot::{ListedKey, PolicySlot, PublishedKeys},
};

/// The longest that a key set may be kept, seconds, however long keys are published ahead.
const MAX_JWKS_AGE: i64 = 300;

/// `GET /v1/policies`.
pub(crate) fn policies(app: &App) -> Result<Answer, Problem> {
    if app.settings.restrict_listing {
        return Err(Problem::not_found());
    }
    let snapshot = app.snapshot.load();
    let listed: Vec<_> = snapshot
        .sorted()
        .into_iter()
        .map(|slot| {
            let policy = slot.policy();
            let keys: Vec<ListedKey> = slot.loaded.keys.iter().map(|key| current(app, slot, key)).collect();
            json!({
                "policy": policy.name,
                "generation": policy.generation,
                "digest": hex::encode(policy.digest),
                "loaded_at": slot.loaded_at.as_secs(),
                "keys": keys,
            })
        })
        .collect();
    Ok(verdict::json(json!({ "policies": listed }).to_string().into_bytes()))
}

/// A key as it is now: the feed may have revoked it since the bundle was written.
fn current(app: &App, slot: &PolicySlot, key: &ListedKey) -> ListedKey {
    let mut key = key.clone();
    if app.is_key_revoked(slot.policy(), &key.kid) {
        key.state = "Revoked".into();
    }
    key
}

/// `GET /v1/feed`.
pub(crate) fn feed(app: &App) -> Answer {
    let (view, stats) = (app.feed.view(), app.feed.stats());
    let body = json!({
        "position": view.position,
        "fresh": view.fresh,
        "age_ms": view.age_ms,
        "writer_seen_ms": stats.writer_seen_ms,
        "entries": stats.entries,
        "epoch": stats.epoch,
        "resyncs": stats.resyncs,
    });
    verdict::json(body.to_string().into_bytes())
}

/// `GET …/jwks.json`.
pub(crate) fn jwks(app: &App, slot: &PolicySlot, headers: &HeaderMap) -> Answer {
    let published = published(app, slot);
    let max_age = (slot.loaded.prepublish_ms / 2000).clamp(0, MAX_JWKS_AGE);
    let not_modified = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == published.etag)
        })
    });
    let body = if not_modified { Bytes::new() } else { published.body.clone() };
    let mut answer = Response::new(Full::new(body));
    let fields = answer.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&published.etag) {
        fields.insert(header::ETAG, etag);
    }
    if let Ok(cache) = HeaderValue::from_str(&format!("public, max-age={max_age}")) {
        fields.insert(header::CACHE_CONTROL, cache);
    }
    if not_modified {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    }
    answer
}

/// Every own key that verifies now. Made once per change of the revocation set, since that may end a key.
fn published(app: &App, slot: &PolicySlot) -> Arc<PublishedKeys> {
    let version = app.feed.revocations().version();
    if let Some(published) = slot.jwks.load_full().filter(|p| p.version == version) {
        return published;
    }
    let rings = slot.policy().own.iter().flat_map(|own| [&own.access, &own.api_key]);
    let keys = rings
        .flat_map(|ring| ring.jwks().keys)
        .filter(|jwk| !jwk.kid.as_deref().is_some_and(|kid| app.is_key_revoked(slot.policy(), kid)))
        .collect();
    let body = serde_json::to_vec(&JwkSet { keys }).expect("keys always serialise");
    let etag = format!("\"{}\"", hex::encode(&digest(&SHA256, &body).as_ref()[..16]));
    let published = Arc::new(PublishedKeys { version, body: body.into(), etag });
    slot.jwks.store(Some(published.clone()));
    published
}
