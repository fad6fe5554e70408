//! Names of the environment that deployments already use.

use crate::rig::{Dev, alone, countersign, run_with};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token as a service of before made it.
fn legacy_token(dev: &Dev, claims: &str) -> String {
    let script = format!(
        "import base64,hashlib,hmac,json,time\n\
         enc=lambda b: base64.urlsafe_b64encode(b).rstrip(b'=').decode()\n\
         claims=dict(exp=int(time.time())+600, iat=int(time.time()), **{claims})\n\
         head=enc(b'{{\"alg\":\"HS256\",\"typ\":\"JWT\"}}')+'.'+enc(json.dumps(claims).encode())\n\
         print(head+'.'+enc(hmac.new(b'{SECRET}', head.encode(), hashlib.sha256).digest()))"
    );
    let mut python = std::process::Command::new("python3");
    python.args(["-c", &script]).current_dir(dev.path());
    run_with(python, "").line().to_owned()
}

#[test]
fn tokens_from_before_are_accepted_by_the_secret_in_the_environment() {
    let dev = Dev::with(&[], &[("JWT_SECRET_KEY", SECRET), ("JWT_EXPIRATION_SECONDS", "90")]);
    let token = legacy_token(&dev, "{'sub': 'alice'}");
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    let with_iss = legacy_token(&dev, "{'sub': 'bob', 'iss': 'https://before.example', 'jti': 'b-1'}");
    assert_eq!(dev.verdict(&with_iss, &[]), (0, "valid".into()), "whatever iss they carry");
    assert_eq!(dev.run_with(&["revoke", "token", "-"], &with_iss).status, 0);
    assert_eq!(dev.verdict(&with_iss, &[]), (1, "revoked".into()));
    let refresh = legacy_token(&dev, "{'sub': 'alice', 'type': 'refresh'}");
    assert_eq!(dev.verdict(&refresh, &[]), (1, "invalid_claims".into()));
    assert!(dev.said().contains("JWT_SECRET_KEY are accepted until"), "{}", dev.said());
    let shown = dev.run(&["policy", "show", "--effective", "-o", "json"]).json();
    assert_eq!(shown["spec"]["tokens"]["accessTTL"], "1m30s");
    assert!(!shown.to_string().contains(SECRET) && !dev.said().contains(SECRET));
}

#[test]
fn a_broken_default_policy_doesn_t_hand_its_secret_to_another() {
    let built_in = crate::rig::policy("dev", "").replace("namespace: shop", "namespace: default");
    let (other, broken) = (crate::rig::policy("shop", ""), format!("{built_in}  broken: [\n"));
    let mut dev = Dev::with_policies(&[("dev.yaml", &built_in), ("shop.yaml", &other)], &[("JWT_SECRET_KEY", SECRET)]);
    let token = legacy_token(&dev, "{'sub': 'alice', 'iss': 'https://before.example'}");
    let verdicts = |dev: &Dev| ["default/dev", "shop/shop"].map(|name| dev.verdict(&token, &["--policy", name]).1);
    let expected = ["valid", "untrusted_issuer"];
    assert_eq!(verdicts(&dev), expected);
    dev.write("dev.yaml", &broken);
    let problems = |dev: &Dev| dev.run(&["status", "-o", "json"]).json()["problems"].as_array().map_or(0, Vec::len);
    crate::rig::eventually("the mistake is reported", || (problems(&dev) == 1).then_some(()));
    assert_eq!(verdicts(&dev), expected);
    dev.restart();
    assert_eq!(verdicts(&dev), expected);
    // A default by being the only one stays it, too.
    std::fs::remove_file(dev.policies().join("dev.yaml")).unwrap();
    crate::rig::eventually("the other is the default", || (verdicts(&dev)[1] == "valid").then_some(()));
    dev.write("shop.yaml", &format!("{other}  broken: [\n"));
    crate::rig::eventually("the mistake is reported", || (problems(&dev) == 1).then_some(()));
    assert_eq!(verdicts(&dev)[1], "valid");
    dev.restart();
    assert_eq!(verdicts(&dev)[1], "valid", "{}", dev.said());
}

