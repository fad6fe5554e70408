//! Spans of a verifier, as a collector gets them.

use crate::rig::{Collector, Dev, PATIENCE, Policies, Redis, Verifier, VerifierOptions, eventually};

#[test]
fn a_verifier_tells_a_collector_of_tokens_that_it_proves_and_never_what_they_say() {
    let (policies, redis, collector) = (Policies::new(), Redis::start(), Collector::start());
    let dev = Dev::start(&policies, Some(&redis));
    let verifier = Verifier::with(
        &dev.bundles(),
        VerifierOptions {
            redis: Some(redis.url()),
            arguments: vec![format!("--otlp-endpoint={}", collector.url())],
            environment: vec![("OTEL_BSP_SCHEDULE_DELAY".into(), "100".into())],
            ..VerifierOptions::default()
        },
    );
    let token = dev.token("strict", "subject-of-a-span");
    let forged = format!("{token}x");
    assert_eq!(verifier.verify("strict", &forged).0, 401);
    eventually("the token is good", PATIENCE, || (verifier.verify("strict", &token).0 == 200).then_some(()));
    for told in ["countersign-verifier", "put_in_force", "prove", "shop/strict", "malformed"] {
        eventually(&format!("the collector is told {told:?}"), PATIENCE, || collector.has(told).then_some(()));
    }
    let payload = token.split('.').nth(1).unwrap();
    for secret in [token.as_str(), payload, "subject-of-a-span"] {
        assert!(!collector.has(secret), "{secret}");
    }
}

#[test]
fn a_verifier_answers_although_its_traces_can_t_be_sent() {
    let (policies, redis) = (Policies::new(), Redis::start());
    let dev = Dev::start(&policies, Some(&redis));
    for environment in [
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")],
    ] {
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let redis = Some(redis.url());
        let verifier = Verifier::with(&dev.bundles(), VerifierOptions { redis, environment, ..VerifierOptions::default() });
        let token = dev.token("strict", "ann");
        eventually("the token is good", PATIENCE, || (verifier.verify("strict", &token).0 == 200).then_some(()));
    }
}
