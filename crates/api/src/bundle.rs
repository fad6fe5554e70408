//! The bundle: what the operator hands to verifiers, one per policy.
//!
//! It carries everything that a verdict needs and no private key. A bundle is sealed (signed over policy, uid, generation and
//! content) and opened: one that can't be parsed, is badly signed, of a lower generation or of a newer schema never replaces
//! a good one.

mod build;
mod compile;
mod envelope;
mod secrets;
#[cfg(test)]
mod tests;
mod trust;

use countersign_core::{
    jose::{Algorithm, Jwk, JwkSet},
    names::PolicyName,
    revocation::Entry,
    ring::KeyState,
    time::UnixMillis,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use build::{BuildInput, Resolved, build};
pub use compile::{CompileError, Compiled, FetchedKeys, SkippedKey, compile};
pub use envelope::{
    BundleRefusal, MAX_ENVELOPE_BYTES, claimed_generation, file_name, is_bundle_file, open, seal, secrets_file_name,
    signed_by,
};
pub use secrets::{SecretsRefusal, VerifySecrets};
pub use trust::{Signature, SignatureRefusal, Trust};

/// The newest bundle schema that this code reads, and the one it writes.
pub const SCHEMA: u32 = 1;

/// One policy, as verifiers enforce it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// The policy's name.
    pub policy: PolicyName,
    /// The policy object's uid: a re-created policy is another one.
    pub uid: String,
    /// Rises with every change, over restores and re-creation too.
    pub generation: u64,
    /// The policy itself; absent in a tombstone, which makes verifiers answer 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySection>,
    /// Revocations that its writer answers for (keys; ended declared sessions), until the last such token expires.
    #[serde(default)]
    pub revoked: Vec<Entry>,
}

/// What a verdict needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySection {
    /// The policy's own `iss`; absent for a policy that only verifies others' tokens.
    pub issuer: Option<String>,
    /// Of these a token must name one.
    pub audiences: Vec<String>,
    /// Tolerance between clocks, milliseconds.
    pub clock_skew_ms: i64,
    /// Public halves of both rings, in the order of the JWKS.
    pub keys: Vec<BundleKey>,
    /// How long a key is published before a scheduled rotation, milliseconds: bounds the JWKS's max-age.
    pub prepublish_ms: i64,
    /// How long a verifier may be absent before a rotation stops waiting for it, milliseconds: past half of that, one whose
    /// state isn't confirmed answers 503 to keys that it doesn't know.
    pub absent_after_ms: i64,
    /// Other issuers.
    pub trusted_issuers: Vec<BundleIssuer>,
    /// Whether the verify-secrets hold opaque keys.
    pub opaque_keys: bool,
    /// SHA-256 (hex) of the verify-secrets that belong to this bundle; other content isn't used. Absent: none are needed.
    pub secrets_sha256: Option<String>,
    /// Roles to permissions.
    pub roles: Vec<BundleRole>,
    /// CEL rules.
    pub rules: Vec<BundleRule>,
    /// Client networks that may.
    pub allow: Vec<IpNet>,
    /// Client networks that may not.
    pub deny: Vec<IpNet>,
    /// Verifications per subject and node.
    pub rate_limit: Option<BundleRateLimit>,
    /// How old revocations may be, milliseconds.
    pub max_staleness_ms: i64,
    /// Whether to answer, and say so, when they are older.
    pub allow_stale: bool,
    /// The prefix of the policy's cookies; absent: no cookie is read.
    pub cookie_prefix: Option<String>,
    /// What is demanded of emergency tokens; absent: none is taken. A verifier that doesn't know of them refuses a bundle that
    /// takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<BundleEmergency>,
}

/// What is demanded of emergency tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleEmergency {
    /// The longest life of one, milliseconds.
    pub max_ttl_ms: i64,
    /// The roles that one may carry.
    pub roles: Vec<String>,
    /// From here on none is taken.
    pub not_after: UnixMillis,
}

/// A key of one of the policy's rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleKey {
    /// Which ring.
    pub ring: RingName,
    /// Its state. Revoked keys stay while tokens of theirs could live, so that those are answered `revoked`.
    pub state: KeyState,
    /// The public key with kid and alg.
    pub jwk: Jwk,
}

/// A policy's two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingName {
    /// Signs access tokens.
    Access,
    /// Signs API keys.
    ApiKey,
}

impl RingName {
    /// Both, in display order.
    pub const ALL: [Self; 2] = [Self::Access, Self::ApiKey];

    /// The word on HTTP.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api_key",
        }
    }
}

/// An issuer that the policy trusts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleIssuer {
    /// The entry's name.
    pub name: String,
    /// Its `iss`; absent for symmetric keys of tokens without one.
    pub issuer: Option<String>,
    /// Whether tokens of any other `iss` are its, too (`JWT_SECRET_KEY` of `countersign dev`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_issuer: bool,
    /// Of these a token must name one; absent: not checked.
    pub audiences: Option<Vec<String>>,
    /// What its keys may be used with.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: BundleIssuerKeys,
    /// The longest life of a token, milliseconds.
    pub max_ttl_ms: Option<i64>,
    /// From here on it is trusted no more.
    pub not_after: Option<UnixMillis>,
    /// Claims that must be equal to a value.
    pub matches: Vec<BundleMatch>,
    /// Where the subject comes from.
    pub subject: Option<BundleMapping>,
    /// Where roles come from; absent: the issuer's tokens have none.
    pub roles: Option<BundleMapping>,
    /// Where scopes come from; absent: `scope` and `scp`.
    pub scopes: Option<BundleMapping>,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BundleIssuerKeys {
    /// Here they are.
    Jwks(JwkSet),
    /// The verifier fetches them (directory mode only; in a cluster the operator does).
    Fetch {
        /// The JWKS; absent: found through the issuer's discovery document.
        url: Option<String>,
    },
    /// A symmetric key in the verify-secrets, under the entry's name.
    Secret,
}

/// A claim that must be equal to a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleMatch {
    /// A top-level name.
    pub claim: String,
    /// What it must equal.
    pub value: Value,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleMapping {
    /// The claim or expression.
    pub source: MappingSource,
    /// Put before each value.
    pub prefix: Option<String>,
    /// Only these, after the prefix; absent: all.
    pub allow: Option<Vec<String>>,
}

/// A top-level claim, or a CEL expression over `claims`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingSource {
    /// A top-level name.
    Claim(String),
    /// CEL.
    Expression(String),
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRole {
    /// Its name.
    pub name: String,
    /// What it grants.
    pub permissions: Vec<String>,
    /// Whose permissions it has too.
    pub inherits: Vec<String>,
}

/// A CEL rule; true denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRule {
    /// Its name.
    pub name: String,
    /// CEL.
    pub expression: String,
}

/// At most `limit` in any `window_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRateLimit {
    /// How many.
    pub limit: u32,
    /// In how many milliseconds.
    pub window_ms: i64,
}
