//! What a caller is told of its limit.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Standing, tightest};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Writes `RateLimit-Limit`, `-Remaining` and `-Reset`, and `Retry-After` on a refusal. In seconds, rounded up: who waits so
/// long is let through, and told at least 1.
pub(crate) fn rate_limit_headers(headers: &mut HeaderMap, standing: &Standing) {
    let seconds = HeaderValue::from((standing.reset_ms.max(0).saturating_add(999) / 1000).max(1));
    headers.insert(LIMIT, HeaderValue::from(standing.limit));
    headers.insert(REMAINING, HeaderValue::from(standing.remaining));
    if !standing.allowed {
        headers.insert(header::RETRY_AFTER, seconds.clone());
    }
    headers.insert(RESET, seconds);
}

/// How the limits stand that a request was counted by, until its answer tells the tightest of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountedBy(Arc<Mutex<Option<Standing>>>);

impl CountedBy {
    /// It was counted by this one.
    pub(crate) fn note(&self, standing: Standing) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(standing, |held| tightest(held, standing)));
    }

    /// Tells an answer that says nothing of its own.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let held = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = held.filter(|_| !headers.contains_key(LIMIT)) {
            rate_limit_headers(headers, &standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_and_a_refusal_says_when_to_try_again() {
        for (reset_ms, allowed, seconds) in
            [(0, true, "1"), (1, true, "1"), (1000, false, "1"), (1001, false, "2"), (299_001, false, "300")]
        {
            let mut headers = HeaderMap::new();
            rate_limit_headers(&mut headers, &Standing { allowed, limit: 5, remaining: 0, reset_ms });
            let told = |name: &str| headers.get(name).map(|v| v.to_str().unwrap());
            assert_eq!(told("ratelimit-reset"), Some(seconds));
            assert_eq!(told("retry-after"), (!allowed).then_some(seconds));
            assert_eq!((told("ratelimit-limit"), told("ratelimit-remaining")), (Some("5"), Some("0")));
        }
    }
}
