//! A key that a spec calls revoked, before its policy is looked at.

use super::*;

fn revokes(server: &ApiServer, kid: &str) {
    declares(server, |policy| policy["spec"]["keys"] = json!({"revoked": [{"kid": kid, "reason": "leaked"}]}));
}

/// What the other parts are shown to be revoked.
fn shown(leader: &Leader) -> Vec<String> {
    let view = leader.registry().policy(&name()).unwrap();
    view.revoked.iter().filter(|entry| entry.kind == Kind::Key).map(|entry| entry.id.clone()).collect()
}

#[tokio::test]
async fn a_key_that_the_spec_revokes_is_told_and_signs_no_more_before_anything_is_written() {
    let (server, mut leader) = in_force().await;
    let leaked = leader.signs().unwrap();
    let mut changes = leader.registry().changes();
    revokes(&server, &leaked);
    leader.watches();
    let written = (server.object(&ring_path()), server.object(&bundle_path()));

    leader.reconciler.show_revoked(&name());
    assert_eq!(shown(&leader), std::slice::from_ref(&leaked));
    assert_eq!(leader.signs(), None);
    assert_eq!(changes.try_recv().unwrap(), name());
    assert_eq!((server.object(&ring_path()), server.object(&bundle_path())), written);
    leader.reconciler.show_revoked(&name());
    assert!(changes.try_recv().is_err(), "it is told once");

    leader.hears(vec![has_applied_everything()]);
    leader.settles().await;
    assert_eq!(leader.keys()[&leaked], KeyState::Revoked);
    assert_eq!(shown(&leader), std::slice::from_ref(&leaked));
    assert!(leader.signs().is_some_and(|next| next != leaked));
    let told = leader.registry().policy(&name()).unwrap().revoked.to_vec();
    assert_eq!(told, leader.bundle().revoked, "the bundle says the very same");
}

#[tokio::test]
async fn no_key_is_revoked_before_the_look_by_a_spec_that_is_refused_goes_or_is_of_another_object() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 3] = [
        ("a spec that makes no sense", |policy| policy["spec"]["audiences"] = json!([])),
        ("a policy that is being deleted", |policy| {
            policy["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }),
        ("another object of that name", |policy| policy["metadata"]["uid"] = json!("u2")),
    ];
    for (why, change) in cases {
        let (server, leader) = in_force().await;
        let signs = leader.signs();
        revokes(&server, signs.as_ref().unwrap());
        declares(&server, change);
        leader.watches();
        leader.reconciler.show_revoked(&name());
        assert!(shown(&leader).is_empty(), "{why}");
        assert_eq!(leader.signs(), signs, "{why}");
    }
}

#[tokio::test]
async fn keys_of_a_policy_that_nobody_has_looked_at_yet_are_left_to_the_first_look() {
    let (server, leader) = in_force().await;
    revokes(&server, &leader.signs().unwrap());
    let next = Leader::leads(&server).await;
    next.reconciler.show_revoked(&name());
    assert!(next.registry().policy(&name()).is_none());
}
