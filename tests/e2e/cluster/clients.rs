//! What kubectl, GitOps tools and people who apply by hand do with our resources.

use serde_json::{Value, json};

use super::world::{self, LONG, World, active_key, key_of};
use crate::{
    http::Request,
    rig::{Cluster, PATIENCE, eventually, object_path},
};

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"namespace": namespace, "name": name},
        "spec": spec})
}

fn shop(namespace: &str) -> Value {
    policy(namespace, "shop", &json!({"audiences": ["shop-api"], "issuer": "https://auth.shop.example"}))
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn kubectl_explains_every_field_down_to_the_leaves() {
    let cluster = Cluster::shared();
    for (field, told) in [
        ("authpolicies.spec", "audiences"),
        ("authpolicies.spec.keys.rotation.prepublish", "Shorter than"),
        ("authpolicies.spec.login.sessions.rememberMe.idleTimeout", "without activity"),
        ("authpolicies.spec.trustedIssuers.claimMappings.roles.prefix", "admin"),
        ("authpolicies.status.enforcement.lagging", "lagging"),
        ("sessions.spec.policyRef.name", "The AuthPolicy's name"),
        ("sessions.countersign.dev.spec.suspend", "its tokens die on every verifier"),
    ] {
        let text = cluster.kubectl_ok(&["explain", field]);
        assert!(text.contains(told), "{field}: {text}");
    }
    let all = cluster.kubectl_ok(&["explain", "authpolicies", "--recursive"]);
    assert!(all.lines().count() > 150, "{all}");
    // Each line of a field names it and its type; then each has a description of its own.
    let api = cluster.api();
    let crd = api.object("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authpolicies.countersign.dev").unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut mute = Vec::new();
    undocumented("spec", spec, &mut mute);
    assert!(mute.is_empty(), "fields without a description: {mute:?}");
}

fn undocumented(path: &str, schema: &Value, mute: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            mute.push(path.clone());
        }
        undocumented(&path, field, mute);
        undocumented(&path, &field["items"], mute);
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_columns_are_those_of_the_contract_and_a_new_policy_is_pending() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("columns");
    cluster.api().apply(&shop(&namespace));
    let session = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session", "metadata": {"namespace": namespace, "name": "billing"},
        "spec": {"policyRef": {"name": "shop"}, "subject": "svc-billing", "secret": {"name": "billing-token"}}});
    cluster.api().apply(&session);
    for (resource, output, columns) in [
        ("authp", "", "NAME READY ENFORCED VERIFIERS KEY-AGE AGE"),
        ("authp", "-owide", "NAME READY ENFORCED VERIFIERS KEY-AGE AGE ISSUER ALGORITHM NEXT-ROTATION GENERATION REASON"),
        ("authsess", "", "NAME READY POLICY SUBJECT EXPIRES RENEWED AGE"),
        ("authsess", "-owide", "NAME READY POLICY SUBJECT EXPIRES RENEWED AGE SECRET SESSION-ID REASON"),
    ] {
        let arguments: Vec<_> =
            ["get", resource, "-n", &namespace, output].into_iter().filter(|word| !word.is_empty()).collect();
        let table = cluster.kubectl_ok(&arguments);
        let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(header.join(" "), columns, "{table}");
        let row = table.lines().nth(1).unwrap();
        assert!(row.contains("Unknown"), "nobody has looked at it yet: {table}");
        assert!(output.is_empty() || row.contains("Pending"), "{table}");
    }
    let category = cluster.kubectl_ok(&["get", "countersign", "-n", &namespace, "-o", "name"]);
    assert_eq!(category.lines().count(), 2, "{category}");
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn two_managers_apply_parts_of_one_policy_and_neither_takes_the_others() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("managers");
    let api = cluster.api();
    let mut platform = shop(&namespace);
    platform["spec"]["roles"] = json!([{"name": "admin", "permissions": ["*"]}]);
    platform["spec"]["keys"] = json!({"revoked": [{"kid": "k1"}]});
    let mut team = shop(&namespace);
    team["spec"] = json!({
        "audiences": ["shop-api"], "roles": [{"name": "user", "permissions": ["orders:read"]}],
        "keys": {"revoked": [{"kid": "k2", "reason": "leaked"}]},
        "trustedIssuers": [{"name": "kc", "issuer": "https://kc.example"}],
        "login": {"clients": [{"clientID": "billing", "secretKeyRef": {"name": "b", "key": "k"}}]},
    });
    for (manager, part) in [("platform", &platform), ("team", &team)] {
        let answer = api.apply_as(manager, part);
        assert!(matches!(answer.status, 200 | 201), "{manager}: {}", answer.json());
    }
    let names = |spec: &Value, list: &str, key: &str| -> Vec<String> {
        let items = spec.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
        items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    };
    let both = api.object(&object_path(&platform)).unwrap()["spec"].clone();
    assert_eq!(names(&both, "/roles", "name"), ["admin", "user"]);
    assert_eq!(names(&both, "/keys/revoked", "kid"), ["k1", "k2"]);
    // What a manager leaves out of its next version goes; what the other one owns stays.
    platform["spec"].as_object_mut().unwrap().remove("keys");
    platform["spec"]["roles"] = json!([]);
    let after = api.apply_as("platform", &platform).json()["spec"].clone();
    assert_eq!(names(&after, "/roles", "name"), ["user"]);
    assert_eq!(names(&after, "/keys/revoked", "kid"), ["k2"]);
    assert_eq!(names(&after, "/login/clients", "clientID"), ["billing"]);
    // A field that both claim with different values is a conflict, and named.
    let conflict = api.apply_as("team", &policy(&namespace, "shop", &json!({"audiences": ["other"]})));
    assert_eq!(conflict.status, 409, "{}", conflict.json());
    assert!(conflict.json()["message"].as_str().unwrap().contains("platform"), "{}", conflict.json());
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_tool_that_applies_client_side_edits_and_removes_and_sees_no_difference_afterwards() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("client-side");
    let mut object = shop(&namespace);
    object["spec"]["roles"] =
        json!([{"name": "user", "permissions": ["orders:read"]}, {"name": "admin", "permissions": ["*"]}]);
    object["spec"]["tokens"] = json!({"accessTTL": "10m"});
    let apply = |object: &Value| {
        let output = cluster.kubectl_with(&["apply", "-f", "-"], &object.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(apply(&object).contains("created"));
    assert!(apply(&object).contains("unchanged"));
    object["spec"]["roles"] = json!([{"name": "user", "permissions": ["orders:write"]}]);
    object["spec"].as_object_mut().unwrap().remove("tokens");
    assert!(apply(&object).contains("configured"));
    let difference = cluster.kubectl_with(&["diff", "-f", "-"], &object.to_string());
    assert_eq!(difference.status.code(), Some(0), "{}", String::from_utf8_lossy(&difference.stdout));
    // Nothing is filled in: what is stored is what was written.
    let stored = cluster.api().object(&object_path(&object)).unwrap();
    assert_eq!(stored["spec"], object["spec"]);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_tool_that_puts_a_policy_back_undoes_an_edit_on_every_verifier_and_neither_a_revocation_nor_a_rotation() {
    let world = World::shared();
    let (api, declared) = (world.api(), world::policy("gitops", "shop"));
    let path = object_path(&declared);
    let enforced = world.enforced(&declared);
    let leaked = world.minter.mint(&enforced, "ann");
    let first = active_key(&enforced).unwrap();

    // By hand: another audience, a rotation, and the key that was before it is revoked.
    api.merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "by hand"}}}));
    let rotated =
        api.wait(&path, "another key signs", LONG, |found| active_key(found).is_some_and(|active| active != first));
    let second = active_key(&rotated).unwrap();
    let good = eventually("tokens are signed with it", PATIENCE, || {
        world.minter.try_mint(&rotated, "ann").filter(|token| key_of(token) == second)
    });
    world.eventually(&rotated, &good, (200, "valid"));
    api.merge(&path, &json!({"spec": {"audiences": ["another-api"], "keys": {"revoked": [{"kid": first}]}}}));
    world.eventually(&rotated, &leaked, (401, "revoked"));
    eventually("every verifier wants the other audience", PATIENCE, || {
        world.verdicts(&rotated, &good).iter().all(|(status, _)| *status == 401).then_some(())
    });

    // What isn't declared goes.
    let mut put_back = api.object(&path).unwrap();
    put_back["spec"] = declared["spec"].clone();
    put_back["metadata"]["annotations"] = json!({});
    let answer = api.send(Request::new("PUT", &path).header("content-type", "application/json").body(put_back.to_string()));
    assert_eq!(answer.status, 200, "{}", answer.json());
    let after = api.wait_condition(&path, "Enforced", "True", PATIENCE);
    assert_eq!(after["spec"], declared["spec"]);
    world.eventually(&after, &good, (200, "valid"));
    world.eventually(&after, &leaked, (401, "revoked"));
    assert_eq!(active_key(&after), Some(second.clone()), "no third key: {after}");
    let next = world.minter.mint(&after, "ann");
    assert_eq!(key_of(&next), second);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn what_may_not_change_does_not() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("immutable");
    let api = cluster.api();
    let with_issuer = shop(&namespace);
    let without = policy(
        &namespace,
        "verifies",
        &json!({"audiences": ["a"], "trustedIssuers": [{"name": "kc", "issuer": "https://kc.example"}]}),
    );
    let session = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session", "metadata": {"namespace": namespace, "name": "billing"},
        "spec": {"policyRef": {"name": "shop"}, "subject": "svc-billing", "secret": {"name": "billing-token"}}});
    for object in [&with_issuer, &without, &session] {
        api.apply(object);
    }
    for (object, patch, field) in [
        (&with_issuer, json!({"spec": {"issuer": "https://other.example"}}), "issuer"),
        (
            &with_issuer,
            json!({"spec": {"issuer": null, "trustedIssuers": [{"name": "kc", "issuer": "https://kc.example"}]}}),
            "issuer",
        ),
        (&without, json!({"spec": {"issuer": "https://new.example"}}), "issuer"),
        (&session, json!({"spec": {"subject": "svc-other"}}), "subject"),
        (&session, json!({"spec": {"policyRef": {"name": "other"}}}), "policyRef"),
    ] {
        let answer = api.try_merge(&object_path(object), &patch);
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, 422, "{patch}: {message}");
        assert!(message.contains(field) && message.contains("can't be changed"), "{message}");
    }
    api.merge(&object_path(&session), &json!({"spec": {"suspend": true}}));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_status_is_not_written_with_the_resource_and_the_resource_not_with_its_status() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("status");
    let api = cluster.api();
    let made = api.apply(&shop(&namespace));
    let forged = api.merge(
        &object_path(&made),
        &json!({"status": {"enforcement": {"verifiers": 99, "acknowledged": 99, "summary": "99/99"}}}),
    );
    assert_eq!(forged["status"], made["status"]);
    let sneaked = api.merge(&format!("{}/status", object_path(&made)), &json!({"spec": {"audiences": ["everyone"]}}));
    assert_eq!(sneaked["spec"], made["spec"]);
}