#[test]
fn a_secret_that_can_be_guessed_is_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = countersign();
    command.args(["dev", "--data-dir", "d"]).current_dir(directory.path()).env("JWT_SECRET_KEY", "secret");
    let said = run_with(command, "");
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("JWT_SECRET_KEY has 6 bytes"), "{said:?}");
}

#[test]
fn settings_of_before_are_defaults_of_the_default_policy_and_it_is_said_which_are() {
    let environment = [("PASSWORD_MIN_LENGTH", "12"), ("MAX_CONCURRENT_SESSIONS", "2"), ("SESSION_TIMEOUT_MINUTES", "45")];
    let built_in = crate::rig::policy("dev", "  login: {sessions: {maxConcurrent: 7}}\n");
    let built_in = built_in.replace("namespace: shop", "namespace: default");
    let other = crate::rig::policy("shop", "  login: {}\n");
    let dev = Dev::with_policies(&[("dev.yaml", &built_in), ("shop.yaml", &other)], &environment);
    let show = |name: &str| dev.run(&["policy", "show", "--effective", "--policy", name, "-o", "json"]);
    let said = show("default/dev");
    let login = &said.json()["spec"]["login"];
    assert_eq!((&login["passwords"]["minLength"], &login["sessions"]["maxConcurrent"]), (&12.into(), &7.into()));
    assert_eq!(login["sessions"]["idleTimeout"], "45m");
    assert!(said.err.contains("spec.login.passwords.minLength: from PASSWORD_MIN_LENGTH"), "{said:?}");
    assert!(!said.err.contains("MAX_CONCURRENT_SESSIONS") && !said.out.contains("PASSWORD_MIN_LENGTH"), "{said:?}");
    let said = show("shop/shop");
    assert_eq!(said.json()["spec"]["login"]["passwords"]["minLength"], 8, "the default policy alone");
}

#[test]
fn a_setting_of_before_that_makes_no_sense_ends_the_start_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("PASSWORD_MIN_LENGTH", "-1"),
        ("MAX_CONCURRENT_SESSIONS", "0"),
        ("TOKEN_ENCRYPTION_KEY", "a"),
        ("LOG_LEVEL", "bogus"),
        ("SESSION_TIMEOUT_MINUTES", "soon"),
        ("COUNTERSIGN_VERIFIER_LISTEN", "nowhere"),
    ] {
        let mut command = countersign();
        command.args(["dev", "--data-dir", "d"]).current_dir(directory.path()).env(name, value);
        for listener in ["verifier-health", "issuer", "issuer-health", "admin"] {
            command.arg(format!("--{listener}-listen=127.0.0.1:0"));
        }
        let said = run_with(command, "");
        assert!(said.status == 2 && said.err.contains(name), "{name}: {said:?}");
    }
}

#[test]
fn a_misspelt_variable_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = countersign();
    command.args(["dev", "--dry-run"]).current_dir(directory.path()).env("COUNTERSIGN_DATA_DIRR", "x");
    let said = run_with(command, "");
    assert!(said.err.contains("COUNTERSIGN_DATA_DIRR") && said.err.contains("is COUNTERSIGN_DATA_DIR meant?"), "{said:?}");
}

#[test]
fn every_flag_has_its_variable() {
    let directory = tempfile::tempdir().unwrap();
    for (name, value) in [("COUNTERSIGN_OUTPUT", "xml"), ("COUNTERSIGN_TIMEOUT", "soon"), ("COUNTERSIGN_COLOR", "maybe")] {
        let mut command = countersign();
        command.arg("version").current_dir(directory.path()).env(name, value);
        let said = run_with(command, "");
        assert_eq!(said.status, 2, "{name}: {said:?}");
    }
    let said = alone(&["version", "-o", "json"]);
    assert!(said.json()["version"].is_string());
}
