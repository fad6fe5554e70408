//! A policy as a verifier evaluates it: compiled once per bundle, immutable, shared.

use std::sync::Arc;

use crate::{
    addresses::AddressLists, claims::ClaimMatch, jose::Algorithm, keys::KeySet, mapping::ClaimMappings, names::PolicyName,
    opaque::OpaqueKeys, roles::Roles, rules::Rules, time::UnixMillis,
};

/// Everything a verdict needs of a policy.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// SHA-256 of the content that it was compiled from, foreign keys and secrets included: two policies with one digest
    /// answer alike.
    pub digest: [u8; 32],
    /// The bundle's generation.
    pub generation: u64,
    /// Its own issuer and rings; absent for a policy that only verifies others' tokens.
    pub own: Option<OwnIssuer>,
    /// The audiences of which a token must name one.
    pub audiences: Vec<String>,
    /// Tolerance between clocks, milliseconds.
    pub clock_skew_ms: i64,
    /// Foreign issuers.
    pub trusted: Vec<TrustedIssuer>,
    /// Imported opaque keys, by hash; absent when the policy has none.
    pub opaque: Option<OpaqueKeys>,
    /// Roles to permissions.
    pub roles: Roles,
    /// CEL rules, each able to deny.
    pub rules: Rules,
    /// Allowed and denied networks.
    pub addresses: AddressLists,
    /// Per subject and node.
    pub rate_limit: Option<RateLimit>,
    /// What to do when revocations are old.
    pub staleness: Staleness,
}

/// The policy's own issuer.
#[derive(Debug)]
pub struct OwnIssuer {
    /// Its `iss`.
    pub issuer: Arc<str>,
    /// Keys of the access ring that verify now, revoked ones included (they answer `revoked`).
    pub access: KeySet,
    /// Keys of the api-key ring that verify now, revoked ones included.
    pub api_key: KeySet,
    /// What it demands of emergency tokens; absent: it takes none.
    pub emergency: Option<EmergencyTokens>,
}

/// What a policy demands of emergency tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmergencyTokens {
    /// The longest life of one, milliseconds.
    pub max_ttl_ms: i64,
    /// The roles that one may carry.
    pub roles: Vec<String>,
    /// From this instant on none is taken.
    pub not_after: UnixMillis,
}

/// Someone else whose tokens the policy accepts.
#[derive(Debug)]
pub struct TrustedIssuer {
    /// The entry's name.
    pub name: String,
    /// The `iss` it answers for. Absent (symmetric keys only): tokens without `iss`.
    pub issuer: Option<Arc<str>>,
    /// Whether it answers for tokens of every `iss` that nobody else answers for, too: keys from before a migration, whose
    /// services wrote what they liked. Symmetric keys only.
    pub any_issuer: bool,
    /// The audiences of which a token must name one; `None`: not checked.
    pub audiences: Option<Vec<String>>,
    /// The algorithms that it may use.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub keys: KeySet,
    /// The longest life of a token, milliseconds; no `exp` is then refused too.
    pub max_ttl_ms: Option<i64>,
    /// From this instant on the entry trusts nobody.
    pub not_after: Option<UnixMillis>,
    /// Claims that must be equal to a value.
    pub matches: Vec<ClaimMatch>,
    /// Where subject, roles and scopes come from.
    pub mappings: ClaimMappings,
}

/// At most `limit` verifications in any `window_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many.
    pub limit: u32,
    /// In how many milliseconds.
    pub window_ms: i64,
}

/// What a policy says about old revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// How old they may be, milliseconds.
    pub max_ms: i64,
    /// Beyond that: answer all the same, and say so.
    pub allow: bool,
}
