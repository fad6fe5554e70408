//! Signing tokens.
//!
//! What is granted is decided in a transaction of the store that holds the subject: what ends it, its session and the signing
//! key is read again there, and only then the database's clock. `iat_ms` is raised above a cut-off of the same millisecond.
//! The signature is made when the transaction is committed.

use std::sync::Arc;

use countersign_core::{
    check::{Authenticated, CredentialKind},
    jose::compact,
    keys::SigningKeyError,
    mint::{API_KEY_PREFIX, AccessTokenSpec, ApiKeySpec, mint_access, mint_api_key, mint_emergency},
    names::PolicyName,
    policy::EmergencyTokens,
    revocation::{ACCESS_RING_ONLY, Entry, EntryKey, Kind},
    time::UnixMillis,
};
use countersign_store::{Failure, Store, StoreError, Tx, transact};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    audit::EventKind,
    call::Call,
    issued::Issued,
    policies::{IssuerPolicy, RingView, Signer, SignsWhile},
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
    /// `amr` (RFC 8176).
    pub amr: Vec<String>,
    /// `client_id`, when an OAuth client asked.
    pub client_id: Option<String>,
    /// Members beyond these.
    pub extra: Map<String, Value>,
    /// Why an emergency token is needed: then it is one, within the policy's bounds for them.
    pub emergency: Option<String>,
    /// When the login that this rests on took place: a cut-off since then ends it. Absent: it rests on none.
    pub rests_on: Option<UnixMillis>,
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
    /// The policy takes no emergency tokens now.
    #[error("{0} takes no emergency tokens: {1}")]
    NoEmergency(PolicyName, &'static str),
    /// The session has ended.
    #[error("the session was ended: its tokens are refused everywhere")]
    SessionEnded,
    /// Everything of the subject, or of the policy, has ended for good.
    #[error("everything that could be minted for this subject is revoked for good")]
    Ended,
    /// No key signs now.
    #[error("the {0} ring of {1} has no active key; `countersign keys list` says what it waits for")]
    NoSigningKey(&'static str, PolicyName),
    /// Nobody has said for too long that the keys are still those that sign.
    #[error(
        "nothing is signed for {0} now: the API server has not confirmed its keys for {within_s} s, and others may sign by then",
        within_s = .1.within_ms / 1000
    )]
    Unconfirmed(PolicyName, SignsWhile),
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
    Store(#[from] StoreError),
}

impl Failure for MintError {
    fn of_store(&self) -> Option<&StoreError> {
        if let Self::Store(error) = self { Some(error) } else { None }
    }
}

/// Signs tokens over the rings that it is handed.
#[derive(Clone, Debug)]
pub struct Minter {
    store: Arc<Store>,
    issued: Issued,
}

/// An access token that may be made: decided in a transaction, signed after it.
#[derive(Debug)]
pub(crate) struct Grant {
    spec: AccessTokenSpec,
    session_id: String,
    signer: Signer,
    warnings: Vec<String>,
    /// Why an emergency token is needed, where it is one.
    emergency: Option<String>,
}

impl Grant {
    /// The instant of issue.
    pub(crate) fn issued_at(&self) -> UnixMillis {
        self.spec.issued_at
    }

    /// The token.
    pub(crate) fn sign(self) -> Result<Minted, MintError> {
        let token = match &self.emergency {
            None => mint_access(self.signer.key(), &self.spec)?,
            Some(reason) => mint_emergency(self.signer.key(), &self.spec, reason)?,
        };
        let Self { spec, session_id, warnings, .. } = self;
        Ok(Minted { token, token_id: spec.token_id, session_id, expires_at: spec.expires, warnings })
    }
}

/// An API key that may be made.
#[derive(Debug)]
pub(crate) struct ApiKeyGrant {
    spec: ApiKeySpec,
    signer: Signer,
}

impl ApiKeyGrant {
    /// The instant of issue.
    pub(crate) fn issued_at(&self) -> UnixMillis {
        self.spec.issued_at
    }

    /// Until when it is good.
    pub(crate) fn expires(&self) -> UnixMillis {
        self.spec.expires
    }

    /// The key.
    pub(crate) fn sign(&self) -> Result<String, MintError> {
        Ok(mint_api_key(self.signer.key(), &self.spec)?)
    }
}

impl Minter {
    pub(crate) fn new(store: Arc<Store>, issued: Issued) -> Self {
        Self { store, issued }
    }

