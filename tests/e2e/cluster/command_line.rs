//! The command line on a cluster, as people and pipelines use it.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use super::world::{World, key_of, names, policy};
use crate::rig::{PATIENCE, SYSTEM, binary, condition, eventually, object_path};

/// The command, in an empty directory and as nothing but this kubeconfig says.
pub(super) fn countersign(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("countersign"));
    for name in ["COUNTERSIGN_SERVER", "COUNTERSIGN_CONTEXT", "COUNTERSIGN_POLICY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"]
    {
        command.env_remove(name);
    }
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments).current_dir(directory.path()).output().unwrap()
}

pub(super) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

/// What a pipeline may at most that mints for policies of one namespace, as the reference of the command line gives it.
fn minting_roles(namespace: &str) -> [Value; 2] {
    let role = |namespace: &str, rule: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
               "metadata": {"namespace": namespace, "name": "pipeline"}, "rules": [rule]})
    };
    [
        role(
            namespace,
            json!({"apiGroups": ["countersign.dev"], "resources": ["authpolicies/token"], "verbs": ["create"]}),
        ),
        role(
            SYSTEM,
            json!({"apiGroups": [""], "resources": ["services/proxy"],
                            "resourceNames": ["https:countersign-operator:api"], "verbs": ["create"]}),
        ),
    ]
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_person_mints_rotates_revokes_and_looks_through_a_kubeconfig() {
    let world = World::shared();
    let policy = world.enforced(&policy("console", "shop"));
    let (namespace, name) = names(&policy);
    let kubeconfig = world.installation.cluster.kubeconfig();
    let run = |arguments: &[&str]| countersign(&kubeconfig, &[&["-n", namespace, "--policy", name], arguments].concat());
    let mint = || done(&run(&["token", "mint", "--subject", "ann", "--role", "user"]));

    let before = mint();
    world.eventually(&policy, &before, (200, "valid"));
    let rotated = done(&run(&["keys", "rotate"]));
    assert!(rotated.starts_with("access: ") && rotated.contains(" signs, after "), "{rotated}");
    let after = mint();
    assert_ne!(key_of(&before), key_of(&after));
    for token in [&before, &after] {
        assert_eq!(world.verdicts(&policy, token), BTreeSet::from([(200, "valid".to_owned())]));
    }

    let revoked = run(&["keys", "revoke", &key_of(&after), "--reason", "leaked"]);
    assert!(done(&revoked).contains("enforced on 3 of 3 verifiers"), "{revoked:?}");
    // What it says is in force is in force, on each, at once.
    assert_eq!(world.verdicts(&policy, &after), BTreeSet::from([(401, "revoked".to_owned())]));
    world.eventually(&policy, &before, (200, "valid"));
    let signs = eventually("another key signs", PATIENCE, || {
        Some(run(&["token", "mint", "--subject", "ann"])).filter(|o| o.status.success())
    });
    world.eventually(&policy, &done(&signs), (200, "valid"));

    let keys: Value = serde_json::from_str(&done(&run(&["keys", "list", "-o", "json"]))).unwrap();
    let states: BTreeSet<&str> =
        keys["rings"]["access"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, BTreeSet::from(["Active", "Retiring", "Revoked"]), "{keys}");
    let fleet = done(&run(&["fleet", "-o", "name"]));
    assert_eq!(fleet.lines().count(), world.verifiers.len(), "{fleet}");
    let told: Value = serde_json::from_str(&done(&run(&["status", "-o", "json"]))).unwrap();
    assert_eq!((&told["healthy"], &told["policies"][0]["ready"]), (&json!(true), &json!(true)), "{told}");

    let refused = run(&["revoke", "subject", "ann"]);
    assert_eq!(refused.status.code(), Some(3), "no issuer is installed: {refused:?}");
    let dry = run(&["keys", "revoke", &key_of(&before), "--dry-run"]);
    assert_eq!(done(&dry), "");
    let stored = world.api().object(&object_path(&policy)).unwrap();
    assert_eq!(stored["spec"]["keys"]["revoked"].as_array().map(Vec::len), Some(1), "{stored}");
    assert_eq!(condition(&stored, "Enforced")["status"], "True");
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_pipeline_mints_with_two_roles_and_can_do_nothing_else() {
    let world = World::shared();
    let policy = world.enforced(&policy("pipeline", "shop"));
    let (namespace, name) = names(&policy);
    let api = world.api();
    api.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "ci"}}));
    for role in minting_roles(namespace) {
        api.apply(&role);
        api.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"namespace": role["metadata"]["namespace"], "name": "pipeline"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pipeline"},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": "ci"}]}));
    }
    let admins = world.installation.cluster.kubeconfig();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let mut written = std::fs::read_to_string(&admins).unwrap();
    let at = written.find("token: \"").unwrap() + "token: \"".len();
    let end = at + written[at..].find('"').unwrap();
    written.replace_range(at..end, &api.service_account_token(namespace, "ci", &[]));
    std::fs::write(&kubeconfig, written).unwrap();

    let policy_flag = format!("{namespace}/{name}");
    let run = |arguments: &[&str]| countersign(&kubeconfig, &[&["--policy", &policy_flag], arguments].concat());
    let mint = ["token", "mint", "--subject", "ci"];
    world.eventually(&policy, &done(&run(&mint)), (200, "valid"));
    for (command, missing) in [
        (&["keys", "list"][..], "may not get authpolicies.countersign.dev shop"),
        (&["keys", "rotate"], "may not get authpolicies.countersign.dev shop"),
        (&["keys", "revoke", "x"], "may not get authpolicies.countersign.dev shop"),
        (&["fleet"], "may not get services/proxy"),
        (&["fleet", "forget", "x"], "may not update authpolicies/keys"),
    ] {
        let refused = run(command);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(3) && said.contains(missing), "{command:?}: {refused:?}");
    }
    // Who has no token of their own, or wants to show the operator none, borrows the account's.
    let borrowed = ["--policy", &policy_flag, "--as-service-account", &format!("{namespace}/ci")];
    let token = done(&countersign(&admins, &[&borrowed[..], &mint].concat()));
    world.eventually(&policy, &token, (200, "valid"));
}
