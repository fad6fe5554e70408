//! A genuine credential: what is known of it, and the moments between which it can be good.

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use serde_json::{Map, Value};

use crate::{
    claims::{ClaimSet, ClaimSource as _, claims_tree},
    names::PolicyName,
    policy::Policy,
    revocation::{IdHasher, Kind, Revocable, RevocationIds},
    roles,
    time::UnixMillis,
    verdict::Refusal,
};

/// What a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// An access token of the policy's own issuer.
    Access,
    /// An API key of the policy, or an imported opaque key.
    ApiKey,
    /// A trusted issuer's token.
    External,
    /// A break-glass token of the policy's own issuer: each use is recorded.
    Emergency,
}

impl CredentialKind {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api_key",
            Self::External => "external",
            Self::Emergency => "emergency",
        }
    }
}

/// A genuine credential: signed by a key that the policy trusts for its issuer, with claims in order. Not yet allowed
/// anything. Made by [`authenticate`] alone.
///
/// In this order in memory: what is read on every call stands together at the beginning.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Authenticated {
    pub(super) times: Times,
    pub(super) last_clean: LastClean,
    pub(super) key_revoked: bool,
    pub(super) kind: CredentialKind,
    pub(super) cacheable: bool,
    /// The instant that cut-offs are compared with; `None` dies by any.
    pub(super) issued_for_cutoffs: Option<UnixMillis>,
    pub(super) revocation_ids: RevocationIds,
    /// 0 where nothing limits the rate.
    pub(super) rate_id: u128,
    pub(super) permissions: Arc<[String]>,
    pub(super) roles: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) audience: Vec<String>,
    pub(super) subject: String,
    pub(super) issuer: Option<Arc<str>>,
    pub(super) session_id: Option<String>,
    pub(super) token_id: Option<String>,
    pub(super) amr: Vec<String>,
    /// In canonical JSON.
    pub(super) claims: Box<str>,
    /// The same as rules see them: made with the credential where there are rules.
    pub(super) claims_tree: OnceLock<Map<String, Value>>,
}

/// The version of the revocation set at which a credential was last found in it nowhere; 0 before that. While the set keeps
/// that version every lookup answers as before, so a cached credential spares its lookups.
#[derive(Debug, Default)]
pub(super) struct LastClean(pub(super) AtomicU64);

impl Clone for LastClean {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The instants at which an authenticated credential begins and ceases to be good.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) not_before: Option<UnixMillis>,
    pub(super) issued_at: Option<UnixMillis>,
    pub(super) expires: Option<UnixMillis>,
    /// An end that an administrator wrote: exact, no skew is added to it.
    pub(super) ends: Option<UnixMillis>,
    /// From here on its issuer's entry trusts nobody.
    pub(super) trusted_until: Option<UnixMillis>,
}

impl Times {
    /// Whether `now` is between begin and end.
    pub(super) fn check(&self, now: UnixMillis, skew_ms: i64) -> Result<(), Refusal> {
        if self.trusted_until.is_some_and(|end| now >= end) {
            return Err(Refusal::UntrustedIssuer);
        }
        let latest_start = now.plus(skew_ms);
        if [self.not_before, self.issued_at].into_iter().flatten().any(|start| start > latest_start) {
            return Err(Refusal::NotYetValid);
        }
        if self.expires.is_some_and(|end| now >= end.plus(skew_ms)) || self.ends.is_some_and(|end| now >= end) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

impl Authenticated {
    /// What it is.
    pub fn kind(&self) -> CredentialKind {
        self.kind
    }
    /// Its `iss`; `None` for opaque keys and for tokens without one.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }
    /// Whom it speaks for.
    pub fn subject(&self) -> &str {
        &self.subject
    }
    /// Whom it is for.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }
    /// Its session, if it has one.
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }
    /// `jti`, or the SHA-256 of an opaque key in hex.
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }
    /// `iat`.
    pub fn issued_at(&self) -> Option<UnixMillis> {
        self.times.issued_at
    }
    /// `exp`; `None` only where the policy lets a trusted issuer's tokens or an opaque key live without.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        self.times.expires
    }
    /// Its roles, mapped where a mapping applies.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }
    /// What the policy's roles grant it, wildcards included; an API key's are its scopes within that.
    pub fn permissions(&self) -> &[String] {
        &self.permissions
    }
    /// Its scopes.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
    /// How its subject was authenticated (RFC 8176).
    pub fn amr(&self) -> &[String] {
        &self.amr
    }
    /// All its claims: a JSON object, members by name, no white space.
    pub fn claims_json(&self) -> &str {
        &self.claims
    }
    /// The same as a tree, which is made when it is first asked for.
    pub fn claims(&self) -> &Map<String, Value> {
        self.claims_tree.get_or_init(|| claims_tree(&self.claims))
    }
    /// One of its claims, read from the text.
    pub fn claim(&self, name: &str) -> Option<Value> {
        ClaimSet::parse(self.claims.as_bytes()).ok()?.claim(name)
    }
    /// The tree, if it was made.
    pub fn claims_made(&self) -> Option<&Map<String, Value>> {
        self.claims_tree.get()
    }
    /// Whether the answer stands for as long as policy and token do. False only where "now" took part in it.
    pub fn cacheable(&self) -> bool {
        self.cacheable
    }
    /// The names under which it can be revoked, hashed.
    pub fn revocation_ids(&self) -> &RevocationIds {
        &self.revocation_ids
    }
}

