use countersign_core::{
    jose::compact,
    mint::{EMERGENCY_CLAIM, EMERGENCY_TOKEN_TYPE},
    names::PolicyName,
    revocation::Entry,
};

use super::*;
use crate::sessions::tests::World;

fn order() -> TokenOrder {
    TokenOrder {
        subject: "svc-billing".into(),
        roles: vec!["user".into()],
        scopes: Vec::new(),
        audiences: vec!["shop-api".into()],
        session_id: "s".into(),
        ttl_ms: 900_000,
        not_after: None,
        emergency: None,
    }
}

fn cut(policy: &PolicyName, at: UnixMillis) -> Entry {
    Entry {
        policy: policy.clone(),
        kind: Kind::Subject,
        issuer: None,
        id: "svc-billing".into(),
        cutoff: at,
        expires: UnixMillis::FOREVER,
        version: 0,
        reason: String::new(),
        source: "test".into(),
    }
}

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// Milliseconds from [`NOW`], or the kind of refusal.
fn issued(
    now: i64,
    server_now: Option<i64>,
    reserved: Option<i64>,
    cutoff: Option<i64>,
) -> Result<(i64, bool), &'static str> {
    let world = World::new();
    if let Some(cutoff) = cutoff {
        world.cutoffs.apply(&cut(&world.view.name, NOW.plus(cutoff)));
    }
    let moment = Moment {
        now: NOW.plus(now),
        server_now: server_now.map(|at| NOW.plus(at)),
        reserved: reserved.map(|at| NOW.plus(at)),
    };
    match moment.issue(&world.view, &world.cutoffs, RingName::Access, &order()) {
        Ok(issue) => Ok((issue.at.since(NOW), issue.is_beyond_server)),
        Err(MintError::ClocksApart { .. }) => Err("apart"),
        Err(MintError::ClockBehind { .. }) => Err("behind"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_token_is_issued_by_the_feed_server_s_clock_and_after_every_cut_off() {
    for (now, server_now, cutoff, expected, why) in [
        (0, Some(5), None, Ok((5, false)), "the clock by which cut-offs are made"),
        (29_000, Some(0), None, Ok((0, false)), "within clockSkew"),
        (3_600_000, Some(0), None, Err("apart"), "this clock is an hour ahead: no cut-off would match the token"),
        (-3_600_000, Some(0), None, Err("apart"), "or an hour behind: the token would be dead at birth"),
        (0, Some(5), Some(2), Ok((5, false)), "long cut off"),
        (0, Some(5), Some(5), Ok((6, true)), "later than the server's clock says"),
        (0, Some(5), Some(40_000), Err("behind"), "the server was restored with an older clock"),
        (7, None, None, Ok((7, true)), "with the feed away nobody compares clocks"),
        (7, None, Some(100), Ok((101, true)), "and cut-offs that are known hold"),
        (7, None, Some(40_000), Err("behind"), "its own clock is behind"),
    ] {
        assert_eq!(issued(now, server_now, None, cutoff), expected, "{why}");
    }
}

#[test]
fn what_was_reserved_is_used_though_writing_it_down_took_time() {
    assert_eq!(issued(3_000, None, Some(1_000), None), Ok((1_000, true)));
    assert_eq!(issued(500, None, Some(1_000), None), Ok((500, true)));
    assert_eq!(issued(60_000, None, Some(1_000), None), Ok((60_000, true)), "too long ago");
    assert_eq!(issued(3_000, None, Some(1_000), Some(2_000)), Ok((2_001, true)), "it was cut off meanwhile");
}

#[test]
fn without_tolerance_clocks_still_differ_by_something() {
    let mut world = World::new();
    world.edit_policy(|policy| policy.tokens.clock_skew = countersign_api::values::Duration::secs(0));
    for (apart, is_refused) in [(900, false), (1_100, true)] {
        let moment = Moment { now: NOW.plus(apart), server_now: Some(NOW), reserved: None };
        let issued = moment.issue(&world.view, &world.cutoffs, RingName::Access, &order());
        assert_eq!(issued.is_err(), is_refused, "{apart}");
    }
}

#[test]
fn a_key_that_the_feed_calls_revoked_signs_nothing_more() {
    let world = World::new();
    let kid = world.view.own.as_ref().unwrap().rings[&RingName::Access].ring.active().unwrap().kid.clone();
    let revoked = Entry { kind: Kind::Key, id: kid, cutoff: UnixMillis::FOREVER, ..cut(&world.view.name, NOW) };
    let signed = |cutoffs: &Cutoffs| sign(&world.view, cutoffs, RingName::Access, &order(), NOW);
    assert!(signed(&world.cutoffs).is_ok());
    world.cutoffs.apply(&revoked);
    assert!(matches!(signed(&world.cutoffs), Err(MintError::NoSigningKey(RingName::Access))));
}

#[test]
fn an_emergency_token_has_a_type_and_a_reason_and_ends_when_the_policy_ends_all_of_them() {
    let world = World::new();
    let order = TokenOrder { emergency: Some("because".into()), not_after: Some(NOW.plus(60_500)), ..order() };
    let minted = sign(&world.view, &world.cutoffs, RingName::Access, &order, NOW).unwrap();
    assert_eq!(minted.expires, NOW.plus(60_000));
    let jws = compact::parse(&minted.token).unwrap();
    assert_eq!(jws.header.typ.as_deref(), Some(EMERGENCY_TOKEN_TYPE));
    assert_eq!(jws.payload[EMERGENCY_CLAIM]["reason"], "because");
}
