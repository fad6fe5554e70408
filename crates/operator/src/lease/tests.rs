use super::*;
use crate::scripted::ApiServer;

fn held_by(holder: &str) -> LeaseSpec {
    let holder_identity = Some(holder.to_owned()).filter(|h| !h.is_empty());
    LeaseSpec { holder_identity, lease_duration_seconds: Some(15), ..LeaseSpec::default() }
}

#[test]
fn a_lease_is_taken_only_when_it_is_free_or_has_not_changed_for_its_duration() {
    let secs = Duration::from_secs;
    for (holder, unchanged_for, expected) in [
        ("", secs(0), Move::Take),
        ("me", secs(100), Move::Renew),
        ("other", secs(14), Move::Wait { holder: "other".into() }),
        ("other", secs(15), Move::Take),
    ] {
        assert_eq!(decide(&held_by(holder), "me", unchanged_for, false), expected, "{holder} {unchanged_for:?}");
    }
    assert_eq!(decide(&LeaseSpec::default(), "me", secs(0), false), Move::Take);
}

#[test]
fn a_lease_counts_as_unchanged_from_when_its_version_was_first_seen() {
    let start = Instant::now();
    let mut seen = Seen::default();
    let at = |secs| start + Duration::from_secs(secs);
    assert_eq!(seen.unchanged_for(7, at(0)), Duration::ZERO);
    assert_eq!(seen.unchanged_for(7, at(9)), Duration::from_secs(9));
    assert_eq!(seen.unchanged_for(8, at(10)), Duration::ZERO);
    assert_eq!(seen.unchanged_for(7, at(11)), Duration::ZERO, "whichever way it changed");
}

#[test]
fn a_candidate_doesn_t_take_a_restored_lease_for_its_own() {
    let (secs, waits) = (Duration::from_secs, Move::Wait { holder: "me".into() });
    assert_eq!(decide(&held_by("me"), "me", secs(14), true), waits);
    assert_eq!(decide(&held_by("me"), "me", secs(15), true), Move::Take, "nobody leads");
}

#[test]
fn a_holder_stops_before_anyone_else_may_begin_however_long_a_lease_lasts() {
    let (secs, millis) = (Duration::from_secs, Duration::from_millis);
    for (duration, deadline, every, call) in [
        (secs(15), secs(10), secs(2), secs(4)),
        (secs(3), secs(2), millis(400), millis(800)),
        (secs(120), secs(80), secs(2), secs(4)),
    ] {
        assert_eq!(Timing::of(duration), Timing { duration, deadline, every, call });
    }
}

fn elector(server: &ApiServer, me: &str) -> Elector {
    Elector::new(server.client(), "system", "operator", me.to_owned(), Duration::from_secs(15), Arc::default())
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator";

#[tokio::test]
async fn a_leader_takes_back_a_lease_that_a_restore_gave_to_an_earlier_one_and_tells_of_the_restore() {
    let server = ApiServer::default();
    let mut earlier = elector(&server, "a");
    earlier.acquire().await;
    let backup = server.backup();
    earlier.release().await;
    let mut leader = elector(&server, "b");
    leader.acquire().await;
    assert!(!leader.renew().await.unwrap().was_older);
    server.restore(backup);
    let renewed = leader.renew().await.unwrap();
    assert!(renewed.was_older);
    assert_eq!(server.object(LEASE).unwrap()["spec"]["holderIdentity"], "b");
    assert!(!leader.renew().await.unwrap().was_older);
}

#[tokio::test]
async fn a_leader_yields_to_whoever_took_the_lease_after_it() {
    let server = ApiServer::default();
    let mut leader = elector(&server, "a");
    leader.acquire().await;
    server.edit(LEASE, |lease| lease["spec"]["holderIdentity"] = "b".into());
    assert!(matches!(leader.renew().await, Err(RenewError::Taken(holder)) if holder == "b"));
    leader.timing.every = Duration::from_millis(1);
    let kept = leader.keep(&CancellationToken::new(), || panic!("nothing was restored")).await;
    assert!(matches!(kept, Err(LeaseError::Taken(_))));
    assert!(!leader.leading().holds());
}

#[tokio::test]
async fn leading_ends_at_its_deadline_though_a_call_is_under_way() {
    let server = ApiServer::default();
    let mut leader = elector(&server, "a");
    let (deadline, every) = (Duration::from_millis(400), Duration::from_millis(10));
    leader.timing = Timing { deadline, every, call: Duration::from_mins(1), ..leader.timing };
    leader.acquire().await;
    let leading = leader.leading();
    assert!(leading.holds());
    server.hang(true);
    let begun = Instant::now();
    let kept = leader.keep(&CancellationToken::new(), || {}).await;
    assert!(matches!(kept, Err(LeaseError::NotRenewed { .. })), "{kept:?}");
    assert!(!leading.holds());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn leading_is_reckoned_from_when_the_lease_was_asked_for() {
    let leading = Leading::default();
    assert!(!leading.holds());
    leading.extend(Clock::boot_millis() - 500, Duration::from_millis(400));
    assert!(!leading.holds(), "the answer took longer than it is good for");
    leading.over().await;
}
