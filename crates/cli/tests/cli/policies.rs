//! Policies from files: edits, mistakes, and the commands that look at them.

use crate::rig::{Dev, alone, eventually, policy, run_with};

#[test]
fn a_broken_edit_is_reported_and_the_last_good_version_stays_also_after_a_restart() {
    let mut dev = Dev::on_policies(&[("shop.yaml", &policy("shop", ""))]);
    let token = dev.mint(&["--subject", "alice", "--role", "user"]);
    assert_eq!(dev.verdict(&token, &["--permission", "orders:read"]).0, 0);

    dev.write("shop.yaml", &policy("shop", "  tokens: {accessTTL: 15 minutes}\n"));
    let reported = |dev: &Dev| {
        let status = dev.run(&["status", "-o", "json"]);
        let problems = status.json()["problems"].to_string();
        (status.status == 1 && problems.contains("shop.yaml:8") && problems.contains("spec.tokens.accessTTL")).then_some(())
    };
    eventually("the mistake is reported with file, line and field", || reported(&dev));
    assert_eq!(dev.verdict(&token, &[]).0, 0);
    dev.restart();
    reported(&dev).expect("reported after a restart too");
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    let minted = dev.mint(&["--subject", "bob"]);
    assert_eq!(dev.verdict(&minted, &[]).0, 0, "what is not broken goes on");

    dev.write("shop.yaml", &policy("shop", "  tokens: {accessTTL: 5m}\n"));
    eventually("the mended file is in force", || {
        let shown = dev.run(&["policy", "show", "--effective", "-o", "json"]);
        (shown.json()["spec"]["tokens"]["accessTTL"] == "5m").then_some(())
    });
    eventually("all is well again", || (dev.run(&["status"]).status == 0).then_some(()));
}

#[test]
fn a_deleted_file_withdraws_its_policy_and_bringing_it_back_brings_its_keys_back() {
    let dev = Dev::on_policies(&[("a.yaml", &policy("a", "")), ("b.yaml", &policy("b", ""))]);
    let token = dev.mint(&["--policy", "shop/a", "--subject", "alice"]);
    std::fs::remove_file(dev.policies().join("a.yaml")).unwrap();
    eventually("the policy is unknown", || {
        let said = dev.run_with(&["verify", "-", "--policy", "shop/a"], &token);
        (said.status == 3).then_some(())
    });
    let other = dev.mint(&["--policy", "shop/b", "--subject", "alice"]);
    assert_eq!(dev.verdict(&other, &["--policy", "shop/b"]).0, 0, "the other goes on");
    dev.write("a.yaml", &policy("a", ""));
    eventually("the token is good again", || (dev.verdict(&token, &["--policy", "shop/a"]).0 == 0).then_some(()));
}

#[test]
fn an_issuer_can_t_be_changed() {
    let dev = Dev::on_policies(&[("shop.yaml", &policy("shop", ""))]);
    dev.write("shop.yaml", &policy("shop", "").replace("auth.shop", "login.shop"));
    eventually("it is reported", || {
        let problems = dev.run(&["status", "-o", "json"]).json()["problems"].to_string();
        (problems.contains("spec.issuer") && problems.contains("can't be changed")).then_some(())
    });
    let token = dev.mint(&["--subject", "alice"]);
    assert_eq!(dev.verdict(&token, &[]).0, 0);
}

#[test]
fn every_mistake_ends_a_first_start_before_anything_is_bound() {
    let dev = Dev::on_policies(&[("good.yaml", &policy("good", ""))]);
    let fresh = tempfile::tempdir().unwrap();
    dev.write("one.yaml", &policy("one", "  audience: [x]\n"));
    dev.write(
        "two.yaml",
        "apiVersion: countersign.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: two}\nspec: {audiences: []}\n",
    );
    let mut command = dev.command();
    command.arg("--data-dir").arg(fresh.path());
    let said = run_with(command, "");
    assert_eq!(said.status, 2, "{said:?}");
    for named in ["one.yaml:8", "audience", "two.yaml:4", "spec.audiences", "policy check"] {
        assert!(said.err.contains(named), "{named}: {said:?}");
    }
    assert!(!fresh.path().join("addresses.json").exists());
}

