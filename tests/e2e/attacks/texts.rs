//! Texts that mean something to somebody: to HTTP, to a log, to a mail, to SQL, to a browser, to a program that takes whatever
//! it is given.

use serde_json::{Value, json};

use super::{PASSWORD, World, said, text};
use crate::http::{Answer, Request, exchange};

/// What would be run, followed or obeyed somewhere.
const TEXTS: [&str; 12] = [
    "'; DROP TABLE users; --",
    "' OR '1'='1",
    "\" OR \"\"=\"",
    "1; SELECT pg_sleep(10)",
    "') UNION SELECT hash FROM passwords --",
    "%",
    "_____",
    "\\",
    "a\u{0}b",
    "x\r\nFORGED: yes",
    "{{1337*7331}}${1337*7331}<script>alert(1)</script>",
    "\u{202e}\u{feff}\u{1f469}\u{200d}\u{1f527}",
];

/// Every call that takes a body, with the members that it takes. Where `ID` stands in a path a text is put as well.
const CALLS: [(&str, &str, &[&str]); 24] = [
    ("POST", "/auth/register", &["email", "password", "username", "first_name", "last_name"]),
    ("POST", "/auth/login", &["username", "email", "password", "mfa_code", "device_id", "device_token"]),
    ("POST", "/auth/refresh", &["refresh_token"]),
    ("POST", "/auth/verify-email", &["token"]),
    ("POST", "/auth/verify-email/resend", &["email"]),
    ("POST", "/auth/forgot-password", &["email"]),
    ("POST", "/auth/reset-password", &["token", "new_password"]),
    ("POST", "/auth/change-password", &["current_password", "new_password", "confirm_password", "device_token"]),
    ("POST", "/auth/2fa/verify", &["challenge_id", "code"]),
    ("POST", "/auth/2fa/otp/send", &["challenge_id", "channel"]),
    ("POST", "/auth/2fa/verify/totp", &["code"]),
    ("POST", "/auth/2fa/backup-codes", &["code"]),
    ("DELETE", "/auth/2fa/totp", &["password", "code"]),
    ("POST", "/auth/api-keys", &["name", "scopes", "expires_in"]),
    ("DELETE", "/auth/api-keys/ID", &[]),
    ("DELETE", "/auth/sessions/ID", &[]),
    ("DELETE", "/users/me", &["password", "device_token"]),
    ("PATCH", "/users/me", &["username", "email", "first_name", "last_name"]),
    ("GET", "/auth/audit?event_type=ID&subject=ID&ip=ID&since=ID&until=ID&limit=ID&cursor=ID", &[]),
    ("GET", "/auth/audit?subject=ID", &[]),
    ("POST", "/api/v1/auth/validate-token", &["token"]),
    ("POST", "/api/v1/auth/diagnose", &["token", "user_id", "ip"]),
    ("POST", "/oauth/token", &["grant_type", "refresh_token", "client_id", "client_secret", "scope"]),
    ("POST", "/oauth/introspect", &["token", "client_id", "client_secret"]),
];

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

/// A body of a call: what makes sense in every member but one.
fn body(path: &str, members: &[&str], wrong: &str, text: &str) -> Vec<u8> {
    let sensible = |member: &str| match member {
        "email" => "somebody@shop.example",
        "password" | "current_password" => "no password of anybody",
        "new_password" | "confirm_password" => "another horse battery staple",
        "grant_type" => "refresh_token",
        "code" | "mfa_code" => "123456",
        "channel" => "email",
        "username" => "somebody",
        "ip" => "203.0.113.9",
        _ => "nothing",
    };
    let value = |member: &str| if member == wrong { text } else { sensible(member) };
    if path.starts_with("/oauth/") {
        let pairs: Vec<String> = members.iter().map(|member| format!("{member}={}", encoded(value(member)))).collect();
        return pairs.join("&").into_bytes();
    }
    let pairs = members.iter().map(|member| {
        let value = value(member);
        ((*member).to_owned(), if *member == "scopes" { json!([value]) } else { json!(value) })
    });
    Value::Object(pairs.collect()).to_string().into_bytes()
}

