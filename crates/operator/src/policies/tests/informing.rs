//! What issuers are told beside bundle and rings.

use countersign_api::{
    cluster::{ISSUE_KEY, OWNER_UID_LABEL},
    issue::{IssueSection, signed_by},
};
use countersign_core::{
    jose::{Algorithm, base64url},
    keys::SigningKey,
};
use k8s_openapi::ByteString;

use super::*;
use crate::config::Config;

fn of_namespace(kind: &str, name: &str) -> String {
    format!("/api/v1/namespaces/shop/{kind}/{name}")
}

fn has_secret(server: &ApiServer, name: &str, values: &[(&str, &str)]) {
    let data: BTreeMap<&str, ByteString> =
        values.iter().map(|(key, value)| (*key, ByteString(value.as_bytes().to_vec()))).collect();
    server.edit(&of_namespace("secrets", name), |secret| secret["data"] = json!(data));
}

/// What the Secret for issuers says.
fn told(leader: &Leader) -> IssueSection {
    IssueSection::open(&sealed(leader), &leader.reconciler.keys.trust(), &name()).unwrap()
}

fn sealed(leader: &Leader) -> Vec<u8> {
    let secret: Secret = serde_json::from_value(leader.server.object(&issue_path()).unwrap()).unwrap();
    secret.data.unwrap().remove(ISSUE_KEY).unwrap().0
}

fn accepted(server: &ApiServer) -> Value {
    let conditions = server.object(POLICY).unwrap()["status"]["conditions"].clone();
    conditions.as_array().unwrap().iter().find(|condition| condition["type"] == "Accepted").unwrap().clone()
}

/// The server with a policy that people log in to, and whoever brought it there.
async fn with_login() -> (ApiServer, Leader) {
    let server = ApiServer::default();
    has_secret(&server, "smtp", &[("host", "mail.example"), ("password", "geheim")]);
    has_secret(&server, "web", &[("secret", "0123456789abcdef")]);
    declares(&server, |policy| {
        policy["spec"]["login"] = json!({
            "mail": {"smtpSecretRef": {"name": "smtp"}},
            "clients": [{"clientID": "web", "secretKeyRef": {"name": "web", "key": "secret"}}],
        });
    });
    let mut leader = Leader::leads(&server).await;
    leader.settles().await;
    assert_eq!(accepted(&server)["status"], "True", "{}", accepted(&server));
    (server, leader)
}

#[tokio::test]
async fn issuers_are_told_the_policy_and_what_its_login_refers_to_and_verifiers_nothing_of_it() {
    let (server, mut leader) = with_login().await;
    let section = told(&leader);
    assert_eq!((section.uid.as_str(), section.generation), ("u1", 1));
    assert!(section.spec.login.is_some());
    assert_eq!(section.references.clients["web"].as_slice(), b"0123456789abcdef");
    assert_eq!(section.references.smtp.unwrap()["password"].as_str(), "geheim");
    let marks = server.object(&issue_path()).unwrap()["metadata"].clone();
    assert_eq!(
        (&marks["labels"][OWNER_UID_LABEL], &marks["annotations"][POLICY_ANNOTATION]),
        (&json!("u1"), &json!("shop/shop"))
    );

    let bundle = server.object(&bundle_path());
    for secret in ["geheim", &base64url::encode(b"geheim")] {
        assert!(!bundle.as_ref().unwrap().to_string().contains(secret));
    }
    declares(&server, |policy| policy["spec"]["login"]["lockout"] = json!({"threshold": 4}));
    leader.settles().await;
    assert_eq!(told(&leader).generation, 2);
    assert_eq!(server.object(&bundle_path()), bundle, "no verifier is touched");
}

#[tokio::test]
async fn issuers_are_told_once_and_a_new_leader_tells_nothing_that_is_told() {
    let (server, mut leader) = with_login().await;
    let before = server.object(&issue_path());
    leader.settles().await;
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    declares(&server, |_| {});
    server.edit(POLICY, |policy| policy["metadata"]["generation"] = 1.into());
    next.settles().await;
    assert_eq!(server.object(&issue_path()), before);
}

