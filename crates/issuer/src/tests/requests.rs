//! Requests as people, forms and scripts write them, and where they may come from.

use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig, policy_yaml};

const PASSWORD: &str = "correct horse battery staple";
const HERE: &str = "203.0.113.7";
const ELSEWHERE: &str = "198.51.100.9";
const FORM: &str = "application/x-www-form-urlencoded";

/// A policy that lets clients come from where these lists say.
async fn listed(lists: &str) -> Rig {
    let spec = format!("  clientAddresses: {lists}\n  roles:");
    Rig::of(&policy_yaml(QUICK).replace("  roles:", &spec)).await
}

async fn form(rig: &Rig, path: &str, text: &str, from: &str) -> Answer {
    rig.post(path).from(from).header("content-type", FORM).text(text).send().await
}

async fn administer(rig: &Rig, path: &str) -> Answer {
    rig.get(&format!("/admin/v1/policies/shop/shop/{path}")).over_admin_socket().send().await
}

fn names(users: &Answer) -> Vec<&str> {
    users.body["users"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect()
}

/// The caller's own session, as its owner sees it.
async fn own_session(rig: &Rig, token: &str) -> Value {
    let listed = rig.get("/auth/sessions").bearer(token).send().await;
    let sessions = listed.body["sessions"].as_array().unwrap();
    sessions.iter().find(|session| session["current"] == true).unwrap().clone()
}

#[tokio::test]
async fn who_may_not_come_from_where_they_are_gets_neither_account_nor_tokens() {
    for (lists, near, far) in
        [("{deny: ['198.51.100.0/24']}", HERE, ELSEWHERE), ("{allow: ['198.51.100.0/24']}", ELSEWHERE, HERE)]
    {
        let rig = listed(lists).await;
        rig.account("alice", PASSWORD, &["user"]).await;
        let credentials = json!({"username": "alice", "password": PASSWORD});
        let login = rig.post("/auth/login").from(near).json(credentials.clone()).send().await;
        assert_eq!(login.status, 200, "{lists}: {}", login.body);
        let refresh = login.text("refresh_token");
        for (path, body) in [
            ("/auth/login", credentials),
            ("/auth/login", json!({"username": "alice", "password": "wrong"})),
            ("/auth/register", json!({"email": "bob@shop.example", "password": PASSWORD})),
            ("/auth/refresh", json!({"refresh_token": refresh})),
            ("/auth/forgot-password", json!({"email": "alice@shop.example"})),
            ("/auth/2fa/verify", json!({"challenge_id": "x", "code": "123456"})),
        ] {
            let answer = rig.post(path).from(far).json(body).send().await;
            assert_eq!(answer.refusal(), (403, "address_blocked"), "{lists} {path}");
        }
        let grant = format!("grant_type=refresh_token&refresh_token={refresh}");
        assert_eq!(form(&rig, "/oauth/token", &grant, far).await.refusal(), (403, "access_denied"), "{lists}");
        let me = rig.get("/users/me").from(far).bearer(&login.text("access_token")).send().await;
        assert_eq!(me.refusal(), (403, "address_blocked"), "{lists}");
        assert_eq!(rig.get("/.well-known/jwks.json").from(far).send().await.status, 200, "keys are everybody's");
        let events = rig.events().await;
        assert!(!events.contains(&"PASSWORD_RESET_REQUESTED".to_owned()), "{lists}: {events:?}");
        let again = rig.post("/auth/refresh").from(near).json(json!({"refresh_token": refresh})).send().await;
        assert_eq!(again.status, 200, "nothing was used up: {}", again.body);
    }
}

#[tokio::test]
async fn a_form_s_boxes_are_ticked_as_pages_and_programs_tick_them() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{idleTimeout: 1h, rememberMe: {{idleTimeout: 10h}}}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    for (ticked, hours) in
        [("on", 10), ("1", 10), ("True", 10), ("true", 10), ("yes", 10), ("", 1), ("off", 1), ("0", 1), ("False", 1)]
    {
        let text = format!("username=alice&password=correct+horse+battery+staple&remember_me={ticked}");
        let login = form(&rig, "/auth/login", &text, HERE).await;
        assert_eq!(login.status, 200, "{ticked:?}: {}", login.body);
        let session = own_session(&rig, &login.text("access_token")).await;
        let life = |name: &str| session[name].as_i64().unwrap();
        assert_eq!(life("expires_at") - life("created_at"), hours * 3600, "{ticked:?}");
    }
    let maybe = form(&rig, "/auth/login", "username=alice&password=x&remember_me=maybe", HERE).await;
    assert_eq!(maybe.refusal(), (422, "validation_failed"));
}