/// An authenticated credential before permissions and revocation names are worked out.
pub(super) struct Draft<'a> {
    pub(super) kind: CredentialKind,
    pub(super) own: bool,
    pub(super) issuer: Option<Arc<str>>,
    pub(super) subject: String,
    pub(super) audience: Vec<String>,
    pub(super) session_id: Option<String>,
    pub(super) token_id: Option<String>,
    pub(super) kid: Option<&'a str>,
    pub(super) times: Times,
    pub(super) issued_for_cutoffs: Option<UnixMillis>,
    pub(super) roles: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) amr: Vec<String>,
    pub(super) claims: Box<str>,
    pub(super) key_revoked: bool,
    pub(super) cacheable: bool,
}

impl Draft<'_> {
    /// The credential.
    pub(super) fn finish(self, policy: &Policy, hasher: &IdHasher) -> Authenticated {
        let mut permissions = policy.roles.shared_permissions_of(&self.roles);
        if self.kind == CredentialKind::ApiKey && self.own {
            permissions = self.scopes.iter().filter(|s| roles::grants(&permissions, s)).cloned().collect();
        }
        let revocation_ids = hasher.ids_of(&Revocable {
            policy: &policy.name,
            issuer: self.issuer.as_deref(),
            own: self.own,
            access_ring: matches!(self.kind, CredentialKind::Access | CredentialKind::Emergency),
            token_kind: if self.kind == CredentialKind::ApiKey { Kind::ApiKey } else { Kind::Token },
            token_id: self.token_id.as_deref(),
            session_id: self.session_id.as_deref(),
            subject: Some(&self.subject),
            kid: self.kid,
        });
        let rate_id = policy.rate_limit.map_or(0, |_| rate_id(hasher, &policy.name, &self));
        let credential = Authenticated {
            kind: self.kind,
            issuer: self.issuer,
            subject: self.subject,
            audience: self.audience,
            session_id: self.session_id,
            token_id: self.token_id,
            times: self.times,
            issued_for_cutoffs: self.issued_for_cutoffs,
            roles: self.roles,
            permissions,
            scopes: self.scopes,
            amr: self.amr,
            claims: self.claims,
            claims_tree: OnceLock::new(),
            key_revoked: self.key_revoked,
            revocation_ids,
            rate_id,
            cacheable: self.cacheable,
            last_clean: LastClean::default(),
        };
        if !policy.rules.is_empty() {
            credential.claims();
        }
        credential
    }
}

/// Verifications are counted per subject of an issuer, and per key for API keys.
fn rate_id(hasher: &IdHasher, policy: &PolicyName, draft: &Draft<'_>) -> u128 {
    match (draft.kind, &draft.token_id) {
        (CredentialKind::ApiKey, Some(id)) => hasher.rate_id(policy, draft.issuer.as_deref(), "key", id),
        _ => hasher.rate_id(policy, draft.issuer.as_deref(), "subject", &draft.subject),
    }
}
