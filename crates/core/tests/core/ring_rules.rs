//! Each rule of key rotation by example.

use std::collections::BTreeSet;

use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    ring::{
        Action, Cause,
        KeyState::{Active, Pending, Retiring, Revoked},
        OnUnacknowledged, Phase, Ring, RotationSpec, key_set,
    },
};

use crate::ring_bench::{Bench, DAY, MINUTE, START};

#[test]
fn a_first_key_signs_at_once_where_nobody_verifies() {
    let mut bench = Bench::new(0);
    let actions = bench.settle();
    assert!(matches!(
        actions[..],
        [Action::Create { cause: Cause::First, .. }, Action::Activate { unacknowledged: false, .. }]
    ));
    assert_eq!(bench.phase(), Phase::Ready);
    assert_eq!(bench.ring.signing_key().unwrap().unwrap().kid(), "k1");
}

#[test]
fn a_first_key_waits_for_verifiers_but_no_longer_than_the_timeout() {
    let mut bench = Bench::new(1);
    bench.held = Some(BTreeSet::new());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Pending)]);
    assert_eq!(bench.phase(), Phase::Generating);
    assert!(bench.ring.signing_key().unwrap().is_none());

    assert_eq!(bench.after(5 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[..], [Action::Activate { unacknowledged: true, .. }]));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);

    bench.held = None;
    assert_eq!(bench.settle(), [Action::Acknowledged { kid: "k1".into() }]);
    assert_eq!(bench.phase(), Phase::Ready);
}

#[test]
fn a_scheduled_successor_is_published_before_it_is_due_and_signs_when_it_is() {
    let mut bench = Bench::running();
    assert_eq!(bench.after(30 * DAY - 10 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[..], [Action::Create { cause: Cause::Scheduled, .. }]));
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::Ready);
    assert_eq!(bench.after(10 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[0], Action::Activate { unacknowledged: false, .. }));
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
}

#[test]
fn a_successor_that_comes_late_is_published_for_its_full_time_all_the_same() {
    let mut bench = Bench::running();
    bench.after(31 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.after(10 * MINUTE - 1), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn a_rotation_waits_for_its_last_verifier_however_long() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.after(30 * DAY);
    bench.after(90 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::RotationWaiting);
    bench.held = None;
    bench.settle();
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn no_verifier_at_all_is_not_every_verifier() {
    let mut bench = Bench::running();
    bench.verifiers = 0;
    bench.after(30 * DAY);
    bench.after(30 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::RotationWaiting);
}

#[test]
fn an_owner_who_chose_so_goes_on_without_acknowledgements_after_the_timeout() {
    let mut bench = Bench::running();
    bench.spec.on_unacknowledged = OnUnacknowledged::Proceed;
    bench.nobody_has_new_keys();
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.after(5 * MINUTE - 1), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k2"));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);
}

#[test]
fn a_request_rotates_once_and_as_soon_as_everyone_has_the_key() {
    type Ask = fn(&mut RotationSpec, &str);
    let asks: [Ask; 2] =
        [|spec, value| spec.revision = Some(value.into()), |spec, value| spec.rotation = Some(value.into())];
    for ask in asks {
        let mut bench = Bench::running();
        ask(&mut bench.spec, "now");
        let actions = bench.step();
        assert!(matches!(actions[..], [Action::Create { cause: Cause::Requested, .. }]));
        bench.settle();
        assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)], "without waiting for prepublish");
        assert_eq!(bench.after(MINUTE), []);

        bench.spec.revision = None;
        bench.spec.rotation = None;
        assert_eq!(bench.after(MINUTE), [], "taking a request away asks for nothing");
        ask(&mut bench.spec, "now");
        assert_eq!(bench.after(MINUTE), [], "the same value again asks for nothing");
        ask(&mut bench.spec, "again");
        bench.settle();
        assert_eq!(bench.active(), Some("k3"));
    }
}

#[test]
fn a_request_hastens_a_scheduled_successor_instead_of_making_another() {
    let mut bench = Bench::running();
    bench.after(30 * DAY - 5 * MINUTE);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
}

#[test]
fn a_request_that_is_taken_back_leaves_its_key_to_the_schedule() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.spec.revision = Some("1".into());
    bench.held = None;
    assert_eq!(bench.settle(), []);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.after(30 * DAY);
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn another_algorithm_starts_a_rotation_and_coming_back_to_the_old_one_ends_it() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.algorithm = Algorithm::ES256;
    assert!(matches!(bench.settle()[..], [Action::Create { algorithm: Algorithm::ES256, cause: Cause::Algorithm }]));
    bench.spec.algorithm = Algorithm::EdDSA;
    assert_eq!(bench.settle(), [Action::Remove { kid: "k2".into() }]);

    bench.spec.algorithm = Algorithm::ES384;
    bench.held = None;
    bench.settle();
    let active = bench.ring.active().unwrap();
    assert_eq!((active.kid.as_str(), active.algorithm), ("k3", Algorithm::ES384));
}

