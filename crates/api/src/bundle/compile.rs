//! From a bundle to the policy that verdicts are made with.

use std::collections::BTreeMap;

use countersign_core::{
    addresses::AddressLists,
    claims::ClaimMatch,
    digest::sha256,
    jose::{Algorithm, JwkSet},
    keys::{KeyEntry, KeyError, KeySet, VerifyingKey, load_jwks},
    mapping::{ClaimMappings, Mapping, Source},
    opaque::OpaqueKeys,
    policy::{EmergencyTokens, OwnIssuer, Policy, RateLimit, Staleness, TrustedIssuer},
    ring::KeyState,
    roles::{RoleDef, Roles},
    rules::{Expression, RuleDef, Rules, Vocabulary},
};

use super::{
    Bundle, BundleIssuer, BundleIssuerKeys, BundleMapping, MappingSource, RingName, SecretsRefusal, VerifySecrets,
    VerifySection,
};

/// Key sets fetched from trusted issuers, by the entry's name.
pub type FetchedKeys = BTreeMap<String, JwkSet>;

/// A policy ready to judge, and what was left out of it.
#[derive(Debug)]
pub struct Compiled {
    /// The policy.
    pub policy: Policy,
    /// Foreign keys that were not taken.
    pub skipped: Vec<SkippedKey>,
}

/// A key of a trusted issuer's set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// The entry's name.
    pub issuer: String,
    /// The key's name, if it has one.
    pub kid: Option<String>,
    /// Why.
    pub error: KeyError,
}

/// Why a bundle makes no policy. The one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A tombstone.
    #[error("the bundle withdraws the policy")]
    Withdrawn,
    /// It needs verify-secrets that aren't there.
    #[error("the verify-secrets of the policy are missing")]
    SecretsMissing,
    /// The verify-secrets can't be used.
    #[error(transparent)]
    Secrets(#[from] SecretsRefusal),
    /// A key can't be used.
    #[error("{place}: {error}")]
    Key {
        /// Ring or issuer entry, and kid.
        place: String,
        /// Why.
        error: KeyError,
    },
    /// Anything else that the operator should have refused.
    #[error("{0}")]
    Invalid(String),
}

