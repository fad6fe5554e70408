use serde_json::json;

use super::rig::{Answer, QUICK, Rig};

const SHOP: &str = "https://shop.example";

fn told<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_answer_is_guarded_whatever_it_says() {
    let rig = Rig::new(QUICK).await;
    let answers = [
        rig.get("/.well-known/jwks.json").send().await,
        rig.get("/no/such/call").send().await,
        rig.get("/auth/login").send().await,
        rig.login("nobody", "wrong").await,
        rig.get("/").header("x-request-id", "mine").send().await,
    ];
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 404, 405, 401, 404]);
    for answer in &answers {
        assert_eq!(told(answer, "x-content-type-options"), Some("nosniff"));
        assert_eq!(told(answer, "x-frame-options"), Some("DENY"));
        assert!(told(answer, "strict-transport-security").is_some(), "the policy's issuer is https");
        assert!(told(answer, "content-security-policy").is_some_and(|csp| csp.contains("default-src 'none'")));
        assert!(told(answer, "x-request-id").is_some());
    }
    assert!(told(&answers[0], "cache-control").is_some_and(|keep| keep.starts_with("public")), "keys may be kept");
    for answer in &answers[1..] {
        assert_eq!(told(answer, "cache-control"), Some("no-store"));
    }
    assert_eq!(told(&answers[4], "x-request-id"), Some("mine"));
}

#[tokio::test]
async fn a_page_runs_by_its_own_policy_behind_the_guard() {
    let rig = Rig::new(QUICK).await;
    let page = rig.get("/auth/verify-email").send().await;
    assert!(told(&page, "content-security-policy").is_some_and(|csp| csp.contains("script-src 'sha256-")));
    assert_eq!(told(&page, "cache-control"), Some("no-store"));
}

#[tokio::test]
async fn pages_of_the_listed_origins_alone_may_call() {
    let rig = Rig::new(&format!("{QUICK}    cors: {{allowedOrigins: ['{SHOP}'], allowCredentials: true}}\n")).await;
    let asked = |origin: &str| {
        let asking = rig.options("/auth/login").header("origin", origin);
        asking.header("access-control-request-method", "POST").send()
    };
    let allowed = asked(SHOP).await;
    assert_eq!(allowed.status, 204);
    assert_eq!(told(&allowed, "access-control-allow-origin"), Some(SHOP));
    assert_eq!(told(&allowed, "access-control-allow-credentials"), Some("true"));
    assert!(told(&allowed, "access-control-allow-headers").is_some_and(|names| names.contains("x-csrf-token")));
    let refused = asked("https://evil.example").await;
    assert_eq!((refused.status.as_u16(), told(&refused, "access-control-allow-origin")), (204, None));
    for (origin, expected) in [(SHOP, Some(SHOP)), ("https://evil.example", None), ("null", None)] {
        let body = json!({"username": "nobody", "password": "wrong"});
        let answer = rig.post("/auth/login").header("origin", origin).json(body).send().await;
        assert_eq!(answer.status, 401);
        assert_eq!(told(&answer, "access-control-allow-origin"), expected, "{origin}");
        assert!(told(&answer, "vary").is_some_and(|vary| vary.contains("Origin")));
    }
    let closed = Rig::new(QUICK).await;
    let asking = closed.options("/auth/login").header("origin", SHOP).header("access-control-request-method", "POST");
    let answer = asking.send().await;
    assert_eq!((answer.status.as_u16(), told(&answer, "access-control-allow-origin")), (405, None));
}
