//! Accounts: registration, addresses, profile, and what none of their answers tell.

use axum::http::header;
use countersign_store::UserStatus;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::rig::{Answer, Mail, QUICK, Rig, policy_yaml};

const PASSWORD: &str = "correct horse battery staple";

fn open() -> String {
    format!("{QUICK}    registration: {{emailVerification: Disabled, defaultRoles: [user]}}\n")
}

fn required() -> String {
    format!("{QUICK}    registration: {{defaultRoles: [user]}}\n")
}

async fn register(rig: &Rig, email: &str, more: Value) -> Answer {
    let mut body = json!({"email": email, "password": PASSWORD});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rig.post("/auth/register").json(body).send().await
}

/// The mail to an address among those that went out just now.
async fn mail_to(rig: &Rig, address: &str) -> Mail {
    let mut mails = rig.mails().await;
    let at = mails.iter().position(|mail| mail.to == address).unwrap_or_else(|| panic!("none to {address} in {mails:?}"));
    mails.swap_remove(at)
}

/// An answer without what differs between any two accounts.
fn shape(answer: &Answer) -> (u16, Value, Vec<String>) {
    let mut body = answer.body.clone();
    for member in ["id", "created_at", "email"] {
        if let Some(value) = body.get_mut(member) {
            assert!(!value.is_null(), "{member}");
            *value = json!("…");
        }
    }
    let mut headers: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    (answer.status.as_u16(), body, headers)
}

#[tokio::test]
async fn a_new_account_verifies_its_address_and_logs_in() {
    let rig = Rig::new(&required()).await;
    let answer = register(&rig, "Ann@shop.example", json!({"username": "ann", "first_name": "Ann"})).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["email"], "Ann@shop.example");
    assert_eq!((&answer.body["status"], &answer.body["roles"]), (&json!("pending"), &json!(["user"])));
    assert_eq!(uuid::Uuid::parse_str(&answer.text("id")).unwrap().get_version_num(), 7);
    assert_eq!(rig.login("ann", PASSWORD).await.refusal(), (403, "email_unverified"));
    assert_eq!(rig.login("ann", "wrong").await.refusal(), (401, "invalid_credentials"), "only after a right password");
    let mail = rig.mails().await.remove(0);
    assert_eq!(mail.to, "Ann@shop.example");
    let link = mail.link.clone().unwrap();
    assert!(link.starts_with("https://auth.shop.example/auth/verify-email?token="), "{link}");
    let verify = async |token: &str| rig.post("/auth/verify-email").json(json!({"token": token})).send().await;
    assert_eq!(verify(&mail.token()).await.status, 200);
    assert_eq!(verify(&mail.token()).await.refusal(), (401, "invalid_token"), "once");
    let login = rig.login("ann@shop.example", PASSWORD).await;
    assert_eq!(login.status, 200, "{}", login.body);
    assert_eq!(login.body["user"]["email_verified"], true);
    assert_eq!(rig.events().await[..3], ["USER_CREATED", "LOGIN_FAILED", "EMAIL_VERIFIED"]);
}

