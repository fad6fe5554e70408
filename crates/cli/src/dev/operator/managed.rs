//! One policy in the operator's hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_api::bundle::{self, Bundle, FetchedKeys, RingName, SCHEMA, VerifySecrets};
use countersign_core::{
    names::PolicyName,
    policy::Policy,
    ring::{self, Acks, Ring, RingStatus, RotationSpec, next_change},
    time::UnixMillis,
};
use countersign_issuer::{Enforcement, IssuerPolicy, Lives, OwnKeys, RingView, Verifier};
use countersign_store::Store;

use super::{IDLE, OperatorError, WHILE_WAITING};
use crate::dev::declared::Declared;

/// A ring and the version of it that is stored.
pub(super) struct HeldRing {
    pub(super) ring: Ring,
    pub(super) stored: Option<u64>,
}

impl HeldRing {
    pub(super) fn new(stored: Option<Ring>) -> Self {
        Self { stored: stored.as_ref().map(|r| r.version), ring: stored.unwrap_or_default() }
    }
}

/// A policy's rings, bundle and what the issuer is told.
pub(super) struct Managed {
    pub(super) declared: Arc<Declared>,
    /// Empty for a policy that only verifies.
    pub(super) rings: BTreeMap<RingName, HeldRing>,
    /// The generation of the first bundle that held each key.
    pub(super) since: BTreeMap<String, u64>,
    pub(super) lives: Lives,
    /// Keys that are revoked for good; absent when that has to be looked up.
    pub(super) revoked: Option<Arc<BTreeSet<String>>>,
    /// Whether the bundle may not say what the rings and the declaration say.
    pub(super) dirty: bool,
    pub(super) compiled: Option<Arc<Policy>>,
    pub(super) view: Option<Arc<IssuerPolicy>>,
}

/// What is known at the moment of a step.
pub(super) struct Known<'a> {
    pub(super) name: &'a PolicyName,
    pub(super) verifiers: &'a [Verifier],
    /// Keys that are revoked for good.
    pub(super) revoked: &'a BTreeSet<String>,
    pub(super) server_now: Option<UnixMillis>,
}

impl Managed {
    /// Whether both rings have a key that signs, where there are rings.
    pub(super) fn signs(&self) -> bool {
        !self.dirty && self.rings.values().all(|held| held.ring.active().is_some())
    }

    /// What the policy says about a ring. `rotation`: the latest request to rotate it.
    pub(super) fn spec(&self, ring: RingName, revoked: &BTreeSet<String>, rotation: Option<String>) -> RotationSpec {
        self.declared.effective.rotation_spec(ring, rotation, revoked.clone())
    }

    /// What the fleet holds of a ring.
    pub(super) fn acks(&self, ring: RingName, known: &Known<'_>) -> Acks {
        let Some(held) = self.rings.get(&ring) else { return Acks::default() };
        let everyone =
            |kid: &&String| !known.verifiers.is_empty() && known.verifiers.iter().all(|v| self.holds(v, known.name, kid));
        let issuers_hold = self.view.as_ref().and_then(|view| view.own.as_ref()).map_or(0, |own| match ring {
            RingName::Access => own.access.ring.version,
            RingName::ApiKey => own.api_key.ring.version,
        });
        // This process's own verifier is one even while the feed is out of reach.
        let required = known.verifiers.len().max(1);
        Acks {
            known: required,
            required,
            held_by_all: held.ring.keys.iter().map(|k| &k.kid).filter(everyone).cloned().collect(),
            published: held
                .ring
                .keys
                .iter()
                .filter(|k| self.since.contains_key(&k.kid))
                .map(|k| (k.kid.clone(), k.created))
                .collect(),
            issuers_hold,
            server_now: known.server_now,
        }
    }

    fn holds(&self, verifier: &Verifier, name: &PolicyName, kid: &str) -> bool {
        let held = verifier.ack.as_ref().and_then(|ack| ack.generations.get(name.as_str()));
        matches!((held, self.since.get(kid)), (Some(held), Some(since)) if held >= since)
    }

    /// The public keys of a ring.
    pub(super) fn public_keys(&self, ring: RingName) -> Vec<ring::PublicRingKey> {
        self.rings.get(&ring).map(|held| held.ring.public_keys()).unwrap_or_default()
    }

    /// Takes the policy as verifiers evaluate it.
    pub(super) fn compile(&mut self, bundle: &Bundle, secrets: Option<&VerifySecrets>) -> Result<(), OperatorError> {
        let compiled =
            bundle::compile(bundle, secrets, &FetchedKeys::new()).map_err(|e| OperatorError::Bundle(e.to_string()))?;
        self.compiled = Some(Arc::new(compiled.policy));
        self.view = None;
        Ok(())
    }

