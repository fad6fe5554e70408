//! People, at issuers that share a PostgreSQL: whichever is asked, each result is one.

mod clients;
mod crowds;
mod leaving;
mod served;

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use self::served::Served;
use super::{
    command_line::{countersign, done},
    world::{LONG, active_key},
};
use crate::{
    http::{Answer, Request},
    rig::{PATIENCE, SYSTEM, Verifier, condition, eventually, object_path},
};

fn text(answer: &Answer, member: &str) -> String {
    let json = answer.json();
    json[member].as_str().unwrap_or_else(|| panic!("no {member} in {} {json}", answer.status)).to_owned()
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn people_log_in_at_one_issuer_refresh_at_another_and_a_logout_is_refused_on_every_node() {
    let served = Served::shared();
    let policy = served.with_login("people");
    let path = |rest: &str| format!("/people/shop/auth/{rest}");
    let account = json!({"username": "ann", "email": "ann@shop.example", "password": "correct horse 1A!"});
    let made = served.post(&path("register"), None, &account);
    assert_eq!(made.status, 201, "{}", made.json());
    let login = served.post(&path("login"), None, &json!({"username": "ann", "password": "correct horse 1A!"}));
    assert_eq!(login.status, 200, "{}", login.json());
    let (first, refresh) = (text(&login, "access_token"), text(&login, "refresh_token"));
    served.world.eventually(&policy, &first, (200, "valid"));

    let refreshed = served.post(&path("refresh"), None, &json!({"refresh_token": refresh}));
    assert_eq!(refreshed.status, 200, "{}", refreshed.json());
    let second = text(&refreshed, "access_token");
    served.world.eventually(&policy, &second, (200, "valid"));

    let ended = served.post(&path("logout"), Some(&second), &json!({}));
    assert!(matches!(ended.status, 200 | 202 | 204), "{} {}", ended.status, ended.json());
    for token in [&first, &second] {
        served.world.eventually(&policy, token, (401, "revoked"));
    }
    let collector = served.world.collector.as_ref().unwrap();
    for told in ["countersign-issuer", "people/shop", "/auth/login", "/auth/logout"] {
        eventually(&format!("the collector is told {told:?}"), PATIENCE, || collector.has(told).then_some(()));
    }
    for said in [&first, &second, &refresh, "ann@shop.example", "correct horse"] {
        assert!(!collector.has(said), "{said}");
    }
    let again = served.post(&path("refresh"), None, &json!({"refresh_token": text(&refreshed, "refresh_token")}));
    assert_eq!(again.status, 401, "{}", again.json());
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_rotation_under_issuers_fails_no_login_and_no_key_ends_before_every_issuer_has_left_it() {
    let served = Served::shared();
    let policy = served.with_login("turning");
    let object = object_path(&policy);
    let account = json!({"username": "ann", "email": "ann@shop.example", "password": "correct horse 1A!"});
    assert_eq!(served.post("/turning/shop/auth/register", None, &account).status, 201);
    let login = json!({"username": "ann", "password": "correct horse 1A!"});
    let before = active_key(&policy).unwrap();
    served.world.api().merge(&object, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "now"}}}));
    let rotated = served
        .world
        .api()
        .wait(&object, "another key signs", LONG, |policy| active_key(policy).is_some_and(|active| active != before));
    let after = active_key(&rotated).unwrap();
    // Each of the two comes to sign with the new key, and no verifier refuses what either signed meanwhile.
    let mut signed_by = Vec::new();
    eventually("both issuers sign with the new key", PATIENCE, || {
        let answer = served.post("/turning/shop/auth/login", None, &login);
        assert_eq!(answer.status, 200, "{}", answer.json());
        let token = text(&answer, "access_token");
        served.world.eventually(&policy, &token, (200, "valid"));
        signed_by.push(super::world::key_of(&token));
        (signed_by.len() >= 2 && signed_by[signed_by.len() - 2..].iter().all(|key| *key == after)).then_some(())
    });
    let kept = served.acknowledged(&policy);
    assert_eq!(condition(&kept, "KeysReady")["status"], "True");
    // A key that is revoked signs nowhere from then on.
    served.world.api().merge(&object, &json!({"spec": {"keys": {"revoked": [{"kid": after}]}}}));
    eventually("both issuers sign with a third key", LONG, || {
        let tokens: Vec<String> = (0..2)
            .filter_map(|_| {
                let answer = served.post("/turning/shop/auth/login", None, &login);
                (answer.status == 200).then(|| text(&answer, "access_token"))
            })
            .collect();
        (tokens.len() == 2 && tokens.iter().all(|token| ![&before, &after].contains(&&super::world::key_of(token))))
            .then_some(())
    });
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_killed_issuer_s_logout_is_enforced_by_the_other_and_an_edit_of_the_login_wakes_no_verifier() {
    let mut served = Served::start(2);
    let policy = served.with_login_and("killed", |spec| spec["keys"]["absentAfter"] = "20s".into());
    let object = object_path(&policy);
    let account = json!({"username": "ann", "email": "ann@shop.example", "password": "correct horse 1A!"});
    assert_eq!(served.post("/killed/shop/auth/register", None, &account).status, 201);
    let login = json!({"username": "ann", "password": "correct horse 1A!"});
    let answer = served.post("/killed/shop/auth/login", None, &login);
    let token = text(&answer, "access_token");
    served.world.eventually(&policy, &token, (200, "valid"));

    // Without its feed a logout is written and not yet in force; the issuer that took it is killed.
    served.world.installation.redis.kill();
    let ended = served.post("/killed/shop/auth/logout", Some(&token), &json!({}));
    assert_eq!(ended.status, 202, "{}", ended.json());
    let took = served.asked.load(Ordering::Relaxed) % served.issuers.len();
    served.issuers[took].kill();
    served.world.installation.redis.restart();
    served.world.eventually(&policy, &token, (401, "revoked"));

    // The other goes on, and an edit of the part about people reaches it and no bundle.
    let generation = |policy: &Value| policy["status"]["enforcement"]["bundleGeneration"].clone();
    let before = generation(&served.world.api().object(&object).unwrap());
    let other = 1 - took;
    served.world.api().merge(&object, &json!({"spec": {"login": {"registration": {"mode": "Closed"}}}}));
    let stranger = json!({"username": "eve", "email": "eve@shop.example", "password": "correct horse 1A!"});
    let register = Request::post("/killed/shop/auth/register", &stranger);
    eventually("the other issuer takes no registrations", PATIENCE, || {
        let answer = served.issuers[other].send(&register)?;
        (answer.status == 403).then_some(())
    });
    assert_eq!(generation(&served.world.api().object(&object).unwrap()), before);
    served.issuers[other].stop();
    served.issuers[took] = served.world.installation.issuer(took);
    served.world.verifiers.iter_mut().for_each(Verifier::wait_until_fresh);
    let answer_again =
        || Some(served.issuers[took].send(&Request::post("/killed/shop/auth/login", &login)).expect("it answers"));
    assert_eq!(answer_again().unwrap().status, 200);

    // Cut off from the API server it signs nothing by what may be long over.
    served.world.installation.cluster.kill_api_server();
    eventually("it signs no more", PATIENCE, || answer_again().filter(|answer| answer.status == 503));
    let refused = answer_again().unwrap();
    assert!(text(&refused, "detail").contains("the API server has not confirmed"), "{}", refused.json());
    served.world.installation.cluster.revive_api_server();
    eventually("it signs again", LONG, || answer_again().filter(|answer| answer.status == 200));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn users_of_the_cluster_administer_people_through_a_kubeconfig_and_the_trail_names_them() {
    let served = Served::shared();
    let policy = served.with_login("people-admin");
    let kubeconfig = served.world.installation.cluster.kubeconfig();
    let run =
        |arguments: &[&str]| countersign(&kubeconfig, &[&["--policy", "people-admin/shop", "-y"], arguments].concat());
    let account = json!({"username": "ann", "email": "ann@shop.example", "password": "correct horse 1A!"});
    assert_eq!(served.post("/people-admin/shop/auth/register", None, &account).status, 201);
    let login = json!({"username": "ann", "password": "correct horse 1A!"});
    let token = text(&served.post("/people-admin/shop/auth/login", None, &login), "access_token");
    served.world.eventually(&policy, &token, (200, "valid"));

    let users: Value = serde_json::from_str(&done(&run(&["users", "list", "-o", "json"]))).unwrap();
    let id = users["users"][0]["id"].as_str().unwrap_or_else(|| panic!("{users}")).to_owned();
    done(&run(&["users", "lock", &id, "--reason", "left"]));
    served.world.eventually(&policy, &token, (401, "revoked"));
    assert_eq!(served.post("/people-admin/shop/auth/login", None, &login).status, 423);
    done(&run(&["users", "unlock", &id]));
    let token = text(&served.post("/people-admin/shop/auth/login", None, &login), "access_token");
    done(&run(&["revoke", "subject", &id]));
    served.world.eventually(&policy, &token, (401, "revoked"));
    let trail = done(&run(&["audit", "list", "--jsonl"]));
    assert!(trail.contains("cluster_user"), "{trail}");
    done(&run(&["audit", "verify"]));

    // Who may only look at policies may not look at people.
    let (api, cluster) = (served.world.api(), &served.world.installation.cluster);
    api.apply(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "people-admin", "name": "viewer"}}),
    );
    api.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"namespace": "people-admin", "name": "viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "people-admin", "name": "viewer"}]}));
    api.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"namespace": SYSTEM, "name": "viewer-cli"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "countersign-cli"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "people-admin", "name": "viewer"}]}));
    let directory = tempfile::tempdir().unwrap();
    let viewer = directory.path().join("kubeconfig");
    cluster.kubeconfig_of("people-admin", "viewer", cluster.server(), &viewer);
    let refused = countersign(&viewer, &["--policy", "people-admin/shop", "users", "list"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(3) && said.contains("may not update authpolicies/users"), "{refused:?}");
}
