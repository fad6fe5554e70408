//! What administrators are told.

mod fleet;

use utoipa::ToSchema;

pub(crate) use self::fleet::{
    EnforcementOfPolicy, FleetList, Keys, Minted, PolicyList, PolicyOfCredential, Revocations, Revoked, RotationRequested,
};
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
