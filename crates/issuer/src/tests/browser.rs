use std::collections::BTreeMap;

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
async fn a_name_that_is_not_trusted_is_answered_by_nobody() {
    let rig = Rig::named(&["auth.shop.example", "127.0.0.1"]).await;
    for (host, status) in [("auth.shop.example", 200), ("127.0.0.1:7490", 200), ("evil.example", 400)] {
        let answer = rig.get("/.well-known/jwks.json").header("host", host).send().await;
        assert_eq!(answer.status.as_u16(), status, "{host}");
        assert_eq!(told(&answer, "x-content-type-options"), Some("nosniff"));
    }
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

const PASSWORD: &str = "correct horse battery staple";
const COOKIES: &str = "    cookies: {mode: Enabled}\n";

/// What a browser holds.
#[derive(Clone, Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    fn take(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            for part in ["HttpOnly", "Secure", "Path=/", "SameSite=Lax"] {
                assert!(line.contains(part), "{line}");
            }
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            if line.contains("Max-Age=0") {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn header(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn access(&self) -> &str {
        &self.0["__Host-cs_access"]
    }
}

async fn cookie_login(rig: &Rig, jar: &mut Jar) -> Answer {
    let body = json!({"username": "alice", "password": PASSWORD, "cookies": true});
    let answer = rig.post("/auth/login").header("cookie", &jar.header()).json(body).send().await;
    jar.take(&answer);
    answer
}

async fn csrf(rig: &Rig, jar: &Jar) -> String {
    let answer = rig.get("/auth/csrf").header("cookie", &jar.header()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.text("csrf_token")
}

#[tokio::test]
async fn a_page_whose_access_cookie_has_run_out_logs_out_by_its_refresh_cookie() {
    let rig = Rig::new(&format!("{QUICK}{COOKIES}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let mut jar = Jar::default();
    cookie_login(&rig, &mut jar).await;
    let (token, access) = (csrf(&rig, &jar).await, jar.access().to_owned());
    jar.0.remove("__Host-cs_access");
    let logout = async |jar: &Jar, token: &str| {
        let asking = rig.post("/auth/logout").header("cookie", &jar.header()).header("x-csrf-token", token);
        asking.send().await
    };
    assert_eq!(logout(&jar, "nonsense").await.refusal(), (403, "csrf_failed"));
    let done = logout(&jar, &token).await;
    assert_eq!((done.status.as_u16(), &done.body["revoked"]), (200, &json!(1)), "{}", done.body);
    rig.caught_up(&done).await;
    assert!(!rig.is_good(&access).await);
    assert_eq!(logout(&jar, &token).await.refusal(), (401, "invalid_token"), "it is over");
    jar.take(&done);
    assert_eq!(jar.0.keys().collect::<Vec<_>>(), ["__Host-cs_device"]);
    let with_key = rig.post("/auth/logout").bearer("nonsense").header("cookie", &jar.header()).send().await;
    assert_eq!(with_key.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn a_login_with_cookies_hides_its_tokens_from_the_page() {
    let rig = Rig::new(&format!("{QUICK}{COOKIES}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let mut jar = Jar::default();
    let answer = cookie_login(&rig, &mut jar).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for hidden in ["access_token", "refresh_token", "device_token"] {
        assert!(answer.body.get(hidden).is_none(), "{hidden}");
    }
    assert_eq!(answer.body["expires_in"], 900);
    assert_eq!(jar.0.len(), 3);
    assert!(rig.is_good(jar.access()).await);
    let me = rig.get("/users/me").header("cookie", &jar.header()).send().await;
    assert_eq!((me.status.as_u16(), me.text("username")), (200, "alice".to_owned()));
    cookie_login(&rig, &mut jar).await;
    assert!(!rig.events().await.contains(&"NEW_DEVICE".to_owned()), "the device is known by its cookie");
    let twice = format!("{}; __Host-cs_access=planted", jar.header());
    assert_eq!(rig.get("/users/me").header("cookie", &twice).send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn no_page_of_another_origin_puts_its_visitors_into_an_account_of_its_choice() {
    let cors = format!("    cors: {{allowedOrigins: ['{SHOP}'], allowCredentials: true}}\n");
    let rig = Rig::new(&format!("{QUICK}{COOKIES}{cors}")).await;
    rig.account("eve", PASSWORD, &["user"]).await;
    let json = json!({"username": "eve", "password": PASSWORD, "cookies": true}).to_string();
    let form = "username=eve&password=correct+horse+battery+staple&cookies=true";
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("origin", SHOP, 200),
        ("origin", "https://auth.shop.example", 200),
        ("sec-fetch-site", "same-origin", 200),
        ("x-other", "a client that is no browser", 200),
    ] {
        for (typ, body) in [("text/plain", json.as_str()), ("application/x-www-form-urlencoded", form)] {
            let asking = rig.post("/auth/login").header("content-type", typ).header(header, value).text(body);
            let answer = asking.send().await;
            assert_eq!(answer.status.as_u16(), status, "{header} {value} {typ}: {}", answer.body);
            assert_eq!(answer.headers.contains_key("set-cookie"), status == 200);
            assert!(status == 200 || answer.body["error"] == "csrf_failed");
        }
    }
    let body = json!({"username": "eve", "password": PASSWORD});
    let plain = rig.post("/auth/login").header("origin", "https://evil.example").json(body).send().await;
    assert_eq!(plain.status, 200, "without cookies nothing of the visitor's changes");
}

#[tokio::test]
async fn a_policy_without_cookies_takes_and_gives_none() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let mut jar = Jar::default();
    assert_eq!(cookie_login(&rig, &mut jar).await.refusal(), (422, "validation_failed"));
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let me = rig.get("/users/me").header("cookie", &format!("__Host-cs_access={token}")).send().await;
    assert_eq!(me.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn a_cookie_changes_nothing_without_its_own_sessions_csrf_token() {
    let rig = Rig::new(&format!("{QUICK}{COOKIES}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let (mut jar, mut other) = (Jar::default(), Jar::default());
    cookie_login(&rig, &mut jar).await;
    cookie_login(&rig, &mut other).await;
    let (own, foreign) = (csrf(&rig, &jar).await, csrf(&rig, &other).await);
    for (token, status) in [(None, 403), (Some("nonsense"), 403), (Some(foreign.as_str()), 403), (Some(&own), 200)] {
        let mut asking = rig.patch("/users/me").header("cookie", &jar.header()).json(json!({"first_name": "Al"}));
        if let Some(token) = token {
            asking = asking.header("x-csrf-token", token);
        }
        let answer = asking.send().await;
        assert_eq!(answer.status.as_u16(), status, "{token:?}: {}", answer.body);
        assert!(status == 200 || answer.body["error"] == "csrf_failed");
    }
    let by_bearer = rig.patch("/users/me").bearer(jar.access()).json(json!({"first_name": "Bo"})).send().await;
    assert_eq!(by_bearer.status, 200, "what no browser sends by itself needs no token beside it");
    assert_eq!(rig.get("/users/me").bearer(&own).send().await.status, 401, "and it is no credential");
}

#[tokio::test]
async fn a_session_of_cookies_is_refreshed_and_ended_by_them() {
    let rig = Rig::new(&format!("{QUICK}{COOKIES}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let mut jar = Jar::default();
    cookie_login(&rig, &mut jar).await;
    let before = jar.clone();
    let forged = rig.post("/auth/refresh").header("cookie", &jar.header()).send().await;
    assert_eq!(forged.refusal(), (403, "csrf_failed"));
    jar.0.remove("__Host-cs_access");
    let token = csrf(&rig, &jar).await;
    let asking = rig.post("/auth/refresh").header("cookie", &jar.header()).header("x-csrf-token", &token);
    let renewed = asking.send().await;
    assert_eq!(renewed.status, 200, "a refused use has used nothing up: {}", renewed.body);
    assert!(renewed.body.get("access_token").is_none() && renewed.body.get("refresh_token").is_none());
    jar.take(&renewed);
    assert_ne!(jar.0["__Host-cs_refresh"], before.0["__Host-cs_refresh"]);
    assert_eq!(rig.post("/auth/refresh").send().await.refusal(), (401, "invalid_refresh_token"));
    assert_eq!(rig.post("/auth/refresh").json(json!({})).send().await.refusal(), (422, "validation_failed"));
    let access = jar.access().to_owned();
    let asking = rig.post("/auth/logout").header("cookie", &jar.header()).header("x-csrf-token", &token);
    let over = asking.send().await;
    assert_eq!(over.status, 200, "{}", over.body);
    jar.take(&over);
    assert_eq!(jar.0.keys().collect::<Vec<_>>(), ["__Host-cs_device"]);
    assert!(!rig.is_good(&access).await);
}