#[tokio::test]
async fn nothing_of_role_or_flags_is_taken_from_the_caller() {
    let rig = Rig::new(&open()).await;
    let wishes = json!({
        "roles": ["admin"], "role": "admin", "role_id": 1, "is_admin": true, "is_superuser": true, "status": "active",
        "email_verified": true, "permissions": ["*"], "id": "00000000-0000-0000-0000-000000000000", "mfa_enabled": true,
        "policy": "other/other", "created_at": 1, "import_batch": "x",
    });
    let answer = register(&rig, "eve@shop.example", wishes.clone()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!((&answer.body["roles"], &answer.body["email_verified"]), (&json!(["user"]), &json!(false)));
    assert_ne!(answer.body["id"], wishes["id"]);
    let token = rig.login("eve@shop.example", PASSWORD).await.text("access_token");
    let patched = rig.patch("/users/me").bearer(&token).json(wishes.clone()).send().await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!((&patched.body["roles"], &patched.body["email_verified"]), (&json!(["user"]), &json!(false)));
    // Nor with somebody's token who is no administrator, nor in another form.
    for roles in [json!(["admin"]), json!("admin"), json!(7), json!({"admin": true})] {
        let body = json!({"email": format!("{}@shop.example", uuid::Uuid::now_v7()), "password": PASSWORD, "roles": roles});
        let answer = rig.post("/auth/register").bearer(&token).json(body).send().await;
        assert_eq!((answer.status.as_u16(), &answer.body["roles"]), (201, &json!(["user"])));
    }
}

#[tokio::test]
async fn an_administrator_gives_roles_and_invites() {
    let rig = Rig::new(&format!("{QUICK}    registration: {{mode: InviteOnly}}\n")).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let admin = rig.login("root", PASSWORD).await.text("access_token");
    assert_eq!(register(&rig, "eve@shop.example", json!({})).await.refusal(), (403, "forbidden"));
    let body = json!({"email": "ann@shop.example", "roles": ["user"]});
    let made = rig.post("/auth/register").bearer(&admin).json(body.clone()).send().await;
    assert_eq!((made.status.as_u16(), &made.body["roles"]), (201, &json!(["user"])), "{}", made.body);
    let again = rig.post("/auth/register").bearer(&admin).json(body).send().await;
    assert_eq!(again.refusal(), (409, "already_registered"), "an administrator is told");
    let unknown = json!({"email": "x@shop.example", "roles": ["king"]});
    assert_eq!(rig.post("/auth/register").bearer(&admin).json(unknown).send().await.refusal(), (422, "validation_failed"));
    let mail = rig.mails().await.remove(0);
    assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("ann@shop.example", "Your new account"));
    let body = json!({"token": mail.token(), "new_password": PASSWORD});
    assert_eq!(rig.post("/auth/reset-password").json(body).send().await.status, 200);
    assert_eq!(rig.login("ann@shop.example", PASSWORD).await.status, 200, "the address was shown to be hers");
    let closed = Rig::new(&format!("{QUICK}    registration: {{mode: Closed}}\n")).await;
    assert_eq!(register(&closed, "eve@shop.example", json!({})).await.refusal(), (403, "forbidden"));
}

#[tokio::test]
async fn an_administrators_registration_never_silently_becomes_a_strangers() {
    let limits = "    passwords: {argon2id: {memory: 64Ki, iterations: 1}}
    rateLimits: {login: {}, register: {}, passwordReset: {}, api: {perSubject: {limit: 2, window: 1h}}}
    registration: {emailVerification: Disabled, defaultRoles: [user]}\n";
    let rig = Rig::new(limits).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let admin = rig.login("root", PASSWORD).await.text("access_token");
    let by_root = async |email: &str, more: Value| {
        let mut body = json!({"email": email, "password": PASSWORD});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rig.post("/auth/register").bearer(&admin).json(body).send().await
    };
    let made = by_root("ann@shop.example", json!({"roles": ["admin"]})).await;
    assert_eq!((made.status.as_u16(), &made.body["roles"]), (201, &json!(["admin"])), "{}", made.body);
    rig.get("/users/me").bearer(&admin).send().await;
    assert_eq!(by_root("bob@shop.example", json!({"roles": ["admin"]})).await.refusal(), (429, "rate_limited"));
    let rig = Rig::new(&open()).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let over = rig.login("root", PASSWORD).await.text("access_token");
    rig.post("/auth/logout").bearer(&over).send().await;
    for (number, (more, status)) in [
        (json!({"roles": ["admin"]}), 401),
        (json!({"email_verified": true}), 401),
        (json!({"roles": null, "email_verified": null}), 201),
        (json!({}), 201),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = json!({"email": format!("n{number}@shop.example"), "password": PASSWORD});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = rig.post("/auth/register").bearer(&over).json(body.clone()).send().await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
    }
    let without = json!({"email": "eve@shop.example", "password": PASSWORD, "roles": ["admin"]});
    let made = rig.post("/auth/register").json(without).send().await;
    assert_eq!((made.status.as_u16(), &made.body["roles"]), (201, &json!(["user"])), "from nobody it is not even read");
}