    /// Makes an access token, or an emergency token, for the administrator who calls. The trail tells of it before there is
    /// any.
    pub(crate) async fn mint(&self, call: &Call, request: &MintRequest) -> Result<Minted, MintError> {
        let grant = transact!(&*self.store, MintError, |tx| {
            let grant = self.grant(tx, &call.policy, request, None).await?;
            let event = match &grant.emergency {
                Some(reason) => call.event(EventKind::EmergencyMinted).detail("reason", reason.as_str()),
                None => call.event(EventKind::TokenIssued).detail("by", "administrator"),
            };
            let spec = &grant.spec;
            event
                .subject(&spec.subject)
                .session(&grant.session_id)
                .detail("token_id", spec.token_id.as_str())
                .detail("roles", spec.roles.clone())
                .detail("scopes", spec.scopes.clone())
                .detail("expires_at", spec.expires.as_secs())
                .write(tx, spec.issued_at)
                .await?;
            Ok(grant)
        });
        grant?.sign()
    }

    /// Decides on an access token within a transaction, which holds the subject from here on. It expires at `no_later_than`
    /// at the latest.
    pub(crate) async fn grant(
        &self,
        tx: &mut Tx,
        policy: &IssuerPolicy,
        request: &MintRequest,
        no_later_than: Option<UnixMillis>,
    ) -> Result<Grant, MintError> {
        let own = policy.own.as_ref().ok_or_else(|| MintError::VerifiesOnly(policy.name.clone()))?;
        let bounds = request.emergency.as_ref().map(|_| emergency_bounds(policy)).transpose()?;
        let ttl_ms = checked(policy, request, bounds)?;
        let signer = signer(policy, &own.access, "access")?;
        let session_id = request.session_id.clone().unwrap_or_else(new_id);
        let warnings = oddities(policy, request);

        tx.lock_subject(&policy.name, &request.subject).await?;
        let scopes = Scopes { policy: &policy.name, issuer: &own.issuer };
        let named = [(Kind::Key, signer.key().kid()), (Kind::Session, &session_id), (Kind::Subject, &request.subject)];
        let held = tx.mint_bounds(&policy.name, &scopes.keys(&named)).await?;
        let issued_at = after_cutoffs(policy, &held.ended, request.rests_on, tx.database_now().await?)?;
        if bounds.is_some_and(|bounds| issued_at >= bounds.not_after) {
            return Err(MintError::NoEmergency(policy.name.clone(), "its spec.emergency.notAfter has passed"));
        }
        self.issued.remember(tx, &policy.name, issued_at, held.issued_until).await?;

        let ends = [no_later_than, bounds.map(|bounds| bounds.not_after)];
        let expires = ends.into_iter().flatten().fold(issued_at.plus(ttl_ms), UnixMillis::min);
        let audiences = if request.audiences.is_empty() { &policy.audiences } else { &request.audiences };
        let spec = AccessTokenSpec {
            issuer: own.issuer.clone(),
            subject: request.subject.clone(),
            audiences: audiences.clone(),
            roles: request.roles.clone(),
            scopes: request.scopes.clone(),
            session_id: Some(session_id.clone()),
            token_id: new_id(),
            issued_at,
            expires: UnixMillis::from_secs(expires.as_secs()),
            amr: request.amr.clone(),
            client_id: request.client_id.clone(),
            extra: request.extra.clone(),
        };
        Ok(Grant { spec, session_id, signer, warnings, emergency: request.emergency.clone() })
    }

    /// Decides on an API key within a transaction, which holds its owner from here on. When it is issued and expires is
    /// filled in here.
    pub(crate) async fn grant_api_key(
        &self,
        tx: &mut Tx,
        policy: &IssuerPolicy,
        mut spec: ApiKeySpec,
        life_ms: i64,
        rests_on: Option<UnixMillis>,
    ) -> Result<ApiKeyGrant, MintError> {
        let own = policy.own.as_ref().ok_or_else(|| MintError::VerifiesOnly(policy.name.clone()))?;
        let signer = signer(policy, &own.api_key, "api-key")?;
        tx.lock_subject(&policy.name, &spec.subject).await?;
        let scopes = Scopes { policy: &policy.name, issuer: &own.issuer };
        let named = [(Kind::Key, signer.key().kid()), (Kind::Subject, spec.subject.as_str())];
        let held = tx.mint_bounds(&policy.name, &scopes.keys(&named)).await?;
        spec.issued_at = after_cutoffs(policy, &held.ended, rests_on, tx.database_now().await?)?;
        spec.expires = UnixMillis::from_secs(spec.issued_at.plus(life_ms).as_secs());
        self.issued.remember(tx, &policy.name, spec.issued_at, held.issued_until).await?;
        Ok(ApiKeyGrant { spec, signer })
    }
}

/// The key that signs, if there is one and it may.
pub(crate) fn signer(policy: &IssuerPolicy, ring: &RingView, name: &'static str) -> Result<Signer, MintError> {
    if let Some(lapsed) = policy.signs_while.as_ref().filter(|signs| !signs.holds()) {
        return Err(MintError::Unconfirmed(policy.name.clone(), lapsed.clone()));
    }
    ring.signer.clone().ok_or_else(|| MintError::NoSigningKey(name, policy.name.clone()))
}