#[test]
fn secrets_beside_the_policies_are_followed_and_a_weak_one_is_refused() {
    let legacy = "  trustedIssuers:\n  - {name: legacy, audiences: [\"*\"], algorithms: [HS256], notAfter: \"2099-01-01T00:00:00Z\", \
                  secretKeyRef: {name: legacy-jwt, key: secret}}\n";
    let strong = "a-secret-of-thirty-two-bytes-or-more";
    let dev = Dev::on_policies(&[("shop.yaml", &policy("shop", legacy)), ("secrets/legacy-jwt/secret", strong)]);
    eventually("everything is in order", || (dev.run(&["status"]).status == 0).then_some(()));
    dev.write("secrets/legacy-jwt/secret", "weak");
    eventually("the weak secret is reported", || {
        let problems = dev.run(&["status", "-o", "json"]).json()["problems"].to_string();
        problems.contains("secretKeyRef").then_some(())
    });
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(dev.data().join("bundles")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "bundles may hold verify-secrets");
}

#[test]
fn policy_check_tells_all_mistakes_with_their_places() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, policy("shop", "")).unwrap();
    let good = alone(&["policy", "check", name]);
    assert_eq!((good.status, good.out.as_str()), (0, "in order: 0 errors, 0 warnings\n"));
    std::fs::write(&file, policy("shop", "  audience: [x]\n  tokens: {accessTTL: soon}\n")).unwrap();
    let bad = alone(&["policy", "check", name, "-o", "json"]);
    assert_eq!(bad.status, 1);
    let found = bad.json();
    let at: Vec<(u64, &str)> = found["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["line"].as_u64().unwrap(), d["field"].as_str().unwrap()))
        .collect();
    assert_eq!(at, [(8, "spec.audience"), (9, "spec.tokens.accessTTL")]);
    assert_eq!(alone(&["policy", "check", "/nonexistent.yaml"]).status, 1);
}

#[test]
fn policy_show_fills_defaults_in_and_policy_test_tries_rules() {
    let rules = "  rules: [{name: temp-reads-only, expression: \"'temp' in roles && request.method != 'GET'\"}]\n";
    let dev = Dev::on_policies(&[("shop.yaml", &policy("shop", rules))]);
    let file = dev.policies().join("shop.yaml");
    let file = file.to_str().unwrap();
    let shown = dev.run(&["policy", "show", "--effective", file]);
    assert!(shown.out.contains("accessTTL: \"15m\"") || shown.out.contains("accessTTL: 15m"), "{shown:?}");
    assert!(!dev.run(&["policy", "show", file]).out.contains("accessTTL"));
    let from_server = dev.run(&["policy", "show", "--effective", "-o", "json"]).json();
    assert_eq!(from_server, dev.run(&["policy", "show", "--effective", file, "-o", "json"]).json());
    let temp = dev.mint(&["--subject", "t", "--role", "temp"]);
    for (method, status) in [("GET", 0), ("POST", 1)] {
        let said = dev.run_with(&["policy", "test", file, "--token", "-", "--method", method], &temp);
        assert_eq!(said.status, status, "{method}: {said:?}");
    }
    let user = dev.mint(&["--subject", "u", "--role", "user"]);
    assert_eq!(dev.run_with(&["policy", "test", file, "--token", "-", "--method", "POST"], &user).status, 0);
}

#[test]
fn a_key_set_that_is_not_fetched_is_seen_in_the_status_with_its_cause_and_way_out() {
    let trusting = "  trustedIssuers:\n    - {name: idp, issuer: 'https://idp.example', jwks: {url: 'https://127.0.0.1:9/jwks'}, \
                    algorithms: [EdDSA]}\n";
    let dev = Dev::on_policies(&[("shop.yaml", &policy("shop", trusting))]);
    assert!(dev.said().contains("--allow-private-issuers"), "warned of at the start: {}", dev.said());
    let status = eventually("the failure is told", || {
        let said = dev.run(&["status"]);
        said.out.contains("trusted issuer idp").then_some(said)
    });
    assert_eq!(status.status, 1, "{status:?}");
    for part in ["shop/shop", "127.0.0.1:9", "private or loopback", "--allow-private-issuers", "not_ready"] {
        assert!(status.out.contains(part), "{part}: {status:?}");
    }
    let document = dev.run(&["status", "-o", "json"]).json();
    assert_eq!(document["key_set_problems"][0]["issuer"], "idp");
}
