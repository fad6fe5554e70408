//! What `/metrics` tells.

use std::sync::Arc;

use countersign_api::bundle::RingName;
use countersign_core::ring::Phase;
use countersign_telemetry::{Exposition, families};

use crate::{
    api_server::{Outcome, Writes},
    fleet::Since,
    registry::{EventFate, PolicyView, Registry, RotationStep, SessionToken},
};

families! {
    pub METRICS;
    BUILD_INFO = Gauge "countersign_build_info" ["version", "process"] "The version that runs.";
    LEADING = Gauge "countersign_operator_leading" [] "1 on the operator that leads. Of those below others tell only API writes.";
    API_WRITES = Counter "countersign_operator_api_writes_total" ["kind", "outcome"]
        "Writes to the API server, by the kind of object and by what came of them: `done`; `overtaken` (404 or 409: somebody was \
         quicker); `refused` (any other 4xx); `failed` (429, 5xx or no answer); `not_leading` (held back here).";
    FEED_FRESH = Gauge "countersign_feed_fresh" [] "1 while the feed is reached.";
    FEED_UNREADABLE = Gauge "countersign_feed_unreadable_entries" [] "Entries of the feed that this release can't read.";
    OUTBOX_PENDING = Gauge "countersign_outbox_pending" [] "Revocations that aren't in the feed yet.";
    VERIFIERS = Gauge "countersign_operator_verifiers" ["state"]
        "Verifiers, by whether their lease is `alive` or they are `absent`.";
    RECONCILES = Counter "countersign_operator_reconciles_total" ["result"] "Looks at policies: `ok` or `error`.";
    RECONCILE_SECONDS = Counter "countersign_operator_reconcile_seconds_total" [] "What all looks at policies took together.";
    RECONCILE_ERRORS = Counter "countersign_operator_reconcile_errors_total" ["reason"]
        "Looks at policies that failed and are made again. `conflict` and `namespace` are ordinary in small numbers.";
    QUEUED = Gauge "countersign_operator_queued_policies" [] "Policies that are to be looked at at some time.";
    ROTATIONS = Counter "countersign_operator_key_rotations_total" ["ring", "step"]
        "Keys that were made (`started`) and that began to sign (`signed`), a ring's first included.";
    ROTATIONS_WAITED = Counter "countersign_operator_key_rotation_waited_seconds_total" ["ring"]
        "How long the keys that began to sign had been held back by verifiers, together.";
    SESSION_TOKENS = Counter "countersign_operator_session_tokens_total" ["result"]
        "Tokens of declared sessions: `issued` (a session's first), `renewed`, or `failed` (it is tried again).";
    EVENTS = Counter "countersign_operator_events_total" ["result"]
        "Events: `written`, `failed` (the API server didn't take it) or `dropped` (too many waited). The log has them all.";
    POLICIES_WAITING = Gauge "countersign_operator_policies_waiting" [] "Policies that wait for verifiers.";
    NOT_ACCEPTED = Gauge "countersign_operator_policies_not_accepted" [] "Policies whose spec isn't accepted.";
    POLICIES = Gauge "countersign_operator_policies" [] "Policies that are kept.";
    BUNDLE_GENERATION = Gauge "countersign_bundle_generation" ["policy"] "The generation of the bundle that is written.";
    POLICY_VERIFIERS = Gauge "countersign_policy_verifiers" ["policy", "state"]
        "Verifiers by whether they hold the policy's present bundle: `enforced` or `lagging`.";
    ROTATION_WAITING = Gauge "countersign_key_rotation_waiting" ["policy", "ring"]
        "1 while a ring isn't as it should be: a rotation waits, or no key signs.";
    NEXT_ROTATION = Gauge "countersign_key_next_rotation_timestamp_seconds" ["policy", "ring"]
        "When the schedule wants the next key to sign.";
}

