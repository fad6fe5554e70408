//! What a policy adds to a verdict: rules, addresses, rates; and what an edit of it does.

use std::time::Duration;

use serde_json::{Value, json};

use super::{World, is, said};
use crate::{
    http::Request,
    rig::{PATIENCE, eventually},
};

#[test]
fn rules_and_address_lists_deny_and_say_what_the_caller_left_out() {
    let world = World::start();
    let ask = |subject: &str, request: Value, ip: Option<&str>| {
        let token = world.partner(json!({"sub": format!("{subject}-{}", crate::forge::unique())}));
        let mut body = json!({"token": token, "request": request});
        if let Some(ip) = ip {
            body["client"] = json!({"ip": ip});
        }
        world.verify("guarded", &body)
    };
    let inside = Some("203.0.113.7");
    for (what, answer, wanted) in [
        ("an ordinary subject", ask("alice", json!({"method": "POST"}), inside), None),
        ("a temporary one reads", ask("temp", json!({"method": "GET"}), inside), None),
        (
            "a temporary one writes",
            ask("temp", json!({"method": "POST"}), inside),
            Some(("rule", json!("temp-reads-only"), Value::Null)),
        ),
        (
            "no method told",
            ask("temp", json!({}), inside),
            Some(("rule", json!("temp-reads-only"), json!(["request.method"]))),
        ),
        ("no address told", ask("alice", json!({"method": "GET"}), None), Some(("ip", Value::Null, json!(["client.ip"])))),
        (
            "an address outside",
            ask("alice", json!({"method": "GET"}), Some("198.51.100.1")),
            Some(("ip", Value::Null, Value::Null)),
        ),
        (
            "a denied address",
            ask("alice", json!({"method": "GET"}), Some("203.0.113.66")),
            Some(("ip", Value::Null, Value::Null)),
        ),
        (
            "a denied address as IPv6",
            ask("alice", json!({"method": "GET"}), Some("::ffff:203.0.113.66")),
            Some(("ip", Value::Null, Value::Null)),
        ),
        ("an allowed IPv6 address", ask("alice", json!({"method": "GET"}), Some("2001:db8::1")), None),
    ] {
        match wanted {
            None => assert_eq!(said(&answer), is(200, "valid"), "{what}: {}", answer.json()),
            Some((reason, rule, missing)) => {
                assert_eq!(said(&answer), is(403, "denied"), "{what}");
                let body = answer.json();
                assert_eq!(body["reason"], reason, "{what}: {body}");
                assert_eq!(body["rule"], rule, "{what}: {body}");
                assert!(
                    body["missing"] == missing || (missing.is_null() && body["missing"] == json!([])),
                    "{what}: {body}"
                );
            }
        }
    }
}

#[test]
fn a_subject_over_its_rate_is_told_when_to_come_back_and_others_go_on() {
    let world = World::start();
    let ask = |subject: &str| {
        let token = world.partner(json!({"sub": subject}));
        world.verify("guarded", &json!({"token": token, "client": {"ip": "203.0.113.7"}}))
    };
    for n in 0..5 {
        assert_eq!(said(&ask("frank")), is(200, "valid"), "{n}");
    }
    let answer = ask("frank");
    assert_eq!(said(&answer), is(429, "rate_limited"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(said(&ask("grace")), is(200, "valid"));
}

#[test]
fn an_edit_takes_effect_a_broken_one_is_reported_and_the_last_good_one_stays() {
    let mut world = World::start();
    let token = world.partner(json!({}));
    let verdict = |world: &World| world.verdict("lenient", &token);
    assert_eq!(verdict(&world), is(200, "valid"));
    let good = std::fs::read_to_string(world.policies.directory().join("lenient.yaml")).unwrap();

    let mut edited: Value = serde_json::from_str(&good).unwrap();
    edited["spec"]["trustedIssuers"][0]["audiences"] = json!(["another-api"]);
    world.policies.write_text("lenient.yaml", &edited.to_string());
    eventually("the edit is in force", PATIENCE, || (verdict(&world) == is(401, "wrong_audience")).then_some(()));

    world.policies.write_text("lenient.yaml", &edited.to_string().replace("\"audiences\"", "\"audience\""));
    let report = eventually("the broken edit is reported", PATIENCE, || {
        let answer = Request::get("/readyz").send(&world.dev.health());
        assert_eq!(answer.status, 200, "a broken edit takes nobody out of service");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        text.contains("shop/lenient").then_some(text)
    });
    assert_eq!(verdict(&world), is(401, "wrong_audience"), "the last good edit still holds; {report}");

    // The same after a restart.
    world.dev.restart();
    assert_eq!(verdict(&world), is(401, "wrong_audience"));
    let readiness = Request::get("/readyz").send(&world.dev.health());
    assert!(String::from_utf8_lossy(&readiness.body).contains("shop/lenient"));

    world.policies.write_text("lenient.yaml", &good);
    eventually("the mended file is in force", PATIENCE, || (verdict(&world) == is(200, "valid")).then_some(()));

    world.policies.remove("lenient");
    eventually("a deleted policy is unknown", PATIENCE, || {
        (world.verify("lenient", &json!({"token": token})).status == 404).then_some(())
    });
    assert_eq!(world.verdict("shop", &token), is(200, "valid"), "the others are as before");
    eventually("nothing is reported any more", Duration::from_secs(10), || {
        let answer = Request::get("/readyz").send(&world.dev.health());
        (!String::from_utf8_lossy(&answer.body).contains("shop/lenient")).then_some(())
    });
}
