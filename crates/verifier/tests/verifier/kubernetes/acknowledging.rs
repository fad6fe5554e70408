//! What is acknowledged, and when.

use countersign_api::bundle::{BundleIssuer, BundleIssuerKeys, BundleKey, RingName};
use countersign_core::{
    jose::{Algorithm, JwkSet},
    ring::KeyState,
};
use serde_json::json;

use super::{Cluster, generation, one, refused, section_with, source};
use crate::{
    api_server::bundle_object,
    rig::{eventually, keys, section, token, token_with},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_comes_into_force_and_is_acknowledged_by_history_and_version() {
    let cluster = Cluster::new().await;
    let at = cluster.api.revision();
    let rig = cluster.verifier().await;
    let ack = cluster.acked("h1", at).await;
    assert!(ack.generations.is_empty() && ack.refused.is_empty(), "O(1): {ack:?}");
    assert_eq!((&ack.schemas[..], &ack.trusted_bundle_keys[..]), (&[1][..], &[keys().bundles.kid().to_owned()][..]));
    assert_eq!(rig.word(&token()).await.0, 200);
    let next = token_with(&keys().next, &json!({"jti": "t2"}));
    assert_eq!(rig.word(&next).await, (401, "unknown_key".into()));
    let key = BundleKey { ring: RingName::Access, state: KeyState::Pending, jwk: keys().next.public_jwk().clone() };
    let at = cluster.put("shop/shop", 6, section_with(key));
    cluster.acked("h1", at).await;
    assert_eq!(rig.word(&next).await.0, 200, "what is acknowledged is in force");
    let at = cluster.put_signed("shop/shop", 7, None, &keys().bundles);
    cluster.acked("h1", at).await;
    assert_eq!(rig.word(&token()).await, (404, "unknown_policy".into()), "a tombstone ends a policy");
    let described = source(&rig).await;
    assert_eq!((&described["kind"], &described["history"]), (&json!("kubernetes"), &json!("h1")));
    assert_eq!(cluster.api.requests().lists, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_rides_in_the_same_watch_and_what_is_not_ours_moves_the_version_on() {
    let cluster = Cluster::new().await;
    let _rig = cluster.verifier().await;
    cluster.acked("h1", 1).await;
    let at = cluster.api.put_history("h2");
    cluster.acked("h2", at).await;
    let at = cluster.api.put("kube-root-ca.crt", &json!({"ca.crt": "…"}));
    cluster.acked("h2", at).await;
    cluster.api.count_to(at + 1000);
    cluster.acked("h2", at + 1000).await;
    assert_eq!(cluster.api.requests().lists, 1, "no change of history in an unbroken watch is reason to list");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_named_and_only_signed_bundles_of_their_own_name_are_taken() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let other = || {
        let mut verify = section();
        verify.audiences = vec!["other".into()];
        verify
    };
    let sealed = |policy: &str, generation, key| {
        countersign_api::bundle::seal(&crate::rig::bundle_of(policy, generation, Some(other())), key).unwrap()
    };
    let own = &keys().bundles;
    let unsigned = {
        let mut envelope: serde_json::Value = serde_json::from_str(&sealed("shop/shop", 6, own)).unwrap();
        envelope.as_object_mut().unwrap().remove("signature");
        envelope.to_string()
    };
    for (bad, reason) in [
        (unsigned, "unsigned"),
        (sealed("shop/shop", 6, &keys().foreign), "untrusted_key"),
        (sealed("shop/shop", 6, own).replace("other", "shop!"), "bad_signature"),
        (sealed("shop/shop", 4, own), "lower_generation"),
        (sealed("shop/else", 6, own), "wrong_name"),
        ("{".into(), "corrupt"),
    ] {
        let at = cluster.api.put_bundle("shop/shop", &bad);
        let ack = cluster.acked("h1", at).await;
        assert_eq!(refused(&ack), one("shop/shop", Some(5), reason));
        assert_eq!(rig.word(&token()).await.0, 200, "{reason}");
    }
    let at = cluster.put("shop/shop", 7, section());
    assert!(cluster.acked("h1", at).await.refused.is_empty());
    // Of a policy that never was good the name is known all the same; a false one is not believed.
    let at = cluster.api.put_bundle("shop/new", "{");
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/new", None, "corrupt"));
    assert_eq!(rig.verify("shop/new", json!({"token": "x"})).await.word(), (503, "not_ready".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_vanishes_is_served_on_and_named_until_it_is_back() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let at = cluster.api.delete(&bundle_object("shop/shop"));
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/shop", Some(5), "vanished"));
    assert_eq!(rig.word(&token()).await.0, 200);
    rig.verifier.shutdown().await;
    let rig = cluster.verifier().await;
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/shop", Some(5), "vanished"));
    assert_eq!(rig.word(&token()).await.0, 200, "over a restart, too");
    let at = cluster.put("shop/shop", 6, section());
    assert!(cluster.acked("h1", at).await.refused.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_verifier_leaves_the_fleet_at_once() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    cluster.acked("h1", 1).await;
    rig.verifier.shutdown().await;
    assert_eq!(cluster.ack().await, None);
    assert!(countersign_feed::FeedServer::leases(&*cluster.feed.0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_of_unknown_keys_are_told_in_the_acknowledgement() {
    let cluster = Cluster::new().await;
    let mut verify = section();
    verify.trusted_issuers.push(BundleIssuer {
        name: "partner".into(),
        issuer: Some("https://partner.example".into()),
        any_issuer: false,
        audiences: None,
        algorithms: vec![Algorithm::EdDSA],
        keys: BundleIssuerKeys::Jwks(JwkSet { keys: vec![keys().foreign.public_jwk().clone()] }),
        max_ttl_ms: None,
        not_after: None,
        matches: Vec::new(),
        subject: None,
        roles: None,
        scopes: None,
    });
    let at = cluster.put("shop/shop", 6, verify);
    let rig = cluster.verifier().await;
    assert!(cluster.acked("h1", at).await.unknown_keys.is_empty());
    let foreign = token_with(&keys().next, &json!({"iss": "https://partner.example"}));
    assert_eq!(rig.word(&foreign).await, (401, "unknown_key".into()));
    eventually("told", async || cluster.ack().await.is_some_and(|ack| !ack.unknown_keys.is_empty())).await;
    let told = cluster.ack().await.unwrap().unknown_keys;
    assert_eq!((&*told[0].policy, &*told[0].trusted_issuer, told.len()), ("shop/shop", "partner", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn among_thousands_of_policies_an_edit_costs_what_it_costs_among_few() {
    let cluster = Cluster::new().await;
    for i in 0..1_700 {
        cluster.put(&format!("many/p{i}"), 1, section());
    }
    let at = cluster.api.revision();
    let rig = cluster.verifier().await;
    cluster.acked("h1", at).await;
    assert_eq!(generation(&rig, "many/p1699").await, Some(1), "page by page");
    let saved = || std::fs::read_dir(cluster.data.path().join("bundles")).unwrap().count();
    assert_eq!(saved(), 1_701);
    let before = cluster.api.requests();
    let begun = std::time::Instant::now();
    for generation in 6..16 {
        let at = cluster.put("shop/shop", generation, section());
        cluster.acked("h1", at).await;
    }
    // Ten edits, each put in force, saved and acknowledged in turn; what else the machine does may take most of it.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(cluster.api.requests().lists, before.lists);
    // A list whose pages are forgotten half-way begins anew, and brings nothing into disorder.
    cluster.api.fail(|faults| faults.gone_pages = 2);
    cluster.api.delete(&bundle_object("many/p7"));
    cluster.api.compact();
    cluster.api.cut();
    let at = cluster.put("shop/shop", 16, section());
    let ack = cluster.acked("h1", at).await;
    assert_eq!(refused(&ack), one("many/p7", Some(1), "vanished"));
}
