//! Policies as they change, turn bad, vanish and come back.

use countersign_api::bundle::{self, BundleKey, RingName};
use countersign_core::{revocation::Kind, ring::KeyState};
use countersign_verifier::{Config, Feed, SourceError, StartError, config::Source};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{Bundles, Rig, bundle_of, entry, eventually, keys, section, token, token_with};

fn keeping(data: &TempDir) -> impl FnOnce(&mut Config) + use<> {
    let path = data.path().to_owned();
    move |config| config.data_dir = Some(path)
}

async fn refusals(rig: &Rig) -> Vec<(String, String)> {
    let refused = rig.health("/readyz").await.json()["refused"].clone();
    let word = |r: &Value, name: &str| r[name].as_str().unwrap_or_default().to_owned();
    refused.as_array().unwrap().iter().map(|r| (word(r, "policy"), word(r, "reason"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_comes_into_force_by_itself() {
    let (bundles, rig) = Rig::ordinary().await;
    let mine = token();
    assert_eq!(rig.word(&mine).await.0, 200);
    let mut other = section();
    other.audiences = vec!["other".into()];
    bundles.put_policy("shop/shop", 2, other);
    rig.eventually_word(&mine, 401, "wrong_audience").await;
    bundles.put_policy("shop/new", 1, section());
    eventually("a new policy is served", async || rig.verify("shop/new", json!({"token": mine})).await.status == 200).await;
    bundles.put(&bundle_of("shop/shop", 3, None));
    rig.eventually_word(&mine, 404, "unknown_policy").await;
    assert_eq!(rig.health("/readyz").await.json()["policies"], 1);
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    assert!(!metrics.contains("shop/shop"), "a policy that is gone leaves no metrics:\n{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_bad_replaces_what_is_good_not_even_over_a_restart() {
    let bundles = Bundles::new();
    let data = tempfile::tempdir().unwrap();
    bundles.put_policy("shop/shop", 5, section());
    let good = std::fs::read(bundles.file("shop/shop")).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let mut different = section();
    different.audiences = vec!["other".into()];
    let lower = bundle::seal(&bundle_of("shop/shop", 4, Some(different.clone())), &keys().bundles).unwrap();
    let mut broken_rule = different.clone();
    broken_rule.rules = vec![crate::rig::rule("1 +")];
    let rule = bundle::seal(&bundle_of("shop/shop", 6, Some(broken_rule)), &keys().bundles).unwrap();
    let elsewhere = bundle::seal(&bundle_of("shop/else", 6, Some(different)), &keys().bundles).unwrap();
    let mine = token();
    {
        let rig = Rig::with(&bundles, Feed::Without, keeping(&data)).await;
        assert_eq!(rig.word(&mine).await.0, 200);
    }
    for (bad, reason) in [
        (text[..text.len() / 2].to_owned(), "corrupt"),
        (String::new(), "corrupt"),
        (text.replacen("\"schema\":1", "\"schema\":2", 1), "newer_schema"),
        (lower, "lower_generation"),
        (rule, "invalid"),
        (elsewhere, "wrong_name"),
    ] {
        let rig = Rig::with(&bundles, Feed::Without, keeping(&data)).await;
        bundles.write(&bundles.file("shop/shop"), bad.as_bytes());
        let expected = vec![("shop/shop".to_owned(), reason.to_owned())];
        eventually(&format!("{reason} is reported"), async || refusals(&rig).await == expected).await;
        assert_eq!(rig.word(&mine).await, (200, "valid".into()), "{reason}");
        assert_eq!(rig.health("/readyz").await.status, 200);
        let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
        assert!(metrics.contains(&format!("countersign_bundle_refused_total{{reason=\"{reason}\"}} 1\n")), "{metrics}");
        rig.verifier.shutdown().await;
        let again = Rig::with(&bundles, Feed::Without, keeping(&data)).await;
        assert_eq!(again.word(&mine).await, (200, "valid".into()), "{reason}, after a restart");
        assert_eq!(refusals(&again).await, expected, "after a restart");
        bundles.write(&bundles.file("shop/shop"), &good);
        eventually("mended", async || refusals(&again).await.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_vanishes_is_served_on_and_reported_and_a_withdrawn_one_stays_withdrawn() {
    let bundles = Bundles::new();
    let data = tempfile::tempdir().unwrap();
    bundles.put_policy("shop/shop", 5, section());
    bundles.put(&bundle_of("shop/gone", 9, None));
    let mine = token();
    let rig = Rig::with(&bundles, Feed::Without, keeping(&data)).await;
    assert_eq!(rig.verify("shop/gone", json!({"token": mine})).await.word(), (404, "unknown_policy".into()));
    std::fs::remove_file(bundles.file("shop/shop")).unwrap();
    let expected = vec![("shop/shop".to_owned(), "vanished".to_owned())];
    eventually("reported", async || refusals(&rig).await == expected).await;
    assert_eq!(rig.word(&mine).await.0, 200);
    rig.verifier.shutdown().await;
    bundles.put_policy("shop/gone", 8, section());
    let again = Rig::with(&bundles, Feed::Without, keeping(&data)).await;
    assert_eq!(again.word(&mine).await.0, 200);
    assert_eq!(again.verify("shop/gone", json!({"token": mine})).await.word(), (404, "unknown_policy".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_starts_without_its_source_from_what_it_saved() {
    let bundles = Bundles::new();
    let data = tempfile::tempdir().unwrap();
    bundles.put_policy("shop/shop", 5, section());
    drop(Rig::with(&bundles, Feed::Without, keeping(&data)).await);
    let nowhere = |config: &mut Config| {
        config.data_dir = Some(data.path().to_owned());
        config.source = Source::Directory("/nonexistent/bundles".into());
    };
    let rig = Rig::with(&bundles, Feed::Without, nowhere).await;
    assert_eq!(rig.word(&token()).await.0, 200);
    // What it can't know it doesn't deny.
    let foreign = token_with(&keys().next, &json!({}));
    assert_eq!(rig.word(&foreign).await, (503, "not_ready".into()), "an unknown key of the policy's own issuer");
    assert_eq!(rig.verify("shop/else", json!({"token": foreign})).await.word(), (503, "not_ready".into()));
    let answer = rig.get("/v1/policies/shop/else/authorize?codes=401-403").await;
    assert_eq!((answer.status, answer.header("x-auth-status")), (403, Some("503")));

    let fresh = tempfile::tempdir().unwrap();
    let nothing = Rig::try_with(&bundles, Feed::Without, |config| {
        config.data_dir = Some(fresh.path().to_owned());
        config.source = Source::Directory("/nonexistent/bundles".into());
    })
    .await;
    let error = nothing.err().unwrap();
    assert!(matches!(error, StartError::Source(SourceError::Directory { .. })), "{error}");
    assert!(error.to_string().contains("/nonexistent/bundles"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_was_good_is_not_ready_and_troubles_no_other() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    bundles.write(&bundles.file("shop/bad"), b"{");
    let rig = Rig::on(&bundles).await;
    assert_eq!(rig.word(&token()).await.0, 200);
    assert_eq!(rig.verify("shop/bad", json!({"token": "x"})).await.word(), (503, "not_ready".into()));
    assert_eq!(rig.verify("shop/none", json!({"token": "x"})).await.status, 404);
    assert_eq!(rig.health("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_signatures_are_asked_for_only_trusted_ones_count() {
    let bundles = Bundles::new();
    bundles.trust(&[&keys().bundles]);
    bundles.put_policy("shop/shop", 1, section());
    let rig = Rig::on(&bundles).await;
    assert_eq!(rig.word(&token()).await.0, 200);
    let mut envelope: Value = serde_json::from_slice(&std::fs::read(bundles.file("shop/shop")).unwrap()).unwrap();
    let mut different = section();
    different.audiences = vec!["other".into()];
    let next = bundle_of("shop/shop", 2, Some(different));
    let sealed_by_other = bundle::seal(&next, &keys().foreign).unwrap();
    envelope["content"] = json!(envelope["content"].as_str().unwrap().replace("orders:read", "orders:write"));
    let tampered = envelope.to_string();
    envelope.as_object_mut().unwrap().remove("signature");
    for (bad, reason) in
        [(envelope.to_string(), "unsigned"), (sealed_by_other.clone(), "untrusted_key"), (tampered, "bad_signature")]
    {
        bundles.write(&bundles.file("shop/shop"), bad.as_bytes());
        eventually(reason, async || refusals(&rig).await == [("shop/shop".to_owned(), reason.to_owned())]).await;
        assert_eq!(rig.word(&token()).await.0, 200, "{reason}");
    }
    // Trust may change under bundles that don't.
    bundles.write(&bundles.file("shop/shop"), sealed_by_other.as_bytes());
    bundles.trust(&[&keys().bundles, &keys().foreign]);
    rig.eventually_word(&token(), 401, "wrong_audience").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_through_bundles_fails_no_token() {
    let (bundles, rig) = Rig::ordinary().await;
    let (old, new) = (token(), token_with(&keys().next, &json!({"jti": "t2"})));
    assert_eq!(rig.word(&old).await.0, 200);
    let rotated = |states: &[(KeyState, &countersign_core::keys::SigningKey)]| {
        let mut verify = section();
        verify.keys = states
            .iter()
            .map(|(state, key)| BundleKey { ring: RingName::Access, state: *state, jwk: key.public_jwk().clone() })
            .collect();
        verify
    };
    bundles.put_policy("shop/shop", 2, rotated(&[(KeyState::Active, &keys().access), (KeyState::Pending, &keys().next)]));
    rig.eventually_word(&new, 200, "valid").await;
    bundles.put_policy("shop/shop", 3, rotated(&[(KeyState::Retiring, &keys().access), (KeyState::Active, &keys().next)]));
    assert_eq!(rig.word(&old).await.0, 200);
    bundles.put_policy("shop/shop", 4, rotated(&[(KeyState::Revoked, &keys().access), (KeyState::Active, &keys().next)]));
    rig.eventually_word(&old, 401, "revoked").await;
    bundles.put_policy("shop/shop", 5, rotated(&[(KeyState::Active, &keys().next)]));
    rig.eventually_word(&old, 401, "unknown_key").await;
    assert_eq!(rig.word(&new).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bundle_revokes_is_revoked() {
    let bundles = Bundles::new();
    let mut with = bundle_of("shop/shop", 1, Some(section()));
    with.revoked = vec![entry("shop/shop", Kind::Session, "s9")];
    bundles.put(&with);
    let rig = Rig::on(&bundles).await;
    assert_eq!(rig.word(&token_with(&keys().access, &json!({"sid": "s9"}))).await, (401, "revoked".into()));
    assert_eq!(rig.word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_and_saved_is_acknowledged() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 5, section());
    bundles.write(&bundles.path().join(".revision"), br#"{"history":"h1","revision":"r1"}"#);
    let feed = crate::rig::TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let ack = async || {
        let leases = countersign_feed::FeedServer::leases(&*feed.0).await.unwrap();
        leases.into_iter().find_map(|lease| lease.ack)
    };
    eventually("acknowledged", async || ack().await.is_some_and(|a| a.revision == "r1" && a.history == "h1")).await;
    let first = ack().await.unwrap();
    assert_eq!(first.generations, [("shop/shop".to_owned(), 5)].into());
    assert!(first.refused.is_empty() && !first.refused_more && first.schemas == [1]);
    assert_eq!(first.highest_held, 5);
    bundles.write(&bundles.file("shop/shop"), b"{");
    bundles.write(&bundles.path().join(".revision"), br#"{"history":"h1","revision":2}"#);
    eventually("the refusal too", async || {
        ack().await.is_some_and(|a| a.revision == "2" && a.refused.len() == 1 && a.refused[0].held == Some(5))
    })
    .await;
    rig.verifier.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_stays_small_however_much_is_refused_and_tells_the_highest_generation_held() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 5, section());
    bundles.put_policy("shop/gone", 9, section());
    let feed = crate::rig::TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let ack = async || {
        let leases = countersign_feed::FeedServer::leases(&*feed.0).await.unwrap();
        leases.into_iter().find_map(|lease| lease.ack)
    };
    eventually("acknowledged", async || ack().await.is_some_and(|a| a.highest_held == 9)).await;
    bundles.put(&bundle_of("shop/gone", 10, None));
    let many = countersign_feed::MAX_REFUSED + 1;
    for policy in 0..many {
        bundles.write(&bundles.file(&format!("shop/p{policy}")), b"{");
    }
    eventually("the refusals too", async || ack().await.is_some_and(|a| a.refused_more)).await;
    let last = ack().await.unwrap();
    assert_eq!(
        (last.refused.len(), last.highest_held),
        (countersign_feed::MAX_REFUSED, 10),
        "withdrawn ones count as well"
    );
    assert!(serde_json::to_vec(&last).unwrap().len() < countersign_feed::MAX_ACK_BYTES);
    rig.verifier.shutdown().await;
}
