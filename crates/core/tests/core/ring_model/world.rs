//! The state of everything, and what holds of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    ring::{Acks, Action, KeyState, OnUnacknowledged, Ring, RotationSpec, plan},
    time::UnixMillis,
};

use super::{Fleet, step};

/// Time goes in ticks of a second. A verifier that is cut off stops vouching after one tick, and is no longer waited for after
/// two.
pub(super) const ABSENT_AFTER: u8 = 2;
pub(super) const TTL: u8 = 1;

/// How often each thing may still happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) rotations: u8,
    pub(super) revocations: u8,
    pub(super) restarts: u8,
    pub(super) old_disks: u8,
    pub(super) partitions: u8,
    pub(super) wipes: u8,
    pub(super) backups: u8,
    pub(super) new_leaders: u8,
    pub(super) departures: u8,
    pub(super) clock_steps: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) time: u8,
    /// How far the leaders' clock is from the truth.
    pub(super) clock_error: i8,
    pub(super) ring: StoredRing,
    pub(super) bundle: Bundle,
    /// The API server's version, which a restore takes back, and the highest that a leader has seen.
    pub(super) version: u16,
    pub(super) highest_seen: u16,
    /// The ConfigMap `history`, and how many values it has had.
    pub(super) history: u8,
    pub(super) histories: u8,
    /// Bundles that were ever made: their generations.
    pub(super) generations: u8,
    pub(super) backup: Option<Backup>,
    pub(super) restored: bool,
    pub(super) leaders: Vec<Leader>,
    /// From when on absences count, as the leader sees it.
    pub(super) counted_from: u8,
    /// Since which write of this history the bundle holds each key.
    pub(super) since: BTreeMap<String, Since>,
    pub(super) seeded: bool,
    pub(super) verifiers: Vec<Verifier>,
    /// The version of the ring by which the issuer signs; it never goes back. `None`: there is none any more.
    pub(super) issuer: Option<u64>,
    /// Which key an issuer signs with, by version.
    pub(super) active_by_version: BTreeMap<u64, Option<String>>,
    /// When the last token of each key dies.
    pub(super) tokens: BTreeMap<String, u8>,
    /// Keys that came into use before all had them, as an emergency or the policy's owner wanted, and keys that nobody
    /// remembers.
    pub(super) exempt: BTreeSet<String>,
    pub(super) revision: u8,
    /// What feed or policy call revoked.
    pub(super) revoked: BTreeSet<String>,
    pub(super) keys_made: u8,
    pub(super) left: Left,
}

/// What verifiers accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bundle {
    pub(super) generation: u8,
    pub(super) version: u16,
    pub(super) keys: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Since {
    version: u16,
    generation: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Backup {
    pub(super) ring: StoredRing,
    pub(super) bundle: Bundle,
    pub(super) version: u16,
    pub(super) history: u8,
    pub(super) revision: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredRing(pub(super) Ring);

impl Hash for StoredRing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.version.hash(state);
        self.0.handled_revision.hash(state);
        for k in &self.0.keys {
            (&k.kid, k.state, k.created, k.activated, k.retired_in, k.remove_after, k.unacknowledged, k.longest_ttl_ms)
                .hash(state);
        }
    }
}

