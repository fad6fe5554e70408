//! One rule at a time.

use countersign_api::{policy::Switch, values::Duration};
use countersign_core::revocation::ACCESS_RING_ONLY;

use super::*;

const MINUTE: i64 = 60_000;

type Change = fn(&mut World);

#[test]
fn a_new_session_is_protected_noted_and_only_then_given_a_token() {
    let mut world = World::new();
    let plan = world.look();
    assert!(
        matches!(
            plan.steps.as_slice(),
            [Step::Protect, Step::Begin { session_id: a }, Step::Deliver { session_id: b, first: true, .. }] if a == b
        ),
        "{plan:?}"
    );
    let token = world.token().unwrap();
    assert!(world.is_good(&token));
    assert_eq!((token.subject.as_str(), token.roles.as_slice()), ("svc-billing", &["user".to_owned()][..]));
    assert_eq!(token.audiences, ["shop-api"]);
    assert_eq!(token.expires.since(world.now), 15 * MINUTE);
    let status = world.status();
    assert_eq!(status.session_id.as_deref(), Some(token.session_id.as_str()));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.issue_time.unwrap().0.as_second(), world.now.as_secs());
    assert_eq!(status.expiration_time.unwrap().0.as_second(), token.expires.as_secs());
    assert_eq!(status.renewal_time, None, "it is the first");
    assert_eq!(world.ready().0, "True");
    assert_eq!(world.reason(), "Issued");
    assert!(world.look().steps.is_empty(), "there is nothing more to do");
}

#[test]
fn a_token_is_renewed_before_it_expires_under_the_same_session_id() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    let wake = world.look().wake.unwrap();
    assert!(
        wake <= first.expires.minus(5 * MINUTE) && wake >= first.expires.minus(7 * MINUTE),
        "{}",
        wake.since(world.now)
    );
    world.now = wake.minus(1);
    assert!(world.look().steps.is_empty());
    world.now = wake;
    world.settle();
    let second = world.token().unwrap();
    assert_ne!(second.token_id, first.token_id);
    assert_eq!(second.session_id, first.session_id);
    assert!(world.is_good(&first), "the one before goes on living");
    assert_eq!(world.status().renewal_time.unwrap().0.as_second(), world.now.as_secs());
}

#[test]
fn a_session_ends_by_name_before_its_status_says_so_and_begins_again_under_another() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    world.edit(|spec| spec.suspend = Some(true));
    world.look_and_die_after(0);
    assert_eq!(world.reason(), "Issued");
    world.look_and_die_after(1);
    assert!(!world.is_good(&first), "ended");
    assert_eq!(world.reason(), "Issued", "and not yet said");
    world.settle();
    assert_eq!((world.ready().0.as_str(), world.reason().as_str()), ("False", "Suspended"));
    assert_eq!((world.status().session_id, world.status().expiration_time), (None, None));
    world.edit(|spec| spec.suspend = Some(false));
    world.pass(5);
    world.settle();
    let second = world.token().unwrap();
    assert_ne!(second.session_id, first.session_id);
    assert!(world.is_good(&second) && !world.is_good(&first));
}

#[test]
fn resuming_after_an_operator_that_died_while_suspending_takes_another_session_id() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    world.edit(|spec| spec.suspend = Some(true));
    world.look_and_die_after(1);
    world.edit(|spec| spec.suspend = Some(false));
    world.pass(5);
    world.settle();
    assert_ne!(world.token().unwrap().session_id, first.session_id);
    assert!(world.has_good_token());
}

#[test]
fn raising_or_removing_the_lifetime_starts_a_new_session_id_and_shortening_it_does_not() {
    let lifetime = |minutes: Option<i64>| move |spec: &mut SessionSpec| spec.lifetime = minutes.map(Duration::minutes);
    for (before, after, is_new) in [
        (Some(60), Some(120), true),
        (Some(60), None, true),
        (Some(60), Some(30), false),
        (None, Some(60), false),
        (Some(60), Some(60), false),
    ] {
        let mut world = World::new();
        world.edit(lifetime(before));
        world.settle();
        let first = world.token().unwrap();
        world.pass(MINUTE);
        world.edit(lifetime(after));
        world.settle();
        let second = world.token().unwrap();
        assert_eq!(second.session_id != first.session_id, is_new, "{before:?} {after:?}");
        assert_eq!(world.is_good(&first), !is_new, "{before:?} {after:?}");
        assert!(world.has_good_token());
    }
}

