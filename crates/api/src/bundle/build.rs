//! From a policy and what belongs to it to its bundle.

use std::collections::BTreeMap;

use countersign_core::{jose::JwkSet, names::PolicyName, revocation::Entry};
use zeroize::Zeroizing;

use super::{
    Bundle, BundleEmergency, BundleIssuer, BundleIssuerKeys, BundleKey, BundleMapping, BundleMatch, BundleRateLimit,
    BundleRole, BundleRule, MappingSource, SCHEMA, VerifySecrets, VerifySection,
};
use crate::policy::{EffectiveListMapping, EffectivePolicy, EffectiveTrustedIssuer, OnStale, Switch};

/// What a policy's references gave.
#[derive(Clone, Default)]
pub struct Resolved {
    /// Key sets of trusted issuers, by entry name: inline, from ConfigMaps, or fetched by the operator.
    pub jwks: BTreeMap<String, JwkSet>,
    /// Symmetric keys of trusted issuers, by entry name, byte for byte.
    pub symmetric: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Files of opaque keys, in the order in which the policy names them.
    pub opaque: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved")
            .field("jwks", &self.jwks.keys())
            .field("symmetric", &self.symmetric.keys())
            .field("opaque", &self.opaque.len())
            .finish()
    }
}

/// Everything that a bundle is made of.
#[derive(Debug)]
pub struct BuildInput<'a> {
    /// The policy's name.
    pub name: &'a PolicyName,
    /// Its uid.
    pub uid: &'a str,
    /// The bundle's generation: higher than any before it.
    pub generation: u64,
    /// The policy, defaults filled in.
    pub policy: &'a EffectivePolicy,
    /// Public halves of both rings.
    pub keys: Vec<BundleKey>,
    /// What its references gave.
    pub resolved: &'a Resolved,
    /// What the bundle's writer answers for.
    pub revoked: Vec<Entry>,
}

/// Builds the bundle and, where the policy needs them, its verify-secrets. Equal input gives equal bytes.
pub fn build(input: BuildInput<'_>) -> (Bundle, Option<VerifySecrets>) {
    let policy = input.policy;
    let secrets = verify_secrets(input.name, input.resolved);
    let verify = VerifySection {
        issuer: policy.issuer.clone(),
        audiences: policy.audiences.clone(),
        clock_skew_ms: policy.tokens.clock_skew.as_millis(),
        keys: input.keys,
        prepublish_ms: policy.keys.rotation.prepublish.as_millis(),
        absent_after_ms: policy.keys.absent_after.as_millis(),
        trusted_issuers: policy.trusted_issuers.iter().map(|t| trusted_issuer(t, policy, input.resolved)).collect(),
        opaque_keys: !policy.opaque_keys.secret_key_refs.is_empty(),
        secrets_sha256: secrets.as_ref().map(VerifySecrets::sha256),
        roles: policy
            .roles
            .iter()
            .map(|r| BundleRole { name: r.name.clone(), permissions: r.permissions.clone(), inherits: r.inherits.clone() })
            .collect(),
        rules: policy.rules.iter().map(|r| BundleRule { name: r.name.clone(), expression: r.expression.clone() }).collect(),
        allow: policy.client_addresses.allow.iter().map(|n| n.0).collect(),
        deny: policy.client_addresses.deny.iter().map(|n| n.0).collect(),
        rate_limit: policy
            .verification_rate_limit
            .as_ref()
            .map(|l| BundleRateLimit { limit: l.limit, window_ms: l.window.as_millis() }),
        max_staleness_ms: policy.revocation.max_staleness.as_millis(),
        allow_stale: policy.revocation.on_stale == OnStale::Allow,
        cookie_prefix: policy
            .login
            .as_ref()
            .filter(|login| login.cookies.mode == Switch::Enabled)
            .map(|login| login.cookies.prefix.clone()),
        emergency: policy.emergency_tokens_until().map(|not_after| BundleEmergency {
            max_ttl_ms: policy.emergency.max_ttl.as_millis(),
            roles: policy.emergency.roles.clone(),
            not_after,
        }),
    };
    let bundle = Bundle {
        schema: SCHEMA,
        policy: input.name.clone(),
        uid: input.uid.to_owned(),
        generation: input.generation,
        verify: Some(verify),
        revoked: input.revoked,
    };
    (bundle, secrets)
}

fn verify_secrets(name: &PolicyName, resolved: &Resolved) -> Option<VerifySecrets> {
    let mut secrets = VerifySecrets::empty(name.clone());
    for (entry, secret) in &resolved.symmetric {
        secrets.add_symmetric(entry, secret);
    }
    secrets.opaque = resolved.opaque.iter().map(|file| file.as_str().to_owned()).collect();
    (!secrets.is_empty()).then_some(secrets)
}

fn trusted_issuer(entry: &EffectiveTrustedIssuer, policy: &EffectivePolicy, resolved: &Resolved) -> BundleIssuer {
    let keys = match (&entry.secret_key_ref, resolved.jwks.get(&entry.name)) {
        (Some(_), _) => BundleIssuerKeys::Secret,
        (None, Some(set)) => BundleIssuerKeys::Jwks(set.clone()),
        (None, None) => BundleIssuerKeys::Fetch { url: entry.jwks.as_ref().and_then(|jwks| jwks.url.clone()) },
    };
    let audiences = match entry.audiences.as_deref() {
        None => Some(policy.audiences.clone()),
        Some([any]) if any == "*" => None,
        Some(list) => Some(list.to_vec()),
    };
    let mappings = &entry.claim_mappings;
    BundleIssuer {
        name: entry.name.clone(),
        issuer: entry.issuer.clone(),
        any_issuer: false,
        audiences,
        algorithms: entry.algorithms.iter().map(|a| (*a).into()).collect(),
        keys,
        max_ttl_ms: Some(entry.max_ttl.as_millis()),
        not_after: entry.not_after.map(|t| t.0),
        matches: entry.r#match.iter().map(|m| BundleMatch { claim: m.claim.clone(), value: m.value.clone() }).collect(),
        subject: mappings.subject.as_ref().and_then(|m| {
            let source = source(m.claim.as_deref(), m.expression.as_deref())?;
            Some(BundleMapping { source, prefix: None, allow: None })
        }),
        roles: mappings.roles.as_ref().and_then(list_mapping),
        scopes: mappings.scopes.as_ref().and_then(list_mapping),
    }
}

fn list_mapping(given: &EffectiveListMapping) -> Option<BundleMapping> {
    Some(BundleMapping {
        source: source(given.claim.as_deref(), given.expression.as_deref())?,
        prefix: given.prefix.clone(),
        allow: given.allow.clone(),
    })
}

/// Exactly one of both is given: validation saw to that.
fn source(claim: Option<&str>, expression: Option<&str>) -> Option<MappingSource> {
    match (claim, expression) {
        (Some(claim), _) => Some(MappingSource::Claim(claim.to_owned())),
        (None, Some(text)) => Some(MappingSource::Expression(text.to_owned())),
        (None, None) => None,
    }
}
