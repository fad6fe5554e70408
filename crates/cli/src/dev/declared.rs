//! What is in force: the policies that were accepted, and what is wrong with those that were not.

use std::{collections::BTreeMap, path::PathBuf};

use super::environment::Filled;
use countersign_api::{
    LoginReferences,
    bundle::{BuildInput, Bundle, BundleKey, Resolved, RingName, VerifySecrets, build},
    policy::EffectivePolicy,
};
use countersign_core::{jose::Jwk, names::PolicyName, revocation::Entry, ring::PublicRingKey, time::UnixMillis};
use countersign_issuer::OpaqueEnd;

/// A policy that was accepted.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Kept from its first acceptance on.
    pub(crate) uid: String,
    /// With every default filled in.
    pub(crate) effective: EffectivePolicy,
    /// What its references gave.
    pub(crate) resolved: Resolved,
    /// What its login's references gave.
    pub(crate) login: LoginReferences,
    /// The annotation that rotates the access ring.
    pub(crate) rotate_access: Option<String>,
    /// The annotation that rotates the api-key ring.
    pub(crate) rotate_api_key: Option<String>,
    /// When its opaque keys end.
    pub(crate) opaque_end: OpaqueEnd,
    /// The trusted issuer whose tokens may carry any `iss`, by its entry's name.
    pub(crate) any_issuer: Option<String>,
    /// The fields that the environment filled in.
    pub(crate) environment: Vec<Filled>,
}

/// Everything that is declared at one moment.
#[derive(Debug, Default)]
pub(crate) struct Declaration {
    /// By name.
    pub(crate) policies: BTreeMap<PolicyName, std::sync::Arc<Declared>>,
    /// Policies that were there and are no more, until they are erased.
    pub(crate) withdrawn: BTreeMap<PolicyName, Withdrawn>,
    /// The policy that answers where none is named.
    pub(crate) default: Option<PolicyName>,
    /// Files that are wrong.
    pub(crate) problems: Vec<FileProblem>,
}

/// A policy that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    pub(crate) uid: String,
    /// Its keys are kept until then.
    pub(crate) erase_after: UnixMillis,
}

/// A file that is wrong, and what serves in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileProblem {
    /// Which.
    pub(crate) file: PathBuf,
    /// The policies of which the last good version stays.
    pub(crate) policies: Vec<PolicyName>,
    /// Each mistake in a line: file, line, field, what is wrong.
    pub(crate) lines: Vec<String>,
}

impl Declared {
    /// Its bundle, under no generation yet.
    pub(crate) fn bundle(
        &self,
        name: &PolicyName,
        access: &[PublicRingKey],
        api_key: &[PublicRingKey],
        revoked: Vec<Entry>,
    ) -> (Bundle, Option<VerifySecrets>) {
        let of = |ring: RingName, keys: &[PublicRingKey]| -> Vec<BundleKey> {
            let one = |key: &PublicRingKey| {
                let mut jwk: Jwk = key.jwk.clone();
                jwk.kid = Some(key.kid.clone());
                jwk.alg = Some(key.alg.to_string());
                BundleKey { ring, state: key.state, jwk }
            };
            keys.iter().map(one).collect()
        };
        let (mut bundle, secrets) = build(BuildInput {
            name,
            uid: &self.uid,
            generation: 0,
            policy: &self.effective,
            keys: [of(RingName::Access, access), of(RingName::ApiKey, api_key)].concat(),
            resolved: &self.resolved,
            revoked,
        });
        let entries = bundle.verify.iter_mut().flat_map(|section| &mut section.trusted_issuers);
        for entry in entries.filter(|entry| Some(&entry.name) == self.any_issuer.as_ref()) {
            entry.any_issuer = true;
        }
        (bundle, secrets)
    }
}
