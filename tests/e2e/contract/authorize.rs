//! Forward-auth, header by header.

use serde_json::json;

use super::World;
use crate::http::{Answer, Request};

const HEADERS: &[&str] = &[
    "x-auth-subject",
    "x-auth-session",
    "x-auth-roles",
    "x-auth-expires",
    "x-auth-verdict",
    "x-auth-stale",
    "x-auth-status",
];

fn has_all_headers_and_no_body(answer: &Answer) {
    for name in HEADERS {
        assert!(answer.header(name).is_some(), "no {name} in {:?}", answer.headers);
    }
    assert!(answer.body.is_empty());
}

#[test]
fn a_proxy_learns_who_it_is_from_headers_that_overwrite_the_client_s() {
    let world = World::start();
    let minted = world.dev.mint("shop", &json!({"subject": "zoë, a/b", "roles": ["user", "admin"], "session_id": "s-9"}));
    let bearer = format!("Bearer {}", minted["token"].as_str().unwrap());
    let path = "/v1/policies/shop/shop/authorize";
    let answer = Request::get(path).header("authorization", &bearer).send(&world.dev.socket());
    assert_eq!(answer.status, 200);
    has_all_headers_and_no_body(&answer);
    assert_eq!(answer.header("x-auth-verdict"), Some("valid"));
    assert_eq!(answer.header("x-auth-status"), Some("200"));
    assert_eq!(answer.header("x-auth-session"), Some("s-9"));
    assert_eq!(answer.header("x-auth-roles"), Some("user,admin"));
    assert_eq!(answer.header("x-auth-expires"), Some(minted["expires_at"].to_string().as_str()));
    let subject = answer.header("x-auth-subject").unwrap();
    assert!(subject.is_ascii() && subject.starts_with("zo%C3%AB") && !subject.contains(','), "{subject}");
    assert_eq!(answer.header("x-auth-permissions"), None);
    let with =
        Request::get(&format!("{path}?headers=permissions")).header("authorization", &bearer).send(&world.dev.socket());
    assert!(with.header("x-auth-permissions").is_some());

    let refused = Request::get(path).header("authorization", "Bearer a.b.c").send(&world.dev.socket());
    assert_eq!(refused.status, 401);
    has_all_headers_and_no_body(&refused);
    assert_eq!((refused.header("x-auth-subject"), refused.header("x-auth-verdict")), (Some(""), Some("malformed")));
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));

    let missing = Request::get(path).send(&world.dev.socket());
    assert_eq!((missing.status, missing.header("x-auth-verdict")), (401, Some("missing")));
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    has_all_headers_and_no_body(&missing);
}

#[test]
fn nginx_gets_only_what_its_auth_request_understands() {
    let world = World::start();
    let answer = Request::get("/v1/policies/shop/nobody/authorize?codes=401-403").send(&world.dev.socket());
    assert_eq!((answer.status, answer.header("x-auth-status")), (403, Some("404")));
    let bearer = format!("Bearer {}", world.partner(json!({"sub": "hasty"})));
    let path = "/v1/policies/shop/guarded/authorize?codes=401-403";
    let statuses: Vec<(u16, Option<String>)> = (0..6)
        .map(|_| {
            let answer = Request::get(path)
                .header("authorization", &bearer)
                .header("x-forwarded-for", "203.0.113.7")
                .send(&world.dev.socket());
            (answer.status, answer.header("x-auth-status").map(str::to_owned))
        })
        .collect();
    assert_eq!(statuses[4], (200, Some("200".into())));
    assert_eq!(statuses[5], (403, Some("429".into())));
}

#[test]
fn rules_see_the_original_request_through_any_proxy() {
    let world = World::start();
    let subject = || format!("temp-{}", crate::forge::unique());
    let ask = |headers: &[(&str, &str)], path: &str| {
        let mut request = Request::get(path)
            .header("authorization", &format!("Bearer {}", world.partner(json!({"sub": subject()}))))
            .header("x-forwarded-for", "203.0.113.7");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.send(&world.dev.socket());
        (answer.status, answer.header("x-auth-verdict").unwrap_or_default().to_owned())
    };
    let path = "/v1/policies/shop/guarded/authorize";
    for (method, status) in [("GET", 200), ("POST", 403), ("get", 403)] {
        for name in ["x-forwarded-method", "x-original-method"] {
            assert_eq!(ask(&[(name, method)], path).0, status, "{name}: {method}");
        }
    }
    assert_eq!(ask(&[], path), (403, "denied".into()), "no method told");
    // Envoy's way: path and method are the request's own.
    let envoy = |method: &str, rest: &str, require: Option<&str>| {
        let mut request = Request::new(method, &format!("{path}{rest}"))
            .header("authorization", &format!("Bearer {}", world.partner(json!({"sub": subject()}))))
            .header("x-forwarded-for", "203.0.113.7");
        if let Some(require) = require {
            request = request.header("x-countersign-require", require);
        }
        request.send(&world.dev.socket()).status
    };
    assert_eq!(envoy("GET", "/orders?role=admin", None), 200, "the end user's query asks for nothing");
    assert_eq!(envoy("POST", "/orders", None), 403);
    assert_eq!(envoy("GET", "/orders", Some("role=admin")), 403);
    let pathy = |uri: &str| {
        Request::get(path)
            .header("authorization", &format!("Bearer {}", world.partner(json!({"sub": "pathy"}))))
            .header("x-forwarded-for", "203.0.113.7")
            .header("x-forwarded-method", "GET")
            .header("x-forwarded-uri", uri)
            .send(&world.dev.socket())
            .status
    };
    assert_eq!(pathy("/shop"), 200);
    assert_eq!(pathy("/%61dmin/users"), 403, "decoded once before rules see it");
    assert_eq!(pathy("/shop/../admin"), 403, "dot segments resolved before rules see it");
}

#[test]
fn headers_of_peers_that_are_no_proxies_count_for_nothing() {
    let policies = crate::rig::Policies::new();
    let redis = crate::rig::Redis::start();
    let dev = crate::rig::Dev::start(&policies, Some(&redis));
    let options = crate::rig::VerifierOptions {
        redis: Some(redis.url()),
        arguments: vec!["--trusted-proxies".into(), "192.0.2.0/24".into()],
        ..Default::default()
    };
    let mut verifier = crate::rig::Verifier::with(&dev.bundles(), options);
    verifier.wait_until_fresh();
    let claims = policies.partner.claims_with(json!({"sub": "temp-x"}));
    let bearer = format!("Bearer {}", policies.partner.token_of("EdDSA", &claims));
    let answer = Request::get("/v1/policies/shop/guarded/authorize")
        .header("authorization", &bearer)
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-for", "203.0.113.7")
        .send(&verifier.tcp());
    assert_eq!((answer.status, answer.header("x-auth-verdict")), (403, Some("denied")), "the method was not believed");
}