impl CompileError {
    /// The label value in `countersign_bundle_refused_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::SecretsMissing | Self::Secrets(_) => "secrets",
            Self::Key { .. } => "weak_key",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// Compiles a bundle. `fetched` holds the sets of issuers whose keys the bundle tells to fetch; one that isn't there has no
/// keys yet.
pub fn compile(bundle: &Bundle, secrets: Option<&VerifySecrets>, fetched: &FetchedKeys) -> Result<Compiled, CompileError> {
    let section = bundle.verify.as_ref().ok_or(CompileError::Withdrawn)?;
    if secrets.is_some_and(|secrets| secrets.policy != bundle.policy) {
        return Err(SecretsRefusal::Mismatch.into());
    }
    let mut skipped = Vec::new();
    let mut trusted = Vec::with_capacity(section.trusted_issuers.len());
    for entry in &section.trusted_issuers {
        trusted.push(trusted_issuer(entry, secrets, fetched, &mut skipped)?);
    }
    let own = match &section.issuer {
        None => None,
        Some(issuer) => Some(OwnIssuer {
            issuer: issuer.as_str().into(),
            access: ring(section, RingName::Access)?,
            api_key: ring(section, RingName::ApiKey)?,
            emergency: section.emergency.as_ref().map(|rules| EmergencyTokens {
                max_ttl_ms: rules.max_ttl_ms,
                roles: rules.roles.clone(),
                not_after: rules.not_after,
            }),
        }),
    };
    let opaque = match (section.opaque_keys, secrets) {
        (false, _) => None,
        (true, None) => return Err(CompileError::SecretsMissing),
        (true, Some(secrets)) => Some(OpaqueKeys::new(secrets.opaque_keys()?)),
    };
    let roles = section.roles.iter().map(|r| RoleDef {
        name: r.name.clone(),
        permissions: r.permissions.clone(),
        inherits: r.inherits.clone(),
    });
    let declared: Vec<RuleDef> =
        section.rules.iter().map(|r| RuleDef { name: r.name.clone(), expression: r.expression.clone() }).collect();
    let invalid = |what: &str, why: &dyn std::fmt::Display| CompileError::Invalid(format!("{what}: {why}"));
    let policy = Policy {
        name: bundle.policy.clone(),
        digest: digest(bundle, section, fetched),
        generation: bundle.generation,
        own,
        audiences: section.audiences.clone(),
        clock_skew_ms: section.clock_skew_ms,
        trusted,
        opaque,
        roles: Roles::new(roles.collect()).map_err(|e| invalid("roles", &e))?,
        rules: Rules::compile(&declared)
            .map_err(|e| invalid(&format!("rule {}", declared.get(e.index).map_or("", |r| &r.name)), &e.message))?,
        addresses: AddressLists::new(section.allow.clone(), section.deny.clone()),
        rate_limit: section.rate_limit.map(|l| RateLimit { limit: l.limit, window_ms: l.window_ms }),
        staleness: Staleness { max_ms: section.max_staleness_ms, allow: section.allow_stale },
    };
    Ok(Compiled { policy, skipped })
}

/// Two policies with one digest answer alike. The verify-secrets take part by their own digest.
fn digest(bundle: &Bundle, section: &VerifySection, fetched: &FetchedKeys) -> [u8; 32] {
    let used: BTreeMap<&str, Option<&JwkSet>> = section
        .trusted_issuers
        .iter()
        .filter(|t| matches!(t.keys, BundleIssuerKeys::Fetch { .. }))
        .map(|t| (t.name.as_str(), fetched.get(&t.name)))
        .collect();
    sha256(&serde_json::to_vec(&(&bundle.policy, section, used)).expect("a section always serialises"))
}

fn ring(section: &VerifySection, ring: RingName) -> Result<KeySet, CompileError> {
    let mut entries = Vec::new();
    for key in section.keys.iter().filter(|k| k.ring == ring) {
        let place = || format!("{} ring, key {}", ring.word(), key.jwk.kid.as_deref().unwrap_or("without kid"));
        let algorithm: Algorithm = key
            .jwk
            .alg
            .as_deref()
            .and_then(|alg| alg.parse().ok())
            .ok_or_else(|| CompileError::Invalid(format!("{}: no known alg", place())))?;
        let verifying =
            VerifyingKey::from_jwk(&key.jwk, &[algorithm]).map_err(|error| CompileError::Key { place: place(), error })?;
        entries.push(KeyEntry { key: verifying, revoked: key.state == KeyState::Revoked });
    }
    Ok(KeySet::new(entries))
}

fn trusted_issuer(
    entry: &BundleIssuer,
    secrets: Option<&VerifySecrets>,
    fetched: &FetchedKeys,
    skipped: &mut Vec<SkippedKey>,
) -> Result<TrustedIssuer, CompileError> {
    if (entry.issuer.is_none() || entry.any_issuer) && entry.keys != BundleIssuerKeys::Secret {
        let message = format!("trusted issuer {}: only a symmetric key can do without issuer", entry.name);
        return Err(CompileError::Invalid(message));
    }
    let mut load = |set: &JwkSet| {
        let loaded = load_jwks(set, &entry.algorithms);
        skipped.extend(loaded.skipped.into_iter().map(|(kid, error)| SkippedKey {
            issuer: entry.name.clone(),
            kid,
            error,
        }));
        loaded.keys
    };
    let keys = match &entry.keys {
        BundleIssuerKeys::Jwks(set) => load(set),
        BundleIssuerKeys::Fetch { .. } => fetched.get(&entry.name).map(load).unwrap_or_default(),
        BundleIssuerKeys::Secret => {
            let secret = secrets.and_then(|s| s.symmetric_key(&entry.name)).ok_or(CompileError::SecretsMissing)?;
            let key = VerifyingKey::hmac(&secret, &entry.algorithms)
                .map_err(|error| CompileError::Key { place: format!("trusted issuer {}", entry.name), error })?;
            vec![key]
        }
    };
    let place = |what: &str| format!("trusted issuer {}: {what}", entry.name);
    Ok(TrustedIssuer {
        name: entry.name.clone(),
        issuer: entry.issuer.as_deref().map(Into::into),
        any_issuer: entry.any_issuer,
        audiences: entry.audiences.clone(),
        algorithms: entry.algorithms.clone(),
        keys: KeySet::new(keys.into_iter().map(|key| KeyEntry { key, revoked: false }).collect()),
        max_ttl_ms: entry.max_ttl_ms,
        not_after: entry.not_after,
        matches: entry.matches.iter().map(|m| ClaimMatch { claim: m.claim.clone(), value: m.value.clone() }).collect(),
        mappings: ClaimMappings {
            subject: mapping(entry.subject.as_ref(), &place("subject"))?,
            roles: mapping(entry.roles.as_ref(), &place("roles"))?,
            scopes: mapping(entry.scopes.as_ref(), &place("scopes"))?,
        },
    })
}

fn mapping(given: Option<&BundleMapping>, place: &str) -> Result<Option<Mapping>, CompileError> {
    let Some(given) = given else { return Ok(None) };
    let source = match &given.source {
        MappingSource::Claim(name) => Source::Claim(name.clone()),
        MappingSource::Expression(text) => Source::Expression(
            Expression::compile(text, Vocabulary::Mapping).map_err(|e| CompileError::Invalid(format!("{place}: {e}")))?,
        ),
    };
    Ok(Some(Mapping { source, prefix: given.prefix.clone(), allow: given.allow.clone() }))
}
