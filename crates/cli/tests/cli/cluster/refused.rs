//! What the API server or the operator refuses, said in a line with what to do.

use serde_json::json;

use super::cluster;
use crate::rig::run_with;

#[test]
fn what_is_forbidden_names_verb_resource_and_place() {
    for (right, command, names) in [
        (
            ("get", "authpolicies"),
            &["keys", "list", "--policy", "shop"][..],
            "get authpolicies.countersign.dev shop in namespace shop",
        ),
        (("list", "authpolicies"), &["keys", "list"], "list authpolicies.countersign.dev in namespace shop"),
        (("patch", "authpolicies"), &["keys", "rotate", "--policy", "shop"], "patch authpolicies.countersign.dev shop"),
        (
            ("patch", "authpolicies"),
            &["keys", "revoke", "k1", "--policy", "shop"],
            "patch authpolicies.countersign.dev shop",
        ),
        (("watch", "authpolicies"), &["keys", "revoke", "k1", "--policy", "shop"], "revoked; but cluster prod-eu: you"),
        (
            ("create", "services/proxy"),
            &["token", "mint", "--subject", "a", "--policy", "shop"],
            "create services/proxy https:countersign-operator:api in namespace countersign-system",
        ),
        (
            ("create", "serviceaccounts/token"),
            &["token", "mint", "--subject", "a", "--policy", "shop", "--as-service-account", "shop/ops"],
            "create serviceaccounts/token ops in namespace shop",
        ),
        (("get", "services/proxy"), &["fleet"], "get services/proxy"),
    ] {
        let server = cluster();
        server.world().forbidden.insert(right);
        let said = server.run(command);
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains(names) && said.err.contains("you (alice@example) may not"), "{names}: {said:?}");
        assert!(said.err.contains("check with: kubectl auth can-i"), "{said:?}");
    }
}

#[test]
fn what_is_not_there_is_told_apart() {
    let server = cluster();
    for (command, status, says) in [
        (&["--context", "prod-eu", "keys", "list", "--policy", "shop/other"][..], 3, "has no AuthPolicy shop/other"),
        (&["--context", "prod-eu", "keys", "list", "-n", "empty"], 3, "namespace empty of cluster prod-eu has no policy"),
        (&["--context", "prod-us", "keys", "list"], 2, "it has prod-eu, by-certificate, as-bob, away"),
        (&["--kubeconfig", "nowhere", "keys", "list"], 2, "kubeconfig nowhere: No such file"),
        (&["--context", "away", "keys", "list"], 3, "can't reach cluster away at http://127.0.0.1:"),
        (&["--context", "prod-eu", "fleet"], 3, "no operator answers in namespace countersign-system"),
        (&["--context", "by-certificate", "fleet"], 2, "--as-service-account"),
        (&["--context", "as-bob", "fleet"], 2, "acts as bob"),
        (&["--context", "prod-eu", "verify", "x.y.z"], 2, "a verdict comes from one verifier"),
        (&["--as-service-account", "ops", "fleet"], 2, "names no service account"),
    ] {
        let said = run_with(server.command(command), "");
        assert!(said.status == status && said.err.contains(says), "{says}: {said:?}");
    }
    server.world().no_resource = true;
    let said = server.run(&["keys", "list"]);
    assert!(said.status == 3 && said.err.contains("Countersign is not installed there"), "{said:?}");
}

#[test]
fn what_the_operator_refuses_is_told_in_its_words() {
    for (status, exit) in [(400, 2), (401, 3), (403, 3), (503, 3)] {
        let server = cluster();
        let problem = json!({"error": "x", "detail": "may not mint for that", "fix": "ask somebody"});
        server.world().operator.insert("operator/v1/policies/shop/shop/tokens".into(), (status, problem));
        let said = server.run(&["token", "mint", "--subject", "a"]);
        assert!(said.status == exit && said.err.contains("may not mint for that"), "{status}: {said:?}");
    }
}
