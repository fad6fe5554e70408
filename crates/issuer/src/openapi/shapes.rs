//! What answers look like, and requests in a form's encoding. Handlers write these with `json!`; every answer that a test of
//! this crate gets is held against them (`tests/document.rs`).

#![expect(dead_code, reason = "only their schemas are used")]
#![expect(
    clippy::struct_field_names,
    clippy::enum_variant_names,
    clippy::large_enum_variant,
    reason = "the names are those of the contract, and no value is ever made"
)]

pub(crate) mod administration;
pub(crate) mod operations;
pub(crate) mod people;
pub(crate) mod services;

use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type},
    },
};

/// Why a call was not done.
#[derive(ToSchema)]
pub(crate) struct Problem {
    error: Code,
    /// For people; never a secret.
    detail: String,
    /// At `/userinfo`: the detail once more, by the name that OAuth has for it.
    #[schema(nullable = false)]
    error_description: Option<String>,
    /// What to do about it, where that is known.
    #[schema(nullable = false)]
    fix: Option<String>,
    /// With `weak_password`: every rule that the password breaks.
    #[schema(nullable = false)]
    violations: Option<Vec<Violation>>,
    /// With `account_locked`: until when, seconds; null until somebody unlocks it.
    locked_until: Option<i64>,
    /// With `mfa_required`: where the code is shown.
    #[schema(nullable = false)]
    challenge_id: Option<String>,
    /// With `mfa_required`: what may answer the challenge.
    #[schema(nullable = false)]
    methods: Option<Vec<Method>>,
    /// With `invalid_code` at a challenge: how many more codes it takes.
    #[schema(nullable = false)]
    attempts_left: Option<u32>,
    /// Where the policy has no second factors: its `login.mfa.mode`.
    #[schema(nullable = false)]
    mfa_mode: Option<String>,
    /// Where a refusal ended something: where that stands in the feed; null while that is out of reach.
    position: Option<String>,
    /// While the feed is out of reach: verifiers hear of it as soon as it is back.
    #[schema(nullable = false)]
    pending: Option<bool>,
}

/// The kinds of problems.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Code {
    AccountDisabled,
    AccountLocked,
    AddressBlocked,
    AlreadyRegistered,
    CsrfFailed,
    Elsewhere,
    EmailUnverified,
    Forbidden,
    Internal,
    InvalidChallenge,
    InvalidCode,
    InvalidCredentials,
    InvalidRefreshToken,
    InvalidRequest,
    InvalidToken,
    MethodNotAllowed,
    MfaRequired,
    NotFound,
    NotRolledOut,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    RequestTimeout,
    SessionLimit,
    Unavailable,
    ValidationFailed,
    WeakPassword,
}

/// A rule that a new password breaks.
#[derive(ToSchema)]
pub(crate) struct Violation {
    #[schema(example = "min_length")]
    rule: String,
    #[schema(example = "use at least 8 characters")]
    message: String,
}

/// What may answer a challenge.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Method {
    Totp,
    BackupCode,
    Email,
    Sms,
}

/// An IPv4 or IPv6 address.
pub(crate) struct Address;

impl PartialSchema for Address {
    fn schema() -> RefOr<Schema> {
        let of = |format| ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)));
        AnyOfBuilder::new().item(of(KnownFormat::Ipv4)).item(of(KnownFormat::Ipv6)).into()
    }
}

impl ToSchema for Address {}

/// How a code is sent.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Channel {
    Email,
    Sms,
}

/// What ended.
#[derive(ToSchema)]
pub(crate) struct Ended {
    /// How many.
    revoked: u64,
    /// Where that stands in the feed; null when nothing ended, and while the feed is out of reach.
    #[schema(required)]
    position: Option<String>,
    /// With 202: verifiers hear of it as soon as the feed is back.
    #[schema(nullable = false)]
    pending: Option<bool>,
}

/// Where something that ended stands in the feed.
#[derive(ToSchema)]
pub(crate) struct Standing {
    /// Null when nothing ended, and while the feed is out of reach.
    #[schema(required)]
    position: Option<String>,
    /// With 202: verifiers hear of it as soon as the feed is back.
    #[schema(nullable = false)]
    pending: Option<bool>,
}

/// A page of the audit trail, newest first.
#[derive(ToSchema)]
pub(crate) struct Events {
    events: Vec<Event>,
    /// What gives the next page as `cursor`; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Something that happened.
#[derive(ToSchema)]
pub(crate) struct Event {
    id: i64,
    #[schema(example = "shop/shop")]
    policy: String,
    /// Seconds.
    at: i64,
    at_ms: i64,
    #[schema(example = "LOGIN_FAILED")]
    event_type: String,
    severity: Severity,
    #[schema(required)]
    subject: Option<String>,
    #[schema(required)]
    session_id: Option<String>,
    #[schema(required)]
    ip: Option<String>,
    #[schema(required)]
    user_agent: Option<String>,
    #[schema(required)]
    request_id: Option<String>,
    /// What else there is to say of it, by its type.
    details: Value,
    /// Its place in the policy's chain; null until it is sealed, within a second.
    #[schema(required)]
    place: Option<i64>,
    /// SHA-256 of the event and the hash before it; null until it is sealed.
    #[schema(required)]
    hash: Option<String>,
}

/// How much an event matters.
#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub(crate) enum Severity {
    Info,
    Warning,
    Critical,
}