/// The text. `registry`: that of a leader. `by_policy`: whether policies are told apart.
pub(crate) fn text(writes: &Writes, registry: Option<&Registry>, by_policy: bool) -> String {
    let mut text = Exposition::default();
    text.family(&BUILD_INFO).add(&[("version", env!("CARGO_PKG_VERSION")), ("process", "operator")], 1);
    text.single(&LEADING, u8::from(registry.is_some()));
    write_writes(&mut text, writes);
    if let Some(registry) = registry {
        let policies = registry.policies();
        write_feed(&mut text, registry);
        write_work(&mut text, registry);
        write_policies(&mut text, registry, &policies);
        if by_policy {
            write_each_policy(&mut text, registry, &policies);
        }
    }
    text.into_text()
}

/// Every outcome of each kind that was written: an alert on one must see it begin at zero.
fn write_writes(text: &mut Exposition, writes: &Writes) {
    let mut kinds: Vec<&str> = writes.seen().into_iter().map(|(kind, _)| kind).collect();
    kinds.dedup();
    let mut samples = text.family(&API_WRITES);
    for kind in kinds {
        for outcome in Outcome::ALL {
            samples.add(&[("kind", kind), ("outcome", outcome.word())], writes.of((kind, outcome)));
        }
    }
}

fn write_feed(text: &mut Exposition, registry: &Registry) {
    let feed = registry.feed().borrow().clone();
    text.single(&FEED_FRESH, u8::from(feed.fresh));
    text.single(&FEED_UNREADABLE, feed.unreadable);
    text.single(&OUTBOX_PENDING, registry.counts().not_published());
    let fleet = registry.fleet();
    let alive = fleet.verifiers.iter().filter(|verifier| verifier.alive).count();
    let mut verifiers = text.family(&VERIFIERS);
    verifiers.add(&[("state", "alive")], alive);
    verifiers.add(&[("state", "absent")], fleet.verifiers.len() - alive);
}

fn write_work(text: &mut Exposition, registry: &Registry) {
    let counts = registry.counts();
    let (well, failed) = counts.looks();
    let mut looks = text.family(&RECONCILES);
    looks.add(&[("result", "ok")], well);
    looks.add(&[("result", "error")], failed);
    text.single(&RECONCILE_SECONDS, decimal(counts.looked_micros(), 6));
    let mut errors = text.family(&RECONCILE_ERRORS);
    for reason in crate::policies::ERRORS {
        errors.add(&[("reason", reason)], counts.failed_looks.of(reason));
    }
    text.single(&QUEUED, counts.waiting_for_a_look());
    let mut rotations = text.family(&ROTATIONS);
    for ring in RingName::ALL {
        for step in RotationStep::ALL {
            rotations.add(&[("ring", ring.word()), ("step", step.word())], counts.rotations.of((ring, step)));
        }
    }
    let mut waited = text.family(&ROTATIONS_WAITED);
    for ring in RingName::ALL {
        waited.add(&[("ring", ring.word())], decimal(counts.rotations_waited_ms.of(ring), 3));
    }
    let mut tokens = text.family(&SESSION_TOKENS);
    for result in SessionToken::ALL {
        tokens.add(&[("result", result.word())], counts.session_tokens.of(result));
    }
    let mut events = text.family(&EVENTS);
    for fate in EventFate::ALL {
        events.add(&[("result", fate.word())], counts.events.of(fate));
    }
}

fn write_policies(text: &mut Exposition, registry: &Registry, policies: &[Arc<PolicyView>]) {
    text.single(&POLICIES_WAITING, *registry.waiting().borrow());
    let refused = policies.iter().filter(|policy| policy.problem.is_some() && !policy.withdrawn).count();
    text.single(&NOT_ACCEPTED, refused);
    text.single(&POLICIES, policies.len());
}

