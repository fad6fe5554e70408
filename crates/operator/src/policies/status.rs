//! What is said of a policy: a pure function of what is so and of what was said before.
//!
//! Written when a generation changes and when it settles. In between, what was said stays said: neither a verifier's restart
//! nor each acknowledgement is worth a write.

mod listing;

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::RingName,
    policy::{AuthPolicyStatus, Enforcement, IssuerEnforcement},
};
use countersign_core::{
    ring::{Phase, Ring, RingStatus},
    time::UnixMillis,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use self::listing::{key_rings, keys};
use crate::fleet::{Count, MAX_NAMED};

const ACCEPTED: &str = "Accepted";
const KEYS_READY: &str = "KeysReady";
const ENFORCED: &str = "Enforced";
const READY: &str = "Ready";
const STALLED: &str = "Stalled";

/// The longest message of a condition.
const MAX_MESSAGE: usize = 1024;
/// How many keys are listed; the API server takes no more.
const MAX_KEYS: usize = 256;

/// Whether the spec is understood and every reference resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// It is; warnings, by reason, if any.
    Accepted(Vec<Remark>),
    /// It isn't.
    Refused { remark: Remark, remedy: Remedy },
}

/// What a policy that isn't accepted waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// A person's edit.
    Person,
    /// Another attempt.
    Time,
    /// A first attempt, which is under way.
    Moment,
}

/// A reason, which is API, and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Remark {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What there is to say about the rings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Keys {
    /// The policy only verifies.
    NotNeeded,
    /// There are none yet, and why.
    NotYet,
    /// They aren't used, and why. The last bundle may be in force all the same.
    Refused { why: String, in_force: bool },
    /// There are some, and what became of them since the API server knew is yet to be heard.
    Unheard,
    /// These.
    Rings(BTreeMap<RingName, Turned>),
}

/// A ring, where it stands, and who its next key waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turned {
    pub(crate) ring: Arc<Ring>,
    pub(crate) status: RingStatus,
    pub(crate) lagging: Vec<String>,
}

/// All that a status is made of.
#[derive(Clone, Debug)]
pub(crate) struct Situation<'a> {
    /// The generation of the spec.
    pub(crate) generation: i64,
    /// What was said before.
    pub(crate) before: &'a AuthPolicyStatus,
    pub(crate) acceptance: Acceptance,
    pub(crate) keys: Keys,
    /// Who holds the present bundle; the bundle's generation, 0 without one.
    pub(crate) count: Count,
    /// How many issuers hold the present key rings, of how many; absent: there is none.
    pub(crate) issuers: Option<(usize, usize)>,
    pub(crate) bundle_generation: u64,
    /// The feed is in reach.
    pub(crate) feed_reached: bool,
    /// Not every verifier has held the present bundle for over `absentAfter`.
    pub(crate) lagging_for_long: bool,
    /// What is merely a snapshot may be taken anew.
    pub(crate) refresh: bool,
    /// The bundle is made of this generation of the spec.
    pub(crate) published: bool,
    /// Why the bundle can't be written.
    pub(crate) unwritten: Option<String>,
    pub(crate) now: UnixMillis,
}

/// A condition as it ought to be; its times come later.
struct Wanted {
    type_: &'static str,
    status: &'static str,
    remark: Remark,
    /// The message tells of one moment: an older one of the same reason is as good.
    snapshot: bool,
}

impl Wanted {
    fn new(type_: &'static str, holds: bool, remark: Remark) -> Self {
        Self { type_, status: if holds { "True" } else { "False" }, remark, snapshot: false }
    }

    fn snapshot(self) -> Self {
        Self { snapshot: true, ..self }
    }

    fn holds(&self) -> bool {
        self.status == "True"
    }
}

/// The status that says what is so.
pub(crate) fn status(situation: &Situation<'_>) -> AuthPolicyStatus {
    let accepted = accepted(&situation.acceptance);
    let keys_ready = keys_ready(situation);
    let enforced = enforced(situation, &accepted);
    let ready = ready(situation, &accepted, &keys_ready, &enforced);
    let stalled = stalled(situation);
    let enforcement = enforcement(situation, &enforced);
    let wanted = [Some(accepted), Some(keys_ready), Some(enforced), Some(ready), stalled];
    let conditions = wanted.into_iter().flatten().map(|wanted| condition(situation, &wanted)).collect();
    AuthPolicyStatus {
        observed_generation: Some(situation.generation),
        conditions,
        key_rings: key_rings(situation),
        keys: keys(situation),
        enforcement,
    }
}

