//! Breaking the glass: `token mint --emergency`, what it is good for, and what remains of it.

use serde_json::Value;

use crate::rig::{Dev, eventually, policy, run_with};

const EMERGENCY: &str = "  emergency: {mode: Enabled, maxTTL: 2h, notAfter: 2099-01-01T00:00:00Z, roles: [user]}\n";
const REASON: &str = "INC-42: the \"login\" is down";

/// The audit trail's events of these kinds, oldest first.
fn audited(dev: &Dev) -> Vec<Value> {
    let script = "import json,sqlite3,sys\n\
        rows=sqlite3.connect(sys.argv[1]).execute(\"SELECT type, severity, subject, session_id, details FROM audit_events \
        WHERE type LIKE 'EMERGENCY_%' ORDER BY id\").fetchall()\n\
        print(json.dumps([dict(type=t, severity=s, subject=u, session=i, details=json.loads(d)) for t,s,u,i,d in rows]))";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script]).arg(dev.data().join("countersign.db"));
    serde_json::from_str(run_with(python, "").line()).unwrap()
}

fn uses(dev: &Dev) -> Vec<Value> {
    audited(dev).into_iter().filter(|event| event["type"] == "EMERGENCY_USED").collect()
}

/// The lines that the verifier wrote about uses.
fn logged(dev: &Dev) -> Vec<Value> {
    let said = dev.said();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event_type"] == "EMERGENCY_USED").collect()
}

#[test]
fn an_emergency_token_is_within_the_policy_s_bounds_and_each_use_of_it_is_audited() {
    let mut dev = Dev::with_policies(&[("shop.yaml", &policy("shop", EMERGENCY))], &[("LOG_LEVEL", "off")]);
    let minted = dev.run(&[
        "token",
        "mint",
        "--subject",
        "alice",
        "--role",
        "user",
        "--emergency",
        "--reason",
        REASON,
        "-o",
        "json",
    ]);
    assert_eq!(minted.status, 0, "{minted:?}");
    let minted = minted.json();
    let token = minted["token"].as_str().unwrap();
    let inspected = dev.run_with(&["token", "inspect", "-", "-o", "json"], token).json();
    assert_eq!(inspected["header"]["typ"], "emergency+jwt");
    let claims = &inspected["claims"];
    assert_eq!(claims["emergency"]["reason"], REASON);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 7200, "maxTTL, past accessTTL");
    assert!(dev.run_with(&["token", "inspect", "-"], token).out.contains("an emergency token"));

    let verified = dev.run_with(&["verify", "-", "--permission", "orders:read", "-o", "json"], token).json();
    assert_eq!((&verified["verdict"], &verified["kind"]), (&"valid".into(), &"emergency".into()));
    assert_eq!(dev.verdict(token, &[]), (0, "valid".into()));
    assert_eq!(dev.verdict(token, &["--permission", "orders:write"]), (1, "denied".into()));
    // Whatever the log's level says.
    let lines = logged(&dev);
    assert_eq!(lines.len(), 2, "{}", dev.said());
    assert_eq!((&lines[0]["policy"], &lines[0]["reason"]), (&"shop/shop".into(), &REASON.into()));
    let used = eventually("the uses are in the audit trail", || Some(uses(&dev)).filter(|uses| uses.len() == 2));
    for (event, line) in used.iter().zip(&lines) {
        assert_eq!((&event["severity"], &event["subject"]), (&2.into(), &"alice".into()), "CRITICAL: {event}");
        assert_eq!(event["session"], minted["session_id"]);
        let details = &event["details"];
        assert_eq!((&details["reason"], &details["token_id"]), (&REASON.into(), &minted["token_id"]));
        assert_eq!(details["use_id"], line["id"], "the trail and the log speak of one use");
    }
    let made = &audited(&dev)[0];
    assert_eq!(
        (&made["type"], &made["severity"], &made["details"]["reason"]),
        (&"EMERGENCY_MINTED".into(), &2.into(), &REASON.into())
    );

    // What was allowed at the last moment is in the trail as well.
    assert_eq!(dev.verdict(token, &[]), (0, "valid".into()));
    assert_eq!(dev.terminate(), 0);
    assert_eq!(uses(&dev).len(), 3);
    let everything = format!("{:?}{}", audited(&dev), dev.said());
    assert!(!everything.contains(token.rsplit('.').next().unwrap()), "never the token itself");
}

#[test]
fn what_goes_beyond_the_policy_s_emergency_is_refused_and_so_is_breaking_the_glass_by_halves() {
    let dev = Dev::with_policies(&[("shop.yaml", &policy("shop", EMERGENCY))], &[]);
    let mint = |more: &[&str]| dev.run(&[&["token", "mint", "--subject", "alice"], more].concat());
    for (arguments, part) in [
        (&["--emergency"][..], "--reason"),
        (&["--reason", "because"], "--emergency"),
        (&["--emergency", "--reason", ""], "reason must be 1 to 256 bytes"),
        (&["--emergency", "--reason", "because", "--role", "admin"], "spec.emergency.roles: admin"),
        (&["--emergency", "--reason", "because", "--ttl", "3h"], "emergency.maxTTL"),
        (&["--ttl", "1h"], "accessTTL"),
    ] {
        let said = mint(arguments);
        assert_ne!(said.status, 0, "{arguments:?}: {said:?}");
        assert!(said.err.contains(part), "{arguments:?}: {said:?}");
    }
    assert_eq!(audited(&dev).len(), 0, "nothing was made");

    // The policy ends them: at once, though they were accepted before.
    let token = dev.mint(&["--subject", "alice", "--role", "user", "--emergency", "--reason", REASON]);
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    dev.write("shop.yaml", &policy("shop", ""));
    eventually("it is refused", || (dev.verdict(&token, &[]) == (1, "invalid_claims".into())).then_some(()));
    let refused =
        eventually("none is minted", || Some(mint(&["--emergency", "--reason", "because"])).filter(|s| s.status != 0));
    assert!(refused.err.contains("spec.emergency.mode is Disabled"), "{refused:?}");
    // An ordinary token of the same person is none of all this, and what is refused is no use.
    let uses = logged(&dev).len();
    let ordinary = dev.mint(&["--subject", "alice"]);
    assert_eq!(dev.verdict(&ordinary, &[]), (0, "valid".into()));
    assert_eq!(dev.verdict(&token, &[]), (1, "invalid_claims".into()));
    assert_eq!(logged(&dev).len(), uses);
}

#[test]
fn the_environment_lets_emergency_tokens_in_for_an_hour_and_says_so() {
    let dev = Dev::with(&[], &[("EMERGENCY_AUTH_MODE", "true")]);
    assert!(dev.said().contains("EMERGENCY_AUTH_MODE: until "), "{}", dev.said());
    let token = dev.mint(&["--subject", "alice", "--role", "admin", "--emergency", "--reason", REASON]);
    assert_eq!(dev.verdict(&token, &["--permission", "anything:at-all"]), (0, "valid".into()));
    let inspected = dev.run_with(&["token", "inspect", "-", "-o", "json"], &token).json();
    let life = inspected["claims"]["exp"].as_i64().unwrap() - inspected["claims"]["iat"].as_i64().unwrap();
    assert!((3000..=3600).contains(&life), "no longer than the hour: {life}");

    let dev = Dev::start();
    let refused = dev.run(&["token", "mint", "--subject", "alice", "--emergency", "--reason", REASON]);
    assert!(refused.err.contains("spec.emergency.mode is Disabled"), "off by default: {refused:?}");
}