#[test]
fn no_token_outlives_its_session_and_an_expired_one_begins_anew_only_with_more_lifetime() {
    let mut world = World::new();
    world.edit(|spec| spec.lifetime = Some(Duration::minutes(20)));
    world.settle();
    let end = world.now.plus(20 * MINUTE);
    world.pass(10 * MINUTE);
    world.settle();
    let last = world.token().unwrap();
    assert_eq!(last.expires, end);
    assert_eq!(world.look().wake, Some(end), "no renewal can help");
    world.now = end;
    let plan = world.look();
    assert_eq!((plan.steps.len(), world.reason().as_str()), (0, "Expired"), "nothing lives that could be ended");
    world.pass(MINUTE);
    assert!(world.look().steps.is_empty());
    world.secrets.clear();
    world.edit(|spec| spec.lifetime = Some(Duration::minutes(60)));
    world.settle();
    assert_ne!(world.token().unwrap().session_id, last.session_id, "even if the Secret is gone");
    assert_eq!(world.reason(), "Issued");
}

#[test]
fn in_the_last_second_of_a_session_no_token_is_made_that_is_over_at_once() {
    let mut world = World::new();
    world.edit(|spec| spec.lifetime = Some(Duration::minutes(20)));
    world.settle();
    let made = world.minted.len();
    world.pass(20 * MINUTE - 500);
    world.secrets.clear();
    world.settle();
    assert_eq!((world.reason().as_str(), world.minted.len()), ("Expired", made));
}

#[test]
fn a_lifetime_shortened_to_the_past_ends_the_token_that_would_outlive_it_once() {
    let mut world = World::new();
    world.settle();
    let token = world.token().unwrap();
    world.pass(10 * MINUTE);
    world.edit(|spec| spec.lifetime = Some(Duration::minutes(5)));
    assert_eq!(world.look().steps.len(), 1);
    assert!(!world.is_good(&token));
    assert_eq!(world.reason(), "Expired");
    assert!(world.look().steps.is_empty());
    assert_eq!(world.reason(), "Expired");
}

#[test]
fn what_a_policy_does_not_permit_is_ended_and_told_by_field() {
    let cases: [(Change, &str); 6] = [
        (|w| w.edit_policy(|p| p.declared_sessions.roles.clear()), "spec.roles"),
        (|w| w.edit_policy(|p| p.declared_sessions.subject_prefix = "job-".into()), "spec.subject"),
        (|w| w.edit_policy(|p| p.tokens.access_ttl = Duration::minutes(5)), "spec.tokenTTL"),
        (|w| w.edit(|s| s.audiences = Some(vec!["other".into()])), "spec.audiences"),
        (|w| w.edit(|s| s.renew_before = Some(Duration::minutes(15))), "spec.renewBefore"),
        (
            |w| w.edit(|s| (s.token_ttl, s.renew_before) = (Some(Duration::secs(59)), Some(Duration::secs(5)))),
            "spec.tokenTTL",
        ),
    ];
    for (change, field) in cases {
        let mut world = World::new();
        world.settle();
        let token = world.token().unwrap();
        change(&mut world);
        world.settle();
        let (is_ready, reason, message) = world.ready();
        assert_eq!((is_ready.as_str(), reason.as_str()), ("False", "NotPermitted"), "{field}");
        assert!(message.contains(field), "{field}: {message}");
        assert!(!world.is_good(&token), "{field}");
        assert_eq!(world.status().session_id, None);
    }
}

#[test]
fn cutoffs_of_subject_and_policy_start_a_new_session_id() {
    for (kind, id) in [(Kind::Subject, "svc-billing"), (Kind::Policy, ""), (Kind::Policy, ACCESS_RING_ONLY)] {
        let mut world = World::new();
        world.settle();
        let first = world.token().unwrap();
        world.pass(MINUTE);
        world.cut(kind, id, world.now, world.now.plus(3_600_000));
        world.settle();
        let second = world.token().unwrap();
        assert_ne!(second.session_id, first.session_id, "{kind:?}");
        assert!(second.issued > world.now, "issued after the cut-off of this very millisecond");
        assert!(world.has_good_token() && !world.is_good(&first));
        // One that ends only what is older than the present token is no reason to change anything.
        world.cut(kind, id, world.now.minus(10), world.now.plus(3_600_000));
        assert!(world.look().steps.is_empty());
        // Another subject's isn't either.
        world.cut(Kind::Subject, "somebody", world.now.plus(10), world.now.plus(3_600_000));
        assert!(world.look().steps.is_empty());
    }
}

#[test]
fn a_session_that_somebody_else_ended_begins_anew() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    world.end(Kind::Session, &first.session_id, world.now.plus(3_600_000));
    world.pass(1);
    world.settle();
    assert_ne!(world.token().unwrap().session_id, first.session_id);
    assert!(world.has_good_token());
}

