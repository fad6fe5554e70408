//! `verify-batch`.

use countersign_api::bundle::BundleRole;
use serde_json::{Value, json};

use crate::rig::{Bundles, Rig, TestFeed, keys, section, token, token_with};

const PATH: &str = "/v1/policies/shop/shop/verify-batch";

#[tokio::test(flavor = "multi_thread")]
async fn each_item_has_its_own_result() {
    let (_bundles, rig) = Rig::ordinary().await;
    let items = json!({"items": [
        {"token": token()}, {"token": "x"}, {"token": ""}, 5, {"token": token(), "require": {"roles": ["admin"]}},
        {"token": token(), "client": {"ip": "nowhere"}}, {"token": token(), "x": [1]},
    ]});
    let answer = rig.post(PATH, &items).await;
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].as_array().unwrap().clone();
    let told: Vec<(u64, &str)> = results
        .iter()
        .map(|r| {
            (r["status"].as_u64().unwrap(), r.get("verdict").or_else(|| r.get("error")).and_then(Value::as_str).unwrap())
        })
        .collect();
    let wrong = (400, "invalid_request");
    assert_eq!(told, [(200, "valid"), (401, "malformed"), wrong, wrong, (403, "denied"), wrong, (200, "valid")]);
    assert_eq!(results[0]["subject"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_bounds() {
    let (_bundles, rig) = Rig::ordinary().await;
    let good = token();
    let many = |n: usize| json!({"items": vec![json!({"token": good}); n]});
    let answer = rig.post(PATH, &many(1000)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["results"].as_array().unwrap().iter().all(|r| r["status"] == 200));
    assert_eq!(rig.post(PATH, &many(1001)).await.word(), (400, "invalid_request".into()));
    let huge = json!({"items": [{"token": "x".repeat(5 << 20)}]});
    assert_eq!(rig.post(PATH, &huge).await.word(), (413, "payload_too_large".into()));
    assert_eq!(rig.post(PATH, &json!({"items": []})).await.json(), json!({"results": []}));
    assert_eq!(rig.post(PATH, &json!({})).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_questions_with_long_answers_take_no_more_memory_than_one_caller_may() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.roles.push(BundleRole {
        name: "fat".into(),
        permissions: (0..1000).map(|n| format!("{n:04}{}", "x".repeat(60))).collect(),
        inherits: Vec::new(),
    });
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    let fat = token_with(&keys().access, &json!({"roles": ["fat"]}));
    let answer = rig.post(PATH, &json!({"items": vec![json!({"token": fat}); 1000]})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() < 33 << 20, "{}", answer.body.len());
    let results = answer.json()["results"].as_array().unwrap().clone();
    let whole = results.iter().take_while(|r| r["status"] == 200).count();
    assert!(whole > 300, "{whole}");
    assert!(results[whole..].iter().all(|r| r["status"] == 503 && r["error"] == "overloaded"));
    assert_eq!(results.len(), 1000);
    let again = rig.post(PATH, &json!({"items": vec![json!({"token": token()}); 1000]})).await;
    assert!(again.json()["results"].as_array().unwrap().iter().all(|r| r["status"] == 200), "the memory was given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_batch_wait_together_for_their_positions() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let feed = TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let begun = std::time::Instant::now();
    let items = vec![json!({"token": token(), "min_position": "e1n5"}); 100];
    let answer = rig.post(PATH, &json!({"items": items})).await;
    assert!(answer.json()["results"].as_array().unwrap().iter().all(|r| r["status"] == 503 && r["verdict"] == "stale"));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