fn accepted(acceptance: &Acceptance) -> Wanted {
    match acceptance {
        Acceptance::Refused { remark, .. } => Wanted::new(ACCEPTED, false, remark.clone()),
        Acceptance::Accepted(warnings) => match warnings.as_slice() {
            [] => Wanted::new(
                ACCEPTED,
                true,
                Remark::new("Accepted", "the policy is understood, and all that it refers to is there"),
            ),
            [first, ..] => {
                let all: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
                Wanted::new(ACCEPTED, true, Remark::new(first.reason, all.join("; ")))
            }
        },
    }
}

fn keys_ready(situation: &Situation<'_>) -> Wanted {
    let not = |reason, message: &str| Wanted::new(KEYS_READY, false, Remark::new(reason, message));
    let rings = match &situation.keys {
        Keys::NotNeeded => {
            return Wanted::new(KEYS_READY, true, Remark::new("VerifyOnly", "the policy only verifies others' tokens"));
        }
        Keys::NotYet => return not("Generating", "no key is made before the policy is accepted"),
        Keys::Refused { why, .. } => return not("AdoptionRefused", why),
        Keys::Unheard => {
            let why = if situation.feed_reached { "verifiers" } else { "Redis, which is out of reach" };
            let message = format!("a new operator signs nothing before it has heard what was revoked: it waits for {why}");
            return not("FeedUnreachable", &message);
        }
        Keys::Rings(rings) => rings,
    };
    // What keeps a ring from signing comes before what merely keeps it from turning.
    for (name, turned) in rings {
        let ring = words(*name);
        let who = whom(&turned.lagging);
        let away = !situation.feed_reached;
        let found = match turned.status.phase {
            Phase::Generating if away => {
                not("FeedUnreachable", &format!("the {ring} ring's first key waits: Redis is out of reach"))
            }
            Phase::Generating => not("Generating", &format!("the {ring} ring's first key waits for {who}")),
            Phase::NoSigningKey => {
                not("NoSigningKey", &format!("the {ring} ring's key is revoked and its successor doesn't sign yet"))
            }
            _ => continue,
        };
        return found.snapshot();
    }
    for (name, turned) in rings {
        let ring = words(*name);
        let remark = match turned.status.phase {
            Phase::RotationWaiting if !situation.feed_reached => Remark::new(
                "FeedUnreachable",
                format!("the {ring} ring's rotation waits: Redis is out of reach; the old key goes on signing"),
            ),
            Phase::RotationWaiting => {
                let message =
                    format!("the {ring} ring's rotation waits for {}; the old key goes on signing", whom(&turned.lagging));
                Remark::new("RotationWaiting", message)
            }
            Phase::EmergencyUnacknowledged => {
                let message =
                    format!("the {ring} ring's key signs although not every verifier has it: {}", whom(&turned.lagging));
                Remark::new("EmergencyUnacknowledged", message)
            }
            _ => continue,
        };
        return Wanted::new(KEYS_READY, true, remark).snapshot();
    }
    Wanted::new(KEYS_READY, true, Remark::new("Active", "every ring has a key that signs"))
}

const fn words(ring: RingName) -> &'static str {
    match ring {
        RingName::Access => "access",
        RingName::ApiKey => "api-key",
    }
}

/// The verifiers that are waited for, for people.
fn whom(lagging: &[String]) -> String {
    match lagging.len() {
        0 => "verifiers".to_owned(),
        MAX_NAMED => format!("{} and maybe more", lagging.join(", ")),
        _ => lagging.join(", "),
    }
}

fn before<'a>(situation: &'a Situation<'_>, type_: &str) -> Option<&'a Condition> {
    situation.before.conditions.iter().find(|c| c.type_ == type_ && c.observed_generation == Some(situation.generation))
}

fn enforced(situation: &Situation<'_>, accepted: &Wanted) -> Wanted {
    let count = &situation.count;
    let not = |reason, message: String| Wanted::new(ENFORCED, false, Remark::new(reason, message));
    if !accepted.holds() {
        let reason = accepted.remark.reason;
        return not(reason, "this generation isn't accepted; what was in force before still is".to_owned());
    }
    if let Keys::Refused { in_force, .. } = situation.keys {
        let message = if in_force {
            "the last bundle stays in force; nothing new can be signed until the kept keys are adopted"
        } else {
            "nothing is in force until the kept keys are adopted"
        };
        return not("AdoptionRefused", message.to_owned());
    }
    if let Some(why) = &situation.unwritten {
        return not(
            "WaitingForVerifiers",
            format!("its bundle can't be written; what was in force before still is: {why}"),
        );
    }
    let held = || Remark::new("Enforced", "every verifier holds this generation");
    if count.complete() && situation.bundle_generation > 0 {
        return Wanted::new(ENFORCED, true, held());
    }
    if !count.refused.is_empty() {
        return not("VerifiersRefused", format!("refused by {}", count.refused.join(", "))).snapshot();
    }
    let was = before(situation, ENFORCED).is_some_and(|c| c.status == "True");
    if was && !situation.lagging_for_long {
        return Wanted::new(ENFORCED, true, held());
    }
    if count.required == 0 {
        return not("NoVerifiers", "there is no verifier that could hold it".to_owned());
    }
    let message = format!("{} of {} verifiers hold it; waiting for {}", count.held, count.required, whom(&count.lagging));
    not("WaitingForVerifiers", message).snapshot()
}

