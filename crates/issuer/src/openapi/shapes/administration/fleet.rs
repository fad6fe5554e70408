//! What they are told of tokens, revocations, keys, policies and verifiers.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::Kind;

/// A token that was minted.
#[derive(ToSchema)]
pub(crate) struct Minted {
    token: String,
    token_id: String,
    #[schema(required)]
    session_id: Option<String>,
    /// Seconds.
    expires_at: i64,
    warnings: Vec<String>,
}

/// What was revoked, and where that holds.
#[derive(ToSchema)]
pub(crate) struct Revoked {
    policy: String,
    kind: Kind,
    id: String,
    /// Where it stands in the feed; null while that is out of reach.
    #[schema(required)]
    position: Option<String>,
    /// With 202: verifiers hear of it as soon as the feed is back.
    #[schema(nullable = false)]
    pending: Option<bool>,
    #[schema(required)]
    verifiers: Option<Enforcement>,
}

/// On how many verifiers something is in force.
#[derive(ToSchema)]
pub(crate) struct Enforcement {
    total: u64,
    confirmed: u64,
    /// The others by name, the first hundred of them.
    lagging: Vec<String>,
}

/// A page of what was revoked, newest first.
#[derive(ToSchema)]
pub(crate) struct Revocations {
    revocations: Vec<Revocation>,
    /// What gives the next page as `cursor`; null on the last one.
    #[schema(required)]
    next_cursor: Option<i64>,
}

/// Something that was revoked.
#[derive(ToSchema)]
pub(crate) struct Revocation {
    kind: Kind,
    id: String,
    #[schema(required)]
    issuer: Option<String>,
    #[schema(required)]
    subject: Option<String>,
    /// Seconds, as the next two.
    at: i64,
    /// Only what was issued up to here; null: whenever issued.
    #[schema(required)]
    before: Option<i64>,
    /// When nothing that it matches lives any more.
    #[schema(required)]
    expires_at: Option<i64>,
    reason: String,
    source: String,
    /// Null while it is not published.
    #[schema(required)]
    position: Option<String>,
}

/// Which policies know a credential's issuer.
#[derive(ToSchema)]
pub(crate) struct PolicyOfCredential {
    /// The first of them.
    policy: String,
    policies: Vec<String>,
}

/// On how many verifiers a policy, or a position, is in force.
#[derive(ToSchema)]
pub(crate) struct EnforcementOfPolicy {
    policy: String,
    /// What was asked about; null: the policy's present generation.
    #[schema(required)]
    position: Option<String>,
    verifiers: Enforcement,
}

/// Both rings of a policy, public halves alone.
#[derive(ToSchema)]
pub(crate) struct Keys {
    policy: String,
    rings: Rings,
    /// Where each ring stands; empty for a policy that only verifies.
    status: BTreeMap<String, RingStatus>,
}

/// The keys of both rings.
#[derive(ToSchema)]
pub(crate) struct Rings {
    access: Vec<Key>,
    api_key: Vec<Key>,
}

/// A key of a ring.
#[derive(ToSchema)]
pub(crate) struct Key {
    kid: String,
    #[schema(example = "EdDSA")]
    alg: String,
    /// `Pending`, `Active`, `Retiring` or `Revoked`.
    state: String,
    /// Seconds, as the others.
    created_at: i64,
    #[schema(required)]
    activated_at: Option<i64>,
    #[schema(required)]
    retiring_at: Option<i64>,
    #[schema(required)]
    removed_at: Option<i64>,
    #[schema(required)]
    revoked_at: Option<i64>,
    /// When it signs, if it is about to.
    #[schema(required)]
    signs_at: Option<i64>,
    /// Who holds it; null where that is not counted.
    #[schema(required)]
    verifiers: Option<Enforcement>,
}

/// Where a ring stands.
#[derive(ToSchema)]
pub(crate) struct RingStatus {
    #[schema(example = "Ready")]
    phase: String,
    #[schema(required)]
    active_kid: Option<String>,
    /// Seconds, as the next.
    #[schema(required)]
    last_rotation_at: Option<i64>,
    #[schema(required)]
    next_rotation_at: Option<i64>,
    #[schema(required)]
    waiting: Option<Waiting>,
}

/// What the next key waits for.
#[derive(ToSchema)]
pub(crate) struct Waiting {
    kid: String,
    /// Seconds.
    since: i64,
    #[schema(nullable = false)]
    lagging: Option<Vec<String>>,
    detail: String,
}

/// That a rotation has begun.
#[derive(ToSchema)]
pub(crate) struct RotationRequested {
    /// Always true.
    requested: bool,
}

/// Every policy here.
#[derive(ToSchema)]
pub(crate) struct PolicyList {
    policies: Vec<ListedPolicy>,
}

/// A policy.
#[derive(ToSchema)]
pub(crate) struct ListedPolicy {
    #[schema(example = "shop/shop")]
    policy: String,
    generation: u64,
    #[schema(required)]
    issuer: Option<String>,
    /// Whether it answers where no policy is named.
    default: bool,
}

/// Every verifier.
#[derive(ToSchema)]
pub(crate) struct FleetList {
    verifiers: Vec<VerifierShown>,
    #[schema(required)]
    feed_age_ms: Option<u64>,
}

/// A verifier.
#[derive(ToSchema)]
pub(crate) struct VerifierShown {
    name: String,
    /// Up to where it holds the feed.
    #[schema(required)]
    position: Option<String>,
    /// Whether it has said what it applied; the next three are null before.
    acknowledged: bool,
    #[schema(required)]
    generations: Option<BTreeMap<String, u64>>,
    #[schema(required)]
    schemas: Option<Value>,
    #[schema(required)]
    start_id: Option<String>,
    /// Bundles that it refused.
    refused: Vec<Value>,
    /// Policies of which it holds an older generation.
    behind: Vec<String>,
}
