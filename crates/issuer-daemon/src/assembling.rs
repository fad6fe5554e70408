//! A policy for the issuer, put together from what the operator wrote: rings, section, bundle.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::{self, Bundle, FetchedKeys, RingName, VerifySecrets},
    cluster::{BUNDLE_KEY, ISSUE_KEY, VERIFY_SECRETS_KEY, bundle_name},
    issue::IssueSection,
    key_ring::Kept,
    policy::EffectivePolicy,
};
use countersign_core::{
    names::PolicyName,
    ring::{self, Acks, Ring},
    time::UnixMillis,
};
use countersign_issuer::{
    BundleWrite, Confirmation, Enforcement, IssuerPolicy, Lives, OpaqueEnd, OwnKeys, RingView, SignsWhile, Verifier,
};

use crate::{people::NotItsPeople, trust::Trusted, watching::Object};

/// What lies under one policy's names.
#[derive(Debug, Default)]
pub(crate) struct Lying {
    pub(crate) ring: Option<Object>,
    pub(crate) section: Option<Object>,
    pub(crate) bundle: Option<Object>,
    pub(crate) secrets: Option<Object>,
}

impl Lying {
    pub(crate) const fn is_empty(&self) -> bool {
        self.ring.is_none() && self.section.is_none() && self.bundle.is_none() && self.secrets.is_none()
    }
}

/// Why what lies there isn't used. What was used before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0} is not there yet")]
    Missing(&'static str),
    #[error("{0}")]
    Bundle(String),
    #[error("what issuers are told: {0}")]
    Section(String),
    #[error("{0}")]
    Ring(String),
    #[error("rings, bundle and what issuers are told are not of one policy object yet")]
    NotOne,
    #[error("a ring is older than the one that is used")]
    OlderRing,
    #[error(transparent)]
    People(#[from] NotItsPeople),
}

/// A policy's parts, opened and found to belong together.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) name: PolicyName,
    pub(crate) effective: Arc<EffectivePolicy>,
    pub(crate) section: IssueSection,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) secrets: Option<VerifySecrets>,
    pub(crate) kept: Kept,
    /// The API server's version of the bundle.
    pub(crate) version: u64,
}

/// What a policy's bundle alone says.
pub(crate) enum Stands {
    /// It is in force.
    Lives(Arc<Bundle>),
    /// It was deleted: its tombstone.
    Withdrawn(Arc<Bundle>),
}

/// Opens the bundle that lies under `object`'s name.
pub(crate) fn stands(object: &str, lying: &Lying, trusted: &Trusted) -> Result<Stands, Refused> {
    let sealed = part(lying.bundle.as_ref(), BUNDLE_KEY).ok_or(Refused::Missing("the bundle"))?;
    let bundle = bundle::open(sealed, &trusted.trust, None).map_err(|error| Refused::Bundle(error.to_string()))?;
    if bundle_name(&bundle.policy) != object {
        return Err(Refused::Bundle(format!("the bundle is for policy {}, not for the one its name says", bundle.policy)));
    }
    let lives = bundle.verify.is_some();
    let bundle = Arc::new(bundle);
    Ok(if lives { Stands::Lives(bundle) } else { Stands::Withdrawn(bundle) })
}

fn part<'a>(object: Option<&'a Object>, key: &str) -> Option<&'a [u8]> {
    object?.data.get(key).map(|value| value.as_slice())
}