/// A version 7 UUID: unique, and in the order of time.
pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// What the policy demands of emergency tokens.
fn emergency_bounds(policy: &IssuerPolicy) -> Result<&EmergencyTokens, MintError> {
    let bounds = policy.compiled.own.as_ref().and_then(|own| own.emergency.as_ref());
    bounds.ok_or_else(|| MintError::NoEmergency(policy.name.clone(), "its spec.emergency.mode is Disabled"))
}

fn checked(policy: &IssuerPolicy, request: &MintRequest, emergency: Option<&EmergencyTokens>) -> Result<i64, MintError> {
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
    if let Some(reason) = &request.emergency {
        text("reason", reason)?;
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
    if let Some(bounds) = emergency {
        return checked_emergency(request, bounds);
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

fn checked_emergency(request: &MintRequest, bounds: &EmergencyTokens) -> Result<i64, MintError> {
    let beyond: Vec<&str> = request.roles.iter().filter(|r| !bounds.roles.contains(r)).map(String::as_str).collect();
    if !beyond.is_empty() {
        return Err(MintError::Invalid(format!(
            "roles: not among the policy's spec.emergency.roles: {} (there are: {})",
            beyond.join(", "),
            bounds.roles.join(", ")
        )));
    }
    let max_ttl_s = bounds.max_ttl_ms / 1000;
    match request.ttl_s {
        None => Ok(bounds.max_ttl_ms),
        Some(ttl_s) if (1..=max_ttl_s).contains(&ttl_s) => Ok(ttl_s * 1000),
        Some(_) => {
            let detail = format!("ttl_s must be 1 to {max_ttl_s}: no emergency token outlives spec.emergency.maxTTL");
            Err(MintError::Invalid(detail))
        }
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
    /// The id of a policy's cut-off that ends access tokens alone.
    pub(crate) const ACCESS_ONLY: &'static str = ACCESS_RING_ONLY;

    /// The entries by which a credential can have ended, those of its key included: of an authentic token, the key that its
    /// header names has signed it.
    pub(crate) fn of_token(&self, credential: &Authenticated, token: &str) -> Vec<EntryKey> {
        let jws = compact::parse(token.strip_prefix(API_KEY_PREFIX).unwrap_or(token)).ok();
        let kid = jws.as_ref().and_then(|jws| jws.header.kid.as_deref());
        let of_key =
            kid.into_iter().flat_map(|kid| [None, Some(self.issuer)].map(|issuer| self.key(Kind::Key, issuer, kid)));
        self.of_credential(credential).into_iter().chain(of_key).collect()
    }

    /// The entries by which a credential can have ended, its key's aside.
    pub(crate) fn of_credential(&self, credential: &Authenticated) -> Vec<EntryKey> {
        let token = if credential.kind() == CredentialKind::ApiKey { Kind::ApiKey } else { Kind::Token };
        let id = credential.token_id().map(|id| (token, id));
        let session = credential.session_id().map(|id| (Kind::Session, id));
        let named: Vec<_> = [id, session, Some((Kind::Subject, credential.subject()))].into_iter().flatten().collect();
        self.keys(&named)
    }

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
fn after_cutoffs(
    policy: &IssuerPolicy,
    ended: &[Entry],
    rests_on: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<UnixMillis, MintError> {
    let for_good = |entry: &&Entry| entry.cutoff == UnixMillis::FOREVER;
    match ended.iter().filter(for_good).map(|e| e.kind).min() {
        Some(Kind::Session) => return Err(MintError::SessionEnded),
        Some(Kind::Key) => return Err(MintError::NoSigningKey("signing", policy.name.clone())),
        Some(_) => return Err(MintError::Ended),
        None => {}
    }
    // A cut-off of the access ring alone ends tokens and no login: who refreshes has a new one.
    let ends_logins = |entry: &&Entry| !(entry.kind == Kind::Policy && entry.id == ACCESS_RING_ONLY);
    let of_logins = ended.iter().filter(ends_logins).map(|e| e.cutoff).max();
    if rests_on.zip(of_logins).is_some_and(|(login, cutoff)| login <= cutoff) {
        return Err(MintError::SessionEnded);
    }
    let latest = ended.iter().map(|e| e.cutoff).max();
    let issued_at = latest.map_or(now, |cutoff| now.max(cutoff.plus(1)));
    let behind_ms = issued_at.since(now);
    if behind_ms > policy.clock_skew_ms { Err(MintError::ClockBehind { behind_ms }) } else { Ok(issued_at) }
}
