//! Events of the audit trail.

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{AuditEvent, Severity, StoreError, Tx};
use serde_json::{Map, Value};

use crate::{actor::Actor, client::Client, metrics::Metrics};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident $word:literal $severity:ident,)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum EventKind { $($(#[doc = $doc])* $kind,)* }

        impl EventKind {
            /// The contract's word.
            pub(crate) const fn word(self) -> &'static str {
                match self { $(Self::$kind => $word,)* }
            }

            /// How much it matters.
            pub(crate) const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    /// Somebody logged in.
    LoginSucceeded "LOGIN_SUCCEEDED" Info,
    /// Somebody did not.
    LoginFailed "LOGIN_FAILED" Warning,
    /// A token that is no good, and has not merely expired.
    InvalidToken "INVALID_TOKEN" Warning,
    /// A session comes from another address.
    IpChange "IP_CHANGE" Warning,
    /// A login from a device that the account doesn't know.
    NewDevice "NEW_DEVICE" Info,
    /// A session comes with another agent.
    DeviceChange "DEVICE_CHANGE" Warning,
    /// One session too many.
    ConcurrentLimitExceeded "CONCURRENT_LIMIT_EXCEEDED" Warning,
    /// A refresh token was used again.
    RefreshReuse "REFRESH_REUSE" Critical,
    /// Failures locked an account, or an administrator did.
    AccountLocked "ACCOUNT_LOCKED" Warning,
    /// A lock was lifted.
    AccountUnlocked "ACCOUNT_UNLOCKED" Info,
    /// A second factor was enrolled.
    MfaEnabled "MFA_ENABLED" Info,
    /// A second factor was removed.
    MfaDisabled "MFA_DISABLED" Info,
    /// A wrong code.
    MfaFailed "MFA_FAILED" Warning,
    /// A code was asked for.
    MfaChallenged "MFA_CHALLENGED" Info,
    /// A code was right in a session that exists: nobody logged in anew.
    MfaSucceeded "MFA_SUCCEEDED" Info,
    /// An account's owner set another password.
    PasswordChanged "PASSWORD_CHANGED" Info,
    /// By a mailed link, or an administrator.
    PasswordReset "PASSWORD_RESET" Info,
    /// Somebody registered with the address of an account.
    RegistrationRepeated "REGISTRATION_REPEATED" Info,
    /// A mail to verify an address was asked for.
    VerificationRequested "VERIFICATION_REQUESTED" Info,
    /// A mail to reset a password was asked for.
    PasswordResetRequested "PASSWORD_RESET_REQUESTED" Info,
    /// A session ended before its time.
    SessionRevoked "SESSION_REVOKED" Info,
    /// An API key was made.
    ApiKeyCreated "API_KEY_CREATED" Info,
    /// An API key was revoked.
    ApiKeyRevoked "API_KEY_REVOKED" Info,
    /// Keys were rotated.
    KeyRotated "KEY_ROTATED" Info,
    /// A key was revoked.
    KeyRevoked "KEY_REVOKED" Critical,
    /// An emergency token was made.
    EmergencyMinted "EMERGENCY_MINTED" Critical,
    /// An emergency token was used.
    EmergencyUsed "EMERGENCY_USED" Critical,
    /// An address was blocked.
    IpBlocked "IP_BLOCKED" Warning,
    /// A block was lifted.
    IpUnblocked "IP_UNBLOCKED" Info,
    /// An account was made.
    UserCreated "USER_CREATED" Info,
    /// An account was changed.
    UserUpdated "USER_UPDATED" Info,
    /// An account was erased.
    UserDeleted "USER_DELETED" Info,
    /// An address was shown to be its owner's.
    EmailVerified "EMAIL_VERIFIED" Info,
    /// A service got a token, or an administrator made one.
    TokenIssued "TOKEN_ISSUED" Info,
    /// A service's secret was wrong.
    ClientRejected "CLIENT_REJECTED" Warning,
    /// A telephone number was shown to be its owner's, or taken away.
    PhoneChanged "PHONE_CHANGED" Info,
    /// An administrator did something.
    AdminAction "ADMIN_ACTION" Info,
}

/// An event before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Event<'a> {
    policy: &'a PolicyName,
    kind: EventKind,
    client: Option<&'a Client>,
    metrics: &'a Metrics,
    subject: Option<String>,
    session: Option<String>,
    details: Map<String, Value>,
}

impl<'a> Event<'a> {
    /// An event that is counted in `metrics`.
    pub(crate) fn new(policy: &'a PolicyName, kind: EventKind, client: Option<&'a Client>, metrics: &'a Metrics) -> Self {
        Self { policy, kind, client, metrics, subject: None, session: None, details: Map::new() }
    }

    /// Whom it concerns.
    pub(crate) fn subject(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    /// Which administrator did it.
    pub(crate) fn by(self, actor: Option<&Actor>) -> Self {
        match actor {
            Some(actor) => self.detail("actor", actor.shown()),
            None => self,
        }
    }

    /// In which session.
    pub(crate) fn session(mut self, session: &str) -> Self {
        self.session = Some(session.to_owned());
        self
    }

    /// What else is to be said; never a secret.
    pub(crate) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Writes it with what it tells of.
    pub(crate) async fn write(self, tx: &mut Tx, now: UnixMillis) -> Result<(), StoreError> {
        write(tx, vec![self], now).await
    }

    fn row(self, now: UnixMillis) -> AuditEvent {
        AuditEvent {
            policy: self.policy.clone(),
            time: now,
            kind: self.kind.word().to_owned(),
            severity: self.kind.severity(),
            subject: self.subject,
            session: self.session,
            ip: self.client.map(|client| client.ip.to_string()),
            user_agent: self.client.and_then(|client| client.user_agent.clone()),
            request: self.client.map(|client| client.request_id.clone()),
            details: Value::Object(self.details).to_string(),
        }
    }
}

/// Writes events with what they tell of, in this order.
pub(crate) async fn write(tx: &mut Tx, events: Vec<Event<'_>>, now: UnixMillis) -> Result<(), StoreError> {
    let counted: Vec<_> = events.iter().map(|event| (event.metrics, event.kind.severity())).collect();
    let rows: Vec<_> = events.into_iter().map(|event| event.row(now)).collect();
    tx.append_audits(&rows).await?;
    for (metrics, severity) in counted {
        metrics.audited(severity);
    }
    Ok(())
}
