//! API keys, OAuth, audit, figures and operations, as services and their operators call them.

use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";

async fn token_of(rig: &Rig, name: &str) -> String {
    rig.login(name, PASSWORD).await.text("access_token")
}

#[tokio::test]
async fn an_api_key_is_shown_once_works_within_its_owners_rights_and_can_be_revoked() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    rig.account("bob", PASSWORD, &["user"]).await;
    let token = token_of(&rig, "alice").await;
    let body = json!({"name": "ci", "scopes": ["orders:read"], "expires_in": 3600});
    let made = rig.post("/auth/api-keys").bearer(&token).json(body).send().await;
    assert_eq!(made.status, 201, "{}", made.body);
    let key = made.text("key");
    assert!(key.starts_with("csk_") && rig.is_good(&key).await);
    let me = rig.get("/users/me").header("x-api-key", &key).send().await;
    assert_eq!(me.body["username"], "alice", "old clients' header");
    let listed = rig.get("/auth/api-keys").bearer(&token).send().await;
    assert_eq!(listed.body["api_keys"][0]["id"], made.body["id"]);
    assert!(!listed.body.to_string().contains(&key), "never shown again");
    let path = format!("/auth/api-keys/{}", made.text("id"));
    let other = token_of(&rig, "bob").await;
    assert_eq!(rig.delete(&path).bearer(&other).send().await.refusal(), (404, "not_found"));
    let revoked = rig.delete(&path).bearer(&token).send().await;
    assert_eq!(revoked.body["revoked"], 1);
    rig.caught_up(&revoked).await;
    assert!(!rig.is_good(&key).await);
    assert!(rig.is_good(&token).await, "the session goes on");
    assert_eq!(rig.get("/auth/sessions").header("x-api-key", &key).send().await.status, 401);
}

#[tokio::test]
async fn an_api_key_beyond_its_owner_or_its_life_is_refused_with_the_field() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = token_of(&rig, "alice").await;
    for (body, named) in [
        (json!({"name": "x", "scopes": ["orders:write"]}), "orders:write"),
        (json!({"name": "x", "scopes": ["*"]}), "*"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x", "scopes": ["a b"]}), "scopes"),
        (json!({"name": "", "scopes": ["orders:read"]}), "name"),
        (json!({"name": "x", "scopes": ["orders:read"], "expires_in": 0}), "expires_in"),
        (json!({"name": "x", "scopes": ["orders:read"], "expires_in": 99_999_999}), "expires_in"),
        (json!({"scopes": ["orders:read"]}), "name"),
    ] {
        let answer = rig.post("/auth/api-keys").bearer(&token).json(body.clone()).send().await;
        assert_eq!(answer.refusal(), (422, "validation_failed"), "{body}");
        assert!(answer.text("detail").contains(named), "{body}: {}", answer.body);
    }
}

/// A policy with an OAuth client.
async fn with_client() -> Rig {
    with_client_and("").await
}

async fn with_client_and(more: &str) -> Rig {
    let client = "    clients: [{clientID: billing, secretKeyRef: {name: billing, key: secret}, scopes: ['orders:read', 'orders:list'], roles: [user]}]\n";
    Rig::with_references(&format!("{QUICK}{client}{more}"), |references| {
        references.clients.insert("billing".into(), b"a secret of the client".to_vec().into());
    })
    .await
}

async fn oauth(rig: &Rig, path: &str, form: &str) -> Answer {
    rig.post(path).header("content-type", "application/x-www-form-urlencoded").text(form).send().await
}

const CLIENT: &str = "client_id=billing&client_secret=a+secret+of+the+client";