#[tokio::test]
async fn a_path_that_names_nothing_is_answered_as_every_error_is() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    for path in ["/auth/sessions/%FF", "/auth/sessions/%00", "/auth/api-keys/%FF", "/auth/api-keys/%ff%fe"] {
        assert_eq!(rig.delete(path).bearer(&token).send().await.refusal(), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn every_filter_of_a_list_holds_and_one_without_a_value_is_none() {
    let rig = Rig::new(QUICK).await;
    for name in ["alice", "bob"] {
        rig.account(name, PASSWORD, &[]).await;
    }
    for (filter, found) in [
        ("", &["alice", "bob"][..]),
        ("email=&username=&status=&limit=&cursor=", &["alice", "bob"]),
        ("email=ALICE@shop.example&username=Alice&status=active", &["alice"]),
        ("email=alice@shop.example&username=bob", &[]),
        ("username=alice&status=disabled", &[]),
        ("email=&username=bob", &["bob"]),
    ] {
        assert_eq!(names(&administer(&rig, &format!("users?{filter}")).await), found, "{filter}");
    }
    assert_eq!(administer(&rig, "sessions?subject=").await.refusal(), (422, "validation_failed"));
}

#[tokio::test]
async fn an_address_in_the_trail_is_found_however_it_is_written() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    for from in ["2001:db8::9", HERE] {
        let login = rig.post("/auth/login").from(from).json(json!({"username": "alice", "password": PASSWORD}));
        assert_eq!(login.send().await.status, 200);
    }
    for (asked, found) in [
        ("2001:db8::9", 1),
        ("2001:0DB8:0:0::0009", 1),
        (HERE, 1),
        ("::ffff:203.0.113.7", 1),
        ("192.0.2.1", 0),
        ("nonsense", 0),
    ] {
        let trail = administer(&rig, &format!("audit?event_type=LOGIN_SUCCEEDED&ip={asked}")).await;
        assert_eq!(trail.body["events"].as_array().unwrap().len(), found, "{asked}");
    }
}

#[tokio::test]
async fn an_account_has_each_role_once() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let roles = json!(["user", "admin", "user"]);
    let alice = rig.patch("/admin/v1/policies/shop/shop/users/alice").over_admin_socket();
    let changed = alice.json(json!({"roles": roles})).send().await;
    assert_eq!(changed.body["roles"], json!(["user", "admin"]), "{}", changed.body);
    let new = json!({"email": "bob@shop.example", "password": PASSWORD, "roles": roles});
    let made = rig.post("/admin/v1/policies/shop/shop/users").over_admin_socket().json(new).send().await;
    assert_eq!(made.body["roles"], json!(["user", "admin"]), "{}", made.body);
}

#[tokio::test]
async fn a_client_has_one_name_and_a_policy_without_a_login_has_no_clients() {
    let client =
        "    clients: [{clientID: billing, secretKeyRef: {name: billing, key: secret}, scopes: ['orders:read']}]\n";
    let rig = Rig::with_references(&format!("{QUICK}{client}"), |references| {
        references.clients.insert("billing".into(), b"a secret".to_vec().into());
    })
    .await;
    // billing:a+secret
    let asking = |text: &'static str| {
        let asking = rig.post("/oauth/token").header("content-type", FORM).text(text);
        asking.header("authorization", "Basic YmlsbGluZzphK3NlY3JldA==").send()
    };
    assert_eq!(asking("grant_type=client_credentials").await.status, 200);
    assert_eq!(asking("grant_type=client_credentials&client_id=billing").await.status, 200);
    assert_eq!(asking("grant_type=client_credentials&client_id=other").await.refusal(), (400, "invalid_request"));
    let without = Rig::of(&policy_yaml("").replace("  login: {}\n", "")).await;
    for path in ["/oauth/token", "/oauth/introspect", "/oauth/revoke"] {
        let answer = form(&without, path, "grant_type=client_credentials&token=x", HERE).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn whoever_refreshed_last_was_seen_last() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 2, onLimit: EvictIdle}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    let (first, second) = (rig.login("alice", PASSWORD).await, rig.login("alice", PASSWORD).await);
    // A moment later by the clock that sessions go by.
    let began = rig.store.database_now().await.unwrap();
    while rig.store.database_now().await.unwrap() <= began {
        tokio::task::yield_now().await;
    }
    let body = json!({"refresh_token": first.text("refresh_token")});
    assert_eq!(rig.post("/auth/refresh").json(body).send().await.status, 200);
    let third = rig.login("alice", PASSWORD).await;
    rig.caught_up(&third).await;
    assert!(rig.is_good(&first.text("access_token")).await, "it was just refreshed");
    assert!(!rig.is_good(&second.text("access_token")).await, "it was not");
}

#[tokio::test]
async fn a_short_time_out_begins_anew_with_what_happens_within_it() {
    let login = format!("{QUICK}    sessions: {{idleTimeout: 1m}}\n");
    let rig = Rig::of(&policy_yaml(&login).replace("  roles:", "  tokens: {accessTTL: 30s}\n  roles:")).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let before = own_session(&rig, &login.text("access_token")).await;
    let seen = |session: &Value| session["last_seen_at"].as_i64().unwrap();
    while rig.store.database_now().await.unwrap().as_secs() < seen(&before) + 3 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let refreshed = rig.post("/auth/refresh").json(json!({"refresh_token": login.text("refresh_token")})).send().await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    let after = own_session(&rig, &refreshed.text("access_token")).await;
    assert!(
        seen(&after) > seen(&before) && after["expires_at"].as_i64() > before["expires_at"].as_i64(),
        "{before} {after}"
    );
}

#[tokio::test]
async fn a_session_shows_the_device_that_it_is_on_now_and_what_its_client_calls_it() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let body = json!({"username": "alice", "password": PASSWORD, "device_id": "my phone"});
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let login = rig.post("/auth/login").header("user-agent", "curl/8.5.0").json(body).send().await;
    let before = own_session(&rig, &login.text("access_token")).await;
    let refresh = rig.post("/auth/refresh").header("user-agent", firefox);
    let refreshed = refresh.json(json!({"refresh_token": login.text("refresh_token")})).send().await;
    let after = own_session(&rig, &refreshed.text("access_token")).await;
    assert_eq!((&before["device_id"], &after["device_id"]), (&json!("my phone"), &json!("my phone")));
    assert_eq!((&before["device"], &after["device"]), (&json!("curl"), &json!("Firefox on Linux")));
}
