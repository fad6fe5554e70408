//! Is a genuine credential good, now, for this? Everything that time, the feed or the caller can change.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed};

use super::{
    credential::{Authenticated, CredentialKind},
    emergency::{EmergencyUse, NoRoom, Witness},
};
use crate::{
    addresses::AddressVerdict,
    policy::Policy,
    ratelimit::RateLimiter,
    revocation::RevocationSet,
    roles, rules,
    time::UnixMillis,
    verdict::{Denial, DenialReason, Refusal, RevokedBy},
};

/// Is it good, now, for this? Everything that time, the feed or the caller can change.
pub fn judge<'a>(
    policy: &Policy,
    credential: &'a Authenticated,
    ask: &Ask<'_>,
    world: &World<'_>,
) -> Result<Allowed<'a>, Refusal> {
    judge_also(policy, credential, ask, world, |_| None)
}

/// The same, where a good credential alone isn't enough: `also` may refuse it last. What it refuses was no use.
pub fn judge_also<'a>(
    policy: &Policy,
    credential: &'a Authenticated,
    ask: &Ask<'_>,
    world: &World<'_>,
    also: impl FnOnce(&Authenticated) -> Option<Refusal>,
) -> Result<Allowed<'a>, Refusal> {
    credential.times.check(world.now, policy.clock_skew_ms)?;
    check_revocation(credential, world.revocations)?;
    let (stale, stale_ms) = check_staleness(policy, world)?;
    check_demands(policy, credential, ask, world)?;
    if let Some(limit) = policy.rate_limit {
        world
            .rate_limiter
            .try_acquire(credential.rate_id, limit, world.now)
            .map_err(|retry_after_s| Refusal::RateLimited { retry_after_s })?;
    }
    if let Some(refusal) = also(credential) {
        return Err(refusal);
    }
    if credential.kind == CredentialKind::Emergency {
        let used = EmergencyUse { policy: &policy.name, credential, ask, at: world.now };
        world.witness.record(&used).map_err(|NoRoom| Refusal::Unrecorded)?;
    }
    Ok(Allowed { credential, stale, stale_ms })
}

/// What a caller asks about a credential. Everything in it must hold.
#[derive(Clone, Debug, Default)]
pub struct Ask<'a> {
    /// The demands.
    pub require: Require<'a>,
    /// The request that the credential came with, as far as the caller tells.
    pub request: rules::Request<'a>,
    /// The client that sent it, as far as the caller tells.
    pub client: rules::Client<'a>,
}

/// Demands, all of which must hold.
#[derive(Clone, Debug, Default)]
pub struct Require<'a> {
    /// Each must be granted by a role of the credential.
    pub permissions: Vec<Cow<'a, str>>,
    /// Each must be among its roles.
    pub roles: Vec<Cow<'a, str>>,
    /// Each must be among its scopes.
    pub scopes: Vec<Cow<'a, str>>,
    /// Each must be among its audiences.
    pub audiences: Vec<Cow<'a, str>>,
}

/// The state of the world at the moment of a call.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The time.
    pub now: UnixMillis,
    /// What is revoked.
    pub revocations: &'a RevocationSet,
    /// How long ago the revocations were last known to be complete, milliseconds; `None`: never.
    pub feed_age_ms: Option<u64>,
    /// Whether a position that the caller asked for has not been reached.
    pub behind: bool,
    /// Verifications per subject so far.
    pub rate_limiter: &'a RateLimiter,
    /// Where uses of emergency tokens are recorded.
    pub witness: &'a dyn Witness,
}

/// A credential that is good now for what was asked. The only proof of permission there is.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    credential: &'a Authenticated,
    stale: bool,
    stale_ms: Option<u64>,
}

impl<'a> Allowed<'a> {
    /// The credential.
    pub fn credential(&self) -> &'a Authenticated {
        self.credential
    }
    /// Whether revocations were older than the policy's bound (and the policy allows that).
    pub fn stale(&self) -> bool {
        self.stale
    }
    /// When stale: how old they were, milliseconds; `None` if nothing is known. Otherwise 0.
    pub fn stale_ms(&self) -> Option<u64> {
        self.stale_ms
    }
}