#[test]
fn a_subject_that_is_revoked_for_good_gets_nothing() {
    let mut world = World::new();
    world.settle();
    world.end(Kind::Subject, "svc-billing", UnixMillis::FOREVER);
    world.settle();
    assert_eq!(world.reason(), "NotPermitted");
    assert!(!world.has_good_token());
}

#[test]
fn a_token_is_made_anew_when_its_key_is_revoked_as_soon_as_another_signs() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    world.revoke_key();
    world.settle();
    assert_eq!((world.ready().0.as_str(), world.reason().as_str()), ("Unknown", "Pending"));
    world.next_key();
    world.settle();
    let second = world.token().unwrap();
    assert_eq!(second.session_id, first.session_id, "the session didn't end");
    assert!(world.has_good_token() && !world.is_good(&first));
}

#[test]
fn a_retiring_key_s_token_is_kept_and_its_secret_gets_the_new_key_set() {
    let mut world = World::new();
    world.settle();
    let first = world.token().unwrap();
    world.next_key();
    let plan = world.look();
    assert!(matches!(plan.steps.as_slice(), [Step::Refresh { .. }]), "{plan:?}");
    assert_eq!(world.token(), Some(first));
    assert!(world.look().steps.is_empty());
}

#[test]
fn nobody_else_s_secret_is_touched() {
    let mut world = World::new();
    let foreign = Secret { type_: Some("Opaque".into()), ..Secret::default() };
    world.secrets.insert("billing-token".into(), foreign.clone());
    world.settle();
    assert_eq!(world.reason(), "SecretConflict");
    assert_eq!(world.secrets["billing-token"], foreign);
    assert_eq!(world.status().session_id, None);
    world.secrets.clear();
    world.settle();
    assert_eq!(world.reason(), "Issued");
    // One that another Session of the operator's owns is nobody else's business either.
    let mut another = world.secrets["billing-token"].clone();
    another.metadata.labels.as_mut().unwrap().insert(countersign_api::cluster::OWNER_UID_LABEL.into(), "other".into());
    world.secrets.insert("billing-token".into(), another.clone());
    world.settle();
    assert_eq!((world.reason().as_str(), &world.secrets["billing-token"]), ("SecretConflict", &another));
}

#[test]
fn a_secret_that_was_edited_or_deleted_is_made_right_again() {
    let edits: [(&str, Change, bool); 6] = [
        ("deleted", |w| w.secrets.clear(), false),
        ("token", |w| edit_value(w, TOKEN, "x.y.z"), false),
        ("another's token", |w| edit_value(w, TOKEN, "eyJhbGciOiJub25lIn0.e30."), false),
        ("expires-at", |w| edit_value(w, "expires-at", "2099-01-01T00:00:00Z"), true),
        ("jwks.json", |w| edit_value(w, "jwks.json", "{}"), true),
        ("labels", |w| drop(w.secrets.get_mut("billing-token").unwrap().metadata.owner_references.take()), true),
    ];
    for (what, edit, keeps_token) in edits {
        let mut world = World::new();
        world.settle();
        let (token, before) = (world.token().unwrap(), world.secrets.clone());
        edit(&mut world);
        world.pass(1000);
        world.settle();
        assert!(world.has_good_token(), "{what}");
        assert_eq!(world.token().unwrap() == token, keeps_token, "{what}");
        assert_eq!(world.token().unwrap().session_id, token.session_id, "{what}");
        if keeps_token {
            assert_eq!(world.secrets, before, "{what}");
        }
    }
}

fn edit_value(world: &mut World, key: &str, value: &str) {
    let data = world.secrets.get_mut("billing-token").unwrap().data.as_mut().unwrap();
    data.insert(key.into(), k8s_openapi::ByteString(value.as_bytes().to_vec()));
}

#[test]
fn labels_annotations_and_name_of_the_secret_follow_the_spec() {
    let mut world = World::new();
    world.settle();
    let token = world.token().unwrap();
    world.edit(|spec| spec.secret.labels = Some([("team".to_owned(), "billing".to_owned())].into()));
    world.settle();
    assert_eq!(world.secrets["billing-token"].metadata.labels.as_ref().unwrap()["team"], "billing");
    assert_eq!(world.token(), Some(token));
    world.edit(|spec| spec.secret.name = "other".into());
    world.settle();
    assert_eq!(world.secrets.keys().collect::<Vec<_>>(), ["other"]);
    assert!(world.has_good_token());
}