#[test]
fn revoking_the_key_that_signs_makes_a_fresh_one_in_the_same_write() {
    let mut bench = Bench::running();
    bench.after(30 * DAY - 5 * MINUTE);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());

    let actions = bench.step();
    assert!(
        matches!(&actions[..], [Action::Revoke { kid }, Action::Create { cause: Cause::Emergency, .. }] if kid == "k1")
    );
    // The successor lay beside the stolen key: it goes too.
    assert_eq!(bench.states(), [("k1", Revoked), ("k3", Pending)]);
    assert_eq!(bench.phase(), Phase::NoSigningKey);
    assert!(bench.ring.signing_key().unwrap().is_none());

    assert_eq!(bench.after(1_999), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k3"));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);
}

#[test]
fn an_emergency_key_that_everyone_has_signs_before_its_two_seconds_are_over() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    assert_eq!(bench.active(), Some("k2"));
    assert_eq!(bench.phase(), Phase::Ready);
}

#[test]
fn a_second_emergency_is_handled_like_the_first() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.spec.revoked.insert("k2".into());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Revoked), ("k2", Revoked), ("k3", Pending)], "revoked before it signed");
    bench.after(2_000);
    bench.spec.revoked.insert("k3".into());
    bench.settle();
    bench.after(2_000);
    assert_eq!(bench.active(), Some("k4"));
}

#[test]
fn a_revocation_is_final_and_erases_the_private_key() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.spec.revoked.clear();
    bench.after(400 * DAY);
    let revoked = bench.ring.key("k1").unwrap();
    assert_eq!((revoked.state, revoked.revoked, &revoked.pkcs8), (Revoked, Some(START), &None));
    let set = key_set(&bench.ring.public_keys()).unwrap();
    assert!(set.with_kid("k1").all(|entry| entry.revoked), "recognised, in order to say so");
    assert!(set.jwks().keys.iter().all(|jwk| jwk.kid.as_deref() != Some("k1")), "and no longer published");
}

#[test]
fn a_name_that_the_ring_does_not_have_is_revoked_in_vain() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("somebody else's".into());
    assert_eq!(bench.settle(), []);
}

#[test]
fn a_retired_key_verifies_until_its_last_token_is_dead_and_no_issuer_signs() {
    let mut bench = Bench::running();
    bench.issuers_hold = Some(bench.ring.version);
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.after(DAY), [], "an issuer may still be signing with it");
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);

    bench.issuers_hold = None;
    let at = bench.now.plus(15 * MINUTE + 30_000);
    assert_eq!(bench.settle(), [Action::ScheduleRemoval { kid: "k1".into(), at }]);
    assert_eq!(bench.ring.key("k1").unwrap().pkcs8, None, "nobody needs its private half any more");
    assert_eq!(bench.after(15 * MINUTE + 29_999), []);
    bench.feed_reachable = false;
    assert_eq!(bench.after(1), [], "one clock is not enough");
    bench.feed_reachable = true;
    assert_eq!(bench.settle(), [Action::Remove { kid: "k1".into() }]);
}

#[test]
fn a_key_outlives_the_longest_token_that_it_ever_signed() {
    let mut bench = Bench::running();
    bench.spec.max_ttl_ms = DAY;
    assert_eq!(bench.settle(), [Action::NoteLifetime { kid: "k1".into(), ttl_ms: DAY }]);
    bench.spec.max_ttl_ms = MINUTE;
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.after(DAY);
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
    bench.after(MINUTE);
    assert_eq!(bench.states(), [("k2", Active)]);
}

#[test]
fn a_clock_that_goes_back_delays_nothing_for_long() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.after(-DAY);
    bench.after(2_000);
    assert_eq!(bench.active(), Some("k2"), "an emergency waits two seconds, not a day");

    bench.held = None;
    bench.settle();
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.after(-DAY);
    bench.after(20 * MINUTE);
    assert_eq!(bench.states(), [("k1", Revoked), ("k3", Active)], "nor does a retired key stay a day too long");
    bench.after(30 * DAY);
    bench.after(10 * MINUTE);
    assert_eq!(bench.active(), Some("k4"), "nor a rotation");
}

