//! What each of our service accounts, and each kind of person, may do, as the API server decides it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::world::World;
use crate::rig::{Api, BUNDLES, PATIENCE, SYSTEM, eventually};

const GROUP: &str = "countersign.dev";

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_verifier_may_read_bundles_and_their_secrets_and_nothing_else() {
    let world = World::shared();
    let verifier = world.api().as_service_account(SYSTEM, "countersign-verifier");
    let reading: BTreeSet<String> = ["configmaps", "secrets"]
        .iter()
        .flat_map(|kind| ["get", "list", "watch"].map(|verb| format!("{verb} {kind}")))
        .collect();
    assert_eq!(rules(&verifier, BUNDLES), reading);
    for namespace in [SYSTEM, "default", "kube-system"] {
        assert_eq!(rules(&verifier, namespace), BTreeSet::new(), "{namespace}");
    }
    // And by kubectl, as a person would look.
    let account = format!("--as=system:serviceaccount:{SYSTEM}:countersign-verifier");
    for (verb, resource, namespace, allowed) in [
        ("get", "secrets", BUNDLES, true),
        ("get", "secrets", SYSTEM, false),
        ("create", "configmaps", BUNDLES, false),
        ("patch", "authpolicies.countersign.dev/status", "default", false),
    ] {
        let output = world.installation.cluster.kubectl(&["auth", "can-i", verb, resource, "-n", namespace, &account]);
        assert_eq!(output.status.success(), allowed, "{verb} {resource} in {namespace}");
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_operator_writes_no_policy_only_its_status_and_finalizers() {
    let world = World::shared();
    let operator = world.api().as_service_account(SYSTEM, "countersign-operator");
    for (verb, group, resource, namespace, allowed) in [
        ("watch", GROUP, "authpolicies", "default", true),
        ("patch", GROUP, "authpolicies/status", "default", true),
        ("create", GROUP, "authpolicies", "default", false),
        ("delete", GROUP, "authpolicies", "default", false),
        ("update", GROUP, "authpolicies", "default", false),
        ("delete", GROUP, "sessions", "default", false),
        ("create", "", "configmaps", BUNDLES, true),
        ("create", "", "configmaps", "default", false),
        ("patch", "", "secrets", SYSTEM, true),
        ("update", "", "secrets", "default", false),
        ("list", "", "pods", SYSTEM, true),
        ("list", "", "pods", "default", false),
        ("create", "", "pods", SYSTEM, false),
        ("create", "", "pods/exec", SYSTEM, false),
        ("create", "", "serviceaccounts/token", SYSTEM, false),
        ("create", "rbac.authorization.k8s.io", "rolebindings", SYSTEM, false),
        ("impersonate", "", "users", "", false),
        ("update", "coordination.k8s.io", "leases", "default", false),
    ] {
        assert_eq!(operator.may(verb, group, resource, namespace), allowed, "{verb} {resource} in {namespace:?}");
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn admins_make_policies_editors_make_sessions_and_viewers_look() {
    let world = World::shared();
    let api = world.api();
    api.namespace("people");
    for role in ["view", "edit", "admin"] {
        api.apply(
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "people", "name": role}}),
        );
        api.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"namespace": "people", "name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": "people", "name": role}]}));
    }
    for (verb, resource, who) in [
        ("get", "authpolicies", ["view", "edit", "admin"].as_slice()),
        ("watch", "sessions", &["view", "edit", "admin"]),
        ("create", "sessions", &["edit", "admin"]),
        ("delete", "sessions", &["edit", "admin"]),
        ("create", "authpolicies", &["admin"]),
        ("update", "authpolicies", &["admin"]),
        ("patch", "authpolicies/status", &[]),
        ("patch", "sessions/status", &[]),
    ] {
        for role in ["view", "edit", "admin"] {
            let person = api.as_service_account("people", role);
            assert_eq!(person.may(verb, GROUP, resource, "people"), who.contains(&role), "{role}: {verb} {resource}");
            assert!(!person.may(verb, GROUP, resource, "default"), "{role}: {verb} {resource} elsewhere");
        }
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn who_may_not_mint_gets_no_token_from_the_operator() {
    let world = World::shared();
    let policy = world.enforced(&super::world::policy("minting", "shop"));
    let path = format!(
        "/api/v1/namespaces/{SYSTEM}/services/https:countersign-operator:api/proxy/operator/v1/policies/minting/shop/tokens"
    );
    let api = world.api();
    api.apply(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "minting", "name": "nobody"}}),
    );
    let nobody = api.service_account_token("minting", "nobody", &["countersign"]);
    for (credential, expected) in [(None, 401), (Some("not-a-token"), 401), (Some(nobody.as_str()), 403)] {
        let mut request = crate::http::Request::post(&path, &json!({"subject": "ann"}));
        if let Some(credential) = credential {
            request = request.header("x-countersign-token", credential);
        }
        let answer = api.send(request);
        assert_eq!(answer.status, expected, "{credential:?}: {}", String::from_utf8_lossy(&answer.body));
    }
    world.minter.mint(&policy, "ann");
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn breaking_the_glass_is_a_right_of_its_own_and_each_use_of_what_it_gives_is_told() {
    let world = World::shared();
    let mut policy = super::world::policy("glass", "shop");
    policy["spec"]["emergency"] = json!({"mode": "Enabled", "notAfter": "2099-01-01T00:00:00Z", "roles": ["user"]});
    let policy = world.enforced(&policy);
    let path = format!(
        "/api/v1/namespaces/{SYSTEM}/services/https:countersign-operator:api/proxy/operator/v1/policies/glass/shop/tokens"
    );
    let api = world.api();
    let emergency = json!({"subject": "ann", "roles": ["user"], "emergency": true, "reason": "INC-42"});
    let mut broken = None;
    for (account, role, ordinary_status, emergency_status) in
        [("minter", "countersign-token-minter", 200, 403), ("breaker", "countersign-emergency", 403, 200)]
    {
        api.apply(
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "glass", "name": account}}),
        );
        api.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"namespace": "glass", "name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": "glass", "name": account}]}));
        let token = api.service_account_token("glass", account, &["countersign"]);
        let ask = |body: &Value| api.send(crate::http::Request::post(&path, body).header("x-countersign-token", &token));
        let unreasoned = json!({"subject": "ann", "emergency": true});
        for (body, expected) in [
            (&json!({"subject": "ann"}), ordinary_status),
            (&unreasoned, if emergency_status == 200 { 422 } else { 403 }),
            (&emergency, emergency_status),
        ] {
            let answer = ask(body);
            assert_eq!(answer.status, expected, "{account}: {body}: {}", String::from_utf8_lossy(&answer.body));
            if body == &emergency && expected == 200 {
                broken = Some(answer.json()["token"].as_str().unwrap().to_owned());
            }
        }
    }
    let verdicts = world.verdicts(&policy, &broken.unwrap());
    assert_eq!(verdicts, BTreeSet::from([(200, "valid".to_owned())]));
    eventually("an event tells its use", PATIENCE, || {
        let events = api.get("/apis/events.k8s.io/v1/namespaces/glass/events").json();
        let told = |event: &Value| event["reason"] == "EmergencyUsed" && event["note"].as_str().unwrap().contains("INC-42");
        events["items"].as_array().unwrap().iter().any(told).then_some(())
    });
}

/// What someone may do in a namespace with resources, beyond what everybody may: `verb resource`.
fn rules(who: &Api, namespace: &str) -> BTreeSet<String> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let answer = who.send(crate::http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review));
    assert_eq!(answer.status, 201, "{}", answer.json());
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let status = &answer.json()["status"];
    let mut allowed = BTreeSet::new();
    for rule in status["resourceRules"].as_array().into_iter().flatten() {
        for resource in texts(&rule["resources"]) {
            allowed.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {resource}")));
        }
    }
    // Asking about oneself is everybody's right.
    allowed.retain(|rule| !rule.contains(" selfsubject"));
    allowed
}