#[tokio::test]
async fn links_that_are_not_good_are_counted_by_address_and_good_ones_are_not() {
    let limited = required().replace("passwordReset: {}", "passwordReset: {perAddress: {limit: 2, window: 1h}}");
    let rig = Rig::new(&limited).await;
    register(&rig, "ann@shop.example", json!({})).await;
    let good = rig.mails().await.remove(0).token();
    let verify = |token: &str| rig.post("/auth/verify-email").json(json!({"token": token}));
    let wrong = "A".repeat(43);
    for _ in 0..2 {
        assert_eq!(verify(&wrong).send().await.refusal(), (401, "invalid_token"));
    }
    assert_eq!(verify(&wrong).send().await.refusal(), (429, "rate_limited"));
    assert_eq!(verify(&wrong).from("198.51.100.9").send().await.refusal(), (401, "invalid_token"));
    assert_eq!(verify(&good).send().await.status, 200, "a good link is no guess");
}

#[tokio::test]
async fn a_taken_address_answers_as_a_new_one_and_its_owner_is_told() {
    let rig = Rig::new(&required()).await;
    rig.account("bob", PASSWORD, &["user"]).await;
    let hashes = async |email: &str| {
        let before = rig.issuer.parts.passwords.computed();
        let answer = register(&rig, email, json!({})).await;
        (shape(&answer), rig.issuer.parts.passwords.computed() - before)
    };
    let new = hashes("new@shop.example").await;
    assert_eq!(new.0.0, 201);
    // However it is written: what compares alike is one address.
    for taken in ["bob@shop.example", "BOB@Shop.Example", " bob@shop.example ", "\u{ff42}\u{ff4f}\u{ff42}@shop.example"] {
        assert_eq!(hashes(taken).await, new, "{taken}");
    }
    let mails = rig.mails().await;
    let told: Vec<_> = mails.iter().filter(|mail| mail.subject == "You have an account already").collect();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|mail| mail.to == "bob@shop.example"), "to the address as its owner wrote it");
    assert_eq!(rig.login("bob", PASSWORD).await.status, 200, "nothing became of it");
    // Dots and tags are the mail server's business.
    for other in ["b.ob@shop.example", "bob+x@shop.example", "b\u{43e}b@shop.example"] {
        assert_eq!(register(&rig, other, json!({})).await.status, 201);
        let found = rig.store.user_by_email(rig.name(), &crate::names::folded(other)).await.unwrap();
        assert!(found.is_some(), "{other} is an account of its own");
    }
}

#[tokio::test]
async fn taken_names_and_unverified_addresses_are_no_secret() {
    let rig = Rig::new(&required()).await;
    rig.account("bob", PASSWORD, &[]).await;
    for email in ["new@shop.example", "bob@shop.example"] {
        let answer = register(&rig, email, json!({"username": "BOB"})).await;
        assert_eq!(answer.refusal(), (409, "already_registered"), "{email}: the name is taken whatever the address");
    }
    assert_eq!(rig.mails().await, []);
    let rig = Rig::new(&open()).await;
    rig.account("bob", PASSWORD, &[]).await;
    assert_eq!(register(&rig, "Bob@shop.example", json!({})).await.refusal(), (409, "already_registered"));
}

