//! Whatever happens, in whatever order, and wherever the operator dies.

use countersign_api::values::Duration;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Look,
    LookAndDie(usize),
    Pass(i64),
    Suspend(bool),
    Lifetime(Option<i64>),
    Roles(bool),
    Permit(bool),
    CutSubject,
    EndSession,
    RevokeKey,
    NextKey,
    LoseSecret,
    SpoilSecret,
    Rename(bool),
    NewLeader,
    Delete,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Look),
        4 => (0_usize..4).prop_map(Event::LookAndDie),
        4 => (0_i64..1_200_000).prop_map(Event::Pass),
        2 => any::<bool>().prop_map(Event::Suspend),
        2 => prop::option::of(1_i64..60).prop_map(Event::Lifetime),
        1 => any::<bool>().prop_map(Event::Roles),
        1 => any::<bool>().prop_map(Event::Permit),
        1 => Just(Event::CutSubject),
        1 => Just(Event::EndSession),
        1 => Just(Event::RevokeKey),
        1 => Just(Event::NextKey),
        1 => Just(Event::LoseSecret),
        1 => Just(Event::SpoilSecret),
        1 => any::<bool>().prop_map(Event::Rename),
        1 => Just(Event::NewLeader),
        1 => Just(Event::Delete),
    ]
}

fn happen(world: &mut World, event: &Event) {
    // No two moments are the same.
    world.pass(2);
    match event {
        Event::Look => drop(world.look()),
        Event::LookAndDie(steps) => drop(world.look_and_die_after(*steps)),
        Event::Pass(millis) => world.pass(*millis),
        Event::Suspend(suspend) => world.edit(|spec| spec.suspend = Some(*suspend)),
        Event::Lifetime(minutes) => world.edit(|spec| spec.lifetime = minutes.map(Duration::minutes)),
        Event::Roles(admin) => {
            world.edit(|spec| spec.roles = Some(vec![if *admin { "admin" } else { "user" }.to_owned()]));
        }
        Event::Permit(permit) => world.edit_policy(|policy| {
            policy.declared_sessions.subject_prefix = if *permit { "svc-" } else { "job-" }.to_owned();
        }),
        Event::CutSubject => world.cut(Kind::Subject, "svc-billing", world.now, world.now.plus(86_400_000)),
        Event::EndSession => {
            if let Some(id) = world.status().session_id {
                world.end(Kind::Session, &id, world.now.plus(86_400_000));
            }
        }
        Event::RevokeKey => world.revoke_key(),
        Event::NextKey => world.next_key(),
        Event::LoseSecret => world.secrets.clear(),
        Event::SpoilSecret => {
            for secret in world.secrets.values_mut() {
                secret.data = None;
            }
        }
        Event::Rename(other) => world.edit(|spec| spec.secret.name = if *other { "other" } else { "billing-token" }.into()),
        Event::NewLeader => world.leading_since = world.now,
        Event::Delete => world.delete(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_the_status_calls_over_is_dead_and_what_it_calls_issued_is_good(
        events in prop::collection::vec(events(), 1..40),
    ) {
        let mut world = World::new();
        for event in &events {
            happen(&mut world, event);
        }
        if world.ring().active().is_none() {
            world.next_key();
        }
        world.settle();
        let good: Vec<&Delivered> = world.minted.iter().filter(|token| world.is_good(token)).collect();
        if world.session.is_none() {
            prop_assert_eq!(good, Vec::<&Delivered>::new(), "a deleted session's tokens are dead");
            return Ok(());
        }
        match world.reason().as_str() {
            "Issued" => {
                prop_assert!(world.has_good_token());
                prop_assert_eq!(world.secrets.len(), 1);
                let id = world.status().session_id;
                for token in good {
                    prop_assert_eq!(Some(&token.session_id), id.as_ref(), "only the present session's tokens live");
                }
            }
            "Suspended" | "NotPermitted" | "Expired" => {
                prop_assert_eq!(good, Vec::<&Delivered>::new(), "{} means that nothing of it lives", world.reason());
            }
            other => prop_assert!(false, "{other}: everything that this could wait for is there"),
        }
    }
}
