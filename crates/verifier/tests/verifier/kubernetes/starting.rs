//! Starts, with and without the API server, and what may be said without it.

use countersign_api::bundle::{BundleIssuer, BundleIssuerKeys, VerifySecrets, VerifySection};
use countersign_core::jose::Algorithm;
use countersign_verifier::{ApiError, SourceError, StartError};
use serde_json::json;

use super::{Cluster, generation, one, refused, source};
use crate::{
    api_server::bundle_object,
    rig::{eventually, keys, policy, section, token, token_with},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_api_server_serves_and_acknowledges_what_was_saved_and_denies_nothing_it_cannot_know() {
    let cluster = Cluster::new().await;
    cluster.put("shop/bad", 3, section());
    let rig = cluster.verifier().await;
    let at = cluster.api.put_bundle("shop/bad", "{");
    cluster.acked("h1", at).await;
    rig.verifier.shutdown().await;
    cluster.api.fail(|faults| faults.away = true);
    // What was written meanwhile it can't know.
    let later = cluster.put("shop/new", 1, section());

    let rig = cluster.verifier().await;
    assert_eq!(rig.health("/readyz").await.status, 200);
    assert_eq!(rig.word(&token()).await.0, 200);
    let unknown = token_with(&keys().next, &json!({}));
    assert_eq!(rig.word(&unknown).await, (503, "not_ready".into()));
    assert_eq!(rig.verify("shop/new", json!({"token": token()})).await.word(), (503, "not_ready".into()));
    let ack = cluster.acked("h1", at).await;
    assert!(ack.revision.parse::<u64>().unwrap() < later, "{ack:?}");
    assert_eq!(refused(&ack), one("shop/bad", Some(3), "corrupt"), "what was refused before isn't held now");
    assert!(source(&rig).await["problem"].as_str().unwrap().contains("does not answer"));

    cluster.api.fail(|faults| faults.away = false);
    let ack = cluster.acked("h1", later).await;
    assert_eq!(refused(&ack), one("shop/bad", Some(3), "corrupt"));
    assert_eq!(rig.verify("shop/new", json!({"token": token()})).await.status, 200);
    assert_eq!(rig.word(&unknown).await, (401, "unknown_key".into()));
    assert_eq!(source(&rig).await["problem"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_beside_the_old_one_serves_at_once_and_acknowledges_when_the_disk_is_its_own() {
    let cluster = Cluster::new().await;
    let old = cluster.verifier().await;
    let before = cluster.acked("h1", 1).await;
    let new = cluster.verifier().await;
    assert_eq!(new.word(&token()).await.0, 200);
    let at = cluster.put("shop/shop", 6, section());
    eventually("both serve it", async || {
        (generation(&old, "shop/shop").await, generation(&new, "shop/shop").await) == (Some(6), Some(6))
    })
    .await;
    old.verifier.shutdown().await;
    eventually("the new one's word", async || cluster.ack().await.is_some_and(|ack| ack.start_id != before.start_id)).await;
    assert!(cluster.acked("h1", at).await.refused.is_empty());
    new.verifier.shutdown().await;
    cluster.api.fail(|faults| faults.away = true);
    assert_eq!(generation(&cluster.verifier().await, "shop/shop").await, Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_anything_saved_a_start_waits_for_the_api_server_and_says_what_only_people_can_mend() {
    let cluster = Cluster::new().await;
    cluster.api.fail(|faults| faults.forbidden = true);
    let error = cluster.try_verifier().await.err().unwrap();
    assert!(matches!(error, StartError::Source(SourceError::Api(ApiError::Denied { .. }))), "{error}");
    let said = error.to_string();
    assert!(said.contains("countersign-bundles") && said.contains("get, list and watch configmaps and secrets"), "{said}");
    cluster.api.fail(|faults| (faults.forbidden, faults.away) = (false, true));
    let waiting = cluster.try_verifier();
    let back = async {
        eventually("it has asked in vain", async || cluster.api.requests().while_away > 0).await;
        cluster.api.fail(|faults| faults.away = false);
    };
    let (rig, ()) = tokio::join!(waiting, back);
    assert_eq!(rig.unwrap().word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_gone_unconfirmed_for_half_of_absent_after_is_not_ready_and_known_tokens_go_on() {
    let cluster = Cluster::new().await;
    let mut verify = section();
    verify.absent_after_ms = 4_000;
    cluster.put("shop/shop", 6, verify);
    let rig = cluster.verifier().await;
    let unknown = token_with(&keys().next, &json!({}));
    assert_eq!(rig.word(&unknown).await, (401, "unknown_key".into()));
    cluster.api.fail(|faults| faults.away = true);
    rig.eventually_word(&unknown, 503, "not_ready").await;
    assert_eq!(rig.word(&token()).await.0, 200);
    cluster.api.fail(|faults| faults.away = false);
    rig.eventually_word(&unknown, 401, "unknown_key").await;
    // A watch that is silent while the version moves on proves nothing.
    cluster.api.fail(|faults| faults.no_bookmarks = true);
    cluster.api.count_to(cluster.api.revision() + 10);
    rig.eventually_word(&unknown, 503, "not_ready").await;
    cluster.api.fail(|faults| faults.no_bookmarks = false);
    rig.eventually_word(&unknown, 401, "unknown_key").await;
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    for name in ["position_age_seconds", "confirmed_age_seconds", "lists_total 1", "watch_restarts_total{reason="] {
        assert!(metrics.contains(&format!("countersign_source_{name}")), "{name}: {metrics}");
    }
}

fn with_secret(secrets: &VerifySecrets, entry: Option<&str>) -> VerifySection {
    let mut verify = section();
    verify.secrets_sha256 = Some(secrets.sha256());
    verify.opaque_keys = !secrets.opaque.is_empty();
    verify.trusted_issuers.extend(entry.map(|name| BundleIssuer {
        name: name.into(),
        issuer: Some("https://old.example".into()),
        any_issuer: false,
        audiences: None,
        algorithms: vec![Algorithm::HS256],
        keys: BundleIssuerKeys::Secret,
        max_ttl_ms: None,
        not_after: Some(crate::rig::now().plus(3_600_000)),
        matches: Vec::new(),
        subject: None,
        roles: None,
        scopes: None,
    }));
    verify
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_counts_as_refused_until_its_secrets_are_there_and_symmetric_ones_are_never_on_disk() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let mut symmetric = VerifySecrets::empty(policy("shop/shop"));
    symmetric.add_symmetric("old", b"0123456789abcdef0123456789abcdef");
    let mut opaque = VerifySecrets::empty(policy("shop/keys"));
    opaque.opaque.push("[]".into());
    let at = cluster.put("shop/shop", 6, with_secret(&symmetric, Some("old")));
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/shop", Some(5), "secrets"));
    cluster.api.put_secret("shop/shop", "another one");
    cluster.api.put_secret("shop/keys", &opaque.to_json());
    let at = cluster.put("shop/keys", 1, with_secret(&opaque, None));
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/shop", Some(5), "secrets"), "the other's are there");
    cluster.api.put_secret("shop/shop", &symmetric.to_json());
    eventually("both are there", async || cluster.ack().await.is_some_and(|ack| ack.refused.is_empty())).await;
    assert_eq!(generation(&rig, "shop/shop").await, Some(6));
    let asked = cluster.api.requests().secrets;
    let mut verify = with_secret(&symmetric, Some("old"));
    verify.prepublish_ms += 1;
    let at = cluster.put("shop/shop", 7, verify);
    assert!(cluster.acked("h1", at).await.refused.is_empty());
    assert_eq!(cluster.api.requests().secrets, asked, "an edit beside the secrets doesn't ask for them");

    let kept = |policy: &str| cluster.data.path().join(format!("bundles/{}.secrets.json", bundle_object(policy))).exists();
    assert_eq!((kept("shop/shop"), kept("shop/keys")), (false, true));
    for file in walk(cluster.data.path()) {
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(symmetric.symmetric["old"].as_str()), "{}", file.display());
    }
    rig.verifier.shutdown().await;
    cluster.api.fail(|faults| faults.away = true);
    let rig = cluster.verifier().await;
    assert_eq!(rig.word(&token()).await, (503, "not_ready".into()), "it isn't judged without them");
    assert_eq!(generation(&rig, "shop/keys").await, Some(1));
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/shop", None, "secrets"));
    cluster.api.fail(|faults| faults.away = false);
    rig.eventually_word(&token(), 200, "valid").await;
    eventually("acknowledged", async || cluster.ack().await.is_some_and(|ack| ack.refused.is_empty())).await;
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}