#[tokio::test]
async fn a_service_gets_a_token_by_its_secret_and_may_introspect_and_revoke() {
    let rig = with_client().await;
    let form = format!("grant_type=client_credentials&scope=orders:read&{CLIENT}");
    let answer = oauth(&rig, "/oauth/token", &form).await;
    assert_eq!((answer.status.as_u16(), answer.text("token_type").as_str()), (200, "Bearer"), "{}", answer.body);
    assert_eq!(answer.text("scope"), "orders:read");
    let token = answer.text("access_token");
    assert!(rig.is_good(&token).await);
    let seen = oauth(&rig, "/oauth/introspect", &format!("token={token}&{CLIENT}")).await;
    assert_eq!(
        (&seen.body["active"], &seen.body["sub"], &seen.body["client_id"]),
        (&json!(true), &json!("billing"), &json!("billing"))
    );
    assert_eq!(oauth(&rig, "/oauth/revoke", &format!("token={token}&{CLIENT}")).await.status, 200);
    let gone = oauth(&rig, "/oauth/introspect", &format!("token={token}&{CLIENT}")).await;
    assert_eq!(gone.body, json!({"active": false}));
    assert_eq!(oauth(&rig, "/oauth/revoke", &format!("token=nonsense&{CLIENT}")).await.status, 200);
}

#[tokio::test]
async fn an_api_key_that_a_client_ends_is_told_of_with_the_client() {
    let rig = with_client().await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let token = token_of(&rig, "alice").await;
    let body = json!({"name": "ci", "scopes": ["orders:read"]});
    let key = rig.post("/auth/api-keys").bearer(&token).json(body).send().await;
    for _ in 0..2 {
        let ended = oauth(&rig, "/oauth/revoke", &format!("token={}&{CLIENT}", key.text("key"))).await;
        assert_eq!(ended.status, 200, "{}", ended.body);
    }
    let filter = countersign_store::AuditFilter { limit: 1000, ..Default::default() };
    let events = rig.store.audit(rig.name(), &filter).await.unwrap();
    let told: Vec<_> = events.iter().filter(|kept| kept.event.kind == "API_KEY_REVOKED").collect();
    assert_eq!(told.len(), 1, "once");
    assert_eq!(told[0].event.subject.as_deref(), Some(alice.id.as_str()));
    let details: Value = serde_json::from_str(&told[0].event.details).unwrap();
    assert_eq!((&details["id"], &details["client_id"]), (&key.body["id"], &json!("billing")));
}

#[tokio::test]
async fn a_client_is_no_account_whatever_that_is_called() {
    let rig = with_client().await;
    let account = rig.account("alice", PASSWORD, &["user"]).await;
    let namesake = countersign_store::User { id: "billing".into(), username: None, email: None, ..account };
    countersign_store::transact!(&*rig.store, |tx| { tx.insert_user(&namesake).await }).unwrap();
    let token = oauth(&rig, "/oauth/token", &format!("grant_type=client_credentials&{CLIENT}")).await.text("access_token");
    for path in ["/users/me", "/userinfo"] {
        assert_eq!(rig.get(path).bearer(&token).send().await.refusal(), (401, "invalid_token"), "{path}");
    }
    let row = json!({"key": "1", "id": "billing", "username": "bill", "email": "bill@old.example", "email_verified": true});
    let rows = json!({"mode": "run", "source": "old.db", "rows": [row]});
    let path = "/admin/v1/policies/shop/shop/imports/old-shop/rows";
    let answer = rig.post(path).json(rows).over_admin_socket().send().await;
    assert_eq!(answer.body["results"][0]["reason"], "id: an OAuth client of the policy has it", "{}", answer.body);
}

#[tokio::test]
async fn a_token_that_rules_allow_nothing_without_a_request_is_active_until_its_session_ends() {
    let rig = with_client_and("  rules: [{name: by-path, expression: \"request.path.startsWith('/closed')\"}]\n").await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = token_of(&rig, "alice").await;
    let active = async || oauth(&rig, "/oauth/introspect", &format!("token={token}&{CLIENT}")).await.body["active"].clone();
    assert_eq!(active().await, json!(true), "nobody tells of a request");
    // The feed can't tell; what is kept here does.
    rig.take_feed_away();
    assert_eq!(rig.post("/auth/logout").bearer(&token).send().await.status, 202);
    assert_eq!(active().await, json!(false));
}

