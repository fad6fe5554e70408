//! Whose bundles are taken, when that changes.

use countersign_verifier::{SourceError, StartError};
use serde_json::json;

use super::{Cluster, generation, one, refused, source};
use crate::{
    api_server::bundle_object,
    rig::{eventually, keys, section, token},
};

#[tokio::test(flavor = "multi_thread")]
async fn without_trust_nothing_begins_but_what_is_on_disk_goes_on() {
    let cluster = Cluster::new().await;
    cluster.forget_trust();
    let error = cluster.try_verifier().await.err().unwrap();
    assert!(matches!(error, StartError::Source(SourceError::Trust { .. })), "{error}");
    assert!(
        error.to_string().contains("--bundle-trust") && error.to_string().contains("ConfigMap bundle-trust"),
        "{error}"
    );
    cluster.trust(&[&keys().bundles]);
    drop(cluster.verifier().await);
    cluster.forget_trust();
    let rig = cluster.verifier().await;
    assert_eq!(rig.word(&token()).await.0, 200);
    assert!(source(&rig).await["trust_problem"].as_str().unwrap().contains("bundle-trust.json"));
    let at = cluster.put("shop/shop", 6, section());
    let ack = cluster.acked("h1", at).await;
    assert_eq!((refused(&ack), ack.trusted_bundle_keys.len()), (one("shop/shop", Some(5), "untrusted_key"), 0));
    cluster.trust(&[&keys().bundles]);
    eventually("taken", async || generation(&rig, "shop/shop").await == Some(6)).await;
    eventually("acknowledged", async || cluster.ack().await.is_some_and(|ack| ack.refused.is_empty())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_bundles_are_exchanged_without_a_gap() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let (old, new) = (&keys().bundles, &keys().foreign);
    let trusts = async |kids: &[&str]| {
        eventually("the trusted keys are acknowledged", async || {
            cluster.ack().await.is_some_and(|ack| ack.trusted_bundle_keys == kids)
        })
        .await;
    };
    cluster.trust(&[old, new]);
    trusts(&[old.kid(), new.kid()]).await;
    let at = cluster.put_signed("shop/shop", 6, Some(section()), new);
    assert!(cluster.acked("h1", at).await.refused.is_empty());
    cluster.trust(&[new]);
    trusts(&[new.kid()]).await;
    assert!(cluster.ack().await.unwrap().refused.is_empty());
    assert_eq!(generation(&rig, "shop/shop").await, Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_by_a_key_that_leaked_is_named_and_gives_way_to_any_that_is_trusted() {
    let cluster = Cluster::new().await;
    let rig = cluster.verifier().await;
    let leaked = &keys().bundles;
    // Whoever has the key writes generations that nothing could follow, and policies that nobody declared.
    cluster.put_signed("shop/shop", u64::MAX, Some(section()), leaked);
    let at = cluster.put_signed("shop/evil", 1, Some(section()), leaked);
    cluster.acked("h1", at).await;
    cluster.trust(&[&keys().foreign]);
    eventually("named", async || cluster.ack().await.is_some_and(|ack| ack.refused.len() == 2)).await;
    let named = refused(&cluster.ack().await.unwrap());
    assert!(named.iter().all(|(.., reason)| reason == "untrusted_key"), "{named:?}");
    assert_eq!(rig.word(&token()).await.0, 200, "nobody's sessions end because a bundle's key is exchanged");
    let at = cluster.put_signed("shop/shop", 7, Some(section()), &keys().foreign);
    assert_eq!(refused(&cluster.acked("h1", at).await), one("shop/evil", Some(1), "untrusted_key"));
    assert_eq!(generation(&rig, "shop/shop").await, Some(7));
    let at = cluster.api.delete(&bundle_object("shop/evil"));
    assert!(cluster.acked("h1", at).await.refused.is_empty());
    assert_eq!(rig.verify("shop/evil", json!({"token": token()})).await.word(), (404, "unknown_policy".into()));
    rig.verifier.shutdown().await;
    cluster.api.fail(|faults| faults.away = true);
    let rig = cluster.verifier().await;
    assert_eq!((generation(&rig, "shop/evil").await, generation(&rig, "shop/shop").await), (None, Some(7)));
}
