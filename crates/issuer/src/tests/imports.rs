//! Accounts from another schema: what is brought, what becomes of it, and what can be taken back.

use countersign_core::digest::sha256;
use countersign_store::{AuditFilter, transact};
use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig};

const BASE: &str = "/admin/v1/policies/shop/shop";
/// Of "U*U", from `crypt_blowfish`'s own tests.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const OLD_PASSWORD: &str = "U*U";
const NEW_PASSWORD: &str = "correct horse battery staple";

async fn call(rig: &Rig, path: &str, body: Value) -> Answer {
    rig.post(&format!("{BASE}/imports/{path}")).json(body).over_admin_socket().send().await
}

/// Each row's outcome, with its reason or fields.
async fn rows(rig: &Rig, mode: &str, rows: &[Value]) -> Vec<String> {
    let answer = call(rig, "old-shop/rows", json!({"mode": mode, "source": "old.db", "rows": rows})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), rows.len());
    let told = results.iter().map(|result| {
        let fields: Vec<&str> = result["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let outcome = result["outcome"].as_str().unwrap();
        let why = result["reason"].as_str().map_or_else(|| fields.join(" "), str::to_owned);
        if why.is_empty() { outcome.to_owned() } else { format!("{outcome}: {why}") }
    });
    told.collect()
}