    /// Tells the issuer where the policy stands, if that changed; says how long it can be left alone.
    pub(super) fn look(
        &mut self,
        known: &Known<'_>,
        asked: impl Fn(RingName) -> Option<String>,
        now: UnixMillis,
    ) -> Result<Duration, OperatorError> {
        let mut wait = IDLE;
        let mut standings = BTreeMap::new();
        for (ring, held) in &self.rings {
            let spec = self.spec(*ring, known.revoked, asked(*ring));
            let acks = self.acks(*ring, known);
            if let Some(at) = next_change(&held.ring, &spec, &acks, now) {
                let left = u64::try_from(at.since(now)).unwrap_or(0);
                wait = wait.min(Duration::from_millis(left).max(WHILE_WAITING));
            }
            let count = |kid: &String| {
                Enforcement::count(known.verifiers.iter().map(|v| (v.name.as_str(), self.holds(v, known.name, kid))))
            };
            let status = ring::status(&held.ring, &spec, &acks, now);
            if status.waiting.as_ref().is_some_and(|waiting| waiting.for_verifiers) {
                wait = wait.min(WHILE_WAITING);
            }
            let standing = Standing {
                status,
                held: held.ring.keys.iter().map(|k| (k.kid.clone(), count(&k.kid))).collect(),
                ring: held.ring.clone(),
            };
            standings.insert(*ring, standing);
        }
        if self.view.as_ref().is_none_or(|view| differs(view, &standings)) {
            self.view = self.fresh_view(known.name, standings)?.map(Arc::new);
        }
        Ok(wait)
    }

    fn fresh_view(
        &self,
        name: &PolicyName,
        mut standings: BTreeMap<RingName, Standing>,
    ) -> Result<Option<IssuerPolicy>, OperatorError> {
        let Some(compiled) = &self.compiled else { return Ok(None) };
        let effective = &self.declared.effective;
        let own = match (&effective.issuer, standings.remove(&RingName::Access), standings.remove(&RingName::ApiKey)) {
            (Some(issuer), Some(access), Some(api_key)) => {
                Some(OwnKeys { issuer: issuer.clone(), access: access.view()?, api_key: api_key.view()? })
            }
            _ => None,
        };
        let view = IssuerPolicy::of(
            name,
            effective,
            self.declared.login.clone(),
            self.declared.any_issuer.as_deref(),
            own,
            self.lives,
            compiled.clone(),
        );
        Ok(Some(view))
    }

    /// Reads the rings again: what is in memory may not be what is stored.
    pub(super) async fn reload(&mut self, store: &Store, name: &PolicyName) {
        for (ring, held) in &mut self.rings {
            match store.ring(name, *ring).await {
                Ok(stored) => *held = HeldRing::new(stored),
                Err(error) => tracing::error!(policy = %name, %error, "the key ring can't be read"),
            }
        }
        self.dirty = true;
    }
}

/// A ring with all that is told of it.
struct Standing {
    ring: Ring,
    status: RingStatus,
    held: BTreeMap<String, Enforcement>,
}

impl Standing {
    fn view(self) -> Result<RingView, OperatorError> {
        Ok(RingView::new(self.ring, self.status, self.held).map_err(ring::ApplyError::from)?)
    }
}

fn differs(view: &IssuerPolicy, standings: &BTreeMap<RingName, Standing>) -> bool {
    let Some(own) = &view.own else { return !standings.is_empty() };
    let same = |shown: &RingView, ring: RingName| {
        let now = standings.get(&ring);
        now.is_some_and(|s| s.ring.version == shown.ring.version && s.status == shown.status && s.held == shown.held)
    };
    !(same(&own.access, RingName::Access) && same(&own.api_key, RingName::ApiKey))
}

/// The keys of a bundle, each since its generation at the latest.
pub(super) fn kids_of(bundle: &Bundle) -> BTreeMap<String, u64> {
    let keys = bundle.verify.iter().flat_map(|v| &v.keys);
    keys.filter_map(|key| Some((key.jwk.kid.clone()?, bundle.generation))).collect()
}

/// The bundle that makes verifiers answer 404.
pub(super) fn tombstone(name: &PolicyName, uid: &str) -> Bundle {
    Bundle { schema: SCHEMA, policy: name.clone(), uid: uid.to_owned(), generation: 0, verify: None, revoked: Vec::new() }
}
