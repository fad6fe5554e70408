//! `authorize`: what proxies send and read.

use countersign_api::bundle::{BundleKey, RingName};
use countersign_core::{mint, revocation::Kind, ring::KeyState};
use serde_json::json;

use crate::{
    rig::{
        AUDIENCE, Bundles, ISSUER, Rig, TestFeed, api_key, entry, eventually, fat_token, keys, now, rule, section, token,
        token_with,
    },
    wire::Answer,
};

const PATH: &str = "/v1/policies/shop/shop/authorize";
const ALWAYS: [&str; 7] = [
    "x-auth-subject",
    "x-auth-session",
    "x-auth-roles",
    "x-auth-expires",
    "x-auth-verdict",
    "x-auth-stale",
    "x-auth-status",
];

async fn rig() -> (Bundles, Rig) {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.rules = vec![rule("'temp' in roles && (request.method != 'GET' || request.path == '/secret')")];
    verify.cookie_prefix = Some("__Host-cs_".into());
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    (bundles, rig)
}

async fn ask(rig: &Rig, target: &str, headers: &[(&str, &str)]) -> Answer {
    let answer = rig.unix().await.ask("GET", target, headers, "").await;
    assert!(answer.body.is_empty());
    for name in ALWAYS {
        assert!(answer.header(name).is_some(), "{name} is missing from {answer:?}");
    }
    answer
}