async fn undo(rig: &Rig, body: Value) -> Value {
    let answer = call(rig, "old-shop/undo", body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn ann() -> Value {
    json!({"key": "1", "id": "1", "username": "Ann", "email": "ann@old.example", "email_verified": true,
        "password_hash": BCRYPT, "roles": ["admin"], "created_at": 1_500_000_000, "first_name": "Ann", "last_name": ""})
}

#[tokio::test]
async fn a_row_is_brought_once_with_its_id_password_and_roles() {
    let rig = Rig::new(QUICK).await;
    assert_eq!(rows(&rig, "plan", &[ann()]).await, ["new"]);
    assert_eq!(rig.store.user(rig.name(), "1").await.unwrap(), None, "a plan writes nothing");
    assert_eq!(rig.store.import(rig.name(), "old-shop").await.unwrap(), None);
    assert_eq!(rows(&rig, "verify", &[ann()]).await, ["missing"]);
    assert_eq!(rows(&rig, "run", &[ann()]).await, ["imported"]);
    for mode in ["run", "plan"] {
        assert_eq!(rows(&rig, mode, &[ann()]).await, ["present"], "{mode}");
    }
    assert_eq!(rows(&rig, "verify", &[ann()]).await, ["same"]);
    let moved = json!({"key": "1", "id": "1", "username": "Ann", "email": "ann@new.example", "email_verified": true,
        "password_hash": BCRYPT, "roles": ["user"], "first_name": "Ann"});
    assert_eq!(rows(&rig, "verify", &[moved]).await, ["differs: email roles"]);

    let login = rig.login("ann@old.example", OLD_PASSWORD).await;
    assert_eq!((login.status.as_u16(), &login.body["user"]["id"]), (200, &json!("1")), "{}", login.body);
    assert_eq!(login.body["user"]["roles"], json!(["admin"]));
    assert_eq!(login.body["user"]["created_at"], json!(1_500_000_000));
    let hash = rig.store.password(rig.name(), "1").await.unwrap().unwrap().hash;
    assert!(hash.as_str().starts_with("$argon2id$"), "hashed anew at the first login");
    assert_eq!(rows(&rig, "verify", &[ann()]).await, ["changed: password"]);

    let shown = rig.get(&format!("{BASE}/imports/old-shop")).over_admin_socket().send().await;
    assert_eq!((&shown.body["rows"], &shown.body["finished_at"]), (&json!(1), &Value::Null));
    call(&rig, "old-shop/rows", json!({"mode": "run", "source": "old.db", "rows": [], "finished": true})).await;
    let shown = rig.get(&format!("{BASE}/imports/old-shop")).over_admin_socket().send().await;
    assert!(shown.body["finished_at"].is_i64(), "{}", shown.body);
    rig.delete(&format!("{BASE}/users/1")).over_admin_socket().send().await;
    assert_eq!(rows(&rig, "run", &[ann()]).await, ["erased"], "who was erased is not brought again");
}

#[tokio::test]
async fn each_row_that_can_not_be_brought_says_why_and_the_others_are() {
    let rig = Rig::new(QUICK).await;
    rig.account("bob", NEW_PASSWORD, &[]).await;
    let cases = [
        (json!({"username": "a@b"}), "username: a user name has no @"),
        (json!({"email": "nowhere"}), "email: not an e-mail address"),
        (json!({"username": null, "email": ""}), "neither a user name nor an e-mail address"),
        (json!({"email": null, "password_hash": null}), "no password, and no e-mail address"),
        (json!({"password_hash": "5f4dcc3b5aa765d61d8327deb882cf99"}), "password: the hash is of no known format"),
        (json!({"password_hash": "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"}), "more work"),
        (json!({"roles": ["superuser"]}), "roles: the policy has no role superuser"),
        (json!({"totp_secret": "not base32!"}), "totp: "),
        (json!({"id": "with space"}), "id: has at most"),
        (json!({"id": "countersign"}), "id: tokens have it"),
        (json!({"first_name": "A\u{202e}nn"}), "first_name: "),
        (json!({"email": "BOB@shop.example"}), "email: another account has it"),
        (json!({"username": "BOB"}), "username: another account has it"),
        (json!({"api_keys": [{"sha256": "12"}]}), "api_keys: sha256 is not 64 hex digits"),
    ];
    let broken: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(number, (change, _))| {
            let mut row = ann();
            row["key"] = json!(format!("broken-{number}"));
            row["id"] = json!(format!("broken-{number}"));
            row.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            row
        })
        .chain([ann()])
        .collect();
    for mode in ["plan", "run"] {
        let told = rows(&rig, mode, &broken).await;
        for (said, (change, why)) in told.iter().zip(&cases) {
            assert!(said.starts_with("rejected: ") && said.contains(why), "{mode} {change}: {said}");
            assert!(!said.contains("5f4dcc") && !said.contains("$2b$"), "no secret is told: {said}");
        }
        assert_eq!(told.last().unwrap(), if mode == "plan" { "new" } else { "imported" });
    }
    assert_eq!(rig.store.count_imported(rig.name(), "old-shop").await.unwrap(), 1);
    let many = vec![ann(); 101];
    for (path, body) in [
        ("Old%20Shop/rows", json!({"mode": "run", "source": "old.db", "rows": []})),
        ("old-shop/rows", json!({"mode": "run", "source": "old.db", "rows": many})),
        ("old-shop/rows", json!({"mode": "run", "source": "a\nb", "rows": []})),
        ("old-shop/rows", json!({"mode": "run", "source": "old.db", "rows": [{"key": ""}]})),
    ] {
        assert_eq!(call(&rig, path, body).await.refusal(), (422, "validation_failed"), "{path}");
    }
    let absent = call(&rig, "other/undo", json!({})).await;
    assert_eq!(absent.refusal(), (404, "not_found"));
}

#[tokio::test]
async fn who_came_without_a_password_logs_in_by_none_before_a_mailed_link_set_one() {
    let rig = Rig::new(QUICK).await;
    let without = json!({"key": "1", "email": "ann@old.example", "email_verified": true});
    assert_eq!(rows(&rig, "run", &[without]).await, ["imported"]);
    for guess in ["", "null", "password", "ann@old.example", "!", OLD_PASSWORD] {
        let refused = rig.login("ann@old.example", guess).await;
        assert_ne!(refused.status, 200, "{guess}");
    }
    let asked = rig.post("/auth/forgot-password").json(json!({"email": "ann@old.example"})).send().await;
    assert!(asked.status.is_success(), "{}", asked.body);
    let token = rig.mails().await.iter().find(|mail| mail.to == "ann@old.example" && mail.link.is_some()).unwrap().token();
    let reset = rig.post("/auth/reset-password").json(json!({"token": token, "new_password": NEW_PASSWORD})).send().await;
    assert_eq!(reset.status, 200, "{}", reset.body);
    assert_eq!(rig.login("ann@old.example", NEW_PASSWORD).await.status, 200);
}

#[tokio::test]
async fn statuses_and_second_factors_come_along_and_secrets_are_sealed() {
    const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    let required = format!("{QUICK}    registration: {{emailVerification: Required}}\n");
    let rig = Rig::new(&required).await;
    let row = |key: &str, more: Value| {
        let mut row = json!({"key": key, "id": key, "email": format!("{key}@old.example"), "password_hash": BCRYPT});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let people = [
        row("unverified", json!({})),
        row("left", json!({"active": false, "email_verified": true})),
        row("careful", json!({"email_verified": true, "totp_secret": SECRET})),
    ];
    assert_eq!(rows(&rig, "run", &people).await, ["imported"; 3]);
    assert_eq!(rig.login("unverified@old.example", OLD_PASSWORD).await.refusal(), (403, "email_unverified"));
    assert_eq!(rig.login("left@old.example", OLD_PASSWORD).await.refusal(), (403, "account_disabled"));
    let careful = rig.login("careful@old.example", OLD_PASSWORD).await;
    assert_eq!(careful.body["requires_2fa"], json!(true), "{}", careful.body);
    let secret = crate::totp::TotpSecret::from_base32(SECRET).unwrap();
    let held = rig.store.totp(rig.name(), "careful").await.unwrap().unwrap();
    assert!(!held.secret.windows(secret.as_bytes().len()).any(|part| part == secret.as_bytes()));
    let now = rig.store.database_now().await.unwrap().as_secs();
    let code = secret.code_at(&rig.policy.login.as_ref().unwrap().totp, u64::try_from(now).unwrap()).unwrap();
    let body = json!({"challenge_id": careful.body["challenge_id"], "code": code});
    let refused = rig.post("/auth/2fa/verify").json(body).send().await;
    assert_eq!(refused.refusal(), (401, "invalid_code"), "it may have been shown where it comes from");
    assert!(held.last_step >= now.div_euclid(30), "and is none of a later step: {}", held.last_step);
    assert_eq!(rows(&rig, "verify", &people[2..]).await, ["changed: password"], "it is the same authenticator");
    let another = row("careful", json!({"email_verified": true, "totp_secret": SECRET.replace('J', "K")}));
    let told = rows(&rig, "verify", &[people[0].clone(), another]).await;
    assert_eq!(told[0], "changed: password", "hashed anew when its owner showed it");
    assert!(told[1].contains("totp"), "{told:?}");
}

#[tokio::test]
async fn what_nobody_used_is_taken_back_and_the_rest_with_force_alone() {
    let rig = Rig::new(QUICK).await;
    let row = |key: &str| json!({"key": key, "id": key, "email": format!("{key}@old.example"), "email_verified": true, "password_hash": BCRYPT});
    let people: Vec<Value> = ["used", "changed", "with-key", "quiet"].into_iter().map(row).collect();
    rows(&rig, "run", &people).await;
    let own = rig.account("bob", NEW_PASSWORD, &[]).await;
    let used = rig.login("used@old.example", OLD_PASSWORD).await.text("access_token");
    rig.patch(&format!("{BASE}/users/changed")).json(json!({"roles": ["user"]})).over_admin_socket().send().await;
    let key = json!({"subject": "with-key", "name": "ci", "scopes": ["orders:read"]});
    rig.patch(&format!("{BASE}/users/with-key")).json(json!({"roles": ["admin"]})).over_admin_socket().send().await;
    assert_eq!(rig.post(&format!("{BASE}/api-keys")).json(key).over_admin_socket().send().await.status, 201);

    let dry = undo(&rig, json!({"dry_run": true})).await;
    assert_eq!((&dry["removed"], dry["kept"].as_array().unwrap().len()), (&json!(1), 3));
    assert!(rig.store.user(rig.name(), "quiet").await.unwrap().is_some());
    let minted = rig.post(&format!("{BASE}/tokens")).json(json!({"subject": "quiet"})).over_admin_socket().send().await;
    let minted = minted.text("token");
    let undone = undo(&rig, json!({})).await;
    assert!(!rig.is_good(&minted).await, "what was minted for it ended with it");
    let kept: Vec<(&str, &str)> = undone["kept"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["id"].as_str().unwrap(), one["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(undone["removed"], json!(1));
    assert_eq!(
        kept,
        [("changed", "it was changed"), ("used", "somebody has logged in to it"), ("with-key", "it was changed")]
    );
    assert_eq!(rig.store.user(rig.name(), "quiet").await.unwrap(), None);
    assert!(rig.is_good(&used).await);
    assert_eq!(rows(&rig, "run", &[row("quiet")]).await, ["imported"], "what was taken back may come again");

    let forced = undo(&rig, json!({"force": true})).await;
    assert_eq!((&forced["removed"], &forced["kept"], &forced["next"]), (&json!(4), &json!([]), &Value::Null));
    let gone = rig.login("used@old.example", OLD_PASSWORD).await;
    assert_eq!(gone.refusal(), (401, "invalid_credentials"));
    assert!(!rig.is_good(&used).await, "what was issued for it ended with it");
    assert!(rig.store.user(rig.name(), &own.id).await.unwrap().is_some(), "others' accounts stay");
    assert_eq!(rig.store.import(rig.name(), "old-shop").await.unwrap(), None);
    let events = rig.store.audit(rig.name(), &AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap();
    let actions: Vec<String> = events
        .iter()
        .filter_map(|kept| {
            serde_json::from_str::<Value>(&kept.event.details).unwrap()["action"].as_str().map(str::to_owned)
        })
        .collect();
    assert!(actions.contains(&"begin import".to_owned()), "{actions:?}");
    assert!(actions.contains(&"take import back".to_owned()), "{actions:?}");
}

#[tokio::test]
async fn an_imported_api_key_ends_with_its_own_word_and_with_its_owner() {
    let rig = Rig::new(QUICK).await;
    let hash = |key: &str| hex::encode(sha256(key.as_bytes()));
    let keys = json!([{"sha256": hash("old-one"), "name": "ci", "scopes": ["orders:read"]}, {"sha256": hash("old-two")}]);
    let row = json!({"key": "1", "id": "1", "email": "ann@old.example", "api_keys": keys});
    assert_eq!(rows(&rig, "run", std::slice::from_ref(&row)).await, ["imported"]);
    assert_eq!(rows(&rig, "verify", std::slice::from_ref(&row)).await, ["same"]);
    let listed = rig.get(&format!("{BASE}/api-keys?subject=1")).over_admin_socket().send().await;
    assert_eq!(listed.body["api_keys"].as_array().unwrap().len(), 2, "{}", listed.body);

    let path = format!("{BASE}/api-keys/{}", hash("old-one"));
    assert_eq!(rig.delete(&path).over_admin_socket().send().await.status, 200);
    let left = transact!(&*rig.store, |tx| { tx.imported_api_keys(rig.name(), "1").await }).unwrap();
    assert_eq!(left, [hash("old-two")]);
    let disabled = json!({"status": "disabled"});
    rig.patch(&format!("{BASE}/users/1")).json(disabled).over_admin_socket().send().await;
    let history = rig.store.history(rig.name(), &countersign_store::HistoryFilter::default()).await.unwrap();
    for key in ["old-one", "old-two"] {
        let ended = history.iter().find(|one| one.entry.id == hash(key)).unwrap_or_else(|| panic!("{key}: {history:?}"));
        assert_eq!(ended.entry.kind, countersign_core::revocation::Kind::ApiKey);
        assert_eq!(ended.entry.issuer, None, "nobody issued it");
    }
}
