//! Reading a request's body, up to a limit and not for ever.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::problem::Problem;
use crate::net::Patience;

/// How much of a body that nobody wants is read all the same, so that the peer gets to read our answer.
const MAX_DRAINED: usize = 8 << 20;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The whole body. A body that came with its head, the usual case, is handed on as it was read.
pub(crate) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > limit as u64 {
        drain(body);
        return Err(Problem::too_large(limit));
    }
    let first = match frame(&mut body, limit).await {
        Ok(Some(first)) => first,
        Ok(None) => return Ok(Bytes::new()),
        Err(problem) => {
            if !problem.close {
                drain(body);
            }
            return Err(problem);
        }
    };
    if body.is_end_stream() {
        return Ok(first);
    }
    let patience = Patience::default().body;
    // On the heap, like all that few requests come to: what a request's own future holds is moved with each of them.
    match Box::pin(tokio::time::timeout(patience, read_on(&mut body, first, limit))).await {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(problem)) => {
            drain(body);
            Err(problem)
        }
        Err(_) => Err(Problem::too_slow()),
    }
}

/// The first data; what doesn't come at once is waited for.
async fn frame(body: &mut Incoming, limit: usize) -> Result<Option<Bytes>, Problem> {
    let next = match futures_util::FutureExt::now_or_never(body.frame()) {
        Some(ready) => ready,
        None => match Box::pin(tokio::time::timeout(Patience::default().body, body.frame())).await {
            Ok(next) => next,
            Err(_) => return Err(Problem::too_slow()),
        },
    };
    match next {
        None => Ok(None),
        Some(Err(_)) => Err(broken()),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) if data.len() > limit => Err(Problem::too_large(limit)),
            Ok(data) => Ok(Some(data)),
            Err(_trailers) => Ok(None),
        },
    }
}

async fn read_on(body: &mut Incoming, first: Bytes, limit: usize) -> Result<Bytes, Problem> {
    let more = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit);
    let mut whole = BytesMut::with_capacity(first.len() + more);
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Problem::too_large(limit));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn broken() -> Problem {
    Problem { close: true, ..Problem::invalid("the body could not be read") }
}

/// Reads on in the background and forgets, so that the connection stays usable and the peer, still sending, isn't cut off
/// before it has our answer.
pub(crate) fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        let mut left = MAX_DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => left,
                None => break,
            };
        }
    }));
}

/// Whether the declared type, if any, is JSON.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = |value: &[u8]| {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let essence = value[..end].trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
            || (essence.len() > 5
                && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json")
                && essence.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"application/")))
    };
    if headers.get_all(header::CONTENT_TYPE).iter().all(|value| is_json(value.as_bytes())) {
        Ok(())
    } else {
        Err(Problem::media_type("the body must be declared as application/json (curl --json does it)"))
    }
}

/// Whether the declared type, if any, is a form.
pub(crate) fn expect_form(headers: &HeaderMap) -> Result<(), Problem> {
    let is_form = |value: &[u8]| {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        value[..end].trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    };
    if headers.get_all(header::CONTENT_TYPE).iter().all(|value| is_form(value.as_bytes())) {
        Ok(())
    } else {
        Err(Problem::media_type("the body must be declared as application/x-www-form-urlencoded (curl -d does it)"))
    }
}