fn write_each_policy(text: &mut Exposition, registry: &Registry, policies: &[Arc<PolicyView>]) {
    let fleet = registry.fleet();
    let mut generations = text.family(&BUNDLE_GENERATION);
    for policy in policies {
        generations.add(&[("policy", policy.name.as_str())], policy.bundle_generation);
    }
    let mut verifiers = text.family(&POLICY_VERIFIERS);
    for policy in policies {
        let Some(effective) = &policy.effective else { continue };
        let since = Since { version: policy.bundle_version, generation: policy.bundle_generation };
        let (held, required) = fleet.held(&policy.name, since, effective.keys.absent_after.as_millis());
        for (state, number) in [("enforced", held), ("lagging", required - held)] {
            verifiers.add(&[("policy", policy.name.as_str()), ("state", state)], number);
        }
    }
    let rings = || policies.iter().flat_map(|policy| RingName::ALL.map(|ring| (policy, ring)));
    let held = |policy: &PolicyView, ring| policy.own.as_ref().and_then(|own| own.ring(ring)).map(|v| v.status.clone());
    let mut waiting = text.family(&ROTATION_WAITING);
    for (policy, ring) in rings() {
        if let Some(status) = held(policy, ring) {
            let labels = [("policy", policy.name.as_str()), ("ring", ring.word())];
            waiting.add(&labels, u8::from(status.phase != Phase::Ready));
        }
    }
    let mut next = text.family(&NEXT_ROTATION);
    for (policy, ring) in rings() {
        if let Some(at) = held(policy, ring).and_then(|status| status.next_rotation) {
            next.add(&[("policy", policy.name.as_str()), ("ring", ring.word())], at.as_secs());
        }
    }
}

/// `number` of which the last `places` digits stand behind the point.
fn decimal(number: u64, places: u32) -> String {
    let unit = 10_u64.pow(places);
    format!("{}.{:0width$}", number / unit, number % unit, width = places as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_parts_count_is_told_in_the_text_format() {
        let (registry, _inbox) = Registry::new();
        let counts = registry.counts();
        counts.looked(Duration::from_micros(1_500_007), Ok(()));
        counts.looked(Duration::from_millis(500), Err("conflict"));
        counts.queued(3);
        counts.unpublished(2);
        counts.rotations.count((RingName::Access, RotationStep::Started));
        counts.rotations_waited_ms.add(RingName::ApiKey, 1_050);
        counts.session_tokens.count(SessionToken::Renewed);
        counts.events.count(EventFate::Dropped);
        let writes = Writes::default();
        writes.count(("secrets", Outcome::Done));
        writes.count(("secrets", Outcome::Refused));
        let text = text(&writes, Some(&registry), true);
        for line in [
            "countersign_operator_leading 1",
            "countersign_outbox_pending 2",
            "countersign_operator_reconciles_total{result=\"ok\"} 1",
            "countersign_operator_reconciles_total{result=\"error\"} 1",
            "countersign_operator_reconcile_seconds_total 2.000007",
            "countersign_operator_reconcile_errors_total{reason=\"conflict\"} 1",
            "countersign_operator_reconcile_errors_total{reason=\"api_server\"} 0",
            "countersign_operator_queued_policies 3",
            "countersign_operator_policies_not_accepted 0",
            "countersign_operator_key_rotations_total{ring=\"access\",step=\"started\"} 1",
            "countersign_operator_key_rotations_total{ring=\"api_key\",step=\"signed\"} 0",
            "countersign_operator_key_rotation_waited_seconds_total{ring=\"api_key\"} 1.050",
            "countersign_operator_session_tokens_total{result=\"renewed\"} 1",
            "countersign_operator_session_tokens_total{result=\"failed\"} 0",
            "countersign_operator_events_total{result=\"dropped\"} 1",
            "countersign_operator_api_writes_total{kind=\"secrets\",outcome=\"done\"} 1",
            "countersign_operator_api_writes_total{kind=\"secrets\",outcome=\"refused\"} 1",
            "countersign_operator_api_writes_total{kind=\"secrets\",outcome=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
        for family in METRICS {
            assert!(text.contains(&format!("# TYPE {} ", family.name)), "{} is told nowhere", family.name);
        }
    }

    #[test]
    fn a_candidate_tells_of_its_writes_alone() {
        let text = text(&Writes::default(), None, true);
        assert!(text.contains("countersign_operator_leading 0\n"), "{text}");
        assert!(text.contains("countersign_operator_api_writes_total"), "{text}");
        assert!(!text.contains("countersign_operator_reconciles_total"), "{text}");
    }

    #[test]
    fn the_reference_says_what_there_is() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = countersign_telemetry::reference::rewritten(&page, "operator", METRICS).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        } else {
            assert!(page == wanted, "docs/reference/metrics.md is out of date; run: cargo xtask drift --write");
        }
    }
}