#[test]
fn whatever_stands_in_any_field_of_any_call_is_kept_or_refused_and_never_run() {
    let world = World::start(json!({"lockout": {"mode": "Disabled"}}), &[]);
    let alice = world.account("alice");
    let root = world.account("root");
    world.administer("PATCH", &format!("users/{root}"), &json!({"roles": ["admin"]}));
    let token = text(&world.login("root", PASSWORD), "access_token");
    for (method, path, members) in CALLS {
        let wrong = if members.is_empty() { &["ID"][..] } else { members };
        for (wrong, text) in wrong.iter().flat_map(|wrong| TEXTS.iter().map(move |text| (wrong, text))) {
            let typ = if path.starts_with("/oauth/") { "application/x-www-form-urlencoded" } else { "application/json" };
            let request = Request::new(method, &path.replace("ID", &encoded(text)))
                .header("authorization", &format!("Bearer {token}"))
                .header("content-type", typ)
                .body(body(path, members, wrong, text));
            let answer = request.send(&world.issuer());
            let said = String::from_utf8_lossy(&answer.body);
            assert!((200..500).contains(&answer.status), "{method} {path} {wrong}={text:?}: {} {said}", answer.status);
            assert!(!said.contains(&(1337 * 7331).to_string()), "{method} {path}: {said}");
            assert!(answer.header("forged").is_none(), "{method} {path}");
        }
    }
    // Nobody was let in, and everybody is there.
    assert_eq!(world.login("alice", PASSWORD).status, 200);
    assert_eq!(text(&world.administer("GET", &format!("users/{alice}"), &Value::Null), "username"), "alice");
    let verified = world.administer("POST", "audit/verify", &json!({})).json();
    assert_eq!(verified["intact"], true, "{verified}");
}

