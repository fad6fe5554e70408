//! Every interleaving of a small fleet, within bounds.
//!
//! What may happen: crashes between any two writes, two leaders of which either may be stale, a new leader without memory,
//! lost and reordered acknowledgements, clocks that step, verifiers that are cut off and go on answering, restarts from a
//! disk of long ago, a wiped Redis, an API server restored from a backup with its void acknowledgements, the first key,
//! emergencies one after another, a fleet that empties, an issuer that is gone for ever.
//!
//! What holds in all of them:
//! - no token is refused before it expires by a verifier that vouches for its state, unless its key was revoked, or came
//!   into use unacknowledged (a ring's first key, an emergency, `Proceed`), or was lost with the leader's memory;
//! - at most one key signs; once one has signed, one does, or the last was revoked or lost and issuers answer 503;
//! - what was revoked stays so, and no key's name is used twice;
//! - from anywhere (one state in thirty-two is looked at), once the trouble is over, a key signs that everyone has, requests are handled, and no more is to do.
//!
//! Bounds: one ring; tokens of one tick; at most five keys, and as many ticks, verifiers, leaders and faults as each test
//! says. A run with several kinds of fault at once is bounded to fewer ticks. All together are to take under a minute.

mod step;
mod world;

use countersign_core::ring::KeyState;
use stateright::{Checker, Model, Property};

use step::Step;
use world::{Left, World};

/// What may happen in a run, and for how long it is followed. Runs with several leaders split each of their steps into
/// deciding, writing and publishing; with one, the three are one, to leave room for other trouble, unless it may crash.
#[derive(Clone, Debug, Default)]
struct Fleet {
    verifiers: usize,
    leaders: usize,
    horizon: u8,
    left: Left,
    /// A leader's steps are taken apart.
    split: bool,
    lost_acks: bool,
    issuer_may_vanish: bool,
    clock_steps: Vec<i8>,
    proceed: bool,
}

impl Model for Fleet {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        step::possible(self, world, steps);
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        step::taken(self, before, &step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a living token is never refused", |_, world: &World| world.good_tokens_are_accepted()),
            Property::always("at most one key signs", |_, world: &World| {
                world.ring.0.in_state(KeyState::Active).count() <= 1
            }),
            Property::always("a key that signs has its private half", |_, world: &World| {
                world.ring.0.active().is_none_or(|k| k.pkcs8.is_some())
            }),
            Property::always("once one has signed, one does, or issuers rightly answer 503", |_, world: &World| {
                world.a_key_signs_or_none_may()
            }),
            Property::always("a revoked key is never published again as a good one, nor signs", |_, world: &World| {
                world.nothing_revoked_revives()
            }),
            Property::always("from everywhere it comes to rest", |fleet: &Fleet, world: &World| world.comes_to_rest(fleet)),
            Property::sometimes("a key signs", |_, world: &World| !world.tokens.is_empty()),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.time <= self.horizon && world.keys_made <= 5
    }
}

#[track_caller]
fn check(fleet: Fleet) {
    let name = format!("{fleet:?}");
    let checker = fleet.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

fn fleet(verifiers: usize, leaders: usize, horizon: u8) -> Fleet {
    Fleet { verifiers, leaders, horizon, split: leaders > 1, ..Fleet::default() }
}

#[test]
fn a_requested_rotation_with_two_leaders_refuses_no_token() {
    check(Fleet { left: Left { rotations: 1, ..Left::default() }, ..fleet(1, 2, 2) });
}

#[test]
fn leaders_that_crash_between_writes_and_come_back_without_memory_refuse_no_token() {
    let left = Left { rotations: 1, new_leaders: 2, ..Left::default() };
    check(Fleet { left, split: true, ..fleet(1, 1, 2) });
}

#[test]
fn verifiers_that_restart_and_lose_acknowledgements_refuse_no_token() {
    let left = Left { rotations: 1, restarts: 1, ..Left::default() };
    check(Fleet { left, lost_acks: true, ..fleet(2, 1, 2) });
}

#[test]
fn a_verifier_that_starts_from_a_disk_of_long_ago_refuses_no_token() {
    let left = Left { rotations: 1, old_disks: 1, ..Left::default() };
    check(Fleet { left, lost_acks: true, ..fleet(2, 1, 2) });
}

#[test]
fn a_verifier_that_is_cut_off_and_goes_on_answering_refuses_no_token() {
    check(Fleet { left: Left { rotations: 1, partitions: 1, ..Left::default() }, ..fleet(2, 1, 3) });
}

#[test]
fn a_wiped_redis_refuses_no_token() {
    let left = Left { rotations: 1, wipes: 1, partitions: 1, ..Left::default() };
    check(Fleet { left, ..fleet(1, 1, 3) });
}

#[test]
fn an_api_server_restored_from_a_backup_loses_no_key_that_a_leader_remembers() {
    let left = Left { rotations: 1, backups: 1, ..Left::default() };
    check(Fleet { left, ..fleet(1, 1, 1) });
    let left = Left { backups: 1, revocations: 1, ..Left::default() };
    check(Fleet { left, ..fleet(1, 1, 1) });
}

#[test]
fn an_api_server_restored_under_a_leader_without_memory_uses_no_key_again() {
    let left = Left { rotations: 1, backups: 1, new_leaders: 1, ..Left::default() };
    check(Fleet { left, ..fleet(1, 1, 1) });
}

#[test]
fn emergencies_one_after_another_refuse_no_token_of_other_keys() {
    let left = Left { revocations: 1, ..Left::default() };
    check(Fleet { left, ..fleet(1, 2, 2) });
    let left = Left { revocations: 2, ..Left::default() };
    check(Fleet { left, ..fleet(1, 1, 3) });
}

#[test]
fn clocks_that_step_both_ways_refuse_no_token() {
    for clock_steps in [vec![9, -9], vec![-9, 9]] {
        check(Fleet { left: Left { rotations: 1, ..Left::default() }, clock_steps, ..fleet(1, 1, 2) });
    }
}

#[test]
fn an_issuer_that_is_gone_for_ever_holds_nothing_up() {
    check(Fleet { left: Left { rotations: 1, ..Left::default() }, issuer_may_vanish: true, ..fleet(1, 1, 2) });
}

#[test]
fn a_fleet_that_empties_waits_and_goes_on_when_somebody_comes() {
    check(Fleet { left: Left { rotations: 1, departures: 2, ..Left::default() }, ..fleet(1, 1, 3) });
}

#[test]
fn proceeding_without_acknowledgement_fails_only_the_keys_that_it_was_chosen_for() {
    check(Fleet { left: Left { rotations: 1, ..Left::default() }, proceed: true, ..fleet(2, 1, 2) });
}

#[test]
fn a_schedule_alone_rotates() {
    check(fleet(1, 2, 4));
}