fn check_revocation(credential: &Authenticated, revocations: &RevocationSet) -> Result<(), Refusal> {
    // Read before the lookups: an entry that comes in between them and the mark makes the mark old.
    let version = revocations.version();
    if credential.last_clean.0.load(Relaxed) != version {
        if let Some(hit) = revocations.lookup(&credential.revocation_ids, credential.issued_for_cutoffs) {
            return Err(Refusal::Revoked(hit.by));
        }
        credential.last_clean.0.store(version, Relaxed);
    }
    if credential.key_revoked { Err(Refusal::Revoked(RevokedBy::Key)) } else { Ok(()) }
}

fn check_staleness(policy: &Policy, world: &World<'_>) -> Result<(bool, Option<u64>), Refusal> {
    if world.behind {
        return Err(Refusal::Stale);
    }
    let bound = u64::try_from(policy.staleness.max_ms).unwrap_or(0);
    match world.feed_age_ms {
        Some(age) if age <= bound => Ok((false, Some(0))),
        _ if !policy.staleness.allow => Err(Refusal::Stale),
        age => Ok((true, age)),
    }
}

fn check_demands(policy: &Policy, credential: &Authenticated, ask: &Ask<'_>, world: &World<'_>) -> Result<(), Refusal> {
    let deny = |reason| Err(Refusal::Denied(Denial::of(reason)));
    let all = |wanted: &[Cow<'_, str>], held: &[String]| wanted.iter().all(|w| held.iter().any(|h| *h == **w));
    if !ask.require.permissions.iter().all(|wanted| roles::grants(&credential.permissions, wanted)) {
        return deny(DenialReason::Permission);
    }
    if !all(&ask.require.roles, &credential.roles) {
        return deny(DenialReason::Role);
    }
    if !all(&ask.require.scopes, &credential.scopes) {
        return deny(DenialReason::Scope);
    }
    if !all(&ask.require.audiences, &credential.audience) {
        return deny(DenialReason::Audience);
    }
    if !policy.rules.is_empty() {
        check_rules(policy, credential, ask, world.now)?;
    }
    check_address(policy, ask, world)
}

fn check_rules(policy: &Policy, credential: &Authenticated, ask: &Ask<'_>, now: UnixMillis) -> Result<(), Refusal> {
    let input = rules::RuleInput {
        credential: rules::Facts {
            subject: &credential.subject,
            kind: credential.kind.word(),
            issuer: credential.issuer.as_deref().unwrap_or_default(),
            roles: &credential.roles,
            permissions: &credential.permissions,
            scopes: &credential.scopes,
            audience: &credential.audience,
            amr: &credential.amr,
            claims: credential.claims(),
        },
        request: ask.request.clone(),
        client: ask.client.clone(),
        now,
    };
    match policy.rules.evaluate(&input) {
        None => Ok(()),
        Some(denial) => {
            Err(Refusal::Denied(Denial { reason: DenialReason::Rule, rule: Some(denial.rule), missing: denial.missing }))
        }
    }
}

fn check_address(policy: &Policy, ask: &Ask<'_>, world: &World<'_>) -> Result<(), Refusal> {
    match policy.addresses.judge(ask.client.ip) {
        AddressVerdict::Allowed => {}
        AddressVerdict::Denied => return Err(Refusal::Denied(Denial::of(DenialReason::Ip))),
        AddressVerdict::Missing => {
            return Err(Refusal::Denied(Denial { reason: DenialReason::Ip, rule: None, missing: vec!["client.ip"] }));
        }
    }
    // A call without an address skips blocks: only the policy's own lists demand one.
    match ask.client.ip {
        Some(ip) if world.revocations.ip_blocked(&policy.name, ip, world.now) => {
            Err(Refusal::Denied(Denial::of(DenialReason::Ip)))
        }
        _ => Ok(()),
    }
}