#[test]
fn a_ring_is_stored_and_read_back_and_never_shown() {
    let mut bench = Bench::running();
    bench.spec.rotation = Some("a".into());
    bench.settle();
    let text = serde_json::to_string(&bench.ring).unwrap();
    let read: Ring = serde_json::from_str(&text).unwrap();
    assert_eq!(read, bench.ring);
    assert_eq!(read.signing_key().unwrap().unwrap().kid(), "k2");

    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let secret = stored["keys"][1]["pkcs8"].as_str().unwrap();
    let shown = format!("{:?} {:?}", bench.ring, bench.ring.public_keys());
    assert!(!shown.contains(secret) && !shown.contains("pkcs8: Some(PrivateKey([") && shown.contains("PrivateKey(..)"));
    assert!(!serde_json::to_string(&bench.ring.public_keys()).unwrap().contains(secret));
}

#[test]
fn a_plan_for_another_ring_is_not_carried_out() {
    let bench = Bench::running();
    let plans = [
        vec![Action::Remove { kid: "k9".into() }],
        vec![Action::Activate { kid: "k1".into(), unacknowledged: false, ttl_ms: 0, revision: None, rotation: None }],
    ];
    for actions in plans {
        assert!(bench.ring.apply(&actions, START, SigningKey::generate).is_err(), "{actions:?}");
    }
}

#[test]
fn a_ring_s_version_rises_over_restores_too() {
    let mut bench = Bench::running();
    let backup = bench.ring.clone();
    bench.now = bench.now.plus(MINUTE);
    bench.spec.revision = Some("2".into());
    bench.settle();
    let acknowledged = bench.ring.version;
    bench.ring = backup;
    bench.now = bench.now.plus(MINUTE);
    bench.step();
    assert!(bench.ring.version > acknowledged, "what issuers said of the lost version is not about this one");
}

#[test]
fn of_a_restored_ring_whose_later_history_nobody_remembers_no_key_signs_again_and_each_verifies_on() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.nobody_has_new_keys();
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Revoked), ("k2", Active), ("k3", Pending)]);

    bench.ring = bench.ring.restored(15 * MINUTE, 0, bench.now);
    assert_eq!(bench.states(), [("k1", Revoked), ("k2", Retiring), ("k3", Retiring)], "k3 may have signed since");
    assert!(bench.ring.keys.iter().all(|key| key.pkcs8.is_none()));
    let made = bench.step();
    assert!(made.iter().any(|action| matches!(action, Action::Create { cause: Cause::Emergency, .. })), "{made:?}");
    assert_eq!(bench.phase(), Phase::NoSigningKey, "issuers answer 503");
    bench.held = None;
    bench.settle();
    assert_eq!((bench.active(), bench.phase()), (Some("k4"), Phase::Ready));
    bench.after(16 * MINUTE);
    assert_eq!(bench.states(), [("k1", Revoked), ("k4", Active)], "and comes to its end like any other");
}

#[test]
fn a_key_that_no_bundle_holds_never_signs_and_its_wait_begins_when_one_does() {
    type Situation = fn(&mut Bench);
    let first: Situation = |bench| bench.ring = Ring::default();
    let emergency: Situation = |bench| {
        bench.spec.revoked.insert("k1".into());
    };
    let proceed: Situation = |bench| {
        bench.spec.on_unacknowledged = OnUnacknowledged::Proceed;
        bench.spec.revision = Some("2".into());
    };
    for (situation, wait) in [(first, 5 * MINUTE), (emergency, 2_000), (proceed, 5 * MINUTE)] {
        let mut bench = Bench::running();
        bench.nobody_has_new_keys();
        bench.unpublished = true;
        situation(&mut bench);
        bench.settle();
        bench.after(60 * MINUTE);
        assert_ne!(bench.active(), Some("k2"), "the bundle could not be written for an hour");
        (bench.unpublished, bench.published_at) = (false, Some(bench.now));
        bench.settle();
        assert_ne!(bench.active(), Some("k2"));
        bench.after(wait - 1);
        assert_ne!(bench.active(), Some("k2"));
        bench.after(1);
        assert_eq!(bench.active(), Some("k2"));
    }
}

#[test]
fn a_ring_older_than_its_own_bundle_takes_over_what_that_revoked_and_verifies_with_what_it_lacks() {
    let mut later = Bench::running();
    let older = later.ring.clone();
    later.spec.revision = Some("2".into());
    later.settle();
    later.spec.revoked.insert("k1".into());
    later.settle();
    assert_eq!(later.states(), [("k1", Revoked), ("k2", Active)]);

    let version = later.ring.version + 1_000_000;
    later.ring = older.with_published(&later.ring.public_keys(), later.now).restored(15 * MINUTE, version, later.now);
    assert_eq!(later.states(), [("k1", Revoked), ("k2", Retiring)]);
    assert!(later.ring.version > version, "whatever the clock says");
    assert!(later.ring.keys.iter().all(|key| key.pkcs8.is_none()));
    later.settle();
    assert_eq!(later.states(), [("k1", Revoked), ("k2", Retiring), ("k3", Active)]);
}
