//! `verify`, `introspect`, key sets and listings, by the table.

use countersign_api::bundle::{BundleRateLimit, VerifySecrets};
use countersign_core::revocation::Kind;
use serde_json::{Value, json};

use crate::rig::{
    AUDIENCE, Bundles, ISSUER, Rig, TestFeed, api_key, entry, eventually, keys, policy, rule, section, token, token_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_is_told_in_full_over_both_sockets() {
    let (_bundles, rig) = Rig::ordinary().await;
    let token = token();
    let body = json!({"token": token}).to_string();
    for mut connection in [rig.unix().await, rig.tcp().await] {
        for _cached in 0..3 {
            let answer = connection
                .ask("POST", "/v1/policies/shop/shop/verify", &[("content-type", "application/json")], &body)
                .await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let told = answer.json();
            let keys: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
            let mut expected = vec![
                "verdict",
                "kind",
                "issuer",
                "subject",
                "audience",
                "session_id",
                "token_id",
                "issued_at",
                "expires_at",
                "roles",
                "permissions",
                "scopes",
                "amr",
                "claims",
                "position",
                "stale",
                "stale_ms",
            ];
            expected.sort_unstable();
            assert_eq!(keys, expected);
            assert_eq!(
                (&told["verdict"], &told["kind"], &told["issuer"]),
                (&json!("valid"), &json!("access"), &json!(ISSUER))
            );
            assert_eq!(
                (&told["audience"], &told["roles"], &told["permissions"]),
                (&json!([AUDIENCE]), &json!(["user"]), &json!(["orders:read"]))
            );
            assert_eq!(
                (&told["subject"], &told["session_id"], &told["token_id"]),
                (&json!("alice"), &json!("s1"), &json!("t1"))
            );
            assert_eq!((&told["scopes"], &told["amr"], &told["position"]), (&json!(["orders"]), &json!([]), &Value::Null));
            assert_eq!((&told["stale"], &told["stale_ms"]), (&json!(true), &Value::Null), "never fresh without a feed");
            assert_eq!(told["claims"]["client_id"], "countersign");
            assert!(told["expires_at"].is_i64() && told["issued_at"].is_i64());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_status_word_and_challenge() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.rules = vec![rule("'temp' in roles && request.method != 'GET'")];
    verify.deny = vec!["203.0.113.0/24".parse().unwrap()];
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    let access = &keys().access;
    let soon = crate::rig::now().as_secs();
    let invalid = Some("Bearer error=\"invalid_token\"");
    let with = |changes: Value| token_with(access, &changes);
    let good = token();
    let cases = [
        (json!({"token": "x"}), 401, "malformed", invalid),
        (json!({"token": "a.b.c"}), 401, "malformed", invalid),
        (json!({"token": "x".repeat(17 << 10)}), 401, "malformed", invalid),
        (json!({"token": with(json!({"iss": "https://else.example"}))}), 401, "untrusted_issuer", invalid),
        (json!({"token": token_with(&keys().foreign, &json!({}))}), 401, "unknown_key", invalid),
        (json!({"token": format!("{}AAAA", &good[..good.len() - 4])}), 401, "bad_signature", invalid),
        (json!({"token": with(json!({"nbf": soon + 60}))}), 401, "not_yet_valid", invalid),
        (json!({"token": with(json!({"exp": soon - 60}))}), 401, "expired", invalid),
        (json!({"token": with(json!({"aud": "other"}))}), 401, "wrong_audience", invalid),
        (json!({"token": with(json!({"sub": 5}))}), 401, "invalid_claims", invalid),
        (json!({"token": good, "require": {"permissions": ["orders:write"]}}), 403, "denied", None),
        (json!({"token": good, "require": {"roles": ["admin"]}}), 403, "denied", None),
        (json!({"token": good, "require": {"scopes": ["x"]}}), 403, "denied", Some("Bearer error=\"insufficient_scope\"")),
        (json!({"token": good, "require": {"audience": "other"}}), 403, "denied", None),
        (json!({"token": with(json!({"roles": ["temp"]}))}), 403, "denied", None),
        (json!({"token": good, "client": {"ip": "203.0.113.9"}}), 403, "denied", None),
        (json!({"token": good, "client": {"ip": "::ffff:203.0.113.9"}}), 403, "denied", None),
        (json!({"token": good, "client": {"ip": "198.51.100.1"}}), 200, "valid", None),
        (json!({"token": good, "min_position": "e1n1"}), 503, "stale", None),
    ];
    for (body, status, word, challenge) in cases {
        let answer = rig.verify("shop/shop", body.clone()).await;
        assert_eq!(answer.word(), (status, word.to_owned()), "{body}");
        assert_eq!(answer.header("www-authenticate"), challenge, "{body}");
        assert_eq!(answer.json()["detail"].is_string(), status != 200, "{body}");
    }
    let denied = rig.verify("shop/shop", json!({"token": with(json!({"roles": ["temp"]}))})).await.json();
    assert_eq!(
        (&denied["reason"], &denied["rule"], &denied["missing"]),
        (&json!("rule"), &json!("the-rule"), &json!(["request.method"]))
    );
    let without_address = rig.verify("shop/shop", json!({"token": good})).await.json();
    assert_eq!(without_address["verdict"], "denied", "a list demands an address: {without_address}");
    assert_eq!((&without_address["reason"], &without_address["missing"]), (&json!("ip"), &json!(["client.ip"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_problems_in_their_order() {
    let (_bundles, rig) = Rig::ordinary().await;
    let verify = "/v1/policies/shop/shop/verify";
    let big = format!("{{\"token\":\"{}\"}}", "x".repeat(70 << 10));
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let json_type = ("Content-Type", "application/json; charset=utf-8");
    let target = format!("/v1/policies/shop/shop/verify?{}", "x".repeat(9 << 10));
    for (method, path, headers, body, expected) in [
        ("GET", "/v1/policies/no/no/verify", vec![form], big.as_str(), (405, "method_not_allowed")),
        ("POST", "/v1/policies/no/no/verify", vec![form], &big, (404, "unknown_policy")),
        ("POST", verify, vec![form], &big, (415, "unsupported_media_type")),
        ("POST", verify, vec![json_type], &big, (413, "payload_too_large")),
        ("POST", verify, vec![json_type], "{", (400, "invalid_request")),
        ("POST", verify, vec![], "{\"token\":\"\"}", (400, "invalid_request")),
        ("POST", verify, vec![], "{\"token\":\"a\",\"token\":\"a\"}", (400, "invalid_request")),
        ("POST", verify, vec![("Content-Type", "application/problem+json")], "{\"token\":\"x\"}", (401, "malformed")),
        ("POST", "/v1/policies/Shop/shop/verify", vec![], "{}", (404, "unknown_policy")),
        ("POST", "/v2", vec![], "{}", (404, "not_found")),
        ("POST", "/v1/feed", vec![], "{}", (405, "method_not_allowed")),
        ("DELETE", "/v1/policies/shop/shop/jwks.json", vec![], "", (405, "method_not_allowed")),
        ("POST", &target, vec![], "{}", (414, "uri_too_long")),
    ] {
        let mut connection = rig.tcp().await;
        let answer = connection.ask(method, path, &headers, body).await;
        let seen = if answer.body.is_empty() { (answer.status, String::new()) } else { answer.word() };
        assert_eq!(seen, (expected.0, expected.1.to_owned()), "{method} {path}");
        if expected.1 != "malformed" {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["status"], expected.0);
        }
        assert_eq!(answer.header("allow").is_some(), expected.0 == 405);
        // The connection is as good as before.
        let after = connection.ask("GET", "/v1/feed", &[], "").await;
        assert_eq!(after.status, 200, "after {method} {path}");
    }
    let hint = rig.unix().await.ask("POST", verify, &[form], "token=a").await.json();
    assert!(hint["detail"].as_str().unwrap().contains("curl --json"));
    let long = "x".repeat(17 << 10);
    let answer = rig.unix().await.ask("GET", "/v1/feed", &[("x-long", &long)], "").await;
    assert_eq!(answer.status, 431);
    let many: Vec<(String, String)> = (0..120).map(|i| (format!("x-{i}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(rig.unix().await.ask("GET", "/v1/feed", &many, "").await.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn api_keys_and_opaque_keys_are_credentials_too() {
    let bundles = Bundles::new();
    let mut secrets = VerifySecrets::empty(policy("shop/shop"));
    let hash = |key: &str| hex::encode(countersign_core::digest::sha256(key.as_bytes()));
    secrets.opaque.push(
        json!([
            {"sha256": hash("old-key"), "subject": "svc", "scopes": ["orders:read"], "roles": ["user"]},
            {"sha256": hash("past-key"), "subject": "svc", "scopes": [], "roles": [], "notAfter": "2020-01-01T00:00:00Z"},
        ])
        .to_string(),
    );
    let mut verify = section();
    verify.opaque_keys = true;
    verify.secrets_sha256 = Some(secrets.sha256());
    bundles.put_secrets(&secrets);
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    let told = rig.verify("shop/shop", json!({"token": api_key(&["orders:read"])})).await.json();
    assert_eq!((&told["kind"], &told["permissions"]), (&json!("api_key"), &json!(["orders:read"])));
    let told = rig.verify("shop/shop", json!({"token": "old-key"})).await.json();
    assert_eq!(
        (&told["kind"], &told["subject"], &told["issuer"], &told["audience"]),
        (&json!("api_key"), &json!("svc"), &Value::Null, &json!([AUDIENCE]))
    );
    assert_eq!(rig.word("past-key").await, (401, "expired".into()));
    assert_eq!(rig.word("no-key").await, (401, "unknown_key".into()));
    // The prefix is bound to the ring, both ways.
    assert_eq!(rig.word(api_key(&[]).strip_prefix("csk_").unwrap()).await.0, 401);
    assert_eq!(rig.word(&format!("csk_{}", token())).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_feed_revokes_is_dead_and_positions_are_honoured() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.allow_stale = false;
    bundles.put_policy("shop/shop", 1, verify);
    let feed = TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let doomed = token_with(&keys().access, &json!({"jti": "t9"}));
    rig.eventually_word(&doomed, 200, "valid").await;
    let told = rig.verify("shop/shop", json!({"token": doomed})).await.json();
    assert_eq!((&told["stale"], &told["stale_ms"]), (&json!(false), &json!(0)));
    let position = feed.revoke(entry("shop/shop", Kind::Token, "t9")).await.to_string();
    let answer = rig.verify("shop/shop", json!({"token": doomed, "min_position": position})).await;
    assert_eq!(answer.word(), (401, "revoked".into()));
    let told = rig.verify("shop/shop", json!({"token": token(), "min_position": position})).await.json();
    assert_eq!((&told["verdict"], &told["position"]), (&json!("valid"), &json!(position)));
    let ahead = rig.verify("shop/shop", json!({"token": token(), "min_position": "e1n99"})).await;
    assert_eq!(ahead.word(), (503, "stale".into()));
    let shown = rig.get("/v1/feed").await.json();
    assert_eq!(
        (&shown["fresh"], &shown["position"], &shown["entries"], &shown["epoch"]),
        (&json!(true), &json!(position), &json!(1), &json!(1))
    );
    for name in ["position", "fresh", "age_ms", "writer_seen_ms", "entries", "epoch", "resyncs"] {
        assert!(shown.get(name).is_some(), "{name}");
    }
    rig.verifier.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_freshness_a_policy_that_denies_says_stale() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.allow_stale = false;
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    assert_eq!(rig.word(&token()).await, (503, "stale".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_sets_hold_what_verifies_now_and_can_be_kept() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let feed = TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let path = "/v1/policies/shop/shop/jwks.json";
    let answer = rig.get(path).await;
    let kids = |answer: &crate::wire::Answer| -> Vec<String> {
        answer.json()["keys"].as_array().unwrap().iter().map(|k| k["kid"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kids(&answer), [keys().access.kid(), keys().api_key.kid()]);
    assert!(!String::from_utf8_lossy(&answer.body).contains("\"d\""));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let etag = answer.header("etag").unwrap().to_owned();
    for tag in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
        let again = rig.unix().await.ask("GET", path, &[("If-None-Match", &tag)], "").await;
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag.as_str())), "{tag}");
    }
    assert_eq!(rig.unix().await.ask("GET", path, &[("If-None-Match", "\"x\"")], "").await.status, 200);
    feed.revoke(entry("shop/shop", Kind::Key, keys().access.kid())).await;
    eventually("the revoked key is gone", async || kids(&rig.get(path).await) == [keys().api_key.kid()]).await;
    assert_eq!(rig.word(&token()).await, (401, "revoked".into()));
    let listed = rig.get("/v1/policies").await.json();
    let shown = &listed["policies"][0];
    assert_eq!(
        (&shown["policy"], &shown["generation"], &shown["keys"][0]["state"]),
        (&json!("shop/shop"), &json!(1), &json!("Revoked"))
    );
    assert_eq!((&shown["keys"][1]["ring"], &shown["keys"][1]["alg"]), (&json!("api_key"), &json!("EdDSA")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_can_be_shut() {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section());
    let rig = Rig::with(&bundles, countersign_verifier::Feed::Without, |config| config.restrict_listing = true).await;
    assert_eq!(rig.get("/v1/policies").await.status, 404);
    assert_eq!(rig.word(&token()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_tells_active_tokens_and_nothing_of_others() {
    let (_bundles, rig) = Rig::ordinary().await;
    let path = "/v1/policies/shop/shop/introspect";
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let answer =
        rig.unix().await.ask("POST", path, &[form], format!("token={}&token_type_hint=access_token", token())).await;
    let told = answer.json();
    assert_eq!(
        (answer.status, &told["active"], &told["sub"], &told["aud"]),
        (200, &json!(true), &json!("alice"), &json!(AUDIENCE))
    );
    assert_eq!((&told["scope"], &told["iss"], &told["token_type"]), (&json!("orders"), &json!(ISSUER), &json!("Bearer")));
    let gone = rig.unix().await.ask("POST", path, &[form], "token=x.y.z").await;
    assert_eq!((gone.status, gone.json()), (200, json!({"active": false})));
    for (headers, body, status) in [
        (vec![form], "", 400),
        (vec![form], "token=a&token=b", 400),
        (vec![("Content-Type", "application/json")], "{}", 415),
    ] {
        assert_eq!(rig.unix().await.ask("POST", path, &headers, body).await.status, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_are_limited_per_subject_and_uncached_ones_per_caller() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.rate_limit = Some(BundleRateLimit { limit: 3, window_ms: 60_000 });
    bundles.put_policy("shop/shop", 1, verify);
    bundles.put_policy("shop/free", 1, section());
    let rig = Rig::with(&bundles, countersign_verifier::Feed::Without, |config| config.uncached_budget = Some(10)).await;
    let mine = token();
    for _ in 0..3 {
        assert_eq!(rig.word(&mine).await.0, 200);
    }
    let limited = rig.verify("shop/shop", json!({"token": mine})).await;
    assert_eq!(limited.word(), (429, "rate_limited".into()));
    assert!(limited.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(rig.word(&token_with(&keys().access, &json!({"sub": "bob"}))).await.0, 200);
    // Cached ones are free, uncached ones aren't.
    assert_eq!(rig.verify("shop/free", json!({"token": mine})).await.status, 200);
    let mut words = Vec::new();
    for _ in 0..20 {
        words.push(rig.verify("shop/free", json!({"token": "a.b.c"})).await.word().1);
        assert_eq!(rig.verify("shop/free", json!({"token": mine})).await.status, 200);
    }
    assert!(words.contains(&"rate_limited".to_owned()), "{words:?}");
    // Another caller has its own.
    let mut other = rig.tcp().await;
    let answer = other.ask("POST", "/v1/policies/shop/free/verify", &[], "{\"token\":\"a.b.c\"}").await;
    assert_eq!(answer.word(), (401, "malformed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_have_the_contract_s_names() {
    let (_bundles, rig) = Rig::ordinary().await;
    rig.word(&token()).await;
    rig.word("x").await;
    assert_eq!(rig.health("/healthz").await.status, 200);
    let ready = rig.health("/readyz").await;
    assert_eq!((ready.status, &ready.json()["policies"], &ready.json()["feed"]["fresh"]), (200, &json!(1), &json!(false)));
    assert_eq!(rig.health("/v1/feed").await.status, 404);
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    for line in [
        "countersign_verify_total{policy=\"shop/shop\",verdict=\"valid\"} 1",
        "countersign_verify_total{policy=\"shop/shop\",verdict=\"malformed\"} 1",
        "countersign_verify_duration_seconds_count 2",
        "countersign_verify_cache_hits_total 0",
        "countersign_feed_age_seconds +Inf",
        "countersign_feed_fresh 0",
        "countersign_feed_resyncs_total 0",
        "countersign_revocation_lag_seconds_count 0",
        "countersign_bundle_generation{policy=\"shop/shop\"} 1",
        "# TYPE countersign_bundle_refused_total counter",
        "# TYPE countersign_revocation_entries gauge",
        "countersign_build_info{version=",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(rig.get("/metrics").await.status, 404, "the API's own port serves the API");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_request_gets_no_body() {
    let (_bundles, rig) = Rig::ordinary().await;
    let mut connection = rig.unix().await;
    connection
        .send("HEAD /v1/policies/shop/shop/jwks.json HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let mut text = String::new();
    eventually("both answers", async || {
        let mut part = vec![0; 4096];
        let n = tokio::io::AsyncReadExt::read(&mut connection.stream, &mut part).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&part[..n]));
        text.contains("resyncs")
    })
    .await;
    assert!(!text.contains("\"keys\""), "{text}");
}
