//! Signing tokens.
//!
//! Minting takes its share of the policy's turn, re-reads what ends the subject, the session and the signing key, and only
//! then takes the clock. `iat_ms` is raised above a cut-off of the same millisecond.

use countersign_core::{
    keys::SigningKeyError,
    mint::{AccessTokenSpec, mint_access},
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, EntryKey, Kind},
    time::UnixMillis,
};
use countersign_feed::Clock;
use serde_json::Map;
use uuid::Uuid;

use crate::{
    policies::IssuerPolicy,
    revoker::{Ledger, LedgerError},
    turns::Turns,
};

/// The longest subject, session id, role, scope or audience, bytes.
const MAX_TEXT: usize = 256;
/// The most roles, scopes or audiences of one token.
const MAX_ITEMS: usize = 64;

/// What a token shall say.
#[derive(Clone, Debug, Default)]
pub struct MintRequest {
    /// `sub`.
    pub subject: String,
    /// `roles`.
    pub roles: Vec<String>,
    /// `scope`.
    pub scopes: Vec<String>,
    /// `aud`; empty: the policy's.
    pub audiences: Vec<String>,
    /// How long it lives, seconds; absent: the policy's `accessTTL`.
    pub ttl_s: Option<i64>,
    /// `sid`; absent: a new session.
    pub session_id: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub struct Minted {
    /// It.
    pub token: String,
    /// Its `jti`.
    pub token_id: String,
    /// Its `sid`.
    pub session_id: String,
    /// When it expires.
    pub expires_at: UnixMillis,
    /// What is odd about it, for people.
    pub warnings: Vec<String>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The policy has no issuer.
    #[error("the policy {0} only verifies other issuers' tokens: it has no keys to sign with (spec.issuer is absent)")]
    VerifiesOnly(PolicyName),
    /// Something about the request.
    #[error("{0}")]
    Invalid(String),
    /// The session has ended.
    #[error("the session was ended: its tokens are refused everywhere")]
    SessionEnded,
    /// Everything of the subject, or of the policy, has ended for good.
    #[error("everything that could be minted for this subject is revoked for good")]
    Ended,
    /// No key signs now.
    #[error("the access ring of {0} has no active key; `countersign keys list` says what it waits for")]
    NoSigningKey(PolicyName),
    /// The clock is behind a cut-off that was written.
    #[error("this machine's clock is {behind_ms} ms behind a cut-off that was written, more than the policy's clockSkew")]
    ClockBehind {
        /// By how much.
        behind_ms: i64,
    },
    /// The library failed.
    #[error(transparent)]
    Sign(#[from] SigningKeyError),
    /// The store failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Signs tokens over the rings that it is handed.
#[derive(Clone, Debug)]
pub struct Minter {
    ledger: Ledger,
    turns: Turns,
}

impl Minter {
    pub(crate) fn new(ledger: Ledger, turns: Turns) -> Self {
        Self { ledger, turns }
    }

    /// Makes an access token.
    pub async fn mint(&self, policy: &IssuerPolicy, request: MintRequest) -> Result<Minted, MintError> {
        let own = policy.own.as_ref().ok_or_else(|| MintError::VerifiesOnly(policy.name.clone()))?;
        let ttl_ms = checked(policy, &request)?;
        let signer = own.access.signer.clone().ok_or_else(|| MintError::NoSigningKey(policy.name.clone()))?;
        let session_id = request.session_id.clone().unwrap_or_else(new_id);
        let warnings = oddities(policy, &request);

        let issuing = self.turns.issue(&policy.name).await?;
        let scopes = Scopes { policy: &policy.name, issuer: &own.issuer };
        let kid = signer.key().kid().to_owned();
        let keys = scopes.keys(&[(Kind::Key, &kid), (Kind::Session, &session_id), (Kind::Subject, &request.subject)]);
        let issued_at = after_cutoffs(policy, &self.ledger.find(&keys).await?, Clock::wall())?;

        let expires_at = UnixMillis::from_secs(issued_at.plus(ttl_ms).as_secs());
        let audiences = if request.audiences.is_empty() { policy.audiences.clone() } else { request.audiences };
        let spec = AccessTokenSpec {
            issuer: own.issuer.clone(),
            subject: request.subject,
            audiences,
            roles: request.roles,
            scopes: request.scopes,
            session_id: Some(session_id.clone()),
            token_id: new_id(),
            issued_at,
            expires: expires_at,
            amr: Vec::new(),
            client_id: None,
            extra: Map::new(),
        };
        let token = mint_access(signer.key(), &spec)?;
        issuing.remember(issued_at).await?;
        Ok(Minted { token, token_id: spec.token_id, session_id, expires_at, warnings })
    }
}

/// A version 7 UUID: unique, and in the order of time.
fn new_id() -> String {
    Uuid::now_v7().to_string()
}

fn checked(policy: &IssuerPolicy, request: &MintRequest) -> Result<i64, MintError> {
    let text = |name: &str, value: &str| {
        if value.is_empty() || value.len() > MAX_TEXT || value.chars().any(char::is_control) {
            Err(MintError::Invalid(format!("{name} must be 1 to {MAX_TEXT} bytes without control characters")))
        } else {
            Ok(())
        }
    };
    text("subject", &request.subject)?;
    if let Some(id) = &request.session_id {
        text("session_id", id)?;
    }
    for (name, items) in [("roles", &request.roles), ("scopes", &request.scopes), ("audiences", &request.audiences)] {
        if items.len() > MAX_ITEMS {
            return Err(MintError::Invalid(format!("{name}: at most {MAX_ITEMS}")));
        }
        for item in items {
            text(name, item)?;
        }
    }
    if let Some(scope) = request.scopes.iter().find(|s| s.contains(' ')) {
        return Err(MintError::Invalid(format!(
            "scopes: {scope:?} holds a space, which separates scopes (RFC 6749 section 3.3)"
        )));
    }
    let access_ttl_s = policy.lives.access_ttl_ms / 1000;
    match request.ttl_s {
        None => Ok(policy.lives.access_ttl_ms),
        Some(ttl_s) if (1..=access_ttl_s).contains(&ttl_s) => Ok(ttl_s * 1000),
        Some(_) => Err(MintError::Invalid(format!(
            "ttl_s must be 1 to {access_ttl_s}: no access token outlives spec.tokens.accessTTL, by which keys retire and revocations end"
        ))),
    }
}

fn oddities(policy: &IssuerPolicy, request: &MintRequest) -> Vec<String> {
    let mut warnings = Vec::new();
    let unknown: Vec<&str> = request.roles.iter().filter(|r| !policy.roles.contains(r)).map(String::as_str).collect();
    if !unknown.is_empty() && !policy.roles.is_empty() {
        let known = policy.roles.join(", ");
        warnings.push(format!(
            "{} defines no role {}: it grants nothing (there are {known})",
            policy.name,
            unknown.join(", ")
        ));
    }
    if !request.audiences.is_empty() && !request.audiences.iter().any(|a| policy.audiences.contains(a)) {
        let known = policy.audiences.join(", ");
        warnings.push(format!("{} answers wrong_audience to this token: its audiences are {known}", policy.name));
    }
    warnings
}

/// The entries under which something of a policy's own issuer can have ended.
pub(crate) struct Scopes<'a> {
    pub(crate) policy: &'a PolicyName,
    pub(crate) issuer: &'a str,
}

impl Scopes<'_> {
    fn keys(&self, named: &[(Kind, &str)]) -> Vec<EntryKey> {
        let always = [(Kind::Policy, ""), (Kind::Policy, ACCESS_RING_ONLY)];
        let all = named.iter().copied().chain(always);
        all.flat_map(|(kind, id)| [None, Some(self.issuer)].map(|issuer| self.key(kind, issuer, id))).collect()
    }

    fn key(&self, kind: Kind, issuer: Option<&str>, id: &str) -> EntryKey {
        Entry {
            policy: self.policy.clone(),
            kind,
            issuer: issuer.map(str::to_owned),
            id: id.to_owned(),
            cutoff: UnixMillis(0),
            expires: UnixMillis(0),
            version: 0,
            reason: String::new(),
            source: String::new(),
        }
        .key()
    }
}

/// The instant at which a token may be issued, in view of what has ended.
fn after_cutoffs(policy: &IssuerPolicy, ended: &[Entry], now: UnixMillis) -> Result<UnixMillis, MintError> {
    let for_good = |entry: &&Entry| entry.cutoff == UnixMillis::FOREVER;
    match ended.iter().filter(for_good).map(|e| e.kind).min() {
        Some(Kind::Session) => return Err(MintError::SessionEnded),
        Some(Kind::Key) => return Err(MintError::NoSigningKey(policy.name.clone())),
        Some(_) => return Err(MintError::Ended),
        None => {}
    }
    let latest = ended.iter().map(|e| e.cutoff).max();
    let issued_at = latest.map_or(now, |cutoff| now.max(cutoff.plus(1)));
    let behind_ms = issued_at.since(now);
    if behind_ms > policy.clock_skew_ms { Err(MintError::ClockBehind { behind_ms }) } else { Ok(issued_at) }
}
