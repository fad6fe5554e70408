//! Accounts, logins and sessions.

use utoipa::ToSchema;

use super::{Channel, Method};

/// An account, as its owner sees it.
#[derive(ToSchema)]
pub(crate) struct User {
    /// A UUID.
    id: String,
    #[schema(required)]
    username: Option<String>,
    #[schema(required)]
    email: Option<String>,
    /// A changed address whose link was not used yet.
    #[schema(required)]
    pending_email: Option<String>,
    #[schema(required)]
    first_name: Option<String>,
    #[schema(required)]
    last_name: Option<String>,
    roles: Vec<String>,
    /// What the roles grant.
    permissions: Vec<String>,
    status: Status,
    email_verified: bool,
    mfa_enabled: bool,
    /// Seconds.
    created_at: i64,
    /// Seconds; null before the first login.
    #[schema(required)]
    last_login_at: Option<i64>,
}

/// Whether an account can log in.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Status {
    Active,
    /// Its address is not verified yet.
    Pending,
    Disabled,
    Locked,
}

/// How far a login has come.
#[derive(ToSchema)]
#[schema(as = LoginAnswer)]
#[serde(untagged)]
pub(crate) enum LoginAnswer {
    /// It is complete.
    Tokens(Tokens),
    /// A code of the second factor is needed: `POST /auth/2fa/verify`.
    Challenge(Challenge),
    /// The policy demands a second factor, and none is enrolled.
    SetUp(SetUpAsked),
}

/// Tokens of a session. In cookie mode they are in cookies, and the members `access_token`, `refresh_token`, `device_token` and
/// `token_type` are missing.
#[derive(ToSchema)]
pub(crate) struct Tokens {
    #[schema(nullable = false)]
    access_token: Option<String>,
    #[schema(nullable = false)]
    refresh_token: Option<String>,
    #[schema(nullable = false, example = "bearer")]
    token_type: Option<String>,
    /// How long the access token is good for, seconds.
    expires_in: i64,
    session_id: String,
    /// What the device shows at its next login, to be known again. Null where it is known already.
    device_token: Option<String>,
    user: User,
    /// Where another session ended for this one: where that stands in the feed; null while that is out of reach.
    position: Option<String>,
    /// With 202: verifiers hear of it as soon as the feed is back.
    #[schema(nullable = false)]
    pending: Option<bool>,
}

/// A login that waits for a code.
#[derive(ToSchema)]
pub(crate) struct Challenge {
    /// Always true.
    requires_2fa: bool,
    challenge_id: String,
    methods: Vec<Method>,
    /// How long it may be answered, seconds.
    expires_in: i64,
}

/// A login that waits for a second factor to be set up.
#[derive(ToSchema)]
pub(crate) struct SetUpAsked {
    /// Always true.
    requires_2fa_setup: bool,
    /// A Bearer for the two calls that set one up, and for nothing else.
    setup_token: String,
    /// How long it is good for, seconds.
    expires_in: i64,
}

/// The next tokens of a session; in cookie mode without `access_token`, `refresh_token` and `token_type`.
#[derive(ToSchema)]
pub(crate) struct Refreshed {
    #[schema(nullable = false)]
    access_token: Option<String>,
    #[schema(nullable = false)]
    refresh_token: Option<String>,
    #[schema(nullable = false, example = "bearer")]
    token_type: Option<String>,
    /// How long the access token is good for, seconds.
    expires_in: i64,
    session_id: String,
}

/// A token that unsafe calls by cookie need beside it, in `X-CSRF-Token`.
#[derive(ToSchema)]
pub(crate) struct CsrfToken {
    csrf_token: String,
    session_id: String,
    /// Seconds.
    expires_at: i64,
}

/// Live sessions.
#[derive(ToSchema)]
pub(crate) struct Sessions {
    sessions: Vec<Session>,
}

/// A session.
#[derive(ToSchema)]
pub(crate) struct Session {
    session_id: String,
    /// Seconds, as the next two.
    created_at: i64,
    last_seen_at: i64,
    /// When it ends, unless it is used before.
    expires_at: i64,
    #[schema(required)]
    ip: Option<String>,
    #[schema(required)]
    user_agent: Option<String>,
    /// What kind of device it is.
    #[schema(required)]
    device: Option<String>,
    /// What the client calls it, where it said so at the login.
    #[schema(required)]
    device_id: Option<String>,
    /// Whether it is the caller's own.
    current: bool,
}

/// That an address is its owner's.
#[derive(ToSchema)]
pub(crate) struct EmailVerified {
    /// Always true.
    email_verified: bool,
}

/// That a mail is on its way, if there is an account to mail to.
#[derive(ToSchema)]
pub(crate) struct MailAsked {
    detail: String,
}

/// That a code is on its way.
#[derive(ToSchema)]
pub(crate) struct CodeSent {
    channel: Channel,
}

/// A secret for an authenticator.
#[derive(ToSchema)]
pub(crate) struct TotpSecret {
    /// Base32.
    secret: String,
    otpauth_url: String,
    /// A `data:` URL with a PNG.
    qr_code: String,
}

/// Codes that each stand in for the authenticator once. They are shown this once.
#[derive(ToSchema)]
pub(crate) struct BackupCodes {
    /// Always true.
    enabled: bool,
    backup_codes: Vec<String>,
}

/// How the second factor stands.
#[derive(ToSchema)]
pub(crate) struct SecondFactor {
    enabled: bool,
    methods: Vec<Method>,
    backup_codes_left: u64,
    /// The last digits of the number that codes may go to.
    #[schema(required, example = "\u{2026}78")]
    phone: Option<String>,
}

/// A number that waits for its code.
#[derive(ToSchema)]
pub(crate) struct PhoneBegun {
    /// Its last digits.
    #[schema(example = "\u{2026}78")]
    phone: String,
    /// Seconds that the code is good for.
    expires_in: i64,
}

/// A number that codes may go to.
#[derive(ToSchema)]
pub(crate) struct PhoneConfirmed {
    /// Its last digits.
    #[schema(example = "\u{2026}78")]
    phone: String,
}

/// That there is no number.
#[derive(ToSchema)]
pub(crate) struct PhoneRemoved {
    /// Always null.
    #[schema(required)]
    phone: Option<String>,
}

/// That the second factor is off.
#[derive(ToSchema)]
pub(crate) struct TurnedOff {
    /// Always false.
    enabled: bool,
}

/// The keys of an account.
#[derive(ToSchema)]
pub(crate) struct ApiKeys {
    api_keys: Vec<ApiKey>,
}

/// An API key, without the key.
#[derive(ToSchema)]
pub(crate) struct ApiKey {
    id: String,
    name: String,
    /// How it ends, to recognise it by.
    hint: String,
    scopes: Vec<String>,
    /// Seconds, as the others.
    created_at: i64,
    expires_at: i64,
    #[schema(required)]
    last_used_at: Option<i64>,
    #[schema(required)]
    revoked_at: Option<i64>,
}

/// A new API key.
#[derive(ToSchema)]
pub(crate) struct NewApiKey {
    /// The key: shown this once.
    key: String,
    #[serde(flatten)]
    shown: ApiKey,
}