#[test]
fn a_name_of_any_kind_is_its_owner_s_alone() {
    let world = World::start(json!({"registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]}}), &[]);
    let alice = world.account("alice");
    // Names that are others' ids, paths, patterns, or look as if they were nothing.
    let names = [
        alice.as_str(),
        "..",
        ".",
        "admin",
        "null",
        "undefined",
        "0",
        "-1",
        "al%ce",
        "al_ce",
        "*",
        "me",
        "../admin",
        "安",
        "a b",
        "'",
    ];
    for (n, name) in names.iter().enumerate() {
        let body = json!({"email": format!("n{n}@shop.example"), "username": name, "password": format!("{PASSWORD} {n}")});
        let made = world.post("/auth/register", &body);
        assert_eq!(made.status, 201, "{name}: {}", made.json());
        let login = world.login(name, &format!("{PASSWORD} {n}"));
        assert_eq!((login.status, &login.json()["user"]["id"]), (200, &made.json()["id"]), "{name}");
        assert_eq!(world.login(name, PASSWORD).status, 401, "{name}: nobody else's password");
    }
    assert_eq!(world.login("alice", PASSWORD).json()["user"]["id"], json!(alice));
    // An administrator who means an account by its id gets that one, whatever somebody calls themselves.
    assert_eq!(text(&world.administer("GET", &format!("users/{alice}"), &Value::Null), "username"), "alice");
    world.administer("POST", &format!("users/{alice}/lock"), &json!({"reason": "stolen"}));
    assert_eq!(said(&world.login("alice", PASSWORD)), (423, "account_locked".into()));
    assert_eq!(world.login(&alice, &format!("{PASSWORD} 0")).status, 200, "the other one's name is no reason to lock them");
    // Those who look like another are that other, or refused: never a second account.
    for (name, status) in [
        ("ALICE", 409),
        ("\u{ff41}lice", 409),
        ("alice ", 422),
        ("al\u{200b}ice", 422),
        ("alice\u{0}", 422),
        ("alice@shop.example", 422),
        ("", 422),
    ] {
        let body = json!({"email": "look-alike@shop.example", "username": name, "password": PASSWORD});
        assert_eq!(world.post("/auth/register", &body).status, status, "{name:?}");
    }
}

#[test]
fn an_address_that_looks_like_another_gets_none_of_its_mails() {
    let world = World::start(json!({}), &[]);
    world.account("mike");
    world.account("sam");
    // One address in another spelling: its mail goes to the address as its owner has it.
    for spelling in ["MIKE@shop.example", "\u{ff4d}ike@shop.example", "mi\u{212a}e@SHOP.example", " mike@shop.example "] {
        assert_eq!(world.post("/auth/forgot-password", &json!({"email": spelling})).status, 202);
        let mail = world.mails.next("mike@shop.example");
        assert!(mail.contains("\nTo: mike@shop.example\r\n") || mail.contains("\nTo: mike@shop.example\n"), "{mail}");
    }
    assert_eq!(world.login("\u{17f}am@shop.example", PASSWORD).status, 200, "a long s folds to an s");
    // Another address, however alike: nobody's.
    for other in [
        "m\u{131}ke@shop.example",
        "m\u{456}ke@shop.example",
        "mi.ke@shop.example",
        "mike+x@shop.example",
        "mike@\u{455}hop.example",
        "mike@shop.example.evil.example",
    ] {
        assert_eq!(world.post("/auth/forgot-password", &json!({"email": other})).status, 202, "{other}");
        assert_eq!(said(&world.login(other, PASSWORD)), (401, "invalid_credentials".into()), "{other}");
    }
    // Two in one, and what a mail's head would take for more.
    for both in [
        json!("mike@shop.example,eve@evil.example"),
        json!("mike@shop.example\r\nBcc: eve@evil.example"),
        json!("eve@evil.example\u{0}mike@shop.example"),
        json!(["mike@shop.example", "eve@evil.example"]),
    ] {
        assert_eq!(world.post("/auth/forgot-password", &json!({"email": both})).status, 422, "{both}");
    }
    let twice = r#"{"email": "mike@shop.example", "email": "eve@evil.example"}"#;
    let answer = Request::new("POST", "/auth/forgot-password").body(twice).send(&world.issuer());
    assert_eq!(answer.status, 400, "a member that stands twice means two things");
    let outbox = std::fs::read_dir(world.dev.data().join("outbox")).unwrap();
    let mails: Vec<String> = outbox.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert!(mails.iter().all(|mail| !mail.contains("evil.example")), "{mails:?}");
}

#[test]
fn a_spoofed_host_is_in_no_link_no_token_and_no_redirect() {
    let world = World::start(json!({}), &[]);
    world.account("alice");
    let spoofed = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-host", "evil.example"),
        ("forwarded", "host=evil.example;proto=https"),
        ("x-original-url", "https://evil.example/"),
        ("x-rewrite-url", "//evil.example/"),
        ("x-forwarded-prefix", "//evil.example"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example/"),
    ];
    let clean = |answer: &Answer, what: &str| {
        assert!(!String::from_utf8_lossy(&answer.body).contains("evil"), "{what}: {}", answer.json());
        assert!(answer.headers.iter().all(|(_, value)| !value.contains("evil")), "{what}: {:?}", answer.headers);
        assert!(!(300..400).contains(&answer.status), "{what}: {}", answer.status);
    };
    let forgot = json!({"email": "alice@shop.example"}).to_string();
    let login = json!({"username": "alice", "password": PASSWORD}).to_string();
    for (name, value) in spoofed {
        let send = |method: &str, path: &str, body: &str| {
            // A second Host beside the first would be refused.
            let head = if name == "host" { String::new() } else { "host: localhost\r\n".to_owned() };
            let length = body.len();
            let text =
                format!("{method} {path} HTTP/1.1\r\n{head}{name}: {value}\r\ncontent-length: {length}\r\n\r\n{body}");
            exchange(&world.issuer(), text.as_bytes()).unwrap()
        };
        let answer = send("POST", "/auth/forgot-password", &forgot);
        assert_eq!(answer.status, 202, "{name}");
        let mail = world.mails.next("alice@shop.example");
        assert!(mail.contains("https://auth.shop.example/auth/reset-password?token="), "{name}: {mail}");
        assert!(!mail.contains("evil"), "{name}: {mail}");
        let tokens = send("POST", "/auth/login", &login);
        clean(&tokens, name);
        assert_eq!(world.verdict(&text(&tokens, "access_token")), 200, "{name}: its iss is the policy's");
        for path in ["/.well-known/openid-configuration", "/auth/verify-email", "/auth/reset-password", "/"] {
            clean(&send("GET", path, ""), name);
        }
    }
    // There is nothing that redirects, whatever is asked for.
    for path in [
        "//evil.example",
        "//evil.example/%2f..",
        "/%5cevil.example",
        "/%2f%2fevil.example",
        "/https://evil.example",
        "/auth/login?next=https://evil.example",
        "/auth/verify-email?token=x&redirect_uri=https://evil.example",
        "/auth/reset-password?next=//evil.example&token=%22%3e%3cscript%3ealert(1)%3c/script%3e",
        "/auth/logout?redirect=https://evil.example",
        "/oauth/authorize?redirect_uri=https://evil.example&response_type=code",
        "/auth/verify-email/",
    ] {
        let answer = Request::get(path).send(&world.issuer());
        clean(&answer, path);
        assert!(answer.header("location").is_none(), "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("alert(1)"), "{path}");
    }
}

#[test]
fn nothing_that_a_client_says_begins_a_line_in_the_log_or_a_header() {
    let mut world = World::start(json!({"lockout": {"mode": "Disabled"}}), &[("LOG_LEVEL", "debug")]);
    world.account("alice");
    let forged = "x\r\nFORGED line\n2026-01-01T00:00:00Z  INFO FORGED";
    for (path, body) in [
        ("/auth/login", json!({"username": forged, "password": forged})),
        ("/auth/login", json!({"username": "alice", "password": PASSWORD, "device_id": forged})),
        ("/auth/register", json!({"email": forged, "username": forged, "first_name": forged, "password": PASSWORD})),
        ("/auth/refresh", json!({"refresh_token": forged})),
        ("/auth/2fa/verify", json!({"challenge_id": forged, "code": forged})),
        (forged_path(), json!({})),
    ] {
        let answer = world.post(path, &body);
        assert!(answer.status < 500 && answer.header("forged").is_none(), "{path}: {}", answer.json());
    }
    // Header values may hold much that no line should.
    for value in
        ["\u{1b}[31mFORGED", "a\u{9b}FORGED", "FORGED\tFORGED", "FORGED\u{2028}FORGED", "%0d%0aFORGED", "\\r\\nFORGED"]
    {
        let login = json!({"username": "alice", "password": PASSWORD}).to_string();
        let length = login.len();
        let head = format!(
            "POST /auth/login HTTP/1.1\r\nhost: localhost\r\nuser-agent: {value}\r\nx-request-id: {value}\r\ncontent-length: {length}"
        );
        let answer = exchange(&world.issuer(), format!("{head}\r\n\r\n{login}").as_bytes()).unwrap();
        if answer.status == 400 {
            continue;
        }
        assert_eq!(answer.status, 200, "{value:?}: {}", answer.json());
        let id = answer.header("x-request-id").unwrap();
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id:?}");
        let sessions = world.with_token("GET", "/auth/sessions", &text(&answer, "access_token"), &Value::Null);
        let agents = sessions.json()["sessions"].to_string();
        assert!(!agents.contains(['\u{1b}', '\u{9b}', '\u{2028}', '\t']) && !agents.contains("\\u001b"), "{agents}");
    }
    let log = world.dev.process().log();
    assert!(log.contains("DEBUG"), "it says much");
    for line in log.lines() {
        assert!(!line.trim_start().starts_with("FORGED") && !line.contains('\u{1b}'), "{line:?}");
        assert!(!line.starts_with("2026-01-01T00:00:00Z"), "{line:?}");
    }
    assert!(!log.contains(PASSWORD), "no password is in the log");
}

const fn forged_path() -> &'static str {
    "/auth/%0d%0aFORGED:%20yes%0d%0a%0d%0a"
}

#[test]
fn a_password_of_a_megabyte_is_refused_before_anything_is_computed() {
    let mut world = World::start(json!({"passwords": {}, "lockout": {"mode": "Disabled"}}), &[]);
    world.account("alice");
    let token = text(&world.login("alice", PASSWORD), "access_token");
    let huge = "x".repeat(1 << 20);
    let before = world.dev.process().memory_kib().1;
    for (method, path, members) in CALLS {
        for member in members.iter().filter(|member| member.contains("password")) {
            let request = |text: &str| {
                let request = Request::new(method, path).header("authorization", &format!("Bearer {token}"));
                request.body(body(path, members, member, text)).send(&world.issuer())
            };
            assert_eq!(said(&request(&huge)), (413, "payload_too_large".into()), "{method} {path} {member}");
            // What fits a body is too long for a password still, and is said to be wrong like any other.
            let long = request(&huge[..60_000]);
            assert!(matches!(long.status, 401 | 422), "{method} {path} {member}: {}", long.json());
        }
    }
    let after = world.dev.process().memory_kib().1;
    assert!(after < before + (64 << 10), "{before} KiB before, {after} KiB at most");
    assert_eq!(world.login("alice", PASSWORD).status, 200);
}

#[test]
fn no_call_takes_a_right_or_another_s_account_from_its_caller() {
    let world = World::start(json!({}), &[]);
    let (alice, bob) = (world.account("alice"), world.account("bob"));
    let of_bob = text(&world.login("bob", PASSWORD), "access_token");
    let wishes = json!({
        "role": "admin", "roles": ["admin"], "role_id": 1, "is_admin": true, "is_superuser": true, "permissions": ["*"],
        "scope": "*", "status": "active", "id": bob, "user_id": bob, "subject": bob, "sub": bob, "owner": bob,
        "user": {"id": bob, "roles": ["admin"]}, "policy": "other/other", "email_verified": true, "amr": ["mfa"],
    });
    let with = |own: Value| {
        let mut body = wishes.clone();
        body.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        body
    };
    let login = world.post("/auth/login", &with(json!({"username": "alice", "password": PASSWORD})));
    assert_eq!((&login.json()["user"]["id"], &login.json()["user"]["roles"]), (&json!(alice), &json!(["user"])));
    let refreshed = world.post("/auth/refresh", &with(json!({"refresh_token": text(&login, "refresh_token")})));
    let token = text(&refreshed, "access_token");
    let verdict = Request::post("/v1/policies/shop/app/verify", &json!({"token": token})).send(&world.dev.socket()).json();
    assert_eq!((&verdict["subject"], &verdict["roles"]), (&json!(alice), &json!(["user"])));
    assert_eq!((&verdict["permissions"], &verdict["amr"]), (&json!(["orders:read"]), &json!(["pwd"])));

    let patched = world.with_token("PATCH", "/users/me", &token, &with(json!({"first_name": "Al"}))).json();
    assert_eq!(
        (&patched["id"], &patched["roles"], &patched["first_name"]),
        (&json!(alice), &json!(["user"]), &json!("Al"))
    );
    let key = world.with_token("POST", "/auth/api-keys", &token, &with(json!({"name": "k", "scopes": ["orders:read"]})));
    let by_key = Request::get("/users/me").header("x-api-key", &text(&key, "key")).send(&world.issuer()).json();
    assert_eq!((&by_key["id"], &by_key["roles"]), (&json!(alice), &json!(["user"])));
    let greedy = with(json!({"name": "k", "scopes": ["*"]}));
    assert_eq!(world.with_token("POST", "/auth/api-keys", &token, &greedy).status, 422);

    let other = "another horse battery staple";
    let change = json!({"current_password": PASSWORD, "new_password": other, "confirm_password": other, "username": "bob"});
    let change = with(change);
    assert_eq!(world.with_token("POST", "/auth/change-password", &token, &change).status, 200);
    assert_eq!((world.login("bob", other).status, world.login("alice", other).status), (401, 200));
    world.post("/auth/forgot-password", &json!({"email": "alice@shop.example"}));
    let third = "a third horse battery staple";
    let reset =
        json!({"token": world.mails.token("alice@shop.example"), "new_password": third, "email": "bob@shop.example"});
    assert_eq!(world.post("/auth/reset-password", &with(reset)).status, 200);
    let token = text(&world.login("alice", third), "access_token");
    assert_eq!(world.with_token("DELETE", "/auth/sessions", &token, &with(json!({"keep_current": true}))).status, 200);
    assert_eq!(world.verdict(&of_bob), 200, "nothing of that was bob's");
    let sessions = world.with_token("GET", &format!("/auth/sessions?subject={bob}"), &token, &Value::Null).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");
    for (method, call) in [("GET", "/auth/audit"), ("GET", "/api/v1/auth/debug-report"), ("POST", "/api/v1/auth/diagnose")]
    {
        assert_eq!(world.with_token(method, call, &token, &with(json!({}))).status, 403, "{call}");
    }
}
