//! The API server is restored from a backup while watches ask from versions that are yet to come again, and so show nothing.

use super::*;

/// A policy whose bundle was changed since a backup was taken, and the API server restored from that.
async fn restored(versions_are_caught_up: bool) -> (ApiServer, Leader, String) {
    let (server, mut leader) = in_force().await;
    let backup = server.backup();
    let fallen = leader.signs().unwrap();
    declares(&server, |policy| policy["spec"]["keys"] = json!({"revoked": [{"kid": fallen, "reason": "lost"}]}));
    leader.hears(vec![has_applied_everything()]);
    leader.settles().await;
    server.restore(backup);
    if versions_are_caught_up {
        for touched in 0..100 {
            server.edit("/api/v1/namespaces/other/configmaps/busy", |map| map["data"] = json!({"touched": touched}));
        }
    }
    (server, leader, fallen)
}

/// Shows the leader the policy as it is declared now, and nothing else.
fn watches_the_policy_alone(leader: &Leader) {
    let policy = serde_json::from_value::<DynamicObject>(leader.server.object(POLICY).unwrap()).unwrap();
    leader.reconciler.caches.declared.set("shop/shop", declared(policy).map(|(_, declared)| declared));
}

#[tokio::test]
async fn a_write_that_meets_an_earlier_state_shows_the_restore_that_no_watch_shows() {
    for versions_are_caught_up in [false, true] {
        let (server, mut leader, fallen) = restored(versions_are_caught_up).await;
        declares(&server, |policy| policy["spec"]["audiences"] = json!(["since"]));
        watches_the_policy_alone(&leader);
        let mut errors = Vec::new();
        while leader.inbox.try_recv().is_err() {
            let looked = leader.reconciler.reconcile(&name(), &mut leader.managed).await;
            errors.push(looked.expect_err("nothing is in force as it was declared"));
            assert!(errors.len() < 5, "{errors:?}");
        }
        assert!(errors.iter().all(|error| matches!(error, ReconcileError::Conflict)), "{errors:?}");

        // As the dispatcher has it.
        leader.managed.went_back();
        leader.settles().await;
        assert!(leader.inbox.try_recv().is_err(), "it is told once");
        assert_eq!(leader.bundle().verify.as_ref().unwrap().audiences, ["since"]);
        assert_eq!(leader.keys()[&fallen], KeyState::Revoked, "what was revoked since the backup stays so");
        assert_ne!(leader.signs(), Some(fallen));
    }
}

#[tokio::test]
async fn a_bundle_of_an_earlier_state_shows_the_restore_before_a_key_signs_by_what_was_acknowledged() {
    let (_server, mut leader, _) = restored(true).await;
    let looked = leader.reconciler.is_as_acknowledged(&name(), &mut leader.managed).await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
    assert!(matches!(leader.inbox.try_recv(), Ok(Request::WentBack)));
}
