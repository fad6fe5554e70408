//! Cut watches, forgotten versions, stale answers, restored backups, kills: at any moment, in any order.

use std::{collections::BTreeMap, time::Duration};

use countersign_api::bundle::Trust;
use countersign_feed::Ack;
use futures_util::future::join_all;
use serde_json::json;

use super::{Cluster, generation, one, refused, source};
use crate::{
    api_server::bundle_object,
    rig::{Rig, eventually, section, token},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_is_resumed_and_one_whose_version_is_forgotten_is_listed_anew() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    for generation in 6..12 {
        cluster.api.fail(|faults| faults.torn = generation % 2 == 0);
        cluster.api.cut();
        let at = cluster.put("shop/shop", generation, section());
        assert!(cluster.acked("h1", at).await.refused.is_empty());
    }
    assert_eq!((cluster.api.requests().lists, generation(&rig, "shop/shop").await), (1, Some(11)));
    cluster.api.cut();
    cluster.api.delete(&bundle_object("shop/shop"));
    let at = cluster.put("shop/other", 1, section());
    cluster.api.compact();
    let ack = cluster.acked("h1", at).await;
    assert_eq!(refused(&ack), one("shop/shop", Some(11), "vanished"));
    assert_eq!(rig.word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_revives_nothing_and_is_acknowledged_as_what_it_is() {
    let cluster = Cluster::new().await;
    let backup = cluster.api.revision();
    let rig = cluster.verifier().await;
    let at = cluster.put("shop/shop", 9, section());
    cluster.acked("h1", at).await;
    cluster.api.restore(backup);
    eventually("what is behind is named", async || {
        cluster.ack().await.is_some_and(|ack| refused(&ack) == one("shop/shop", Some(9), "lower_generation"))
    })
    .await;
    let ack = cluster.ack().await.unwrap();
    assert!(ack.revision.parse::<u64>().unwrap() <= backup, "no version is acknowledged that isn't there: {ack:?}");
    assert_eq!(generation(&rig, "shop/shop").await, Some(9));
    // As the operator does: another history, then everything anew, higher.
    cluster.api.put_history("h2");
    let at = cluster.put("shop/shop", 10, section());
    assert!(cluster.acked("h2", at).await.refused.is_empty());
    assert_eq!(generation(&rig, "shop/shop").await, Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_has_counted_past_us_when_we_come_back_is_told_by_its_history() {
    for told_before in [true, false] {
        let mut cluster = Cluster::new().await;
        if !told_before {
            // However short a gap is, a backup may have been restored in it.
            cluster.doubtful_after = Duration::ZERO;
        }
        let backup = cluster.api.revision();
        let rig = cluster.verifier().await;
        let at = cluster.put("shop/shop", 9, section());
        cluster.acked("h1", at).await;
        cluster.api.fail(|faults| faults.away = true);
        eventually("cut off", async || source(&rig).await["problem"] != json!(null)).await;
        cluster.api.restore(backup);
        let mut history = if told_before { cluster.api.put_history("h2") } else { 0 };
        cluster.api.count_to(at + 50);
        cluster.api.fail(|faults| faults.away = false);
        if !told_before {
            cluster.acked("h1", at + 50).await;
            history = cluster.api.put_history("h2");
        }
        let ack = cluster.acked("h2", history).await;
        assert_eq!(refused(&ack), one("shop/shop", Some(9), "lower_generation"), "told before: {told_before}");
        assert_eq!(generation(&rig, "shop/shop").await, Some(9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_takes_nothing_back() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let before = cluster.api.revision();
    let at = cluster.put("shop/shop", 6, section());
    cluster.acked("h1", at).await;
    cluster.api.fail(|faults| faults.stale = Some(before));
    cluster.api.cut();
    eventually("the stale list is read", async || cluster.api.requests().lists > 1).await;
    assert_eq!(generation(&rig, "shop/shop").await, Some(6));
    cluster.api.fail(|faults| faults.stale = None);
    let at = cluster.put("shop/shop", 7, section());
    assert!(cluster.acked("h1", at).await.refused.is_empty());
}

/// A small generator with a seed that a failure names.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The generations that the API server held at a version.
fn generations_at(cluster: &Cluster, version: u64) -> BTreeMap<String, u64> {
    let opened = cluster.api.bundles_at(version).into_iter().map(|text| {
        let bundle = countersign_api::bundle::open(text.as_bytes(), &Trust::FileSystem, None).unwrap();
        (bundle.policy.to_string(), bundle.generation)
    });
    opened.collect()
}

async fn in_force(rig: &Rig) -> BTreeMap<String, u64> {
    let listed = rig.get("/v1/policies").await.json();
    let policies = listed["policies"].as_array().unwrap();
    policies.iter().map(|p| (p["policy"].as_str().unwrap().to_owned(), p["generation"].as_u64().unwrap())).collect()
}

/// What must not be undone.
#[derive(Default)]
struct Reached {
    /// In force in this run.
    highest: BTreeMap<String, u64>,
    /// Acknowledged in any.
    acked: BTreeMap<String, u64>,
}

impl Reached {
    /// What was in force and not yet acknowledged a kill may undo.
    fn killed(&mut self) {
        self.highest = self.acked.clone();
    }
}

/// Whatever was acknowledged is in force, or is named as refused with what is held instead; and nothing ever goes back.
async fn check(cluster: &Cluster, rig: &Rig, reached: &mut Reached, history: &str, seed: u64) {
    let ack: Option<Ack> = cluster.ack().await;
    // After the acknowledgement, so that it may be newer and must not be older.
    let served = in_force(rig).await;
    for (policy, generation) in &served {
        let before = reached.highest.entry(policy.clone()).or_default();
        assert!(*generation >= *before, "seed {seed}: {policy} went back from {before} to {generation}");
        *before = *generation;
    }
    for (policy, acked) in &reached.acked {
        assert!(served.get(policy) >= Some(acked), "seed {seed}: {policy} at {acked} was acknowledged: {served:?}");
    }
    let Some(ack) = ack.filter(|ack| ack.history == history) else { return };
    for (policy, generation) in generations_at(cluster, ack.revision.parse().unwrap()) {
        let held = served.get(&policy).copied().unwrap_or_default();
        let named = ack.refused.iter().find(|refused| refused.policy == policy);
        if named.is_none() {
            let before = reached.acked.entry(policy.clone()).or_default();
            *before = generation.max(*before);
        }
        assert!(
            held >= generation || named.is_some_and(|n| n.held.unwrap_or_default() <= held),
            "seed {seed}: {ack:?} says that {policy} is at {generation}, but {held} is in force"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_nothing_is_older_than_what_was_acknowledged() {
    // Side by side: each mostly waits for a verifier that starts without the API server.
    join_all((0..12).map(whatever_happens)).await;
}

async fn whatever_happens(seed: u64) {
    let mut dice = Dice(seed);
    let cluster = Cluster::new().await;
    let mut rig = cluster.verifier().await;
    let (mut generation, mut histories) = (10, 1);
    let mut reached = Reached::default();
    let mut backup = cluster.api.revision();
    for _ in 0..60 {
        let history = format!("h{histories}");
        match dice.roll(14) {
            0..=4 => {
                generation += 1;
                cluster.put(&format!("shop/p{}", dice.roll(4)), generation, section());
            }
            5 => cluster.api.cut(),
            6 => cluster.api.compact(),
            7 => {
                cluster.api.fail(|faults| faults.stale = None);
                cluster.api.count_to(cluster.api.revision() + dice.roll(5));
            }
            8 => {
                let behind = cluster.api.revision().saturating_sub(dice.roll(6)).max(backup);
                cluster.api.fail(|faults| faults.stale = Some(behind));
            }
            9 => {
                let (torn, gone_pages) = (dice.roll(2) == 0, 0);
                cluster.api.fail(|faults| (faults.torn, faults.gone_pages) = (torn, gone_pages));
            }
            // Killed: nothing is saved or said at the end.
            10 => {
                drop(rig);
                reached.killed();
                rig = cluster.verifier().await;
            }
            11 => {
                cluster.api.fail(|faults| faults.away = true);
                let Rig { verifier, .. } = rig;
                verifier.shutdown().await;
                rig = cluster.verifier().await;
                cluster.api.fail(|faults| faults.away = false);
            }
            12 => {
                cluster.api.delete(&bundle_object(&format!("shop/p{}", dice.roll(4))));
            }
            _ => {
                // A backup, and then what the operator does when it sees one: another history first, everything anew.
                cluster.api.fail(|faults| faults.stale = None);
                cluster.api.restore(backup);
                histories += 1;
                cluster.api.put_history(&format!("h{histories}"));
                for policy in generations_at(&cluster, cluster.api.revision()).into_keys() {
                    generation += 1;
                    cluster.put(&policy, generation, section());
                }
                backup = cluster.api.revision();
                continue;
            }
        }
        check(&cluster, &rig, &mut reached, &history, seed).await;
    }
    cluster.api.fail(|faults| *faults = crate::api_server::Faults::default());
    generation += 1;
    let at = cluster.put("shop/p0", generation, section());
    let ack = cluster.acked(&format!("h{histories}"), at).await;
    check(&cluster, &rig, &mut reached, &ack.history, seed).await;
    let held = in_force(&rig).await;
    for (policy, generation) in generations_at(&cluster, cluster.api.revision()) {
        assert_eq!(held.get(&policy), Some(&generation), "seed {seed}: in the end everything is in force");
    }
}