#[tokio::test]
async fn a_policy_without_an_issuer_of_its_own_tells_issuers_nothing() {
    let server = ApiServer::default();
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let jwks = json!({"inline": {"keys": [key.public_jwk()]}});
    let partner = json!({"name": "partner", "issuer": "https://partner.example", "algorithms": ["EdDSA"], "jwks": jwks});
    declares(&server, |policy| policy["spec"] = json!({"audiences": ["a"], "trustedIssuers": [partner]}));
    let mut leader = Leader::leads(&server).await;
    leader.settles().await;
    assert!(leader.bundle().verify.is_some());
    assert_eq!(server.object(&issue_path()), None);
}

#[tokio::test]
async fn a_mistake_in_an_edit_changes_nothing_for_issuers_whoever_else_touches_what_they_were_told() {
    let (server, mut leader) = with_login().await;
    let before = told(&leader);
    declares(&server, |policy| policy["spec"]["login"]["mail"]["smtpSecretRef"]["name"] = "missing".into());
    leader.settles().await;
    let said = accepted(&server);
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("SecretNotFound")));
    assert!(said["message"].as_str().unwrap().contains("spec.login.mail.smtpSecretRef"), "{said}");
    assert_eq!(told(&leader), before);

    let mut next = Leader::leads(&server).await;
    next.settles().await;
    for mut leader in [leader, next] {
        type Meddle = fn(&ApiServer);
        let meddlers: [Meddle; 4] = [
            |server| server.edit(&issue_path(), |secret| secret["data"] = json!({})),
            |server| server.edit(&issue_path(), |secret| secret["metadata"]["labels"] = Value::Null),
            |server| server.edit(&issue_path(), |secret| secret["metadata"]["annotations"] = Value::Null),
            |server| server.delete(&issue_path()),
        ];
        for meddle in meddlers {
            meddle(&server);
            for _ in 0..5 {
                // One whose Secret lost its label is found where it isn't expected.
                assert!(matches!(leader.look().await, Ok(_) | Err(ReconcileError::Conflict)));
            }
            assert_eq!(told(&leader), before);
            let metadata = &server.object(&issue_path()).unwrap()["metadata"];
            assert_eq!(metadata["labels"][ISSUE_LABEL], "v1");
            assert_eq!(metadata["annotations"][POLICY_ANNOTATION], "shop/shop");
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_what_a_login_refers_to_is_told_by_its_field() {
    let list = |map: &str| json!({"passwords": {"breachedPasswords": {"mode": "Custom", "configMapKeyRef": {"name": map, "key": "list"}}}});
    let client = |key: &str| json!({"clients": [{"clientID": "web", "secretKeyRef": {"name": "secrets", "key": key}}]});
    let sms = json!({"sms": {"url": "https://sms.example", "signingSecretKeyRef": {"name": "secrets", "key": "short"}}});
    for (login, reason, field) in [
        (list("missing"), "ConfigMapNotFound", "spec.login.passwords.breachedPasswords.configMapKeyRef"),
        (list("binary"), "Invalid", "spec.login.passwords.breachedPasswords.configMapKeyRef"),
        (client("missing"), "SecretNotFound", "spec.login.clients[0].secretKeyRef"),
        (client("short"), "WeakKey", "spec.login.clients[0].secretKeyRef"),
        (sms, "WeakKey", "spec.login.sms.signingSecretKeyRef"),
        (json!({"mail": {"smtpSecretRef": {"name": "binary"}}}), "SecretInvalid", "spec.login.mail.smtpSecretRef"),
    ] {
        let (server, mut leader) = in_force().await;
        let before = server.object(&issue_path());
        has_secret(&server, "secrets", &[("short", "0123")]);
        let binary = ByteString(vec![0xff]);
        server.edit(&of_namespace("secrets", "binary"), |secret| secret["data"] = json!({"host": binary}));
        server.edit(&of_namespace("configmaps", "binary"), |map| map["binaryData"] = json!({"list": binary}));
        declares(&server, |policy| policy["spec"]["login"] = login.clone());
        leader.settles().await;
        let said = accepted(&server);
        assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!(reason)), "{login}: {said}");
        assert!(said["message"].as_str().unwrap().contains(field), "{login}: {said}");
        assert_eq!(server.object(&issue_path()), before, "{login}");
    }
}