#[tokio::test]
async fn of_parallel_registrations_of_one_address_one_makes_an_account() {
    for (login, others) in [(required(), 201), (open(), 409)] {
        let rig = Rig::new(&login).await;
        let answers = join_all((0..12).map(|_| register(&rig, "ann@shop.example", json!({})))).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == others).count(), if others == 201 { 12 } else { 11 });
        assert!(statuses.iter().all(|status| [201, others].contains(status)), "{statuses:?}");
        let all = countersign_store::UserFilter { limit: 10, ..Default::default() };
        assert_eq!(rig.store.users(rig.name(), &all).await.unwrap().len(), 1);
        let links = rig.mails().await.into_iter().filter(|mail| mail.link.is_some()).count();
        assert_eq!(links, usize::from(others == 201), "one link went out");
    }
}

#[tokio::test]
async fn mails_are_asked_for_alike_by_everybody() {
    let rig = Rig::new(&required()).await;
    rig.account("bob", PASSWORD, &[]).await;
    register(&rig, "pending@shop.example", json!({})).await;
    let closed = rig.account("gone", PASSWORD, &[]).await;
    let disabled = countersign_store::User { status: UserStatus::Disabled, ..closed };
    countersign_store::transact!(&*rig.store, |tx| { tx.save_user(&disabled).await }).unwrap();
    rig.mails().await;
    for (path, mailed) in [
        ("/auth/forgot-password", vec!["bob@shop.example", "pending@shop.example"]),
        ("/auth/verify-email/resend", vec!["pending@shop.example"]),
    ] {
        let mut seen = Vec::new();
        for email in
            ["bob@shop.example", "BOB@shop.example", "pending@shop.example", "gone@shop.example", "nobody@shop.example"]
        {
            let (hashes, events) = (rig.issuer.parts.passwords.computed(), rig.events().await.len());
            let answer = rig.post(path).json(json!({"email": email})).send().await;
            let work = (rig.issuer.parts.passwords.computed() - hashes, rig.events().await.len() - events);
            seen.push((shape(&answer), work));
        }
        assert_eq!(seen[0].0.0, 202);
        assert!(seen.iter().all(|one| *one == seen[0]), "{path}: {seen:?}");
        let mut to: Vec<String> = rig.mails().await.into_iter().map(|mail| mail.to).collect();
        to.sort();
        to.dedup();
        assert_eq!(to, mailed, "{path}");
    }
}

#[tokio::test]
async fn links_come_from_the_policy_whatever_the_request_says_of_its_host() {
    let rig = Rig::new(&required()).await;
    rig.account("bob", PASSWORD, &[]).await;
    for (path, name, value) in [
        ("/auth/forgot-password", "host", "evil.example"),
        ("/auth/forgot-password", "x-forwarded-host", "evil.example"),
        ("/auth/forgot-password", "forwarded", "host=evil.example;proto=http"),
        ("/auth/forgot-password", "x-forwarded-proto", "javascript"),
        ("/auth/forgot-password", "origin", "https://evil.example"),
        ("/auth/forgot-password", "referer", "https://evil.example/"),
        ("/api/auth/forgot-password", "host", "evil.example:443"),
        ("/shop/shop/auth/forgot-password", "host", "evil.example"),
    ] {
        let answer = rig.post(path).header(name, value).json(json!({"email": "bob@shop.example"})).send().await;
        assert_eq!(answer.status, 202, "{path} {name}");
        let mail = rig.mails().await.remove(0);
        assert!(
            mail.link.as_ref().unwrap().starts_with("https://auth.shop.example/auth/reset-password?token="),
            "{mail:?}"
        );
        assert!(!mail.raw.contains("evil"), "{name}: {}", mail.raw);
    }
    // Nor does what was typed stand in any mail's head.
    for email in
        ["bob@shop.example\r\nBcc: eve@evil.example", "bob@shop.example, eve@evil.example", "Bob <bob@shop.example>"]
    {
        let answer = rig.post("/auth/forgot-password").json(json!({"email": email})).send().await;
        assert_eq!(answer.refusal(), (422, "validation_failed"), "{email}");
    }
    assert_eq!(rig.mails().await, []);
}

