//! What administrators are told.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Standing,
    people::{ApiKey, Session, User},
};

/// An account, as administrators see it.
#[derive(ToSchema)]
pub(crate) struct WholeUser {
    #[serde(flatten)]
    user: User,
    #[schema(required)]
    status_reason: Option<String>,
    /// Seconds.
    #[schema(required)]
    status_until: Option<i64>,
    /// Until when failures have locked it, seconds.
    #[schema(required)]
    locked_until: Option<i64>,
    failures: u32,
    /// The migration that brought it.
    #[schema(required)]
    import_batch: Option<String>,
}

/// An account that an administrator makes.
#[derive(ToSchema)]
pub(crate) struct NewAccount {
    email: String,
    /// Absent: its owner chooses one by a mailed link.
    password: Option<String>,
    username: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    /// Absent: the policy's default roles.
    roles: Option<Vec<String>>,
    email_verified: Option<bool>,
}

/// What can be revoked.
#[derive(ToSchema)]
#[schema(as = RevocationKind, rename_all = "snake_case")]
pub(crate) enum Kind {
    Token,
    Session,
    Subject,
    ApiKey,
    Key,
    Policy,
    Ip,
}

/// A page of accounts.
#[derive(ToSchema)]
pub(crate) struct Users {
    users: Vec<WholeUser>,
    /// What gives the next page as `cursor`; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// An account that was changed.
#[derive(ToSchema)]
pub(crate) struct ChangedUser {
    #[serde(flatten)]
    user: WholeUser,
    #[serde(flatten)]
    ended: Standing,
}

/// An account that was unlocked.
#[derive(ToSchema)]
pub(crate) struct UnlockedUser {
    #[serde(flatten)]
    user: WholeUser,
    /// What kept it out.
    held_by: Vec<String>,
}

/// An account that is gone.
#[derive(ToSchema)]
pub(crate) struct DeletedUser {
    /// Its id.
    deleted: String,
    #[serde(flatten)]
    ended: Standing,
}

/// Live sessions of an account.
#[derive(ToSchema)]
pub(crate) struct SessionsOf {
    sessions: Vec<SessionOf>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A session, and whose it is.
#[derive(ToSchema)]
pub(crate) struct SessionOf {
    #[serde(flatten)]
    session: Session,
    subject: String,
}

/// A page of API keys.
#[derive(ToSchema)]
pub(crate) struct ApiKeysOf {
    api_keys: Vec<ApiKeyOf>,
    /// What gives the next page as `cursor`; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// An API key, and whose it is.
#[derive(ToSchema)]
pub(crate) struct ApiKeyOf {
    #[serde(flatten)]
    key: ApiKey,
    owner: String,
}

/// What keeps addresses out.
#[derive(ToSchema)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
}

/// An address or a network that is kept out.
#[derive(ToSchema)]
pub(crate) struct Block {
    #[schema(example = "203.0.113.0/24")]
    network: String,
    reason: String,
    /// Who or what blocked it.
    source: String,
    /// Seconds, as the next.
    created_at: i64,
    expires_at: i64,
}

/// A new block.
#[derive(ToSchema)]
pub(crate) struct NewBlock {
    #[serde(flatten)]
    block: Block,
    #[serde(flatten)]
    standing: Standing,
}

/// Whether the audit trail is whole.
#[derive(ToSchema)]
pub(crate) struct ChainVerified {
    intact: bool,
    /// Where the chain ends.
    #[schema(nullable = false)]
    place: Option<u64>,
    /// The hash there, hexadecimal.
    #[schema(nullable = false)]
    hash: Option<String>,
    /// Where to go on, as `from`: `place` is the end of a part. Null when it is the chain's.
    next: Option<String>,
    /// What is wrong with it.
    #[schema(nullable = false)]
    detail: Option<String>,
}

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

/// An import of accounts.
#[derive(ToSchema)]
pub(crate) struct Import {
    name: String,
    /// Where it read from.
    source: String,
    /// Seconds, as the next.
    begun_at: i64,
    /// Null before its last row came.
    #[schema(required)]
    finished_at: Option<i64>,
    /// How many accounts it made.
    rows: u64,
}

/// What became of rows, in their order.
#[derive(ToSchema)]
pub(crate) struct Imported {
    results: Vec<ImportedRow>,
}

/// What became of a row, or would.
#[derive(ToSchema)]
pub(crate) struct ImportedRow {
    key: String,
    /// `new`, `imported`, `present`, `erased`, `rejected`, `same`, `changed`, `differs` or `missing`.
    outcome: String,
    /// The account's.
    #[schema(nullable = false)]
    id: Option<String>,
    /// Why it was rejected.
    #[schema(nullable = false)]
    reason: Option<String>,
    /// In what it isn't as it is there.
    #[schema(nullable = false)]
    fields: Option<Vec<String>>,
}

/// What became of accounts of an import.
#[derive(ToSchema)]
pub(crate) struct ImportUndone {
    /// How many are gone.
    removed: u64,
    kept: Vec<KeptAccount>,
    /// What goes on after these as `after`; null when these were the last.
    #[schema(required)]
    next: Option<String>,
}

/// An account that stays.
#[derive(ToSchema)]
pub(crate) struct KeptAccount {
    /// Its row's.
    key: String,
    id: String,
    reason: String,
}