#[tokio::test]
async fn oauths_errors_are_oauths_own() {
    let rig = with_client().await;
    for (form, status, error) in [
        ("grant_type=client_credentials&client_id=billing&client_secret=wrong".to_owned(), 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=other&client_secret=x".to_owned(), 401, "invalid_client"),
        ("grant_type=client_credentials".to_owned(), 401, "invalid_client"),
        (format!("grant_type=password&{CLIENT}"), 400, "unsupported_grant_type"),
        (CLIENT.to_owned(), 400, "invalid_request"),
        (format!("grant_type=client_credentials&scope=orders:write&{CLIENT}"), 400, "invalid_scope"),
        (format!("grant_type=client_credentials&grant_type=refresh_token&{CLIENT}"), 400, "invalid_request"),
        ("grant_type=refresh_token&refresh_token=csr_nonsense".to_owned(), 400, "invalid_grant"),
    ] {
        let answer = oauth(&rig, "/oauth/token", &form).await;
        assert_eq!(answer.refusal(), (status, error), "{form}");
        assert!(answer.body["error_description"].is_string());
    }
    let json = rig.post("/oauth/token").json(json!({"grant_type": "client_credentials"})).send().await;
    assert_eq!(json.refusal(), (400, "invalid_request"));
    let basic = rig.post("/oauth/token").header("authorization", "Basic nonsense");
    let answer = basic
        .header("content-type", "application/x-www-form-urlencoded")
        .text("grant_type=client_credentials")
        .send()
        .await;
    assert_eq!(answer.refusal(), (401, "invalid_client"));
    assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Basic"));
}

#[tokio::test]
async fn a_users_refresh_token_needs_no_client() {
    let rig = with_client().await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let form = format!("grant_type=refresh_token&refresh_token={}", login.text("refresh_token"));
    let answer = oauth(&rig, "/oauth/token", &form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(rig.is_good(&answer.text("access_token")).await);
    let revoke = format!("token={}&{CLIENT}", answer.text("refresh_token"));
    assert_eq!(oauth(&rig, "/oauth/revoke", &revoke).await.status, 200);
    let again = format!("grant_type=refresh_token&refresh_token={}", answer.text("refresh_token"));
    assert_eq!(oauth(&rig, "/oauth/token", &again).await.refusal(), (400, "invalid_grant"));
}

#[tokio::test]
async fn discovery_names_what_is_there() {
    let rig = with_client().await;
    let body = rig.get("/.well-known/oauth-authorization-server").send().await.body;
    assert_eq!(body["token_endpoint"], "https://auth.shop.example/oauth/token");
    assert_eq!(body["scopes_supported"], json!(["orders:list", "orders:read"]));
    assert_eq!(body["authorization_endpoint"], Value::Null);
}

#[tokio::test]
async fn the_trail_is_read_page_by_page_with_the_permission_alone() {
    let rig = Rig::new(QUICK).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    rig.login("alice", "wrong").await;
    let admin = token_of(&rig, "root").await;
    let user = token_of(&rig, "alice").await;
    assert_eq!(rig.get("/auth/audit").bearer(&user).send().await.refusal(), (403, "forbidden"));
    assert_eq!(rig.get("/auth/audit").send().await.refusal(), (401, "invalid_token"));
    let (mut kinds, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("/auth/audit?limit=1{cursor}")).bearer(&admin).send().await;
        let Some(event) = page.body["events"].get(0) else { break };
        kinds.push(event["event_type"].as_str().unwrap().to_owned());
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(kinds, ["LOGIN_SUCCEEDED", "LOGIN_SUCCEEDED", "LOGIN_FAILED"]);
    let suspicious = rig.get("/auth/audit/suspicious").bearer(&admin).send().await;
    assert_eq!(suspicious.body["events"].as_array().unwrap().len(), 1);
    assert_eq!(suspicious.body["events"][0]["ip"], "203.0.113.7");
    for (query, count) in [
        ("event_type=login_failed", 1),
        ("severity=warning", 1),
        ("ip=203.0.113.7", 3),
        ("ip=192.0.2.1", 0),
        ("until=1", 0),
        ("since=1", 3),
    ] {
        let page = rig.get(&format!("/auth/audit?{query}")).bearer(&admin).send().await;
        assert_eq!(page.body["events"].as_array().unwrap().len(), count, "{query}");
    }
    for query in ["severity=loud", "cursor=nonsense", "limit=0", "since=soon"] {
        let page = rig.get(&format!("/auth/audit?{query}")).bearer(&admin).send().await;
        assert_eq!(page.refusal(), (422, "validation_failed"), "{query}");
    }
}

#[tokio::test]
async fn figures_and_operations_say_what_is_so() {
    let rig = Rig::new(QUICK).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    for _ in 0..5 {
        rig.login("alice", "wrong").await;
    }
    let admin = token_of(&rig, "root").await;
    let get = async |path: &str| rig.get(path).bearer(&admin).send().await.body;
    assert_eq!(get("/auth/stats/active-users").await["active_users"], 1);
    let attempts = get("/auth/stats/login-attempts").await;
    assert_eq!((&attempts["succeeded"], &attempts["failed"]), (&json!(1), &json!(5)));
    assert_eq!(get("/auth/stats/locked-accounts").await["accounts"][0]["id"], json!(alice.id));
    assert_eq!(get("/auth/stats/sessions").await["active_sessions"], 1);
    let health = rig.get("/api/v1/auth/health").send().await;
    assert_eq!((health.status.as_u16(), health.text("status").as_str()), (200, "healthy"), "{}", health.body);
    assert_eq!(health.body["metrics"]["active_sessions"], 1);
    assert_eq!(get("/api/v1/auth/session-status").await["active"], true);
    assert_eq!(get("/api/v1/auth/metrics").await["failed_logins_24h"], 5);
    assert_eq!(get("/api/v1/auth/security-dashboard").await["locked_accounts"], 1);
    let report = get("/api/v1/auth/debug-report").await;
    assert_eq!(report["policy"], "shop/shop");
    assert!(!report.to_string().contains("pkcs8"));
    let ask = async |path: &str, body: Value| rig.post(path).bearer(&admin).json(body).send().await.body;
    assert_eq!(ask("/api/v1/auth/validate-token", json!({"token": admin})).await["valid"], true);
    assert_eq!(ask("/api/v1/auth/validate-token", json!({"token": "nonsense"})).await["valid"], false);
    let found = ask("/api/v1/auth/diagnose", json!({"user_id": "alice", "ip": "203.0.113.7"})).await;
    let shut: Vec<_> = found["gates"].as_array().unwrap().iter().filter(|gate| gate["open"] == json!(false)).collect();
    // Nobody verifies here, which is told of as well.
    assert_eq!(shut.iter().map(|gate| gate["gate"].as_str().unwrap()).collect::<Vec<_>>(), ["lockout", "verifiers"]);
    assert!(shut[0]["fix"].as_str().unwrap().starts_with("countersign users unlock"));
    for path in ["metrics", "security-dashboard", "debug-report"] {
        assert_eq!(rig.get(&format!("/api/v1/auth/{path}")).send().await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_policy_that_asks_where_requests_come_from_is_told_so_and_still_lets_log_out() {
    let yaml =
        super::rig::policy_yaml(QUICK).replace("  roles:", "  clientAddresses: {allow: ['203.0.113.0/24']}\n  roles:");
    let rig = Rig::of(&yaml).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = token_of(&rig, "alice").await;
    assert_eq!(rig.get("/users/me").bearer(&token).send().await.status, 200);
    assert_eq!(rig.get("/users/me").bearer(&token).from("198.51.100.9").send().await.status, 403);
    assert_eq!(rig.post("/auth/logout").bearer(&token).send().await.status, 200);
}

#[tokio::test]
async fn an_api_key_says_no_more_than_its_owner_may_when_it_is_issued() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let call = crate::call::Call {
        issuer: rig.issuer.clone(),
        policy: rig.policy.clone(),
        actor: None,
        counted_by: crate::limits::CountedBy::default(),
        client: crate::client::Client {
            ip: [203, 0, 113, 7].into(),
            user_agent: None,
            request_id: "r".into(),
            device: String::new(),
        },
    };
    // As of a request that was let in before, and whose body came after.
    let login = rig.login("alice", PASSWORD).await;
    let disabled = rig
        .patch(&format!("/admin/v1/policies/shop/shop/users/{}", alice.id))
        .json(json!({"status": "disabled"}))
        .over_admin_socket()
        .send()
        .await;
    assert_eq!(disabled.status, 200);
    let session = login.text("session_id");
    let scopes = vec!["orders:read".to_owned()];
    let made = crate::public::make_api_key(&call, &alice.id, Some(&session), "ci".into(), scopes, None).await;
    assert!(made.unwrap_err().is("invalid_token"));
}

#[tokio::test]
async fn every_refusal_of_oauths_calls_is_in_its_words() {
    let rig = with_client().await;
    let form = "application/x-www-form-urlencoded";
    let large = format!("token={}", "x".repeat(70_000));
    let nul = "grant_type=refresh_token&refresh_token=%00";
    for (asking, status, error) in [
        (rig.get("/oauth/token"), 405, "invalid_request"),
        (rig.get("/oauth/introspect"), 405, "invalid_request"),
        (rig.post("/oauth/revoke").header("content-type", form).text(&large), 413, "invalid_request"),
        (rig.post("/oauth/token").header("content-type", form).text(nul), 400, "invalid_grant"),
        (rig.get("/userinfo"), 401, "invalid_token"),
        (rig.get("/userinfo").bearer("nonsense"), 401, "invalid_token"),
        (rig.delete("/userinfo"), 405, "method_not_allowed"),
    ] {
        let answer = asking.send().await;
        assert_eq!(answer.refusal(), (status, error), "{}", answer.body);
        assert!(answer.body["error_description"].is_string(), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_client_learns_of_a_refresh_token_whether_it_is_good() {
    let rig = with_client().await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let ask = async |token: &str| {
        let text = format!("token={token}&client_id=billing&client_secret=a+secret+of+the+client");
        let asking = rig.post("/oauth/introspect").header("content-type", "application/x-www-form-urlencoded");
        asking.text(&text).send().await.body
    };
    let first = login.text("refresh_token");
    let told = ask(&first).await;
    assert_eq!((&told["active"], &told["sub"]), (&json!(true), &json!(alice.id)), "{told}");
    assert_eq!((&told["sid"], &told["token_type"]), (&login.body["session_id"], &json!("refresh_token")));
    let refresh = async |token: &str| rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await;
    let second = refresh(&first).await.text("refresh_token");
    assert_eq!(ask(&second).await["active"], true);
    let third = refresh(&second).await.text("refresh_token");
    assert_eq!(ask(&first).await, json!({"active": false}), "whoever shows it again is taken for a thief");
    assert_eq!(ask(&third).await["active"], true, "asking used nothing up");
    rig.post("/auth/logout").bearer(&login.text("access_token")).send().await;
    for token in [&third, &format!("csr_{}", "A".repeat(43))] {
        assert_eq!(ask(token).await, json!({"active": false}));
    }
}

#[tokio::test]
async fn libraries_of_openid_connect_find_what_they_demand_of_metadata() {
    let rig = Rig::new(QUICK).await;
    let openid = rig.get("/.well-known/openid-configuration").send().await.body;
    assert_eq!(openid["subject_types_supported"], json!(["public"]));
    assert_eq!(openid["id_token_signing_alg_values_supported"], json!(["EdDSA"]));
    let oauth = rig.get("/.well-known/oauth-authorization-server").send().await.body;
    assert_eq!(oauth["subject_types_supported"], Value::Null, "RFC 8414 knows none");
    assert_eq!(oauth["jwks_uri"], openid["jwks_uri"]);
}

#[tokio::test]
async fn health_without_its_database_has_every_figure_and_none_of_them_is_known() {
    let rig = Rig::new(QUICK).await.alone();
    rig.store.close().await;
    let health = rig.get("/api/v1/auth/health").send().await;
    assert_eq!((health.status.as_u16(), health.text("status").as_str()), (200, "unhealthy"), "{}", health.body);
    assert_eq!(health.body["components"]["database"]["status"], "unhealthy");
    let none = json!({"active_sessions": null, "cached_tokens": null, "blocked_ips": null, "security_incidents_24h": null});
    assert_eq!(health.body["metrics"], none);
}