#[test]
fn a_label_that_the_spec_no_longer_asks_for_is_taken_away_and_others_labels_stay() {
    let applied = |labels: &[&str]| {
        let labels: serde_json::Map<_, _> = labels.iter().map(|l| (format!("f:{l}"), json!({}))).collect();
        let entry = json!({"manager": "countersign-operator", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": labels}}});
        Some(vec![serde_json::from_value(entry).unwrap()])
    };
    let mut world = World::new();
    world.settle();
    let metadata = |world: &mut World| std::mem::take(&mut world.secrets.get_mut("billing-token").unwrap().metadata);
    let mut held = metadata(&mut world);
    held.labels.as_mut().unwrap().extend([("team".into(), "a".into()), ("theirs".into(), "b".into())]);
    held.managed_fields = applied(&["team", "countersign.dev/owner-uid"]);
    world.secrets.get_mut("billing-token").unwrap().metadata = held.clone();
    assert!(matches!(world.look().steps.as_slice(), [Step::Refresh { .. }]), "it was ours");
    held.managed_fields = applied(&["countersign.dev/owner-uid"]);
    world.secrets.get_mut("billing-token").unwrap().metadata = held;
    assert!(world.look().steps.is_empty(), "it is somebody else's");
}

#[test]
fn a_change_of_roles_audiences_or_life_makes_another_token() {
    let changes: [Change; 4] = [
        |w| w.edit(|s| s.roles = Some(vec!["admin".into()])),
        |w| w.edit(|s| s.roles = None),
        |w| w.edit_policy(|p| p.audiences.push("shop-admin".into())),
        |w| w.edit(|s| (s.token_ttl, s.renew_before) = (Some(Duration::minutes(2)), Some(Duration::secs(30)))),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut world = World::new();
        world.settle();
        let token = world.token().unwrap();
        change(&mut world);
        world.settle();
        assert_ne!(world.token().unwrap().token_id, token.token_id, "{n}");
        assert_eq!(world.token().unwrap().session_id, token.session_id, "{n}");
        assert!(world.has_good_token(), "{n}");
    }
}

#[test]
fn without_its_policy_a_session_waits_and_with_a_spoiled_one_it_keeps_what_lives() {
    let mut world = World::new();
    world.policy_is_missing = true;
    world.settle();
    assert_eq!((world.reason().as_str(), world.secrets.len()), ("PolicyNotFound", 0));
    world.policy_is_missing = false;
    world.settle();
    assert_eq!(world.reason(), "Issued");
    let effective = world.view.effective.take();
    world.view.problem = Some("spec.audiences: is empty".into());
    world.settle();
    assert_eq!((world.ready().0.as_str(), world.reason().as_str()), ("True", "Issued"));
    assert!(world.ready().2.contains("spec.audiences"), "{}", world.ready().2);
    world.pass(16 * MINUTE);
    world.settle();
    assert_eq!((world.ready().0.as_str(), world.reason().as_str()), ("Unknown", "Pending"));
    world.view.effective = effective;
    world.settle();
    assert_eq!(world.reason(), "Issued");
    world.view.withdrawn = true;
    world.settle();
    assert_eq!(world.reason(), "PolicyNotFound");
    world.view.withdrawn = false;
    world.edit_policy(|policy| policy.emergency.mode = Switch::Disabled);
    world.settle();
    assert_eq!(world.reason(), "Issued");
}

#[test]
fn a_deleted_session_goes_when_its_end_is_written() {
    let mut world = World::new();
    world.settle();
    let token = world.token().unwrap();
    world.delete();
    world.look_and_die_after(1);
    assert!(world.session.is_some() && !world.is_good(&token));
    world.look();
    assert!(world.session.is_none());
    // What is kept of a withdrawn policy verifies again when it is created anew.
    let mut world = World::new();
    world.settle();
    world.policy_is_missing = true;
    world.delete();
    let steps = world.look().steps;
    assert!(matches!(steps.as_slice(), [Step::End { .. }, Step::Release]), "{steps:?}");
}

#[test]
fn the_end_of_a_session_outlasts_its_secret_s_token_though_the_status_knows_of_none_and_tokens_live_shorter_now() {
    let mut world = World::new();
    world.look_and_die_after(3);
    assert_eq!(world.status().expiration_time, None, "it died before it could say so");
    let token = world.token().unwrap();
    world.edit_policy(|policy| policy.tokens.access_ttl = Duration::minutes(1));
    world.edit(|spec| spec.suspend = Some(true));
    let plan = world.look();
    let [Step::End { until, .. }] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert!(*until > token.expires, "{until} {}", token.expires);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let mut world = World::new();
    world.settle();
    let (status, secrets) = (world.status(), world.secrets.clone());
    for _ in 0..10 {
        world.pass(MINUTE / 2);
        assert!(world.look().steps.is_empty());
    }
    assert_eq!((world.status(), world.secrets), (status, secrets));
}
