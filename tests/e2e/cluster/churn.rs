//! Many declared sessions with short lives: each is renewed in time, and nothing else is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::{
    figures::{Figures, asked, publish},
    sessions::{field, session},
    world::{LONG, World, policy},
};
use crate::{
    forge::{from_base64url, parts},
    rig::{Counts, Write, eventually_every, report},
};

/// How many sessions.
const SESSIONS: &str = "COUNTERSIGN_CHURN_SESSIONS";
/// For how many seconds they are watched.
const SECONDS: &str = "COUNTERSIGN_CHURN_SECONDS";
/// Between two looks at all of them.
const LOOK: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn sessions_of_one_minute_are_renewed_again_and_again_and_none_expires() {
    let (sessions, seconds) = (asked(SESSIONS, 8), asked(SECONDS, 12));
    // A short run sees renewals too when they come early.
    let timing = if seconds < 120 {
        json!({"tokenTTL": "1m", "renewBefore": "56s"})
    } else {
        json!({"tokenTTL": "1m", "renewBefore": "20s"})
    };
    let world = World::shared();
    let policy = world.enforced(&policy("churn", "shop"));
    let api = world.api();
    let mut writes = world.installation.writes_from_now();
    let began = Instant::now();
    for number in 0..sessions {
        api.apply(&session("churn", &format!("s-{number}"), &timing));
    }
    let secrets = "/api/v1/namespaces/churn/secrets?resourceVersion=0&labelSelector=countersign.dev/session-token=v1";
    let tokens = || -> BTreeMap<String, String> {
        let listed = api.list(secrets);
        listed
            .iter()
            .map(|secret| (secret["metadata"]["name"].as_str().unwrap().to_owned(), field(secret, "token")))
            .collect()
    };
    eventually_every(Duration::from_millis(200), "every session has its token", LONG, || {
        (tokens().len() == sessions).then_some(())
    });
    let delivered = began.elapsed();
    writes.take();

    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut shortest = Duration::MAX;
    let (mut looks, mut verified) = (0_usize, 0_u64);
    let began = Instant::now();
    let lasts = Duration::from_secs(seconds as u64);
    eventually_every(LOOK, "the time is over", lasts + LONG, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for (number, (name, token)) in tokens().into_iter().enumerate() {
            let claims: serde_json::Value = serde_json::from_slice(&from_base64url(parts(&token)[1])).unwrap();
            let expires = Duration::from_secs(claims["exp"].as_u64().unwrap());
            assert!(expires > now, "the token of {name} expired at {expires:?}, and it is {now:?}");
            shortest = shortest.min(expires.saturating_sub(now));
            // All in turn, a few at each look.
            if number % 10 == looks % 10 {
                assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into(), "{name}");
                verified += world.verifiers.len() as u64;
            }
            seen.entry(name).or_default().insert(token);
        }
        looks += 1;
        (began.elapsed() > lasts).then_some(())
    });
    // Bundles too: a renewal moves none.
    let bundle = super::enforcement::bundle_of(&world, "churn/shop");
    let of_ours = |write: &Write| write.namespace == "churn" || bundle.ends_with(&write.name) && write.what == "configmaps";
    let written: Vec<Write> = writes.take().into_iter().filter(of_ours).collect();
    let counts = Counts::of(&written);
    let renewals: u64 = seen.values().map(|tokens| tokens.len() as u64 - 1).sum();
    report(&format!("churn: written: {counts}"));
    let mut figures = Figures::default();
    figures.add("sessions", sessions);
    figures.add_time("all_delivered_s", delivered);
    figures.add_time("watched_s", began.elapsed());
    figures.add("looks", looks);
    figures.add("renewals", renewals);
    figures.add("expired", 0);
    figures.add_time("shortest_rest_of_a_token_seen_s", shortest);
    figures.add("verdicts_all_valid", verified);
    figures.add("secret_writes", counts.of_kind("secrets"));
    figures.add("status_writes", counts.of_kind("sessions/status"));
    figures.add(
        "other_writes",
        counts.0.values().sum::<u64>() - counts.of_kind("secrets") - counts.of_kind("sessions/status"),
    );
    publish("declared sessions with tokens of one minute", &[figures]);
    assert!(seen.values().all(|tokens| tokens.len() > 1), "each was renewed");
    // One look may miss the last renewals; a renewal is one Secret and one status.
    let slack = 2 * sessions as u64;
    assert!(counts.of_kind("secrets") <= renewals + slack, "{counts}");
    assert!(counts.of_kind("sessions/status") <= renewals + slack, "{counts}");
    assert_eq!(counts.of_kind("configmaps"), 0, "{counts}");
    for number in 0..sessions {
        api.delete(&crate::rig::object_path(&session("churn", &format!("s-{number}"), &json!({}))));
    }
}
