//! The verdict: what a caller is told about a credential.
//!
//! Refusals are one closed enum. Status, public word and metric label are one function each, so that a new refusal can't be
//! forgotten in any of them.

use std::fmt;

/// Why a credential is not accepted. Variants stand in the order in which they win when several apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No credential at all (forward-auth only).
    Missing,
    /// Not a credential of any kind that the policy knows.
    Malformed(&'static str),
    /// `iss` names nobody whom the policy trusts, or no longer.
    UntrustedIssuer,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature, or the algorithm it was made with, is not the key's.
    BadSignature,
    /// `nbf`, or an `iat` further ahead than the clock skew.
    NotYetValid,
    /// `exp` has passed.
    Expired,
    /// `aud` names nobody of the policy's audiences.
    WrongAudience,
    /// A claim is missing, of a wrong type, or not what the issuer's entry demands. The text is fixed and safe to show.
    InvalidClaims(&'static str),
    /// Token, session, subject, key or policy were revoked.
    Revoked(RevokedBy),
    /// Revocations are older than the policy allows, or than the caller asked for.
    Stale,
    /// A good credential that lacks what is asked for.
    Denied(Denial),
    /// Too many verifications.
    RateLimited {
        /// Whole seconds until another try can succeed, at least 1.
        retry_after_s: u32,
    },
    /// The verifier's state isn't confirmed.
    NotReady,
    /// A good emergency token whose use can't be recorded now. On the wire the verifier isn't ready.
    Unrecorded,
}

/// What was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedBy {
    /// The token itself.
    Token,
    /// Its session.
    Session,
    /// All of its subject's tokens up to a moment.
    Subject,
    /// The key that signed it.
    Key,
    /// All of the policy's tokens up to a moment.
    Policy,
}

/// What a good credential lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which kind of demand was not met.
    pub reason: DenialReason,
    /// The rule's name, where the reason is a rule.
    pub rule: Option<String>,
    /// What the caller would have had to send, for example `request.method`.
    pub missing: Vec<&'static str>,
}

/// The kinds of demand that a good credential may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// `require.permissions`.
    Permission,
    /// `require.roles`.
    Role,
    /// `require.scopes`.
    Scope,
    /// `require.audience`.
    Audience,
    /// One of the policy's CEL rules.
    Rule,
    /// The client's address.
    Ip,
    /// A cookie on an unsafe method without its CSRF token.
    Csrf,
}

impl DenialReason {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Role => "role",
            Self::Scope => "scope",
            Self::Audience => "audience",
            Self::Rule => "rule",
            Self::Ip => "ip",
            Self::Csrf => "csrf",
        }
    }
}

impl Denial {
    /// A denial that needs no more words than its reason.
    pub const fn of(reason: DenialReason) -> Self {
        Self { reason, rule: None, missing: Vec::new() }
    }
}

/// The word for an accepted credential.
pub const VALID: &str = "valid";

/// Every word that `verdict` can be: the label values of `countersign_verify_total`.
pub const WORDS: [&str; 15] = [
    VALID,
    "missing",
    "malformed",
    "untrusted_issuer",
    "unknown_key",
    "bad_signature",
    "not_yet_valid",
    "expired",
    "wrong_audience",
    "invalid_claims",
    "revoked",
    "stale",
    "denied",
    "rate_limited",
    "not_ready",
];

impl Refusal {
    /// Its place in [`WORDS`].
    pub const fn index(&self) -> usize {
        match self {
            Self::Missing => 1,
            Self::Malformed(_) => 2,
            Self::UntrustedIssuer => 3,
            Self::UnknownKey => 4,
            Self::BadSignature => 5,
            Self::NotYetValid => 6,
            Self::Expired => 7,
            Self::WrongAudience => 8,
            Self::InvalidClaims(_) => 9,
            Self::Revoked(_) => 10,
            Self::Stale => 11,
            Self::Denied(_) => 12,
            Self::RateLimited { .. } => 13,
            Self::NotReady | Self::Unrecorded => 14,
        }
    }

    /// The word on the wire and in metrics.
    pub const fn word(&self) -> &'static str {
        WORDS[self.index()]
    }

    /// The HTTP status that mirrors it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Missing
            | Self::Malformed(_)
            | Self::UntrustedIssuer
            | Self::UnknownKey
            | Self::BadSignature
            | Self::NotYetValid
            | Self::Expired
            | Self::WrongAudience
            | Self::InvalidClaims(_)
            | Self::Revoked(_) => 401,
            Self::Denied(_) => 403,
            Self::RateLimited { .. } => 429,
            Self::Stale | Self::NotReady | Self::Unrecorded => 503,
        }
    }

    /// One sentence for the caller. Never holds anything that the credential said.
    pub fn detail(&self) -> String {
        match self {
            Self::Missing => "no credential was sent".into(),
            Self::Malformed(what) | Self::InvalidClaims(what) => (*what).into(),
            Self::UntrustedIssuer => "the policy trusts no such issuer".into(),
            Self::UnknownKey => "the issuer has no such key".into(),
            Self::BadSignature => "the signature or its algorithm does not fit the key".into(),
            Self::NotYetValid => "the token is not valid yet".into(),
            Self::Expired => "the token has expired".into(),
            Self::WrongAudience => "the token is for another audience".into(),
            Self::Revoked(by) => match by {
                RevokedBy::Token => "the token was revoked",
                RevokedBy::Session => "the session was ended",
                RevokedBy::Subject => "the subject's tokens were revoked",
                RevokedBy::Key => "the signing key was revoked",
                RevokedBy::Policy => "the policy's tokens were revoked",
            }
            .into(),
            Self::Stale => "revocations are older than the policy or the request allows".into(),
            Self::Denied(d) => match (d.reason, d.missing.is_empty()) {
                (DenialReason::Permission, _) => "the credential lacks a required permission".into(),
                (DenialReason::Role, _) => "the credential lacks a required role".into(),
                (DenialReason::Scope, _) => "the credential lacks a required scope".into(),
                (DenialReason::Audience, _) => "the credential lacks the required audience".into(),
                (DenialReason::Rule, true) => "a rule of the policy denies this".into(),
                (DenialReason::Ip, true) => "the client's address is not allowed".into(),
                (DenialReason::Rule | DenialReason::Ip, false) => {
                    format!("the policy needs what the caller did not send: {}", d.missing.join(", "))
                }
                (DenialReason::Csrf, _) => "a cookie on this method needs a valid X-CSRF-Token".into(),
            },
            Self::RateLimited { .. } => "too many verifications".into(),
            Self::NotReady => "the verifier's state is not confirmed".into(),
            Self::Unrecorded => "the use of an emergency token can't be recorded now, and none goes unrecorded".into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word(), self.detail())
    }
}