fn seen(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("x-auth-verdict").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_request_names_whom_it_is_from() {
    let (_bundles, rig) = rig().await;
    let bearer = format!("Bearer {}", token());
    let answer = ask(&rig, PATH, &[("Authorization", &bearer)]).await;
    assert_eq!(seen(&answer), (200, "valid"));
    let header = |name| answer.header(name).unwrap();
    assert_eq!((header("x-auth-subject"), header("x-auth-session"), header("x-auth-roles")), ("alice", "s1", "user"));
    assert_eq!((header("x-auth-stale"), header("x-auth-status")), ("true", "200"));
    assert!(header("x-auth-expires").parse::<i64>().unwrap() > now().as_secs());
    assert_eq!(answer.header("x-auth-permissions"), None);
    let shown =
        ask(&rig, &format!("{PATH}?headers=permissions"), &[("authorization", &bearer.replace("Bearer", "bEARER"))]).await;
    assert_eq!(shown.header("x-auth-permissions"), Some("orders:read"));
    let key = api_key(&["orders:read"]);
    assert_eq!(seen(&ask(&rig, PATH, &[("X-API-Key", &key)]).await), (200, "valid"));
    let fat = format!("Bearer {}", fat_token(20));
    let encoded = ask(&rig, PATH, &[("Authorization", &fat)]).await;
    assert_eq!(encoded.header("x-auth-subject"), Some("alice%2C%20the%20%C3%BCnique"));
    assert_eq!(encoded.header("x-auth-truncated"), None);
    let fatter = format!("Bearer {}", fat_token(900));
    let cut = ask(&rig, PATH, &[("Authorization", &fatter)]).await;
    assert_eq!((cut.status, cut.header("x-auth-truncated")), (200, Some("1")));
    let size: usize = cut.headers.iter().filter(|(n, _)| n.starts_with("x-auth-")).map(|(n, v)| n.len() + v.len()).sum();
    assert!(size <= 4096 && size > 3900, "{size}");
    assert!(cut.header("x-auth-roles").unwrap().ends_with(|c: char| c.is_ascii_digit()));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_never_passed_over_for_the_next() {
    let (_bundles, rig) = rig().await;
    let bearer = format!("Bearer {}", token());
    let key = api_key(&[]);
    let cookie = format!("a=b; __Host-cs_access={}", token());
    for (headers, expected) in [
        (vec![], (401, "missing")),
        (vec![("Authorization", "Basic YTpi")], (401, "missing")),
        (vec![("Authorization", "Basic YTpi"), ("X-API-Key", key.as_str())], (200, "valid")),
        (vec![("Authorization", "Bearer")], (401, "malformed")),
        (vec![("Authorization", "Bearer ")], (401, "malformed")),
        (vec![("Authorization", "Bearer x"), ("X-API-Key", &key)], (401, "malformed")),
        (vec![("X-API-Key", "")], (401, "malformed")),
        (vec![("Authorization", &bearer), ("Authorization", &bearer)], (400, "")),
        (vec![("X-API-Key", &key), ("X-API-Key", &key)], (400, "")),
        (vec![("Cookie", &cookie), ("X-Forwarded-Method", "GET")], (200, "valid")),
        (vec![("Cookie", &cookie), ("X-Forwarded-Method", "POST")], (403, "denied")),
        (vec![("Cookie", &cookie)], (403, "denied")),
        (vec![("Cookie", "__Host-cs_access=x"), ("X-Forwarded-Method", "POST")], (401, "malformed")),
        (vec![("Cookie", "__Host-cs_access=x; __Host-cs_access=y")], (401, "malformed")),
        (vec![("Cookie", "access=x")], (401, "missing")),
    ] {
        let answer = ask(&rig, PATH, &headers).await;
        assert_eq!(seen(&answer), expected, "{headers:?}");
        let challenge = match expected {
            (401, "missing") => Some("Bearer"),
            (401, _) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        };
        assert_eq!(answer.header("www-authenticate"), challenge, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_may_change_things_with_its_own_session_s_csrf_token_only() {
    let (_bundles, rig) = rig().await;
    let cookie = format!("__Host-cs_access={}", token());
    let csrf = |session: &str, exp: i64, typ: &str| {
        let claims = json!({"iss": ISSUER, "sid": session, "exp": now().as_secs() + exp, "aud": AUDIENCE});
        mint::sign(&keys().access, typ, claims.as_object().unwrap()).unwrap()
    };
    for (token, status) in [
        (csrf("s1", 60, "csrf+jwt"), 200),
        (csrf("s2", 60, "csrf+jwt"), 403),
        (csrf("s1", -60, "csrf+jwt"), 403),
        (csrf("s1", 60, "at+jwt"), 403),
        ("x".into(), 403),
    ] {
        let headers = [("Cookie", cookie.as_str()), ("X-Forwarded-Method", "DELETE"), ("X-CSRF-Token", &token)];
        assert_eq!(ask(&rig, PATH, &headers).await.status, status);
    }
    let as_credential = format!("Bearer {}", csrf("s1", 60, "csrf+jwt"));
    assert_eq!(seen(&ask(&rig, PATH, &[("Authorization", &as_credential)]).await).0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csrf_token_dies_with_its_key() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.cookie_prefix = Some("__Host-cs_".into());
    let jwk = keys().next.public_jwk().clone();
    verify.keys.push(BundleKey { ring: RingName::Access, state: KeyState::Retiring, jwk });
    bundles.put_policy("shop/shop", 1, verify);
    let feed = TestFeed::new().await;
    let rig = Rig::with(&bundles, feed.follow(), |_| {}).await;
    let claims = json!({"iss": ISSUER, "sid": "s1", "exp": now().as_secs() + 60});
    let csrf = mint::sign(&keys().next, "csrf+jwt", claims.as_object().unwrap()).unwrap();
    let cookie = format!("__Host-cs_access={}", token());
    let headers = [("Cookie", cookie.as_str()), ("X-Forwarded-Method", "DELETE"), ("X-CSRF-Token", &csrf)];
    assert_eq!(seen(&ask(&rig, PATH, &headers).await), (200, "valid"));
    feed.revoke(entry("shop/shop", Kind::Key, keys().next.kid())).await;
    eventually("refused", async || seen(&ask(&rig, PATH, &headers).await) == (403, "denied")).await;
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    assert!(!metrics.contains("verdict=\"denied\"} 0") && metrics.contains("verdict=\"denied\"}"), "{metrics}");
    assert_eq!(rig.word(&token()).await.0, 200, "the other key's tokens are good");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_before_the_question_is_told_in_headers_too() {
    let (_bundles, rig) = rig().await;
    let long = "x".repeat(17 << 10);
    assert_eq!(seen(&ask(&rig, PATH, &[("X-Long", &long)]).await), (431, ""));
    assert_eq!(seen(&ask(&rig, &format!("{PATH}?{}", "x".repeat(9 << 10)), &[]).await), (414, ""));
    assert_eq!(seen(&ask(&rig, PATH, &[("Host", "other")]).await), (400, ""));
    let bearer = format!("Bearer {}", token());
    let fragment = [("Authorization", bearer.as_str()), ("X-Forwarded-Uri", "/a#/../b")];
    assert_eq!(seen(&ask(&rig, PATH, &fragment).await), (400, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_see_the_original_request_and_only_trusted_proxies_tell_it() {
    let (_bundles, rig) = rig().await;
    let temp = format!("Bearer {}", token_with(&keys().access, &json!({"roles": ["temp"]})));
    let with = |more: &[(&'static str, &'static str)]| {
        let mut headers = vec![("Authorization", temp.as_str())];
        headers.extend_from_slice(more);
        headers
    };
    for (headers, expected) in [
        (with(&[]), (403, "denied")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a")]), (200, "valid")),
        (with(&[("X-Original-Method", "GET"), ("X-Original-URL", "https://h/a?b")]), (200, "valid")),
        (with(&[("X-Forwarded-Method", "POST"), ("X-Forwarded-Uri", "/a")]), (403, "denied")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/secret")]), (403, "denied")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/%73ecret")]), (403, "denied")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a/../secret?x")]), (403, "denied")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a%2f..%2fsecret")]), (400, "")),
        (with(&[("X-Forwarded-Method", "GET"), ("X-Original-Method", "POST")]), (400, "")),
        (with(&[("X-Forwarded-For", "nobody")]), (400, "")),
    ] {
        assert_eq!(seen(&ask(&rig, PATH, &headers).await), expected, "{headers:?}");
    }
    // Envoy's way: the request is the question.
    assert_eq!(seen(&ask(&rig, &format!("{PATH}/a?permission=nothing"), &with(&[])).await), (200, "valid"));
    assert_eq!(seen(&ask(&rig, &format!("{PATH}/secret"), &with(&[("X-Forwarded-Uri", "/a")])).await), (403, "denied"));
    assert_eq!(seen(&ask(&rig, &format!("{PATH}/a%5cb"), &with(&[])).await), (400, ""));
    let posted = rig.unix().await.ask("POST", &format!("{PATH}/a"), &with(&[]), "some body").await;
    assert_eq!(seen(&posted), (403, "denied"));

    let bundles = Bundles::new();
    let mut verify = section();
    verify.rules = vec![rule("request.method == 'POST'")];
    bundles.put_policy("shop/shop", 1, verify);
    let distrustful = Rig::with(&bundles, countersign_verifier::Feed::Without, |config| {
        config.trusted_proxies = "10.0.0.0/8".parse().unwrap();
    })
    .await;
    let answer = distrustful
        .tcp()
        .await
        .ask("GET", PATH, &with(&[("X-Forwarded-Method", "GET"), ("X-Forwarded-For", "junk")]), "")
        .await;
    assert_eq!(seen(&answer), (403, "denied"), "the method isn't known");
    let metrics = String::from_utf8(distrustful.health("/metrics").await.body).unwrap();
    assert!(metrics.contains("countersign_forwarded_headers_ignored_total 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_address_comes_past_trusted_proxies() {
    let bundles = Bundles::new();
    let mut verify = section();
    verify.allow = vec!["203.0.113.0/24".parse().unwrap()];
    bundles.put_policy("shop/shop", 1, verify);
    let rig = Rig::on(&bundles).await;
    let bearer = format!("Bearer {}", token());
    for (chain, status) in
        [("203.0.113.7", 200), ("203.0.113.7, 127.0.0.1", 200), ("203.0.113.7, 198.51.100.1", 403), ("127.0.0.1", 403)]
    {
        assert_eq!(
            ask(&rig, PATH, &[("Authorization", &bearer), ("X-Forwarded-For", chain)]).await.status,
            status,
            "{chain}"
        );
    }
    assert_eq!(ask(&rig, PATH, &[("Authorization", &bearer)]).await.status, 403, "the socket has no address");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_add_up_and_statuses_suit_nginx() {
    let (_bundles, rig) = rig().await;
    let bearer = format!("Bearer {}", token());
    let auth = ("Authorization", bearer.as_str());
    for (target, more, expected) in [
        (format!("{PATH}?permission=orders:read&role=user&scope=orders&audience={AUDIENCE}"), None, (200, "valid", "200")),
        (format!("{PATH}?permission=orders:read&permission=orders:write"), None, (403, "denied", "403")),
        (format!("{PATH}?permission=orders%3Aread"), Some("role=admin"), (403, "denied", "403")),
        (PATH.to_owned(), Some("role=user&permission=orders:read"), (200, "valid", "200")),
        (format!("{PATH}/x?role=admin"), Some("role=user"), (200, "valid", "200")),
        (format!("{PATH}?permission="), None, (400, "", "400")),
        (PATH.to_owned(), Some("rolle=user"), (400, "", "400")),
        ("/v1/policies/no/no/authorize".into(), None, (404, "", "404")),
        ("/v1/policies/no/no/authorize?codes=401-403".into(), None, (403, "", "404")),
        (format!("{PATH}?codes=401-403&role=admin"), None, (403, "denied", "403")),
    ] {
        let mut headers = vec![auth];
        headers.extend(more.map(|value| ("X-Countersign-Require", value)));
        let answer = ask(&rig, &target, &headers).await;
        let told = (answer.status, answer.header("x-auth-verdict").unwrap(), answer.header("x-auth-status").unwrap());
        assert_eq!(told, expected, "{target} {more:?}");
    }
}
