//! A policy as the other parts see it.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{bundle::RingName, policy::EffectivePolicy};
use countersign_core::{
    keys::SigningKey,
    names::PolicyName,
    revocation::Entry,
    ring::{Ring, RingStatus},
};

/// A policy as it stands.
#[derive(Clone, Debug)]
pub struct PolicyView {
    /// Its name.
    pub name: PolicyName,
    /// The AuthPolicy's uid.
    pub uid: String,
    /// The uid of its namespace.
    pub namespace_uid: String,
    /// The generation of the spec that this is about.
    pub generation: i64,
    /// The policy with every default filled in; absent: the spec makes no sense, or the policy is withdrawn.
    pub effective: Option<Arc<EffectivePolicy>>,
    /// Why the spec isn't accepted, for people.
    pub problem: Option<String>,
    /// The policy is deleted and its keys are kept for a while: nothing is signed any more.
    pub withdrawn: bool,
    /// The generation of the bundle that is written; 0: none is.
    pub bundle_generation: u64,
    /// The API server's version of that bundle.
    pub bundle_version: u64,
    /// The rings; absent for a policy that only verifies, and for one whose rings may not be used.
    pub own: Option<OwnKeys>,
    /// Everything that the bundle says is revoked: keys, and ended declared sessions. The feed's writer publishes the union
    /// of all policies'.
    pub revoked: Arc<[Entry]>,
}

/// A policy's own issuer with its rings.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    /// `iss`.
    pub issuer: String,
    /// The two rings. Boxed: a map has room for eleven from the first on.
    pub rings: BTreeMap<RingName, Box<RingView>>,
}

impl OwnKeys {
    /// A ring.
    pub fn ring(&self, ring: RingName) -> Option<&RingView> {
        self.rings.get(&ring).map(Box::as_ref)
    }
}

/// A ring, ready to sign.
#[derive(Clone, Debug)]
pub struct RingView {
    /// The ring as it is stored.
    pub ring: Arc<Ring>,
    /// Where it stands.
    pub status: RingStatus,
    /// The Active key. `None`: nothing can be signed now, answer 503.
    pub signer: Option<Arc<SigningKey>>,
}
