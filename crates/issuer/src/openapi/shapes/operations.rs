//! What those who run it look at.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{Event, administration::Keys, people::Session};

/// Whether the parts work.
#[derive(ToSchema)]
pub(crate) struct Health {
    status: Condition,
    /// RFC 3339.
    timestamp: String,
    response_time_ms: u64,
    #[schema(example = "production")]
    environment: String,
    components: Components,
    /// Null, each of them, where the database doesn't answer.
    metrics: Figures,
}

/// How a part is.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Condition {
    Healthy,
    /// Everything is answered, and verifiers hear of it later.
    Degraded,
    Unhealthy,
}

/// Each part.
#[derive(ToSchema)]
pub(crate) struct Components {
    database: Component,
    feed: Component,
    signing_keys: Component,
}

/// A part.
#[derive(ToSchema)]
pub(crate) struct Component {
    status: Condition,
    /// Of the feed: what is not published yet.
    #[schema(nullable = false)]
    pending: Option<u64>,
}

/// A few figures; empty where the database doesn't answer.
#[derive(ToSchema)]
pub(crate) struct Figures {
    #[schema(required)]
    active_sessions: Option<u64>,
    #[schema(required)]
    cached_tokens: Option<u64>,
    #[schema(required)]
    blocked_ips: Option<u64>,
    #[schema(required)]
    security_incidents_24h: Option<u64>,
}

/// More figures.
#[derive(ToSchema)]
pub(crate) struct OperationsMetrics {
    #[serde(flatten)]
    figures: Figures,
    logins_24h: u64,
    failed_logins_24h: u64,
    locked_accounts: u64,
    /// How many accounts, by status.
    users: BTreeMap<String, u64>,
    outbox_pending: u64,
}

/// The caller's own session.
#[derive(ToSchema)]
pub(crate) struct SessionStatus {
    #[serde(flatten)]
    session: Session,
    active: bool,
    subject: String,
    /// How its owner proved who they are (RFC 8176).
    amr: Vec<String>,
    /// When, seconds.
    auth_time: i64,
    /// How long it lives, unless it is used before, seconds.
    expires_in: i64,
}

/// What happened in a window of time.
#[derive(ToSchema)]
pub(crate) struct Dashboard {
    window_s: i64,
    logins: Logins,
    incidents: u64,
    locked_accounts: u64,
    blocked_addresses: u64,
    recent: Vec<Event>,
}

/// Logins by how they ended.
#[derive(ToSchema)]
pub(crate) struct Logins {
    succeeded: u64,
    failed: u64,
}

/// What a support case needs to know.
#[derive(ToSchema)]
pub(crate) struct DebugReport {
    version: String,
    environment: String,
    timestamp: String,
    /// How far this machine's clock is ahead of the database's.
    clock_difference_ms: i64,
    policy: String,
    /// The policy with every default filled in, as `effective` of the admin API has it.
    #[schema(required, value_type = Option<Object>)]
    effective: Option<Value>,
    keys: Keys,
    feed: FeedReport,
    metrics: Figures,
}

/// How the feed stands.
#[derive(ToSchema)]
pub(crate) struct FeedReport {
    fresh: bool,
    #[schema(required)]
    age_ms: Option<u64>,
    epoch: u64,
    pending: u64,
    #[schema(required)]
    problem: Option<String>,
}

/// Whether a token is good here, and what it says.
#[derive(ToSchema)]
pub(crate) struct Validated {
    valid: bool,
    /// `valid` or `refused`.
    verdict: String,
    /// Of one that is refused: why.
    #[schema(nullable = false)]
    detail: Option<String>,
    /// `access`, `api_key`, `external` or `emergency`.
    #[schema(nullable = false)]
    kind: Option<String>,
    #[schema(nullable = false)]
    subject: Option<String>,
    session_id: Option<String>,
    token_id: Option<String>,
    expires_at: Option<i64>,
    #[schema(nullable = false)]
    roles: Option<Vec<String>>,
    #[schema(nullable = false)]
    permissions: Option<Vec<String>>,
    #[schema(nullable = false)]
    scopes: Option<Vec<String>>,
}