/// Opens everything of a policy that is in force.
pub(crate) fn open(bundle: Arc<Bundle>, lying: &Lying, trusted: &Trusted) -> Result<Opened, Refused> {
    let name = bundle.policy.clone();
    let version = lying.bundle.as_ref().map_or(0, |bundle| bundle.version);
    let ring = lying.ring.as_ref().ok_or(Refused::Missing("the key ring"))?;
    let kept = Kept::open(&name, &ring.data, &trusted.trust).map_err(|error| Refused::Ring(error.to_string()))?;
    let told = part(lying.section.as_ref(), ISSUE_KEY).ok_or(Refused::Missing("what issuers are told"))?;
    let section = IssueSection::open(told, &trusted.trust, &name).map_err(|error| Refused::Section(error.to_string()))?;
    if section.uid != bundle.uid || kept.record.uid != bundle.uid || kept.record.withdrawn_time.is_some() {
        return Err(Refused::NotOne);
    }
    let effective = EffectivePolicy::try_from(&section.spec)
        .map_err(|problems| Refused::Section(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let expected = bundle.verify.as_ref().and_then(|verify| verify.secrets_sha256.as_deref());
    let secrets = match expected {
        None => None,
        Some(expected) => {
            let bytes = part(lying.secrets.as_ref(), VERIFY_SECRETS_KEY).ok_or(Refused::Missing("the verify-secrets"))?;
            Some(VerifySecrets::parse(bytes, expected).map_err(|error| Refused::Bundle(error.to_string()))?)
        }
    };
    Ok(Opened { name, effective: Arc::new(effective), section, bundle, secrets, kept, version })
}

impl Opened {
    /// When its opaque keys end.
    pub(crate) fn opaque_end(&self) -> OpaqueEnd {
        let files = self.secrets.iter().flat_map(|secrets| &secrets.opaque);
        OpaqueEnd::of(files.map(String::as_str))
    }

    /// The policy as the issuer uses it. Rings never go back, over a restore of the API server either: what the operator mends
    /// has a higher version than any before.
    pub(crate) fn policy(
        &self,
        lives: Lives,
        before: Option<&IssuerPolicy>,
        fleet: &FleetSeen<'_>,
        confirmed: &Confirmation,
        now: UnixMillis,
    ) -> Result<IssuerPolicy, Refused> {
        let compiled = bundle::compile(&self.bundle, self.secrets.as_ref(), &FetchedKeys::new())
            .map_err(|error| Refused::Bundle(error.to_string()))?;
        let view = |name: RingName| {
            let ring = self.kept.rings.get(&name).map(|ring| Ring::clone(ring)).unwrap_or_default();
            let older = before.and_then(|before| before.own.as_ref()).is_some_and(|own| match name {
                RingName::Access => ring.version < own.access.ring.version,
                RingName::ApiKey => ring.version < own.api_key.ring.version,
            });
            if older {
                return Err(Refused::OlderRing);
            }
            self.view(name, ring, fleet, now)
        };
        let own = match &self.effective.issuer {
            None => None,
            Some(issuer) => {
                Some(OwnKeys { issuer: issuer.clone(), access: view(RingName::Access)?, api_key: view(RingName::ApiKey)? })
            }
        };
        let references = self.section.references.clone();
        let policy = IssuerPolicy::of(&self.name, &self.effective, references, None, own, lives, Arc::new(compiled.policy));
        let signs_while = SignsWhile::of(confirmed.clone(), self.effective.keys.absent_after.as_millis());
        Ok(IssuerPolicy { written: Some(fleet.write(self.version)), signs_while: Some(signs_while), ..policy })
    }

    fn view(&self, name: RingName, ring: Ring, fleet: &FleetSeen<'_>, now: UnixMillis) -> Result<RingView, Refused> {
        let revoked = self.effective.keys.revoked.iter().map(|key| key.kid.clone()).collect();
        let spec = self.effective.rotation_spec(name, ring.handled_rotation.clone(), revoked);
        let held: BTreeMap<String, Enforcement> =
            ring.keys.iter().map(|key| (key.kid.clone(), fleet.enforcement(&self.name, &key.kid))).collect();
        let everyone = |kid: &&String| held.get(*kid).is_some_and(|held| held.total > 0 && held.complete());
        let acks = Acks {
            known: fleet.verifiers.len(),
            required: fleet.verifiers.len(),
            held_by_all: held.keys().filter(everyone).cloned().collect(),
            published: ring.keys.iter().map(|key| (key.kid.clone(), key.created)).collect(),
            issuers_hold: ring.version,
            server_now: None,
        };
        let status = ring::status(&ring, &spec, &acks, now);
        RingView::new(ring, status, held).map_err(|error| Refused::Ring(error.to_string()))
    }
}

/// The verifiers that live, and from which version on each bundle has held a key.
pub(crate) struct FleetSeen<'a> {
    pub(crate) verifiers: &'a [Verifier],
    pub(crate) history: &'a str,
    pub(crate) since: &'a BTreeMap<String, u64>,
}

impl FleetSeen<'_> {
    /// Whether every verifier holds every key that a policy shows.
    pub(crate) fn is_complete(policy: &IssuerPolicy) -> bool {
        let rings = policy.own.iter().flat_map(|own| [&own.access, &own.api_key]);
        rings.flat_map(|ring| ring.held.values()).all(Enforcement::complete)
    }

    /// How many of those that live hold a key.
    fn enforcement(&self, policy: &PolicyName, kid: &str) -> Enforcement {
        let since = self.since.get(kid).map(|version| self.write(*version));
        let holds = |verifier: &Verifier| since.as_ref().is_some_and(|since| since.is_applied_by(verifier, policy));
        Enforcement::count(self.verifiers.iter().map(|verifier| (verifier.name.as_str(), holds(verifier))))
    }

    fn write(&self, version: u64) -> BundleWrite {
        BundleWrite { history: self.history.to_owned(), version }
    }
}
