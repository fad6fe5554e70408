//! Policies as an issuer holds them: who may be minted for, with which key, and how long what it signs lives.

mod confirmed;
mod lives;
mod login;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use countersign_api::{
    LoginReferences,
    policy::{EffectivePolicy, EffectiveTokens, RefreshRotation},
};
use countersign_core::{
    jose::{Jwk, JwkSet},
    keys::{SigningKey, SigningKeyError},
    names::PolicyName,
    policy::Policy,
    ring::{KeyState, Ring, RingKey, RingStatus},
    time::UnixMillis,
};
use countersign_store::Ending;

use crate::Verifier;

pub use self::{
    confirmed::{Confirmation, SignsWhile},
    lives::OpaqueEnd,
    login::LoginPolicy,
};

/// Everything that an issuer needs of a policy. Immutable; replaced as a whole.
#[derive(Debug)]
pub struct IssuerPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Its own issuer; absent for policies that only verify others' tokens.
    pub own: Option<OwnKeys>,
    /// The audiences of its tokens.
    pub audiences: Vec<String>,
    /// The names of its roles; empty when it defines none.
    pub roles: Vec<String>,
    /// Tolerance between clocks, milliseconds.
    pub clock_skew_ms: i64,
    /// How long a key is published before a scheduled rotation makes it sign, milliseconds.
    pub prepublish_ms: i64,
    /// How many live revocations of access tokens there may be before one cut-off takes their place.
    pub max_entries: usize,
    /// How long things live.
    pub lives: Lives,
    /// What its refresh tokens and API keys are like.
    pub tokens: TokenSettings,
    /// Everything about people; absent: it has no login.
    pub login: Option<Arc<LoginPolicy>>,
    /// The foreign issuers.
    pub trusted: Vec<TrustedIssuerName>,
    /// As verifiers evaluate it, to judge Bearer tokens by. Keys that verifiers fetch themselves are not in it.
    pub compiled: Arc<Policy>,
    /// The write of its bundle, where verifiers acknowledge writes and not each policy's generation.
    pub written: Option<BundleWrite>,
    /// What its keys sign by; absent: they always may.
    pub signs_while: Option<SignsWhile>,
}

/// A write of a bundle to the API server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleWrite {
    /// The history that it belongs to.
    pub history: String,
    /// The API server's version of it.
    pub version: u64,
}

impl BundleWrite {
    /// Whether a verifier says that it has applied this, or a later one.
    pub fn is_applied_by(&self, verifier: &Verifier, policy: &PolicyName) -> bool {
        verifier.ack.as_ref().is_some_and(|ack| {
            ack.history == self.history
                && ack.revision.parse::<u64>().is_ok_and(|revision| revision >= self.version)
                && !ack.refused_more
                && !ack.refused.iter().any(|refused| refused.policy == policy.as_str())
        })
    }
}

/// Refresh tokens and API keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// How long a refresh token may stay unused, milliseconds.
    pub refresh_ttl_ms: i64,
    /// Whether each use of a refresh token gives another.
    pub rotates: bool,
    /// For how long a refresh token that was used may be shown again, milliseconds.
    pub refresh_grace_ms: i64,
    /// The longest life of an API key, milliseconds.
    pub api_key_max_ttl_ms: i64,
}

impl From<&EffectiveTokens> for TokenSettings {
    fn from(tokens: &EffectiveTokens) -> Self {
        Self {
            refresh_ttl_ms: tokens.refresh_ttl.as_millis(),
            rotates: tokens.refresh_rotation == RefreshRotation::OnUse,
            refresh_grace_ms: tokens.refresh_grace.as_millis(),
            api_key_max_ttl_ms: tokens.api_key_max_ttl.as_millis(),
        }
    }
}

/// The policy's own issuer with its rings.
#[derive(Debug)]
pub struct OwnKeys {
    /// `iss`.
    pub issuer: String,
    /// The ring that signs access tokens.
    pub access: RingView,
    /// The ring that signs API keys.
    pub api_key: RingView,
}

/// A ring, ready to sign.
#[derive(Debug)]
pub struct RingView {
    /// The ring.
    pub ring: Ring,
    /// Where it stands.
    pub status: RingStatus,
    /// The Active key.
    pub signer: Option<Signer>,
    /// How many of how many verifiers hold each key, and who doesn't, by kid.
    pub held: BTreeMap<String, crate::Enforcement>,
}

/// The key that signs.
#[derive(Clone, Debug)]
pub struct Signer(Arc<SigningKey>);

impl Signer {
    /// The Active key of a ring.
    pub fn of(ring: &Ring) -> Result<Option<Self>, SigningKeyError> {
        Ok(ring.signing_key()?.map(|key| Self(Arc::new(key))))
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.0
    }
}

/// How long what a policy issues or accepts can live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Access tokens, milliseconds.
    pub access_ttl_ms: i64,
    /// The longest of what the access ring signs, milliseconds: emergency tokens may live longer than access tokens.
    pub longest_access_ms: i64,
    /// The longest of all: API keys and foreign tokens too, milliseconds. `None`: something never expires.
    pub longest_ms: Option<i64>,
    /// What an earlier version of the policy issued or accepted lives until here at most.
    pub earlier_until: UnixMillis,
    /// The same of access tokens alone.
    pub access_earlier_until: UnixMillis,
}

