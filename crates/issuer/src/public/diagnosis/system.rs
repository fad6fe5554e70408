//! Gates that stand in everybody's way: clocks, keys, the feed, the verifiers.

use countersign_feed::Clock;

use super::{Gate, command};
use crate::{admin::held_generation, call::Call, problem::Failed};

/// Verifiers that are named in one line.
const NAMED: usize = 10;

pub(super) async fn gates(call: &Call) -> Result<Vec<Gate>, Failed> {
    Ok(vec![clock(call).await?, signing_keys(call), feed(call), verifiers(call).await])
}

async fn clock(call: &Call) -> Result<Gate, Failed> {
    let (own, skew_ms) = (Clock::wall(), call.policy.clock_skew_ms);
    let difference_ms = own.since(call.now().await?);
    let detail = format!("this issuer's clock and its database's are {difference_ms} ms apart, {skew_ms} ms are allowed");
    let fix = "synchronise both machines' clocks (NTP)";
    Ok(Gate::new("clock", difference_ms.abs() <= skew_ms, detail, fix))
}

fn signing_keys(call: &Call) -> Gate {
    let Some(own) = &call.policy.own else {
        return Gate::new("signing keys", true, "the policy verifies others' tokens and has no keys of its own", "");
    };
    let rings = [("access", &own.access), ("api-key", &own.api_key)];
    let missing: Vec<&str> = rings.iter().filter(|(_, ring)| ring.signer.is_none()).map(|(name, _)| *name).collect();
    let detail = match missing.as_slice() {
        [] => "both rings have a key that signs".to_owned(),
        missing => format!("no key signs in {}", missing.join(" and ")),
    };
    Gate::new("signing keys", missing.is_empty(), detail, command(call, "keys list"))
}

fn feed(call: &Call) -> Gate {
    let (view, publisher) = (call.issuer.parts.feed.view(), call.issuer.parts.publisher.status());
    let age = view.age_ms.map_or_else(|| "never reached".to_owned(), |age| format!("complete {age} ms ago"));
    let detail = match &publisher.problem {
        Some(problem) => format!("{age}; {} revocations wait: {problem}", publisher.pending),
        None => format!("{age}; {} revocations wait", publisher.pending),
    };
    let open = view.fresh && publisher.problem.is_none();
    Gate::new("feed", open, detail, "countersign status, then docs/guides/redis-is-away.md")
}

async fn verifiers(call: &Call) -> Gate {
    let name = "verifiers";
    let found = match call.issuer.parts.fleet.verifiers().await {
        Ok(found) => found,
        Err(error) => {
            return Gate::new(name, false, format!("nobody knows who verifies: {error}"), "countersign status");
        }
    };
    let behind = |position: Option<_>| position < call.issuer.parts.feed.view().position;
    let late: Vec<&str> = found.iter().filter(|v| behind(v.position)).map(|v| v.name.as_str()).collect();
    let held = held_generation(&call.policy, &found);
    let list = |names: &[&str]| names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let lagging: Vec<&str> = held.lagging.iter().map(String::as_str).collect();
    let mut detail = format!("{} of {} hold the policy's present generation", held.confirmed, held.total);
    if !lagging.is_empty() {
        detail = format!("{detail}, not {}", list(&lagging));
    }
    if !late.is_empty() {
        detail = format!("{detail}; behind on revocations: {}", list(&late));
    }
    // A lease tells where a verifier was a moment ago: that alone shuts nothing.
    Gate::new(name, held.total > 0 && held.complete(), detail, "countersign fleet, then docs/guides/verifier-lags.md")
}