#[tokio::test]
async fn a_policy_s_own_pages_stand_in_the_links() {
    let own = "    mail: {verifyURL: 'https://shop.example/v?t=1&token={token}', resetURL: 'https://shop.example/r#token={token}'}\n";
    let rig = Rig::new(&format!("{}{own}", required())).await;
    register(&rig, "ann@shop.example", json!({})).await;
    let mut links = vec![rig.mails().await.remove(0).link.unwrap()];
    rig.post("/auth/forgot-password").json(json!({"email": "ann@shop.example"})).send().await;
    links.push(rig.mails().await.remove(0).link.unwrap());
    assert!(
        links[0].starts_with("https://shop.example/v?t=1&token=") && links[1].starts_with("https://shop.example/r#token=")
    );
}

#[tokio::test]
async fn whatever_stands_in_a_field_is_kept_or_refused_and_never_run() {
    let rig = Rig::new(&open()).await;
    let texts = [
        "'; DROP TABLE users; --",
        "\" OR 1=1 --",
        "<script>alert(1)</script>",
        "{{7*7}}",
        "%00",
        "$(id)",
        "\\u0000",
        "👩‍🔧 ü",
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let email = format!("n{n}@shop.example");
        let more = json!({"username": format!("{text}{n}"), "first_name": text, "last_name": text, "password": format!("{text} {PASSWORD}")});
        let answer = register(&rig, &email, more).await;
        // A joiner shows nothing: a name can't have it, a person can.
        if text.contains('\u{200d}') {
            assert_eq!(answer.refusal(), (422, "validation_failed"));
            continue;
        }
        assert_eq!(answer.status, 201, "{text}: {}", answer.body);
        assert_eq!((answer.text("first_name"), answer.text("username")), (text.to_owned(), format!("{text}{n}")));
        let login = rig.login(&format!("{text}{n}"), &format!("{text} {PASSWORD}")).await;
        assert_eq!(login.status, 200, "{text}: {}", login.body);
    }
    for (body, status) in [
        (json!({"email": "a\u{0}@shop.example", "password": PASSWORD}), 422),
        (json!({"email": "a@shop.example", "password": PASSWORD, "username": "a\u{0}"}), 422),
        (json!({"email": "a@shop.example", "password": PASSWORD, "first_name": "a\u{0}"}), 422),
        (json!({"email": "a@shop.example", "password": format!("{PASSWORD}\u{0}")}), 201),
        (json!({"email": "' OR ''='", "password": PASSWORD}), 422),
        (json!({"email": 7, "password": PASSWORD}), 422),
        (json!({"password": PASSWORD}), 422),
        (json!({"email": "b@shop.example"}), 422),
        (json!({"email": "b@shop.example", "password": null}), 422),
        (json!({"email": "b@shop.example", "password": "x".repeat(60_000)}), 422),
        (json!({"email": "b@shop.example", "password": "x".repeat(1 << 20)}), 413),
        (json!(["email"]), 400),
    ] {
        let answer = rig.post("/auth/register").json(body.clone()).send().await;
        assert_eq!(answer.status.as_u16(), status, "{:.120} {}", body.to_string(), answer.body);
    }
    for (path, member) in
        [("/auth/forgot-password", "email"), ("/auth/verify-email", "token"), ("/auth/verify-email/resend", "email")]
    {
        for text in texts.into_iter().chain(["\0", "a\0@shop.example"]) {
            let answer = rig.post(path).json(json!({member: text})).send().await;
            assert!([401, 422].contains(&answer.status.as_u16()), "{path} {text}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_changed_address_is_pending_until_its_link_is_used_and_the_old_one_is_told() {
    let rig = Rig::new(&required()).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    rig.account("bob", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let patch = async |body: Value| rig.patch("/users/me").bearer(&token).json(body).send().await;
    // A link to the old address must not work for long.
    rig.post("/auth/forgot-password").json(json!({"email": "alice@shop.example"})).send().await;
    let old_link = rig.mails().await.remove(0).token();
    let changed = patch(json!({"email": "Alice@new.example", "first_name": "Alice", "last_name": ""})).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(
        (changed.text("email"), changed.text("pending_email")),
        ("alice@shop.example".into(), "Alice@new.example".into())
    );
    assert_eq!((changed.text("first_name"), &changed.body["last_name"]), ("Alice".into(), &Value::Null));
    let mut mails = rig.mails().await;
    mails.sort_by(|one, other| one.to.cmp(&other.to));
    let told: Vec<(&str, &str)> = mails.iter().map(|mail| (mail.to.as_str(), mail.subject.as_str())).collect();
    let expected = [
        ("Alice@new.example", "Confirm your new e-mail address"),
        ("alice@shop.example", "Another e-mail address was entered for your account"),
    ];
    assert_eq!(told, expected, "the present one hears of it at once");
    let mail = mails.remove(0);
    assert_eq!(rig.login("Alice@new.example", PASSWORD).await.status, 401, "not yet");
    // Another's address answers alike, and its owner is told in place of being sent a link.
    let others = patch(json!({"email": "BOB@shop.example"})).await;
    assert_eq!((others.status.as_u16(), others.text("pending_email")), (200, "BOB@shop.example".into()));
    let mut told: Vec<(String, Option<String>)> = rig.mails().await.into_iter().map(|mail| (mail.to, mail.link)).collect();
    told.sort();
    assert_eq!(told, [("alice@shop.example".into(), None), ("bob@shop.example".into(), None)], "as many mails as ever");
    let stale = rig.post("/auth/verify-email").json(json!({"token": mail.token()})).send().await;
    assert_eq!(stale.refusal(), (401, "invalid_token"), "another address is pending by now");
    patch(json!({"email": "Alice@new.example"})).await;
    let mail = mail_to(&rig, "Alice@new.example").await;
    assert_eq!(rig.post("/auth/verify-email").json(json!({"token": mail.token()})).send().await.status, 200);
    let told = rig.mails().await.remove(0);
    assert_eq!((told.to.as_str(), told.subject.as_str()), ("alice@shop.example", "Your e-mail address was changed"));
    assert_eq!(rig.login("alice@NEW.example", PASSWORD).await.body["user"]["id"], json!(alice.id));
    let reset = json!({"token": old_link, "new_password": "another horse battery staple"});
    assert_eq!(rig.post("/auth/reset-password").json(reset).send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn of_two_who_confirm_one_address_one_gets_it() {
    let rig = Rig::new(&required()).await;
    let mut tokens = Vec::new();
    for name in ["alice", "bob"] {
        rig.account(name, PASSWORD, &[]).await;
        let token = rig.login(name, PASSWORD).await.text("access_token");
        rig.patch("/users/me").bearer(&token).json(json!({"email": "both@shop.example"})).send().await;
        tokens.push(mail_to(&rig, "both@shop.example").await.token());
    }
    let use_ =
        async |token: &String| rig.post("/auth/verify-email").json(json!({"token": token})).send().await.status.as_u16();
    let mut statuses = join_all(tokens.iter().map(use_)).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn a_user_name_can_be_changed_to_one_that_is_free() {
    let rig = Rig::new(&open()).await;
    rig.account("alice", PASSWORD, &[]).await;
    rig.account("bob", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let patch = async |body: Value| rig.patch("/users/me").bearer(&token).json(body).send().await;
    assert_eq!(patch(json!({"username": "Bob"})).await.refusal(), (409, "already_registered"));
    assert_eq!(patch(json!({"username": "a@b"})).await.refusal(), (422, "validation_failed"));
    assert_eq!(patch(json!({"username": "Alice"})).await.status, 200);
    assert_eq!(patch(json!({})).await.status, 200);
    assert_eq!(patch(json!({"email": "bob@shop.example"})).await.refusal(), (409, "already_registered"), "nobody verifies");
    assert_eq!(patch(json!({"email": "alice@other.example"})).await.text("email"), "alice@other.example");
    assert_eq!(rig.mails().await.remove(0).to, "alice@shop.example", "the old address is told");
    assert_eq!(rig.patch("/users/me").json(json!({})).send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn an_account_is_erased_by_its_password_and_with_it_all_that_was_issued() {
    let rig = Rig::new(&open()).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let one = rig.login("alice", PASSWORD).await;
    let token = one.text("access_token");
    let other = rig.login("alice", PASSWORD).await;
    let erase = async |body: Value| rig.delete("/users/me").bearer(&token).json(body).send().await;
    assert_eq!(erase(json!({"password": "wrong"})).await.refusal(), (401, "invalid_credentials"));
    assert_eq!(erase(json!({})).await.refusal(), (422, "validation_failed"));
    let gone = erase(json!({"password": PASSWORD})).await;
    assert_eq!(gone.status, 200, "{}", gone.body);
    rig.caught_up(&gone).await;
    for session in [&one, &other] {
        assert!(!rig.is_good(&session.text("access_token")).await);
        let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": session.text("refresh_token")})).send().await;
        assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
    }
    assert_eq!(rig.store.user(rig.name(), &alice.id).await.unwrap(), None);
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (401, "invalid_credentials"));
    assert_eq!(rig.events().await.last().unwrap(), "LOGIN_FAILED");
    assert!(rig.events().await.contains(&"USER_DELETED".to_owned()), "the trail stays");
    assert_eq!(register(&rig, "alice@shop.example", json!({"username": "alice"})).await.status, 201, "the names are free");
}

#[tokio::test]
async fn registrations_and_mails_are_limited_and_say_so() {
    let cheap =
        "    passwords: {argon2id: {memory: 64Ki, iterations: 1}}\n    registration: {emailVerification: Optional}\n";
    let rig = Rig::new(cheap).await;
    for n in 0..5 {
        let answer = register(&rig, &format!("n{n}@shop.example"), json!({})).await;
        let (status, left) = if n < 3 { (201, 2 - n) } else { (429, 0) };
        assert_eq!(answer.status.as_u16(), status, "{n}: {}", answer.body);
        assert_eq!(answer.headers["ratelimit-limit"], "3");
        assert_eq!(answer.headers["ratelimit-remaining"], left.to_string().as_str());
        assert_eq!(answer.headers.contains_key(header::RETRY_AFTER), status == 429);
    }
    let elsewhere = json!({"email": "n9@shop.example", "password": PASSWORD});
    assert_eq!(rig.post("/auth/register").from("198.51.100.4").json(elsewhere).send().await.status, 201);
    // By the address that was typed, however it is written, and whether or not it is an account's.
    for email in ["n0@shop.example", "nobody@shop.example"] {
        let mut statuses = Vec::new();
        for (n, written) in [email.to_owned(), email.to_uppercase(), email.to_owned()].into_iter().enumerate() {
            let ip = format!("198.51.100.{n}");
            let answer = rig.post("/auth/forgot-password").from(&ip).json(json!({"email": written})).send().await;
            statuses.push(answer.status.as_u16());
        }
        assert_eq!(statuses, [202, 202, 429], "{email}");
    }
}

#[tokio::test]
async fn a_policy_without_a_login_has_none_of_these_routes() {
    let yaml = policy_yaml("").replace("  login: {}\n", "");
    let rig = Rig::of(&yaml).await;
    for path in [
        "/auth/register",
        "/auth/verify-email",
        "/auth/verify-email/resend",
        "/auth/forgot-password",
        "/auth/reset-password",
    ] {
        assert_eq!(rig.post(path).json(json!({})).send().await.refusal(), (404, "not_found"), "{path}");
    }
}
