//! What issuers say that they have applied.

use super::*;

impl Leader {
    /// The fleet with these issuer pods, each with what it has applied if it is alive. One verifier has applied everything.
    fn hears_issuers(&self, issuers: &[(&str, Option<Ack>)]) {
        self.hears(vec![has_applied_everything()]);
        let ack = Some(has_applied_everything());
        let verifier = Verifier { name: "v".into(), pod: true, alive: true, ended: None, absent_ms: 0, ack };
        let issuers = issuers.iter().map(|(name, ack)| ((*name).to_owned(), ack.clone())).collect();
        let mut fleet = Fleet::new(vec![verifier], "h".into(), true, true).at(Clock::wall());
        fleet.issuers = issuers;
        self.registry().set_fleet(fleet);
    }

    /// Whether the end of the key that signed before is reckoned: when its last token will have expired.
    fn has_reckoned_the_end(&self) -> bool {
        let ring = &self.managed.stored.as_ref().unwrap().kept.rings[&RingName::Access];
        ring.in_state(KeyState::Retiring).all(|key| key.remove_after.is_some())
    }

    fn said_of_issuers(&self) -> Value {
        self.server.object(POLICY).unwrap()["status"]["enforcement"]["issuers"].clone()
    }
}

/// What an issuer says that has come to this version of the API server.
fn at(version: u64) -> Ack {
    Ack { history: "h".into(), revision: version.to_string(), ..Ack::default() }
}

#[tokio::test]
async fn a_key_s_end_is_reckoned_from_when_every_issuer_that_is_listed_has_applied_the_ring_that_retired_it() {
    let (server, mut leader) = in_force().await;
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(1)))]);
    leader.settles().await;
    declares(&server, |policy| policy["metadata"]["annotations"] = json!({"countersign.dev/rotate": "now"}));
    leader.settles().await;
    assert!(leader.keys().values().any(|state| *state == KeyState::Retiring), "issuers keep no key from signing");

    let stored = leader.managed.stored.as_ref().and_then(|stored| stored.version).unwrap();
    let of_another_history = Some(Ack { history: "earlier".into(), ..at(stored) });
    for (two, why) in [
        (Some(at(stored - 1)), "it has not come to it"),
        (None, "it is listed, and says nothing"),
        (of_another_history, "it speaks of another history"),
        (Some(Ack { revision: "nonsense".into(), ..at(stored) }), "it can't be understood"),
    ] {
        leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", two)]);
        let next = leader.look().await.unwrap();
        assert!(!leader.has_reckoned_the_end(), "{why}");
        assert_eq!(next.waits_for_issuers, Some(stored), "{why}");
    }
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(stored)))]);
    leader.settles().await;
    assert!(leader.has_reckoned_the_end());
}

#[tokio::test]
async fn an_issuer_that_is_gone_is_waited_for_no_more() {
    let (server, mut leader) = in_force().await;
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", None)]);
    declares(&server, |policy| policy["metadata"]["annotations"] = json!({"countersign.dev/rotate": "now"}));
    leader.settles().await;
    assert!(!leader.has_reckoned_the_end());
    leader.hears_issuers(&[("one", Some(at(u64::MAX)))]);
    leader.settles().await;
    assert!(leader.has_reckoned_the_end());
}

#[tokio::test]
async fn a_policy_s_status_says_how_many_issuers_hold_its_rings_once_all_do() {
    let (server, mut leader) = in_force().await;
    assert_eq!(leader.said_of_issuers(), Value::Null, "there is none");
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", None)]);
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    leader.settles().await;
    assert_eq!(leader.said_of_issuers(), json!({"replicas": 2, "acknowledged": 1}));
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(u64::MAX)))]);
    leader.settles().await;
    assert_eq!(leader.said_of_issuers(), json!({"replicas": 2, "acknowledged": 2}));
    let before = server.object(POLICY);
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", None)]);
    leader.settles().await;
    assert_eq!(server.object(POLICY), before, "one that restarts is not worth a write");
}

#[tokio::test]
async fn what_is_kept_of_a_deleted_policy_goes_once_every_issuer_has_read_that_it_was_deleted() {
    let (server, mut leader) = in_force().await;
    declares(&server, |policy| policy["spec"]["retainAfterDelete"] = "0s".into());
    leader.settles().await;
    server.edit(POLICY, |policy| policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(1)))]);
    leader.settles().await;
    assert_eq!(leader.bundle().verify, None);
    server.delete(POLICY);
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(1)))]);
    leader.settles().await;
    assert!(server.object(&ring_path()).is_some() && server.object(&bundle_path()).is_some(), "one hasn't read it");
    let stored = leader.managed.stored_version();
    leader.hears_issuers(&[("one", Some(at(u64::MAX))), ("two", Some(at(stored)))]);
    leader.settles().await;
    assert!(server.object(&ring_path()).is_none() && server.object(&bundle_path()).is_none());
}

#[tokio::test]
async fn issuers_are_told_of_the_first_of_those_that_took_over_from_one_another() {
    let (server, mut leader) = in_force().await;
    let origin = |leader: &Leader| {
        let record = &leader.managed.stored.as_ref().unwrap().kept.record;
        (record.origin.clone(), record.uid.clone())
    };
    assert_eq!(origin(&leader), (Some("u1".into()), "u1".into()));
    for uid in ["u2", "u3"] {
        declares(&server, |policy| policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
        leader.settles().await;
        declares(&server, |policy| {
            policy["metadata"]["deletionTimestamp"] = Value::Null;
            policy["metadata"]["uid"] = uid.into();
        });
        leader.settles().await;
        assert!(leader.bundle().verify.is_some());
        assert_eq!(origin(&leader), (Some("u1".into()), uid.into()));
    }
}
