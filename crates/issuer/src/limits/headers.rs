//! What a caller is told of its limit.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Standing;

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