/// A leader, or somebody who still believes to be one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// The history that it has begun; 0: it has to begin one.
    pub(super) history: u8,
    /// What it has decided and not yet written.
    pub(super) decision: Option<Decision>,
    /// It leads anew and has not yet heard what the fleet holds: until then it decides nothing.
    pub(super) deaf: bool,
    /// The ring that it last read or wrote. Only looked at where a restore may make a difference of it.
    pub(super) memory: Option<StoredRing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Decision {
    on: u64,
    then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Then {
    Apply(Vec<Action>),
    /// What it remembers is later than what is there.
    Remember,
    /// What verifiers hold is later than what is there, and nobody remembers it.
    Restored,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Verifier {
    /// What it holds in memory.
    pub(super) bundle: Bundle,
    /// What its watch has shown it: the last version that says anything of the bundle, and the history.
    pub(super) seen: (u16, u8),
    pub(super) acknowledged: Option<Ack>,
    /// Whether it has confirmed the present state since it started.
    pub(super) confirmed: bool,
    pub(super) cut_off_since: Option<u8>,
    /// Its node was deleted.
    pub(super) gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ack {
    pub(super) history: u8,
    pub(super) version: u16,
    pub(super) held: u8,
}

impl World {
    pub(super) fn new(fleet: &Fleet) -> Self {
        let remembers = fleet.left.backups > 0;
        let leader = Leader { history: 1, memory: remembers.then(StoredRing::default), ..Leader::default() };
        Self {
            time: 0,
            clock_error: 0,
            ring: StoredRing::default(),
            bundle: Bundle::default(),
            version: 1,
            highest_seen: 1,
            history: 1,
            histories: 1,
            generations: 0,
            backup: None,
            restored: false,
            leaders: vec![leader; fleet.leaders],
            counted_from: 0,
            since: BTreeMap::new(),
            seeded: true,
            verifiers: vec![Verifier::default(); fleet.verifiers],
            issuer: Some(0),
            active_by_version: BTreeMap::from([(0, None)]),
            tokens: BTreeMap::new(),
            exempt: BTreeSet::new(),
            revision: 0,
            revoked: BTreeSet::new(),
            keys_made: 0,
            left: Left { clock_steps: fleet.clock_steps.len(), ..fleet.left.clone() },
        }
    }

    fn leaders_now(&self) -> UnixMillis {
        UnixMillis::from_secs(100 + i64::from(self.time) + i64::from(self.clock_error))
    }

    fn spec(&self, fleet: &Fleet) -> RotationSpec {
        RotationSpec {
            algorithm: Algorithm::EdDSA,
            interval_ms: 3_000,
            prepublish_ms: 1_000,
            revision: Some(self.revision.to_string()),
            rotation: None,
            revoked: self.revoked.clone(),
            on_unacknowledged: if fleet.proceed { OnUnacknowledged::Proceed } else { OnUnacknowledged::Wait },
            ack_timeout_ms: 1_000,
            max_ttl_ms: i64::from(TTL) * 1000,
            clock_skew_ms: 0,
        }
    }

    fn required(&self) -> impl Iterator<Item = &Verifier> {
        let absent = |v: &Verifier| v.cut_off_since.is_some_and(|s| self.time >= s.max(self.counted_from) + ABSENT_AFTER);
        self.verifiers.iter().filter(move |v| !v.gone && !absent(v))
    }

    /// What a leader sees of the fleet. While Redis is away, nobody has acknowledged anything.
    fn acks(&self, leader: &Leader) -> Acks {
        let holds = |v: &Verifier, kid: &String| {
            let since = self.since.get(kid).copied().unwrap_or_default();
            v.acknowledged.is_some_and(|ack| {
                let refuses = ack.held > self.bundle.generation;
                let in_force = ack.history == leader.history && ack.version >= since.version;
                since.version > 0 && in_force && (!refuses || ack.held >= since.generation)
            })
        };
        let kids = self.ring.0.keys.iter().map(|key| &key.kid);
        let held = kids.filter(|kid| self.seeded && self.required().all(|v| holds(v, kid)));
        Acks {
            known: self.verifiers.iter().filter(|v| !v.gone).count(),
            required: self.required().count(),
            held_by_all: held.cloned().collect(),
            published: self.since.keys().map(|kid| (kid.clone(), UnixMillis(0))).collect(),
            issuers_hold: self.issuer.unwrap_or(self.ring.0.version),
            server_now: self.seeded.then(|| UnixMillis::from_secs(100 + i64::from(self.time))),
        }
    }

    /// What a leader would do now.
    pub(super) fn decision(&self, fleet: &Fleet, leader: &Leader) -> Option<Decision> {
        let on = self.ring.0.version;
        if leader.deaf {
            return None;
        }
        if leader.memory.as_ref().is_some_and(|remembered| remembered.0.version > on) {
            return Some(Decision { on, then: Then::Remember });
        }
        let ahead = self.restored
            && self.verifiers.iter().filter_map(|v| v.acknowledged).any(|ack| {
                // What was acknowledged under another history may speak of what is no more.
                ack.history == leader.history && ack.held > self.bundle.generation
            });
        if ahead {
            return Some(Decision { on, then: Then::Restored });
        }
        let actions = plan(&self.ring.0, &self.spec(fleet), &self.acks(leader), self.leaders_now());
        (!actions.is_empty()).then_some(Decision { on, then: Then::Apply(actions) })
    }

    /// Writes a decision, unless the ring has changed since.
    pub(super) fn write(&mut self, at: usize) {
        let Some(Decision { on, then }) = self.leaders[at].decision.take() else { return };
        if on != self.ring.0.version {
            return;
        }
        let now = self.leaders_now();
        let ring = match then {
            Then::Remember => {
                // With the generation, which lies beside the ring.
                self.bundle.generation = self.generations;
                self.leaders[at].memory.take().map(|remembered| remembered.0).unwrap_or_default()
            }
            Then::Restored => {
                let known: BTreeSet<&String> = self.ring.0.keys.iter().map(|key| &key.kid).collect();
                let lost = self.tokens.keys().filter(|kid| !known.contains(kid)).cloned();
                self.exempt.extend(lost);
                self.bundle.generation = self.generations;
                self.ring.0.restored(i64::from(TTL) * 1000, 0, now)
            }
            Then::Apply(actions) => {
                let made = &mut self.keys_made;
                let ring = self.ring.0.apply(&actions, now, |_| {
                    *made += 1;
                    Ok(key(*made))
                });
                for action in &actions {
                    if let Action::Activate { kid, unacknowledged: true, .. } = action {
                        self.exempt.insert(kid.clone());
                    }
                }
                ring.expect("a plan fits the ring that it was made for")
            }
        };
        self.ring = StoredRing(ring);
        if self.restored || self.left.backups > 0 {
            self.leaders[at].memory = Some(self.ring.clone());
        }
        self.wrote();
        let (now, issuer) = (self.ring.0.version, self.issuer);
        self.active_by_version.insert(now, self.ring.0.active().map(|k| k.kid.clone()));
        self.active_by_version.retain(|version, _| Some(*version) == issuer || *version == now);
    }

    /// The leader renews its Lease.
    pub(super) fn renew(&mut self) {
        self.wrote();
    }

    /// A write got its version. One that isn't higher than all seen before shows that the API server was restored.
    fn wrote(&mut self) {
        self.version += 1;
        if self.version <= self.highest_seen {
            self.leaders.iter_mut().for_each(|leader| leader.history = 0);
            self.since.clear();
        }
        self.highest_seen = self.version;
    }

    /// What the ring makes verifiers accept, once it is published.
    pub(super) fn to_publish(&self) -> BTreeSet<String> {
        self.ring.0.keys.iter().filter(|k| k.state != KeyState::Revoked).map(|k| k.kid.clone()).collect()
    }

    /// Whether somebody has to publish. Not before what is remembered was written.
    pub(super) fn is_to_be_published(&self) -> bool {
        let remembered = |leader: &Leader| leader.memory.as_ref().is_some_and(|m| m.0.version > self.ring.0.version);
        let is_new = self.bundle.keys != self.to_publish() || self.since.is_empty() && !self.bundle.keys.is_empty();
        is_new && !self.leaders.iter().any(remembered)
    }

    pub(super) fn publish(&mut self) {
        self.wrote();
        self.generations += 1;
        self.bundle = Bundle { generation: self.generations, version: self.version, keys: self.to_publish() };
        let since = Since { version: self.version, generation: self.generations };
        self.since.retain(|kid, _| self.bundle.keys.contains(kid));
        for kid in &self.bundle.keys {
            self.since.entry(kid.clone()).or_insert(since);
        }
    }

    /// Begins a history: what was acknowledged so far counts no more.
    pub(super) fn begin_history(&mut self, at: usize) {
        self.wrote();
        self.histories += 1;
        self.history = self.histories;
        self.leaders[at].history = self.histories;
    }

    /// Somebody leads who knows nothing but what is written.
    pub(super) fn new_leader(&mut self, at: usize) {
        let remembers = self.restored || self.left.backups > 0;
        self.leaders[at] = Leader { deaf: true, memory: remembers.then(|| self.ring.clone()), ..Leader::default() };
        self.counted_from = self.time;
        self.highest_seen = self.version;
        let since = Since { version: self.bundle.version, generation: self.bundle.generation };
        self.since = self.bundle.keys.iter().map(|kid| (kid.clone(), since)).collect();
        self.begin_history(at);
    }

    /// Whether a leader may take what it has heard for all that there is to hear: every lease that lives acknowledges under
    /// its history. One that can't reach the API server doesn't in time, and is not waited for.
    pub(super) fn is_heard(&self, leader: &Leader) -> bool {
        let live = self.verifiers.iter().filter(|v| !v.gone && v.cut_off_since.is_none());
        self.seeded && live.into_iter().all(|v| v.acknowledged.is_some_and(|ack| ack.history == leader.history))
    }

    /// The issuer signs whenever it can: the worst that it may do.
    pub(super) fn sign(&mut self) {
        let signing = self.issuer.and_then(|version| self.active_by_version.get(&version).cloned().flatten());
        if let Some(kid) = signing {
            // It follows the feed, which knows of revocations at once.
            if !self.revoked.contains(&kid) {
                self.tokens.insert(kid, self.time + TTL);
            }
        }
    }

    /// Whether a verifier answers 401 rather than 503 for a key that it doesn't know.
    fn vouches(&self, v: &Verifier) -> bool {
        !v.gone && v.confirmed && v.cut_off_since.is_none_or(|since| self.time < since + ABSENT_AFTER / 2)
    }

    pub(super) fn good_tokens_are_accepted(&self) -> bool {
        self.verifiers.iter().filter(|v| self.vouches(v)).all(|v| {
            self.tokens.iter().all(|(kid, dies)| {
                let refused_rightly = *dies <= self.time || self.revoked.contains(kid) || self.exempt.contains(kid);
                refused_rightly || v.bundle.keys.contains(kid)
            })
        })
    }

    pub(super) fn a_key_signs_or_none_may(&self) -> bool {
        let ring = &self.ring.0;
        let fell = || ring.keys.iter().any(|k| k.state == KeyState::Revoked) || self.restored;
        ring.active().is_some() || !ring.has_signed() || fell()
    }

    pub(super) fn nothing_revoked_revives(&self) -> bool {
        let ring = &self.ring.0;
        let names: BTreeSet<&String> = ring.keys.iter().map(|k| &k.kid).collect();
        let fallen = ring.keys.iter().filter(|k| k.revoked.is_some() || k.state == KeyState::Revoked);
        let stay = fallen.into_iter().all(|k| k.state == KeyState::Revoked && k.pkcs8.is_none());
        let signs = self.tokens.iter().any(|(kid, dies)| *dies > self.time + TTL && self.revoked.contains(kid));
        names.len() == ring.keys.len() && stay && !signs
    }

    /// Whether, from here on without trouble, everything asked for comes about.
    ///
    /// To follow each state to its rest would take too long: one in thirty-two is.
    pub(super) fn comes_to_rest(&self, fleet: &Fleet) -> bool {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        if !hasher.finish().is_multiple_of(32) {
            return true;
        }
        let mut world = self.clone();
        world.left = Left::default();
        world.seeded = true;
        world.clock_error = 0;
        if world.verifiers.iter().all(|v| v.gone) {
            world.verifiers.iter_mut().for_each(|v| *v = Verifier::default());
        }
        for _ in 0..12 {
            for _ in 0..12 {
                step::everyone_does_their_part(fleet, &mut world);
            }
            let ring = &world.ring.0;
            let handled = ring.handled_revision.as_deref() == Some(world.revision.to_string().as_str());
            let signs = ring.active().is_some_and(|k| !k.unacknowledged && !world.revoked.contains(&k.kid));
            if signs && handled && ring.in_state(KeyState::Pending).count() == 0 {
                return true;
            }
            world.time += 1;
        }
        false
    }
}

fn key(number: u8) -> SigningKey {
    let pkcs8 = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[number; 32]].concat();
    SigningKey::from_pkcs8(Algorithm::EdDSA, Some(&format!("k{number}")), &pkcs8).unwrap()
}
