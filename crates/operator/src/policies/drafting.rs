//! What a policy's bundle ought to say: a function of its base, its rings and its record.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    LoginReferences,
    bundle::{self, BuildInput, Bundle, BundleIssuerKeys, BundleKey, Resolved, RingName, SCHEMA, VerifySecrets},
    key_ring::{Kept, Record, Rings},
    policy::EffectivePolicy,
};
use countersign_core::{
    digest::sha256,
    jose::{Algorithm, Jwk, JwkSet},
    ring::{KeyState, PublicRingKey, Ring},
    time::UnixMillis,
};

use super::{keeping::MAX_SECRET, record::Recording as _};

/// The largest content of a bundle: an object of the API server holds no more, once it is quoted and signed.
const MAX_CONTENT: usize = 900 << 10;
/// How many revoked keys of a ring a bundle names: of very many, the latest. A key that isn't named is unknown, and refused.
const MAX_REVOKED_KEYS: usize = 200;

/// What a bundle's `verify` section is made of.
#[derive(Debug)]
pub(super) enum Base {
    /// The policy as it is declared now, and what it refers to: for verifiers, and for issuers.
    Declared(Arc<EffectivePolicy>, Resolved, LoginReferences),
    /// The last good one, because what is declared now isn't accepted.
    Present(Arc<Bundle>),
    /// None: verifiers answer 404.
    Tombstone,
}

/// A bundle as it ought to be, under the generation of the record.
pub(super) struct Draft {
    pub(super) bundle: Bundle,
    pub(super) secrets: Option<VerifySecrets>,
    /// Whether the verify-secrets that are there are to be left alone.
    pub(super) keeps_secrets: bool,
}

/// The bundle that base, rings and record make. `None` for a base that holds no policy.
pub(super) fn draft(base: &Base, kept: &Kept) -> Option<Draft> {
    let Record { policy, uid, generation, revoked, .. } = &kept.record;
    match base {
        Base::Declared(effective, resolved, _) => {
            let input = BuildInput {
                name: policy,
                uid,
                generation: *generation,
                policy: effective,
                keys: public_keys(&kept.rings),
                resolved,
                revoked: revoked.clone(),
            };
            let (bundle, secrets) = bundle::build(input);
            Some(Draft { bundle, secrets, keeps_secrets: false })
        }
        Base::Present(present) => {
            let mut verify = present.verify.clone()?;
            if !kept.rings.is_empty() {
                verify.keys = public_keys(&kept.rings);
            }
            let bundle = Bundle {
                schema: SCHEMA,
                policy: policy.clone(),
                uid: uid.clone(),
                generation: *generation,
                verify: Some(verify),
                revoked: revoked.clone(),
            };
            Some(Draft { bundle, secrets: None, keeps_secrets: true })
        }
        Base::Tombstone => {
            let bundle = Bundle {
                schema: SCHEMA,
                policy: policy.clone(),
                uid: uid.clone(),
                generation: *generation,
                verify: None,
                revoked: revoked.clone(),
            };
            Some(Draft { bundle, secrets: None, keeps_secrets: false })
        }
    }
}

/// Public halves, in the order of the JWKS.
fn public_keys(rings: &Rings) -> Vec<BundleKey> {
    let named = |held: &Ring| {
        let mut passed_over = held.in_state(KeyState::Revoked).count().saturating_sub(MAX_REVOKED_KEYS);
        let mut keys = held.public_keys();
        keys.retain(|key| {
            let drops = key.state == KeyState::Revoked && passed_over > 0;
            passed_over -= usize::from(drops);
            !drops
        });
        keys
    };
    let keys = rings.iter().flat_map(|(ring, held)| named(held).into_iter().map(move |key| (*ring, key)));
    let public = |(ring, key): (RingName, PublicRingKey)| {
        let mut jwk: Jwk = key.jwk;
        jwk.kid = Some(key.kid);
        BundleKey { ring, state: key.state, jwk }
    };
    keys.map(public).collect()
}

/// Why a bundle can't be written: an object of the API server doesn't hold so much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooLarge {
    /// The bundle itself.
    #[error("its bundle has {} KiB, more than 900, or more than a mebibyte once it is quoted and signed: remove roles, rules or inline keys", .0 >> 10)]
    Bundle(usize),
    /// What is beside it for verifiers' eyes only.
    #[error("its symmetric and opaque keys have {} KiB together, more than a Secret holds: remove opaque keys", .0 >> 10)]
    Secrets(usize),
    /// What issuers are told.
    #[error(
        "what issuers are told of it has {} KiB, more than a Secret holds: {}", .length >> 10,
        if *.lists { "shorten the list of spec.login.passwords.breachedPasswords.configMapKeyRef" } else { "remove roles or rules" }
    )]
    Issuers {
        /// Bytes.
        length: usize,
        /// A list of passwords is part of it.
        lists: bool,
    },
}

impl Draft {
    /// Under this generation.
    pub(super) fn set_generation(&mut self, generation: u64) {
        self.bundle.generation = generation;
    }

    /// What tells it from every other.
    pub(super) fn digest(&self) -> [u8; 32] {
        serde_json::to_vec(&self.bundle).map_or([0; 32], |bytes| sha256(&bytes))
    }

    /// Whether it, sealed as `sealed`, is too much for the objects that it goes into.
    pub(super) fn too_large(&self, sealed: &str) -> Option<TooLarge> {
        let content = serde_json::to_string(&self.bundle).map_or(usize::MAX, |text| text.len());
        let secrets = self.secrets.as_ref().map_or(0, |secrets| secrets.to_json().len());
        if content > MAX_CONTENT || sealed.len() > MAX_SECRET {
            Some(TooLarge::Bundle(content))
        } else {
            (secrets > MAX_SECRET).then_some(TooLarge::Secrets(secrets))
        }
    }
}

/// What a later bundle than any that is remembered says of a policy, taken into its record and rings: an older state of
/// theirs came back from a backup, and the bundle did not.
pub(super) fn take_over(kept: &mut Kept, later: &Bundle, now: UnixMillis) {
    kept.record.generation = kept.record.generation.max(later.generation);
    kept.record.revoke(later.revoked.iter().cloned());
    for name in RingName::ALL {
        let keys = later.verify.iter().flat_map(|verify| &verify.keys).filter(|key| key.ring == name);
        let public = keys.filter_map(|key| {
            let alg: Algorithm = key.jwk.alg.as_deref()?.parse().ok()?;
            Some(PublicRingKey { kid: key.jwk.kid.clone()?, alg, state: key.state, jwk: key.jwk.clone() })
        });
        let public: Vec<PublicRingKey> = public.collect();
        if !public.is_empty() {
            let ring = kept.rings.entry(name).or_default();
            *ring = Arc::new(ring.with_published(&public, now));
        }
    }
}

/// The key sets that a bundle has of issuers whose keys are fetched.
pub(super) fn foreign_keys(bundle: &Bundle) -> BTreeMap<String, JwkSet> {
    let issuers = bundle.verify.iter().flat_map(|verify| &verify.trusted_issuers);
    let sets = issuers.filter_map(|issuer| match &issuer.keys {
        BundleIssuerKeys::Jwks(set) if !set.keys.is_empty() => Some((issuer.name.clone(), set.clone())),
        _ => None,
    });
    sets.collect()
}

#[cfg(test)]
mod tests;
