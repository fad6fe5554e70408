//! What a request carries, as typed values.

mod fields;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, Uri, request::Parts, uri::InvalidUri},
};
use countersign_core::jose::strict_json;
use serde::de::DeserializeOwned;

use crate::{
    problem::Problem,
    serving::{Issuer, TooSlow},
};

/// The largest body, bytes.
pub(crate) const MAX_BODY: usize = 64 << 10;
/// How deep a body may nest.
const MAX_DEPTH: usize = 64;

/// What stands behind the `?` of a path.
pub(crate) struct OfQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Issuer> for OfQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Issuer) -> Result<Self, Problem> {
        let given = given(parts.uri.query().unwrap_or_default());
        let given = given.map_err(|_| Problem::invalid_request("the query can't be read"))?;
        let read = Query::try_from_uri(&given);
        read.map(|Query(asked)| Self(asked)).map_err(|error| Problem::validation(fields::of_query(&error.body_text())))
    }
}

/// A query without the options that have no value: whoever fills them all in says nothing by those.
fn given(query: &str) -> Result<Uri, InvalidUri> {
    let has_value = |option: &&str| option.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    let given: Vec<&str> = query.split('&').filter(has_value).collect();
    format!("/?{}", given.join("&")).parse()
}

/// What a path names.
pub(crate) struct OfPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Issuer> for OfPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Problem> {
        let nothing = || Problem::not_found("the path names nothing that there is");
        // What can't be read, as bytes that are no text, is nothing's name; nor is what PostgreSQL can't hold, a NUL.
        if parts.uri.path().contains("%00") {
            return Err(nothing());
        }
        Path::from_request_parts(parts, issuer).await.map(|Path(named)| Self(named)).map_err(|_| nothing())
    }
}

/// A body as it came, of at most 64 KiB.
pub(crate) struct Content(pub(crate) Bytes);

impl FromRequest<Issuer> for Content {
    type Rejection = Problem;

    async fn from_request(request: Request, issuer: &Issuer) -> Result<Self, Problem> {
        match Bytes::from_request(request, issuer).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::too_large(MAX_BODY)),
            Err(e) if TooSlow::caused(&e) => Err(Problem::too_slow(TooSlow.to_string())),
            Err(_) => Err(Problem::invalid_request("the body could not be read")),
        }
    }
}

/// A body: 400 when it isn't JSON that means one thing, 422 when a field is wrong or missing.
pub(crate) fn body_of<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    let value =
        strict_json::parse(bytes, MAX_DEPTH).map_err(|e| Problem::invalid_request(format!("the body is not JSON: {e}")))?;
    if !value.is_object() {
        return Err(Problem::invalid_request("the body is not a JSON object"));
    }
    fields::read(&value).map_err(Problem::validation)
}
