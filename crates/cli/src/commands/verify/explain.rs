//! Why a token is or is not accepted: the verifier's checks in their order, up to the one that refused.
//!
//! The verdict is the verifier's; this only tells which checks it implies and what they looked at. The order of refusals is
//! part of the contract, so a verdict says that every earlier check held.

use serde::Serialize;
use serde_json::Value;

use crate::{
    client::{Answer, Client},
    commands::{now, relative, text, texts},
    credential::{self, Unverified},
    output::{Cell, Table, Tone},
};

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// What was checked.
    check: &'static str,
    /// How it went.
    outcome: Outcome,
    /// What was looked at.
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Passed,
    Refused,
    NotReached,
}

/// What the verifier tells about a policy and itself.
#[derive(Debug, Default)]
pub(super) struct Facts {
    policy: Value,
    feed: Value,
}

/// Asks for them; a listing that is switched off leaves gaps, not an error.
pub(super) async fn facts(client: &Client, policy: &str) -> Facts {
    let listing = client.get("/v1/policies").await.map(|a| a.body).unwrap_or_default();
    let mut entries = listing.get("policies").and_then(Value::as_array).into_iter().flatten();
    let policy = entries.find(|p| text(p, "policy") == policy).cloned().unwrap_or_default();
    let feed = client.get("/v1/feed").await.map(|a| a.body).unwrap_or_default();
    Facts { policy, feed }
}

/// The words by which each check refuses, in their order.
const CHECKS: [(&str, &[&str]); 10] = [
    ("form", &["missing", "malformed"]),
    ("issuer", &["untrusted_issuer"]),
    // A kid that only a verifier with the latest state would know.
    ("key", &["unknown_key", "not_ready"]),
    ("signature", &["bad_signature"]),
    ("time", &["not_yet_valid", "expired"]),
    ("audience", &["wrong_audience"]),
    ("claims", &["invalid_claims"]),
    ("revocation", &["revoked"]),
    ("freshness", &["stale"]),
    ("demands", &["denied", "rate_limited"]),
];

/// The checks with their outcomes.
pub(super) fn steps(token: &str, answer: &Answer, facts: &Facts) -> Vec<Step> {
    let verdict = text(&answer.body, "verdict");
    let refused_at = CHECKS.iter().position(|(_, words)| words.contains(&verdict));
    // The limit of a caller's uncached calls comes before all else, that of a subject last: which it was isn't said.
    let unknown_before = verdict == "rate_limited";
    let parts = credential::take_apart(token);
    let step = |(n, (check, _)): (usize, &(&'static str, &[&str]))| {
        let outcome = match refused_at {
            None => Outcome::Passed,
            Some(at) if n < at && unknown_before => Outcome::NotReached,
            Some(at) if n < at => Outcome::Passed,
            Some(at) if n == at => Outcome::Refused,
            Some(_) => Outcome::NotReached,
        };
        let looked_at = match outcome {
            Outcome::NotReached => String::new(),
            _ => looked_at(check, parts.as_ref(), answer, facts),
        };
        let detail = match outcome {
            Outcome::Refused if looked_at.is_empty() => format!("{verdict}: {}", text(&answer.body, "detail")),
            Outcome::Refused => format!("{verdict}: {} ({looked_at})", text(&answer.body, "detail")),
            _ => looked_at,
        };
        Step { check, outcome, detail }
    };
    CHECKS.iter().enumerate().map(step).collect()
}

fn looked_at(check: &str, parts: Option<&Unverified<'_>>, answer: &Answer, facts: &Facts) -> String {
    let Some(token) = parts else {
        return match check {
            "form" => "an opaque key, or no token".into(),
            "freshness" => freshness(facts),
            _ => String::new(),
        };
    };
    let claims = &token.claims;
    let header = &token.jws.header;
    let or_none = |claim: &Result<Option<String>, _>| match claim {
        Ok(Some(value)) => value.clone(),
        _ => "none".to_owned(),
    };
    match check {
        "form" => format!("{}, alg {}", if token.is_api_key { "API key" } else { "signed token" }, header.alg),
        "issuer" => format!("iss {}", or_none(&claims.issuer)),
        "key" => key(header.kid.as_deref(), facts),
        "signature" => format!("by {}", header.alg),
        "time" => match &claims.expires {
            Ok(Some(at)) => format!("expires {}, {at}", relative(*at, now())),
            _ => "no exp".into(),
        },
        "audience" => match &claims.audience {
            Ok(Some(audience)) => format!("aud {}", audience.join(", ")),
            _ => "no aud".into(),
        },
        "claims" => format!("sub {}", or_none(&claims.subject)),
        "revocation" => format!("jti {}, sid {}", or_none(&claims.token_id), or_none(&claims.session_id)),
        "freshness" => freshness(facts),
        "demands" => demands(&answer.body),
        _ => String::new(),
    }
}

fn key(kid: Option<&str>, facts: &Facts) -> String {
    let Some(kid) = kid else { return "no kid: each fitting key is tried".into() };
    let mut keys = facts.policy.get("keys").and_then(Value::as_array).into_iter().flatten();
    match keys.find(|k| text(k, "kid") == kid) {
        Some(key) => format!("kid {kid}: {} ring, {}, {}", text(key, "ring"), text(key, "alg"), text(key, "state")),
        None => format!("kid {kid}"),
    }
}

fn freshness(facts: &Facts) -> String {
    let position = text(&facts.feed, "position");
    match (facts.feed.get("age_ms").and_then(Value::as_u64), position) {
        (None, "") => String::new(),
        (None, position) => format!("the feed was never reached, position {position}"),
        (Some(age), position) => format!("revocations as of {age} ms ago, position {position}"),
    }
}

fn demands(body: &Value) -> String {
    let missing = texts(body, "missing");
    let mut said: Vec<String> = Vec::new();
    for name in ["reason", "rule"] {
        if !text(body, name).is_empty() {
            said.push(format!("{name} {}", text(body, name)));
        }
    }
    if !missing.is_empty() {
        said.push(format!("not sent: {}", missing.join(", ")));
    }
    if said.is_empty() && text(body, "verdict") == "valid" {
        said.push("rules, addresses and what was asked for".into());
    }
    said.join(", ")
}

/// For people.
pub(super) fn table(steps: &[Step]) -> Table {
    let mut table = Table::new(&["", "", ""]);
    for step in steps {
        let (mark, tone) = match step.outcome {
            Outcome::Passed => ("ok", Tone::Good),
            Outcome::Refused => ("NO", Tone::Bad),
            Outcome::NotReached => ("-", Tone::Faint),
        };
        table.row(vec![Cell::toned(mark, tone), step.check.into(), step.detail.clone().into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use countersign_core::verdict;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_verdict_belongs_to_one_check_and_implies_the_earlier_ones() {
        for word in verdict::WORDS {
            let answer = Answer { status: 0, body: json!({"verdict": word, "detail": "d"}) };
            let steps = steps("x.y.z", &answer, &Facts::default());
            let refused = steps.iter().filter(|s| s.outcome == Outcome::Refused).count();
            assert_eq!(refused, usize::from(word != verdict::VALID), "{word}");
            let first_after = steps.iter().skip_while(|s| s.outcome != Outcome::Refused).skip(1);
            assert!(first_after.into_iter().all(|s| s.outcome == Outcome::NotReached), "{word}");
        }
    }
}