impl Lives {
    /// When nothing that exists at `now` lives any more.
    pub fn all_over(&self, now: UnixMillis, skew_ms: i64) -> UnixMillis {
        match self.longest_ms {
            Some(longest) => now.plus(longest).max(self.earlier_until).plus(skew_ms),
            None => UnixMillis::FOREVER,
        }
    }

    /// When nothing of the access ring that exists at `now` lives any more.
    pub fn access_over(&self, now: UnixMillis, skew_ms: i64) -> UnixMillis {
        now.plus(self.longest_access_ms).max(self.access_earlier_until).plus(skew_ms)
    }
}

/// A foreign issuer's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuerName {
    /// The entry's name.
    pub name: String,
    /// Its `iss`; absent: tokens without one.
    pub issuer: Option<String>,
    /// Whether tokens of any other `iss` are its, too.
    pub any_issuer: bool,
}

impl RingView {
    /// A ring where it stands; `held`: how many verifiers hold each key, by kid.
    pub fn new(
        ring: Ring,
        status: RingStatus,
        held: BTreeMap<String, crate::Enforcement>,
    ) -> Result<Self, SigningKeyError> {
        let signer = Signer::of(&ring)?;
        Ok(Self { ring, status, signer, held })
    }
}

impl IssuerPolicy {
    /// A policy as it holds, with what its login refers to. `any_issuer`: the trusted issuer, by its entry's name, whose tokens
    /// may carry any `iss`.
    pub fn of(
        name: &PolicyName,
        effective: &EffectivePolicy,
        references: LoginReferences,
        any_issuer: Option<&str>,
        own: Option<OwnKeys>,
        lives: Lives,
        compiled: Arc<Policy>,
    ) -> Self {
        let login = effective.login.clone().zip(effective.issuer.as_deref());
        let trusted = effective.trusted_issuers.iter().map(|trusted| TrustedIssuerName {
            any_issuer: any_issuer == Some(trusted.name.as_str()),
            name: trusted.name.clone(),
            issuer: trusted.issuer.clone(),
        });
        Self {
            name: name.clone(),
            own,
            audiences: effective.audiences.clone(),
            roles: effective.roles.iter().map(|role| role.name.clone()).collect(),
            clock_skew_ms: effective.tokens.clock_skew.as_millis(),
            prepublish_ms: effective.keys.rotation.prepublish.as_millis(),
            max_entries: usize::try_from(effective.revocation.max_entries).unwrap_or(usize::MAX),
            lives,
            tokens: TokenSettings::from(&effective.tokens),
            login: login.map(|(login, issuer)| Arc::new(LoginPolicy::new(name, login, issuer, references))),
            trusted: trusted.collect(),
            compiled,
            written: None,
            signs_while: None,
        }
    }

    /// How sessions end at `now`.
    pub(crate) fn ending(&self, now: UnixMillis, reason: impl Into<String>) -> Ending {
        Ending {
            now,
            reason: reason.into(),
            source: "issuer".to_owned(),
            issuer: self.own.as_ref().map(|own| own.issuer.clone()),
            tokens_expire: self.lives.access_over(now, self.clock_skew_ms),
            max_entries: self.max_entries,
        }
    }

    /// The keys that verify now, of both rings: what the JWKS shows. Revoked ones are not among them.
    pub fn jwks(&self) -> JwkSet {
        let rings = self.own.iter().flat_map(|own| [&own.access.ring, &own.api_key.ring]);
        let keys = rings.flat_map(|ring| &ring.keys).filter(|key| key.state != KeyState::Revoked);
        let named = |key: &RingKey| {
            let mut jwk: Jwk = key.public.clone();
            jwk.kid = Some(key.kid.clone());
            jwk
        };
        JwkSet { keys: keys.map(named).collect() }
    }
}

/// The policies of a process. Cheap to read; a request sees one state throughout.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<ArcSwap<Held>>);

/// One state of all policies.
#[derive(Debug, Default)]
pub struct Held {
    /// By name.
    pub by_name: BTreeMap<PolicyName, Arc<IssuerPolicy>>,
    /// The one that answers where none is named.
    pub default: Option<PolicyName>,
}

impl Policies {
    /// The present state.
    pub fn load(&self) -> Arc<Held> {
        self.0.load_full()
    }

    /// Replaces the whole state.
    pub fn store(&self, by_name: BTreeMap<PolicyName, Arc<IssuerPolicy>>, default: Option<PolicyName>) {
        self.0.store(Arc::new(Held { by_name, default }));
    }

    /// One policy.
    pub fn one(&self, name: &PolicyName) -> Option<Arc<IssuerPolicy>> {
        self.0.load().by_name.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_policy_still_counts_what_it_issued_before() {
        let now = UnixMillis(1_000_000);
        let lives = Lives {
            access_ttl_ms: 10,
            longest_access_ms: 20,
            longest_ms: Some(1000),
            earlier_until: UnixMillis(1_500_000),
            access_earlier_until: UnixMillis(1_400_000),
        };
        assert_eq!(lives.all_over(now, 30), UnixMillis(1_500_030));
        assert_eq!(lives.all_over(UnixMillis(1_600_000), 30), UnixMillis(1_601_030));
        assert_eq!(lives.access_over(now, 30), UnixMillis(1_400_030));
        assert_eq!(lives.access_over(UnixMillis(1_600_000), 30), UnixMillis(1_600_050), "emergency tokens live on");
        assert_eq!(Lives { longest_ms: None, ..lives }.all_over(now, 30), UnixMillis::FOREVER);
    }
}