/// What lets through, and what doesn't.
#[derive(ToSchema)]
pub(crate) struct Diagnosis {
    policy: String,
    /// Whether all gates are open.
    open: bool,
    gates: Vec<Gate>,
}

/// Something that lets through or doesn't.
#[derive(ToSchema)]
pub(crate) struct Gate {
    #[schema(example = "lockout")]
    gate: String,
    open: bool,
    detail: String,
    /// What opens it.
    #[schema(required)]
    fix: Option<String>,
}

/// What the policy allows, and where tries are counted.
#[derive(ToSchema)]
pub(crate) struct RateLimits {
    policy: String,
    limits: Limits,
    /// `redis` or `store`.
    counted_on: String,
    redis_away: bool,
    fallbacks: u64,
    failed_logins: FailedLogins,
    under_attack: bool,
    /// How logins stand of the account and address that were asked about.
    #[schema(nullable = false)]
    login: Option<Vec<LimitStanding>>,
}

/// The policy's limits, each with its count and window, or null.
#[derive(ToSchema)]
pub(crate) struct Limits {
    login: LimitsOfLogin,
    register: LimitOfAddress,
    password_reset: LimitsOfReset,
    api: LimitOfSubject,
}

/// Of logins.
#[derive(ToSchema)]
pub(crate) struct LimitsOfLogin {
    #[schema(required)]
    per_account_and_address: Option<Limit>,
    #[schema(required)]
    per_address: Option<Limit>,
}

/// Of registrations.
#[derive(ToSchema)]
pub(crate) struct LimitOfAddress {
    #[schema(required)]
    per_address: Option<Limit>,
}

/// Of mails and mailed links.
#[derive(ToSchema)]
pub(crate) struct LimitsOfReset {
    #[schema(required)]
    per_account: Option<Limit>,
    #[schema(required)]
    per_address: Option<Limit>,
}

/// Of everybody's calls.
#[derive(ToSchema)]
pub(crate) struct LimitOfSubject {
    #[schema(required)]
    per_subject: Option<Limit>,
}

/// So many in so long.
#[derive(ToSchema)]
pub(crate) struct Limit {
    limit: u32,
    window_s: i64,
}

/// Logins that failed lately.
#[derive(ToSchema)]
pub(crate) struct FailedLogins {
    last_minute: u64,
    this_minute: u64,
}

/// How a limit stands.
#[derive(ToSchema)]
pub(crate) struct LimitStanding {
    limit_of: String,
    #[schema(required)]
    name: Option<String>,
    allowed: bool,
    limit: u32,
    remaining: u32,
    reset_s: i64,
}

/// How many were active in a window of time.
#[derive(ToSchema)]
pub(crate) struct ActiveUsers {
    window_s: i64,
    active_users: u64,
}

/// How logins went in a window of time.
#[derive(ToSchema)]
pub(crate) struct LoginAttempts {
    window_s: i64,
    succeeded: u64,
    failed: u64,
    by_hour: Vec<Hour>,
}

/// Logins of an hour.
#[derive(ToSchema)]
pub(crate) struct Hour {
    /// When it began, seconds.
    hour: i64,
    succeeded: u64,
    failed: u64,
}

/// Accounts that failures have locked.
#[derive(ToSchema)]
pub(crate) struct LockedAccounts {
    locked_accounts: u64,
    accounts: Vec<LockedAccount>,
}

/// An account that failures have locked.
#[derive(ToSchema)]
pub(crate) struct LockedAccount {
    id: String,
    #[schema(required)]
    username: Option<String>,
    #[schema(required)]
    email: Option<String>,
    /// Seconds.
    #[schema(required)]
    locked_until: Option<i64>,
}

/// How many sessions live.
#[derive(ToSchema)]
pub(crate) struct SessionFigures {
    active_sessions: u64,
    by_device: BTreeMap<String, u64>,
}