#[tokio::test]
async fn a_list_of_passwords_that_is_too_long_is_not_accepted_and_what_was_told_stays() {
    let (server, mut leader) = with_login().await;
    let (issue, bundle) = (server.object(&issue_path()), server.object(&bundle_path()));
    let list = (0..66_000).map(|number| format!("password-{number}")).collect::<Vec<_>>().join("\n");
    assert!(list.len() < 1 << 20, "a ConfigMap holds it");
    server.edit(&of_namespace("configmaps", "breached"), |map| map["data"] = json!({"list": list}));
    declares(&server, |policy| {
        policy["spec"]["login"]["passwords"] =
            json!({"breachedPasswords": {"mode": "Custom", "configMapKeyRef": {"name": "breached", "key": "list"}}});
    });
    leader.settles().await;
    let said = accepted(&server);
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("TooLarge")), "{said}");
    assert!(said["message"].as_str().unwrap().contains("spec.login.passwords.breachedPasswords"), "{said}");
    assert_eq!((server.object(&issue_path()), server.object(&bundle_path())), (issue, bundle));

    server.edit(&of_namespace("configmaps", "breached"), |map| map["data"] = json!({"list": "hunter2\npassword"}));
    declares(&server, |_| {});
    leader.settles().await;
    assert_eq!(told(&leader).references.breached.unwrap().len(), 2);
}

#[tokio::test]
async fn what_issuers_are_told_is_signed_anew_with_the_key_that_signs() {
    type Then = fn(&ApiServer);
    let then: [(&str, Then); 3] = [
        ("accepted", |_| {}),
        ("mistaken", |server| declares(server, |policy| policy["spec"]["audiences"] = json!([]))),
        ("withdrawn", |server| {
            declares(server, |policy| policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
        }),
    ];
    for (what, then) in then {
        let (server, mut leader) = with_login().await;
        then(&server);
        leader.settles().await;
        let (before, key) = (told(&leader), signed_by(&sealed(&leader)).unwrap());
        leader.reconciler.keys.sign_with_a_new_one();
        leader.settles().await;
        assert_eq!(told(&leader), before, "{what}");
        let now = signed_by(&sealed(&leader)).unwrap();
        assert!(now != key && leader.reconciler.keys.signs(&now), "{what}");
    }
}

#[tokio::test]
async fn what_issuers_were_told_of_a_withdrawn_policy_goes_with_its_rings() {
    let (server, mut leader) = with_login().await;
    let before = server.object(&issue_path());
    declares(&server, |policy| policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    leader.settles().await;
    server.delete(POLICY);
    leader.settles().await;
    assert_eq!(leader.bundle().verify, None);
    assert_eq!(server.object(&issue_path()), before);
    leader.managed.stored.as_mut().unwrap().kept.record.withdrawn_time = Some(UnixMillis(0));
    leader.look().await.unwrap();
    assert_eq!((server.object(&issue_path()), server.object(&ring_path())), (None, None));
}

#[tokio::test]
async fn a_leader_of_yesterday_tells_issuers_nothing() {
    let (server, mut yesterday) = with_login().await;
    let mut today = Leader::leads(&server).await;
    declares(&server, |policy| policy["spec"]["login"]["lockout"] = json!({"threshold": 4}));
    today.settles().await;
    let written = server.object(&issue_path());
    // Its watch lags while another leads.
    declares(&server, |policy| policy["spec"]["login"]["lockout"] = json!({"threshold": 7}));
    let policy = serde_json::from_value::<DynamicObject>(server.object(POLICY).unwrap()).unwrap();
    yesterday.reconciler.caches.declared.set("shop/shop", declared(policy).map(|(_, declared)| declared));
    let looked = yesterday.reconciler.reconcile(&name(), &mut yesterday.managed).await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
    assert_eq!(server.object(&issue_path()), written);
}

#[tokio::test]
async fn where_no_issuer_is_installed_none_is_told_anything_and_a_login_s_references_are_nobody_s_concern() {
    let (server, mut leader) = with_login().await;
    assert!(server.object(&issue_path()).is_some());
    let config = Config::clone(&leader.reconciler.context.config);
    leader.reconciler.context.config = Arc::new(Config { no_issuer: true, ..config });
    declares(&server, |policy| policy["spec"]["login"]["mail"]["smtpSecretRef"]["name"] = "missing".into());
    leader.settles().await;
    assert_eq!(accepted(&server)["status"], "True");
    assert_eq!(server.object(&issue_path()), None, "of before");
}
