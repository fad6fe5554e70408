//! What can happen next, and what comes of it.

use super::{
    Fleet,
    world::{ABSENT_AFTER, Ack, Backup, Bundle, Verifier, World},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Tick,
    LeadAtOnce(usize),
    Decide(usize),
    Write(usize),
    Publish,
    /// The leader renews its Lease, and sees by its version that the API server was restored.
    Renew,
    BeginHistory(usize),
    NewLeader(usize),
    /// A new leader has heard what the fleet holds.
    Hear(usize),
    Fetch(usize),
    Acknowledge(usize),
    LoseAcks,
    Restart(usize),
    RestartFromOldDisk(usize),
    CutOff(usize),
    Reconnect(usize),
    Depart(usize),
    Arrive(usize),
    WipeRedis,
    SeedRedis,
    BackUp,
    Restore,
    IssuerReads,
    IssuerVanishes,
    AskForRotation,
    RevokeTheSigningKey,
    ClockSteps(i8),
}

pub(super) fn possible(fleet: &Fleet, world: &World, steps: &mut Vec<Step>) {
    steps.push(Step::Tick);
    leaders_may(fleet, world, steps);
    for (at, v) in world.verifiers.iter().enumerate() {
        verifier_may(world, at, v, steps);
    }
    if fleet.lost_acks && world.verifiers.iter().any(|v| v.acknowledged.is_some()) {
        steps.push(Step::LoseAcks);
    }
    if let Some(version) = world.issuer {
        if version < world.ring.0.version {
            steps.push(Step::IssuerReads);
        }
        if fleet.issuer_may_vanish {
            steps.push(Step::IssuerVanishes);
        }
    }
    if !world.seeded {
        steps.push(Step::SeedRedis);
    }
    if world.ring.0.active().is_some() {
        let left = &world.left;
        let trouble = [
            (left.rotations > 0, Step::AskForRotation),
            (left.revocations > 0, Step::RevokeTheSigningKey),
            (left.wipes > 0 && world.seeded, Step::WipeRedis),
            (left.backups > 0 && world.backup.is_none() && is_quiet(world), Step::BackUp),
        ];
        steps.extend(trouble.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
        if left.clock_steps > 0 {
            steps.push(Step::ClockSteps(fleet.clock_steps[fleet.clock_steps.len() - left.clock_steps]));
        }
    }
    if let Some(backup) = &world.backup
        && world.left.backups > 0
        && backup.version < world.version
    {
        steps.push(Step::Restore);
    }
}

/// Backups are taken between two plans: one in the middle of a plan restores to no other state than one before it.
fn is_quiet(world: &World) -> bool {
    !world.is_to_be_published() && world.issuer.is_none_or(|version| version == world.ring.0.version)
}

fn leaders_may(fleet: &Fleet, world: &World, steps: &mut Vec<Step>) {
    for (at, leader) in world.leaders.iter().enumerate() {
        if leader.history == 0 {
            steps.push(Step::BeginHistory(at));
        }
        if leader.deaf && world.is_heard(leader) {
            steps.push(Step::Hear(at));
        }
        if leader.decision.is_some() {
            steps.push(Step::Write(at));
        } else if world.decision(fleet, leader).is_some() {
            steps.push(if fleet.split { Step::Decide(at) } else { Step::LeadAtOnce(at) });
        }
        if world.left.new_leaders > 0 && world.ring.0.active().is_some() {
            steps.push(Step::NewLeader(at));
        }
    }
    if world.is_to_be_published() {
        steps.push(Step::Publish);
    }
    if world.version < world.highest_seen {
        steps.push(Step::Renew);
    }
}

fn verifier_may(world: &World, at: usize, v: &Verifier, steps: &mut Vec<Step>) {
    if v.gone {
        if world.left.departures > 0 {
            steps.push(Step::Arrive(at));
        }
        return;
    }
    match v.cut_off_since {
        None => {
            if v.seen != (world.bundle.version, world.history) || !v.confirmed {
                steps.push(Step::Fetch(at));
            }
            if v.confirmed && world.seeded && v.acknowledged != Some(ack_of(v)) {
                steps.push(Step::Acknowledge(at));
            }
            if world.left.partitions > 0 {
                steps.push(Step::CutOff(at));
            }
        }
        Some(_) => steps.push(Step::Reconnect(at)),
    }
    let left = &world.left;
    let trouble = [
        (left.restarts > 0, Step::Restart(at)),
        (left.old_disks > 0, Step::RestartFromOldDisk(at)),
        (left.departures > 0 && world.ring.0.active().is_some(), Step::Depart(at)),
    ];
    steps.extend(trouble.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
}

fn ack_of(v: &Verifier) -> Ack {
    Ack { version: v.seen.0, history: v.seen.1, held: v.bundle.generation }
}

pub(super) fn taken(fleet: &Fleet, before: &World, step: &Step) -> Option<World> {
    let mut world = before.clone();
    match *step {
        Step::Tick => tick(&mut world),
        Step::LeadAtOnce(at) => {
            world.leaders[at].decision = world.decision(fleet, &world.leaders[at]);
            world.write(at);
            if world.is_to_be_published() {
                world.publish();
            }
        }
        Step::Decide(at) => world.leaders[at].decision = world.decision(fleet, &world.leaders[at]),
        Step::Write(at) => world.write(at),
        Step::Publish => world.publish(),
        Step::Renew => world.renew(),
        Step::BeginHistory(at) => world.begin_history(at),
        Step::NewLeader(at) => {
            world.new_leader(at);
            world.left.new_leaders -= 1;
        }
        Step::Hear(at) => world.leaders[at].deaf = false,
        Step::Fetch(at) => fetch(&mut world, at),
        Step::Acknowledge(at) => world.verifiers[at].acknowledged = Some(ack_of(&world.verifiers[at])),
        Step::LoseAcks => world.verifiers.iter_mut().for_each(|v| v.acknowledged = None),
        Step::Restart(at) => {
            // The old life's acknowledgement may outlive it; what it says is on the disk.
            world.verifiers[at].confirmed = false;
            world.left.restarts -= 1;
        }
        Step::RestartFromOldDisk(at) => {
            let v = &mut world.verifiers[at];
            (v.bundle, v.seen, v.confirmed) = (Bundle::default(), (0, 0), false);
            world.left.old_disks -= 1;
        }
        Step::CutOff(at) => {
            world.verifiers[at].cut_off_since = Some(world.time);
            world.left.partitions -= 1;
        }
        Step::Reconnect(at) => {
            let since = world.verifiers[at].cut_off_since.take()?;
            if world.time >= since + ABSENT_AFTER / 2 {
                // It stopped vouching, and starts again only with the present state.
                world.verifiers[at].confirmed = false;
            }
        }
        Step::Depart(at) => {
            world.verifiers[at] = Verifier { gone: true, ..Verifier::default() };
            world.left.departures -= 1;
        }
        Step::Arrive(at) => world.verifiers[at] = Verifier::default(),
        Step::WipeRedis => {
            world.seeded = false;
            world.verifiers.iter_mut().for_each(|v| v.acknowledged = None);
            world.left.wipes -= 1;
        }
        Step::SeedRedis => {
            world.seeded = true;
            world.counted_from = world.time;
        }
        Step::BackUp => {
            let (ring, bundle) = (world.ring.clone(), world.bundle.clone());
            let (version, history, revision) = (world.version, world.history, world.revision);
            world.backup = Some(Backup { ring, bundle, version, history, revision });
        }
        Step::Restore => restore(&mut world),
        Step::IssuerReads => {
            world.issuer = Some(world.ring.0.version);
            world.sign();
        }
        Step::IssuerVanishes => world.issuer = None,
        Step::AskForRotation => {
            world.revision += 1;
            world.left.rotations -= 1;
        }
        Step::RevokeTheSigningKey => {
            let kid = world.ring.0.active()?.kid.clone();
            world.revoked.insert(kid);
            world.left.revocations -= 1;
        }
        Step::ClockSteps(by) => {
            world.clock_error += by;
            world.left.clock_steps -= 1;
        }
    }
    Some(world)
}

fn tick(world: &mut World) {
    world.time += 1;
    let now = world.time;
    world.tokens.retain(|_, dies| *dies > now);
    world.sign();
}

/// The watch shows a verifier the present state. An older bundle than the one that it holds takes no place.
fn fetch(world: &mut World, at: usize) {
    let v = &mut world.verifiers[at];
    if world.bundle.generation >= v.bundle.generation {
        v.bundle.clone_from(&world.bundle);
    }
    v.seen = (world.bundle.version, world.history);
    v.confirmed = true;
}

/// All that the API server knew since the backup is gone. Keys of before may come back that fell in the meantime, which the
/// feed tells.
fn restore(world: &mut World) {
    if let Some(backup) = world.backup.take() {
        world.ring = backup.ring;
        world.bundle = backup.bundle;
        world.version = backup.version;
        world.history = backup.history;
        world.revision = backup.revision;
        let version = world.ring.0.version;
        let active = world.ring.0.active().map(|k| k.kid.clone());
        world.active_by_version.entry(version).or_insert(active);
        world.restored = true;
    }
    world.left.backups = 0;
}

/// One round without trouble: everyone who has something to do does it.
pub(super) fn everyone_does_their_part(fleet: &Fleet, world: &mut World) {
    if world.version < world.highest_seen {
        world.renew();
    }
    for at in 0..world.leaders.len() {
        world.leaders[at].decision = None;
        if world.leaders[at].history == 0 {
            world.begin_history(at);
        }
    }
    let last = world.leaders.len() - 1;
    // The one that began its history last is the one that the fleet answers.
    let leads = (0..=last).find(|at| world.leaders[*at].history == world.history).unwrap_or(last);
    world.leaders[leads].decision = world.decision(fleet, &world.leaders[leads]);
    world.write(leads);
    if world.is_to_be_published() {
        world.publish();
    }
    for at in 0..world.verifiers.len() {
        if !world.verifiers[at].gone {
            world.verifiers[at].cut_off_since = None;
            fetch(world, at);
            world.verifiers[at].acknowledged = Some(ack_of(&world.verifiers[at]));
        }
    }
    world.leaders[leads].deaf = false;
    if world.issuer.is_some_and(|version| version < world.ring.0.version) {
        world.issuer = Some(world.ring.0.version);
    }
}
