//! When sessions were seen reaches the feed server: once a minute each, whoever asked in whatever way, and nothing else does.

use countersign_feed::{FeedServer as _, SeenSession};
use serde_json::json;

use crate::rig::{Bundles, Rig, TestFeed, api_key, eventually, keys, now, policy, section, token, token_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_token_is_accepted_is_told_once_with_the_moment_that_it_was_seen() {
    let (bundles, feed) = (Bundles::new(), TestFeed::new().await);
    bundles.put_policy("shop/shop", 1, section());
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let began = now();
    rig.eventually_word(&token(), 200, "valid").await;
    for _ in 0..50 {
        assert_eq!(rig.word(&token()).await.0, 200);
    }
    let other = token_with(&keys().access, &json!({"sid": "s2"}));
    assert_eq!(rig.word(&other).await.0, 200);
    // None of these says that somebody was there.
    let expired = token_with(&keys().access, &json!({"sid": "s3", "exp": now().as_secs() - 3600}));
    assert_eq!(rig.word(&expired).await.0, 401);
    let unmet = json!({"token": token_with(&keys().access, &json!({"sid": "s4"})), "require": {"scopes": ["none"]}});
    assert_eq!(rig.verify("shop/shop", unmet).await.status, 403);
    let long = token_with(&keys().access, &json!({"sid": "s".repeat(200)}));
    assert_eq!(rig.word(&long).await.0, 200);
    assert_eq!(rig.word(&api_key(&["orders:read"])).await.0, 200);

    let mut seen: Vec<SeenSession> = Vec::new();
    eventually("both sessions are told", async || {
        seen.extend(feed.0.take_activity(100).await.unwrap());
        seen.iter().any(|seen| seen.session == "s1") && seen.iter().any(|seen| seen.session == "s2")
    })
    .await;
    assert!(seen.iter().all(|seen| ["s1", "s2"].contains(&seen.session.as_str())), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.policy == policy("shop/shop") && (began..=now()).contains(&seen.at)), "{seen:?}");
    // A minute's end may lie between two of many calls.
    assert!(seen.len() <= 4, "{seen:?}");
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    let reported = format!("countersign_session_activity_total{{result=\"reported\"}} {}\n", seen.len());
    assert!(metrics.contains(&reported), "{metrics}");
    assert!(metrics.contains("countersign_session_activity_total{result=\"dropped\"} 0\n"), "{metrics}");
}