fn ready(situation: &Situation<'_>, accepted: &Wanted, keys: &Wanted, enforced: &Wanted) -> Wanted {
    let first_that_fails = |failing: &Wanted| Wanted::new(READY, false, failing.remark.clone());
    if !accepted.holds() {
        return first_that_fails(accepted);
    }
    if !keys.holds() {
        return first_that_fails(keys).snapshot();
    }
    let was = before(situation, READY).is_some_and(|c| c.status == "True") && !situation.lagging_for_long;
    let someone_holds = enforced.holds() || situation.count.held > 0 || was;
    if !situation.count.refused.is_empty() || !someone_holds || situation.unwritten.is_some() {
        return first_that_fails(enforced).snapshot();
    }
    Wanted::new(READY, true, Remark::new("Ready", "the policy is in force"))
}

fn stalled(situation: &Situation<'_>) -> Option<Wanted> {
    let remark = match (&situation.acceptance, &situation.keys) {
        (Acceptance::Refused { remark, remedy: Remedy::Person }, _) => remark.clone(),
        (_, Keys::Refused { why, .. }) => Remark::new("AdoptionRefused", why.clone()),
        _ => return None,
    };
    Some(Wanted::new(STALLED, true, remark))
}

fn condition(situation: &Situation<'_>, wanted: &Wanted) -> Condition {
    let held = situation.before.conditions.iter().find(|c| c.type_ == wanted.type_);
    let same_status = held.filter(|held| held.status == wanted.status);
    let message = same_status
        .filter(|held| {
            let of_this = held.observed_generation == Some(situation.generation) && held.reason == wanted.remark.reason;
            wanted.snapshot && of_this && !situation.refresh
        })
        .map_or_else(|| wanted.remark.message.chars().take(MAX_MESSAGE).collect(), |held| held.message.clone());
    Condition {
        type_: wanted.type_.to_owned(),
        status: wanted.status.to_owned(),
        reason: wanted.remark.reason.to_owned(),
        message,
        observed_generation: Some(situation.generation),
        last_transition_time: same_status.map_or_else(|| time(situation.now), |held| held.last_transition_time.clone()),
    }
}

fn enforcement(situation: &Situation<'_>, enforced: &Wanted) -> Option<Enforcement> {
    // What verifiers hold is what was told of then: this generation isn't written.
    if !situation.published || situation.unwritten.is_some() {
        return situation.before.enforcement.clone();
    }
    if situation.bundle_generation == 0 {
        return None;
    }
    let count = &situation.count;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let issuers = situation.issuers;
    let said = issuers.map(|(hold, all)| IssuerEnforcement { replicas: number(all), acknowledged: number(hold) });
    let held = situation.before.enforcement.as_ref().filter(|e| e.generation == situation.generation);
    if let Some(held) = held {
        let was = before(situation, ENFORCED).is_some_and(|c| c.status == "True");
        let stays_settled = enforced.holds() && was;
        let same_reason = before(situation, ENFORCED).is_some_and(|c| c.reason == enforced.remark.reason);
        let still_waits = !enforced.holds() && !was && same_reason && !situation.refresh;
        if stays_settled || still_waits {
            // While issuers are coming to it, what was said of them stays said.
            let issuers = if issuers.is_none_or(|(hold, all)| hold == all) { said } else { held.issuers.clone() };
            return Some(Enforcement { issuers, ..held.clone() });
        }
    }
    let settled_time =
        if enforced.holds() { Some(time(situation.now)) } else { held.and_then(|held| held.settled_time.clone()) };
    Some(Enforcement {
        generation: situation.generation,
        bundle_generation: i64::try_from(situation.bundle_generation).unwrap_or(i64::MAX),
        settled_time,
        verifiers: number(count.required),
        acknowledged: number(count.held),
        summary: format!("{}/{}", count.held, count.required),
        issuers: said,
        lagging: count.lagging.clone(),
    })
}

/// Whole seconds, as the API server keeps them: what is written is what is read back.
fn time(at: UnixMillis) -> Time {
    Time(Timestamp::from_second(at.as_secs()).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests;
