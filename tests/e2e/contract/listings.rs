//! Batches, introspection, keys, listings, health.

use serde_json::json;

use super::{World, names};
use crate::http::Request;

#[test]
fn a_batch_answers_each_item_as_a_single_call_would() {
    let world = World::start();
    let good = world.dev.token("shop", "alice");
    let items = json!([
        {"token": good},
        {"token": good, "require": {"roles": ["admin"]}},
        {"token": world.partner(json!({"iat": 1, "exp": 2}))},
        {"token": ""}, {}, 1, null,
        {"token": good, "client": {"ip": "x"}},
    ]);
    let answer = Request::post("/v1/policies/shop/shop/verify-batch", &json!({"items": items})).send(&world.dev.socket());
    assert_eq!(answer.status, 200, "{}", answer.json());
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    let said: Vec<(i64, &str)> = results
        .iter()
        .map(|result| (result["status"].as_i64().unwrap(), result["verdict"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(
        said,
        [(200, "valid"), (403, "denied"), (401, "expired"), (400, "-"), (400, "-"), (400, "-"), (400, "-"), (400, "-")]
    );
    for result in &results[3..] {
        assert!(result["error"].is_string(), "{result}");
    }
    assert_eq!(results[0]["subject"], "alice");
    assert_eq!(results[1]["reason"], "role");
}

#[test]
fn introspection_is_that_of_rfc_7662() {
    let world = World::start();
    let ask = |body: String| {
        Request::new("POST", "/v1/policies/shop/shop/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send(&world.dev.socket())
    };
    let minted = world.dev.mint("shop", &json!({"subject": "alice", "scopes": ["a", "b"]}));
    let answer = ask(format!("token={}&token_type_hint=access_token", minted["token"].as_str().unwrap()));
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["active"], true);
    assert_eq!(
        (&body["sub"], &body["iss"], &body["scope"]),
        (&json!("alice"), &json!("https://auth.shop.example"), &json!("a b"))
    );
    assert_eq!((&body["jti"], &body["exp"]), (&minted["token_id"], &minted["expires_at"]));
    let answer = ask("token=nonsense".into());
    assert_eq!((answer.status, answer.json()), (200, json!({"active": false})));
    assert_eq!(ask("tok=x".into()).status, 400);
    assert_eq!(ask(String::new()).status, 400);
}

#[test]
fn the_key_set_holds_every_key_that_verifies_and_can_be_cached() {
    let world = World::start();
    let path = "/v1/policies/shop/shop/jwks.json";
    let answer = Request::get(path).send(&world.dev.tcp());
    assert_eq!(answer.status, 200);
    let keys = answer.json();
    assert!(!keys["keys"].as_array().unwrap().is_empty());
    for key in keys["keys"].as_array().unwrap() {
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"), &json!("sig"))
        );
        assert!(key.get("d").is_none(), "a private key in the JWKS");
    }
    let max_age: u64 = answer
        .header("cache-control")
        .unwrap()
        .split("max-age=")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(max_age <= 300, "at most half of prepublish: {max_age}");
    let etag = answer.header("etag").unwrap().to_owned();
    let again = Request::get(path).header("if-none-match", &etag).send(&world.dev.tcp());
    assert_eq!((again.status, again.body.len()), (304, 0));
    let verify_only = Request::get("/v1/policies/shop/foreign/jwks.json").send(&world.dev.tcp());
    assert_eq!((verify_only.status, verify_only.json()), (200, json!({"keys": []})));
    assert_eq!(Request::get("/v1/policies/shop/nobody/jwks.json").send(&world.dev.tcp()).status, 404);
}

#[test]
fn listings_tell_policies_and_feed_without_secrets() {
    let world = World::start();
    let body = Request::get("/v1/policies").send(&world.dev.socket()).json();
    let policies = body["policies"].as_array().unwrap();
    let listed: Vec<&str> = policies.iter().map(|policy| policy["policy"].as_str().unwrap()).collect();
    assert_eq!(listed, ["shop/foreign", "shop/guarded", "shop/lenient", "shop/other", "shop/shop", "shop/strict"]);
    for policy in policies {
        assert_eq!(names(policy), ["digest", "generation", "keys", "loaded_at", "policy"]);
        for key in policy["keys"].as_array().unwrap() {
            for member in ["kid", "ring", "alg", "state"] {
                assert!(key[member].is_string(), "{key}");
            }
        }
    }
    let feed = Request::get("/v1/feed").send(&world.dev.socket()).json();
    assert_eq!(names(&feed), ["age_ms", "entries", "epoch", "fresh", "position", "resyncs", "writer_seen_ms"]);
    assert_eq!(feed["fresh"], true);
    let everything = format!("{body}{feed}");
    assert!(!everything.contains(std::str::from_utf8(crate::rig::LEGACY_SECRET).unwrap()));
}

#[test]
fn health_readiness_and_metrics_answer_on_their_own_port() {
    let world = World::start();
    for n in 0..3 {
        assert_eq!(world.verdict("shop", &world.partner(json!({"sub": format!("m{n}")}))).0, 200);
    }
    assert_eq!(world.verdict("shop", "x").0, 401);
    let health = world.dev.health();
    assert_eq!(Request::get("/healthz").send(&health).status, 200);
    let ready = Request::get("/readyz").send(&health);
    assert_eq!(ready.status, 200);
    assert!(ready.json().is_object());
    let metrics = Request::get("/metrics").send(&health);
    assert_eq!(metrics.status, 200);
    let text = String::from_utf8(metrics.body).unwrap();
    let value = |series: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    };
    assert!(value("countersign_verify_total{policy=\"shop/shop\",verdict=\"valid\"}") >= Some(3.0), "{text}");
    assert_eq!(value("countersign_verify_total{policy=\"shop/shop\",verdict=\"malformed\"}"), Some(1.0), "{text}");
    assert_eq!(value("countersign_feed_fresh"), Some(1.0));
    for name in [
        "countersign_verify_duration_seconds",
        "countersign_verify_cache_hits_total",
        "countersign_feed_age_seconds",
        "countersign_feed_resyncs_total",
        "countersign_revocation_lag_seconds",
        "countersign_revocation_entries",
        "countersign_bundle_generation",
        "countersign_bundle_refused_total",
        "countersign_build_info",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing:\n{text}");
    }
    for path in ["/", "/v1/feed", "/v1/policies/shop/shop/verify"] {
        assert_eq!(Request::get(path).send(&health).status, 404, "{path}");
    }
    assert_eq!(Request::get("/metrics").send(&world.dev.tcp()).status, 404, "the API's port has no metrics");
}
