//! A credential's way to its verdict.
//!
//! [`authenticate`] answers "is this genuine?": parse, issuer, key, signature, claims. Its successes may be cached, because
//! nothing that it establishes changes with time. [`judge`] answers "is it good, now, for this?" and runs on every call:
//! expiry, revocation, staleness, demands, rules, addresses, rate. Only [`judge`] can make an [`Allowed`].

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Map, Value};

use crate::{
    addresses::AddressVerdict,
    claims::{self, Claims, WrongType},
    jose::{Algorithm, compact},
    keys::{KeyEntry, KeySet},
    mint::API_KEY_PREFIX,
    names::PolicyName,
    opaque::OpaqueKey,
    policy::{OwnIssuer, Policy, TrustedIssuer},
    ratelimit::RateLimiter,
    revocation::{IdHasher, Kind, Revocable, RevocationIds, RevocationSet},
    roles, rules,
    time::UnixMillis,
    verdict::{Denial, DenialReason, Refusal, RevokedBy},
};

#[cfg(test)]
mod tests;

/// How many keys are tried for a token that names none.
pub const MAX_KEYS_TRIED: usize = 8;

/// What a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// An access token of the policy's own issuer.
    Access,
    /// An API key of the policy, or an imported opaque key.
    ApiKey,
    /// A trusted issuer's token.
    External,
}

impl CredentialKind {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api_key",
            Self::External => "external",
        }
    }
}

/// A genuine credential: signed by a key that the policy trusts for its issuer, with claims in order. Not yet allowed
/// anything. Made by [`authenticate`] alone.
#[derive(Clone, Debug)]
pub struct Authenticated {
    kind: CredentialKind,
    issuer: Option<Arc<str>>,
    subject: String,
    audience: Vec<String>,
    session_id: Option<String>,
    token_id: Option<String>,
    times: Times,
    /// The instant that cut-offs are compared with; `None` dies by any.
    issued_for_cutoffs: Option<UnixMillis>,
    roles: Vec<String>,
    permissions: Vec<String>,
    scopes: Vec<String>,
    amr: Vec<String>,
    claims: Map<String, Value>,
    key_revoked: bool,
    revocation_ids: RevocationIds,
    rate_id: u128,
    cacheable: bool,
    last_clean: LastClean,
}

/// The version of the revocation set at which a credential was last found in it nowhere; 0 before that. While the set keeps
/// that version every lookup answers as before, so a cached credential spares its lookups.
#[derive(Debug, Default)]
struct LastClean(AtomicU64);

impl Clone for LastClean {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The instants at which an authenticated credential begins and ceases to be good.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    not_before: Option<UnixMillis>,
    issued_at: Option<UnixMillis>,
    expires: Option<UnixMillis>,
    /// An end that an administrator wrote: exact, no skew is added to it.
    ends: Option<UnixMillis>,
    /// From here on its issuer's entry trusts nobody.
    trusted_until: Option<UnixMillis>,
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
    /// All its claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
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

/// What a caller asks about a credential. Everything in it must hold.
#[derive(Clone, Debug, Default)]
pub struct Ask<'a> {
    /// The demands.
    pub require: Require<'a>,
    /// The request that the credential came with, as far as the caller tells.
    pub request: rules::Request<'a>,
    /// The client that sent it, as far as the caller tells.
    pub client: rules::Client<'a>,
}

/// Demands, all of which must hold.
#[derive(Clone, Debug, Default)]
pub struct Require<'a> {
    /// Each must be granted by a role of the credential.
    pub permissions: Vec<Cow<'a, str>>,
    /// Each must be among its roles.
    pub roles: Vec<Cow<'a, str>>,
    /// Each must be among its scopes.
    pub scopes: Vec<Cow<'a, str>>,
    /// Each must be among its audiences.
    pub audiences: Vec<Cow<'a, str>>,
}

/// The state of the world at the moment of a call.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The time.
    pub now: UnixMillis,
    /// What is revoked.
    pub revocations: &'a RevocationSet,
    /// How long ago the revocations were last known to be complete, milliseconds; `None`: never.
    pub feed_age_ms: Option<u64>,
    /// Whether a position that the caller asked for has not been reached.
    pub behind: bool,
    /// Verifications per subject so far.
    pub rate_limiter: &'a RateLimiter,
}

/// A credential that is good now for what was asked. The only proof of permission there is.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    credential: &'a Authenticated,
    stale: bool,
    stale_ms: Option<u64>,
}

impl<'a> Allowed<'a> {
    /// The credential.
    pub fn credential(&self) -> &'a Authenticated {
        self.credential
    }
    /// Whether revocations were older than the policy's bound (and the policy allows that).
    pub fn stale(&self) -> bool {
        self.stale
    }
    /// When stale: how old they were, milliseconds; `None` if nothing is known. Otherwise 0.
    pub fn stale_ms(&self) -> Option<u64> {
        self.stale_ms
    }
}

/// Is this credential genuine? Everything that a cache may spare: size, shape, issuer, key, signature, claims.
pub fn authenticate(policy: &Policy, token: &str, now: UnixMillis, hasher: &IdHasher) -> Result<Authenticated, Refusal> {
    if token.len() > compact::MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed("the token is over 16 KiB"));
    }
    if token.bytes().filter(|b| *b == b'.').count() != 2 {
        return authenticate_opaque(policy, token, now, hasher);
    }
    let (text, is_api_key) = match token.strip_prefix(API_KEY_PREFIX) {
        Some(rest) => (rest, true),
        None => (token, false),
    };
    let jws = compact::parse(text).map_err(|malformed| Refusal::Malformed(malformed.0))?;
    // Names the keys to try; nothing of it is believed before the signature holds.
    let claims = Claims::new(jws.payload);
    let source = source_of(policy, &claims, is_api_key, now)?;
    let header = &jws.header;
    let key = find_key(source.keys(), source.kid(header.kid.as_deref()), &header.alg, jws.signing_input, &jws.signature)?;
    admit(policy, &source, claims, header.typ.as_deref(), key, now, hasher)
}

/// Is it good, now, for this? Everything that time, the feed or the caller can change.
pub fn judge<'a>(
    policy: &Policy,
    credential: &'a Authenticated,
    ask: &Ask<'_>,
    world: &World<'_>,
) -> Result<Allowed<'a>, Refusal> {
    check_times(&credential.times, world.now, policy.clock_skew_ms)?;
    check_revocation(credential, world.revocations)?;
    let (stale, stale_ms) = check_staleness(policy, world)?;
    check_demands(policy, credential, ask, world)?;
    if let Some(limit) = policy.rate_limit {
        world
            .rate_limiter
            .try_acquire(credential.rate_id, limit, world.now)
            .map_err(|retry_after_s| Refusal::RateLimited { retry_after_s })?;
    }
    Ok(Allowed { credential, stale, stale_ms })
}

/// Who is asked for the key: one source, so that no other issuer's or policy's keys are ever tried.
enum Source<'p> {
    Access(&'p OwnIssuer),
    ApiKey(&'p OwnIssuer),
    Trusted(&'p TrustedIssuer),
}

impl<'p> Source<'p> {
    fn keys(&self) -> &'p KeySet {
        match self {
            Self::Access(own) => &own.access,
            Self::ApiKey(own) => &own.api_key,
            Self::Trusted(trusted) => &trusted.keys,
        }
    }

    /// Symmetric keys have no kid and ignore a token's.
    fn kid<'t>(&self, kid: Option<&'t str>) -> Option<&'t str> {
        match self {
            Self::Trusted(trusted) if trusted.algorithms.iter().any(|a| a.is_symmetric()) => None,
            _ => kid,
        }
    }
}

fn source_of<'p>(policy: &'p Policy, claims: &Claims, is_api_key: bool, now: UnixMillis) -> Result<Source<'p>, Refusal> {
    let issuer = claims.issuer.as_ref().map_err(|_| Refusal::UntrustedIssuer)?.as_deref();
    if let Some(own) = policy.own.as_ref().filter(|own| Some(&*own.issuer) == issuer) {
        return Ok(if is_api_key { Source::ApiKey(own) } else { Source::Access(own) });
    }
    // The prefix is the policy's own: nobody else's tokens carry it.
    let named = || policy.trusted.iter().find(|t| t.issuer.as_deref() == issuer);
    let any = || policy.trusted.iter().find(|t| t.any_issuer);
    let trusted = (!is_api_key).then(|| named().or_else(any)).flatten();
    match trusted {
        Some(trusted) if trusted.not_after.is_none_or(|end| now < end) => Ok(Source::Trusted(trusted)),
        _ => Err(Refusal::UntrustedIssuer),
    }
}

fn find_key<'k>(
    keys: &'k KeySet,
    kid: Option<&str>,
    alg: &str,
    signing_input: &[u8],
    signature: &[u8],
) -> Result<&'k KeyEntry, Refusal> {
    let named: Vec<&KeyEntry> = match kid {
        Some(kid) => keys.with_kid(kid).collect(),
        None => keys.all().iter().collect(),
    };
    if kid.is_some() && named.is_empty() {
        return Err(Refusal::UnknownKey);
    }
    let alg: Algorithm = alg.parse().map_err(|_| Refusal::BadSignature)?;
    named
        .into_iter()
        .filter(|entry| entry.key.fits(alg))
        .take(MAX_KEYS_TRIED)
        .find(|entry| entry.key.verify(alg, signing_input, signature))
        .ok_or(Refusal::BadSignature)
}

/// The claims of a token whose signature holds, in the order in which their refusals win.
fn admit(
    policy: &Policy,
    source: &Source<'_>,
    claims: Claims,
    typ: Option<&str>,
    key: &KeyEntry,
    now: UnixMillis,
    hasher: &IdHasher,
) -> Result<Authenticated, Refusal> {
    let times = Times {
        not_before: claims.not_before.unwrap_or_default(),
        issued_at: claims.issued_at.unwrap_or_default(),
        expires: claims.expires.unwrap_or_default(),
        ends: None,
        trusted_until: match source {
            Source::Trusted(trusted) => trusted.not_after,
            Source::Access(_) | Source::ApiKey(_) => None,
        },
    };
    check_times(&times, now, policy.clock_skew_ms)?;
    check_audience(policy, source, &claims)?;
    check_claims(source, &claims, typ, now)?;

    let granted = granted(source, &claims)?;
    let (kind, own) = match source {
        Source::Access(_) => (CredentialKind::Access, true),
        Source::ApiKey(_) => (CredentialKind::ApiKey, true),
        Source::Trusted(_) => (CredentialKind::External, false),
    };
    let issuer = match source {
        Source::Access(own) | Source::ApiKey(own) => Some(own.issuer.clone()),
        Source::Trusted(trusted) => trusted.issuer.clone(),
    };
    let issued_for_cutoffs = match (own, claims.issued_at_ms) {
        (true, Ok(Some(ms))) => Some(ms),
        // A whole second's tokens count as issued at its start: a cut-off within it ends them all.
        _ => times.issued_at.map(|t| UnixMillis::from_secs(t.as_secs())),
    };
    let cacheable = match source {
        Source::Trusted(trusted) => trusted.max_ttl_ms.is_none() || times.issued_at.is_some(),
        Source::Access(_) | Source::ApiKey(_) => true,
    };
    let draft = Draft {
        kind,
        own,
        issuer,
        subject: granted.subject,
        audience: claims.audience.map_err(invalid)?.unwrap_or_default(),
        session_id: claims.session_id.map_err(invalid)?,
        token_id: claims.token_id.map_err(invalid)?,
        kid: key.key.kid().map(str::to_owned),
        times,
        issued_for_cutoffs,
        roles: granted.roles,
        scopes: granted.scopes,
        amr: claims.amr.map_err(invalid)?.unwrap_or_default(),
        claims: claims.all,
        key_revoked: key.revoked,
        cacheable,
    };
    Ok(draft.finish(policy, hasher))
}

fn authenticate_opaque(policy: &Policy, token: &str, now: UnixMillis, hasher: &IdHasher) -> Result<Authenticated, Refusal> {
    let Some(opaque) = &policy.opaque else {
        return Err(Refusal::Malformed("not a compact JWS of three parts"));
    };
    let key: &OpaqueKey = opaque.lookup(token).ok_or(Refusal::UnknownKey)?;
    let times = Times { expires: key.not_after, ends: key.not_after, ..Times::default() };
    check_times(&times, now, policy.clock_skew_ms)?;
    let draft = Draft {
        kind: CredentialKind::ApiKey,
        own: false,
        issuer: None,
        subject: key.subject.clone(),
        audience: policy.audiences.clone(),
        session_id: None,
        token_id: Some(key.id()),
        kid: None,
        times,
        issued_for_cutoffs: None,
        roles: key.roles.clone(),
        scopes: key.scopes.clone(),
        amr: Vec::new(),
        claims: Map::new(),
        key_revoked: false,
        cacheable: true,
    };
    Ok(draft.finish(policy, hasher))
}

/// An authenticated credential before permissions and revocation names are worked out.
struct Draft {
    kind: CredentialKind,
    own: bool,
    issuer: Option<Arc<str>>,
    subject: String,
    audience: Vec<String>,
    session_id: Option<String>,
    token_id: Option<String>,
    kid: Option<String>,
    times: Times,
    issued_for_cutoffs: Option<UnixMillis>,
    roles: Vec<String>,
    scopes: Vec<String>,
    amr: Vec<String>,
    claims: Map<String, Value>,
    key_revoked: bool,
    cacheable: bool,
}

impl Draft {
    fn finish(self, policy: &Policy, hasher: &IdHasher) -> Authenticated {
        let mut permissions = policy.roles.permissions_of(&self.roles);
        if self.kind == CredentialKind::ApiKey && self.own {
            permissions = self.scopes.iter().filter(|s| roles::grants(&permissions, s)).cloned().collect();
        }
        let revocation_ids = hasher.ids_of(&Revocable {
            policy: &policy.name,
            issuer: self.issuer.as_deref(),
            own: self.own,
            access_ring: self.kind == CredentialKind::Access,
            token_kind: if self.kind == CredentialKind::ApiKey { Kind::ApiKey } else { Kind::Token },
            token_id: self.token_id.as_deref(),
            session_id: self.session_id.as_deref(),
            subject: Some(&self.subject),
            kid: self.kid.as_deref(),
        });
        let rate_id = rate_id(hasher, &policy.name, &self);
        Authenticated {
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
            key_revoked: self.key_revoked,
            revocation_ids,
            rate_id,
            cacheable: self.cacheable,
            last_clean: LastClean::default(),
        }
    }
}

/// Verifications are counted per subject of an issuer, and per key for API keys.
fn rate_id(hasher: &IdHasher, policy: &PolicyName, draft: &Draft) -> u128 {
    match (draft.kind, &draft.token_id) {
        (CredentialKind::ApiKey, Some(id)) => hasher.rate_id(policy, draft.issuer.as_deref(), "key", id),
        _ => hasher.rate_id(policy, draft.issuer.as_deref(), "subject", &draft.subject),
    }
}

fn check_times(times: &Times, now: UnixMillis, skew_ms: i64) -> Result<(), Refusal> {
    if times.trusted_until.is_some_and(|end| now >= end) {
        return Err(Refusal::UntrustedIssuer);
    }
    let latest_start = now.plus(skew_ms);
    if [times.not_before, times.issued_at].into_iter().flatten().any(|start| start > latest_start) {
        return Err(Refusal::NotYetValid);
    }
    if times.expires.is_some_and(|end| now >= end.plus(skew_ms)) || times.ends.is_some_and(|end| now >= end) {
        return Err(Refusal::Expired);
    }
    Ok(())
}

fn check_audience(policy: &Policy, source: &Source<'_>, claims: &Claims) -> Result<(), Refusal> {
    let wanted = match source {
        Source::Trusted(trusted) => match &trusted.audiences {
            Some(audiences) => audiences,
            None => return Ok(()),
        },
        Source::Access(_) | Source::ApiKey(_) => &policy.audiences,
    };
    match &claims.audience {
        Ok(Some(audience)) if audience.iter().any(|a| wanted.contains(a)) => Ok(()),
        Ok(_) => Err(Refusal::WrongAudience),
        Err(wrong) => Err(invalid(*wrong)),
    }
}

fn check_claims(source: &Source<'_>, claims: &Claims, typ: Option<&str>, now: UnixMillis) -> Result<(), Refusal> {
    check_typ(source, typ)?;
    for wrong in [
        claims.subject.as_ref().err(),
        claims.audience.as_ref().err(),
        claims.expires.as_ref().err(),
        claims.not_before.as_ref().err(),
        claims.issued_at.as_ref().err(),
    ] {
        if let Some(wrong) = wrong {
            return Err(invalid(*wrong));
        }
    }
    let expires = claims.expires.unwrap_or_default();
    match source {
        Source::Access(_) | Source::ApiKey(_) => {
            claims.issued_at_ms.map_err(invalid)?;
            if expires.is_none() {
                return Err(Refusal::InvalidClaims("exp is missing"));
            }
            if !matches!(claims.token_id, Ok(Some(_))) {
                return Err(Refusal::InvalidClaims("jti is missing or not a string"));
            }
        }
        Source::Trusted(trusted) => {
            let is_refresh = |name: &str| {
                claims.all.get(name).and_then(Value::as_str).is_some_and(|v| v.eq_ignore_ascii_case("refresh"))
            };
            if ["type", "token_use", "typ"].into_iter().any(is_refresh) {
                return Err(Refusal::InvalidClaims("a refresh token is no access token"));
            }
            check_life(trusted, expires, claims.issued_at.unwrap_or_default().unwrap_or(now))?;
            if trusted.matches.iter().any(|m| claims.all.get(&m.claim) != Some(&m.value)) {
                return Err(Refusal::InvalidClaims("a claim is not what the trusted issuer's entry demands"));
            }
        }
    }
    Ok(())
}

/// RFC 9068 section 4 for our own tokens; explicit typing (RFC 8725 section 3.11) keeps other kinds of JWT out.
fn check_typ(source: &Source<'_>, typ: Option<&str>) -> Result<(), Refusal> {
    let typ = typ.map(|t| {
        let lower = t.to_ascii_lowercase();
        lower.strip_prefix("application/").map_or(lower.clone(), str::to_owned)
    });
    let fits = match source {
        Source::Access(_) => typ.as_deref() == Some("at+jwt"),
        Source::ApiKey(_) => typ.as_deref() == Some("api-key+jwt"),
        Source::Trusted(_) => matches!(typ.as_deref(), None | Some("jwt" | "at+jwt")),
    };
    if fits { Ok(()) } else { Err(Refusal::InvalidClaims("typ is not that of an access token")) }
}

fn check_life(trusted: &TrustedIssuer, expires: Option<UnixMillis>, start: UnixMillis) -> Result<(), Refusal> {
    match (trusted.max_ttl_ms, expires) {
        (_, None) => Err(Refusal::InvalidClaims("exp is missing")),
        (Some(max), Some(end)) if end.since(start) > max => {
            Err(Refusal::InvalidClaims("the token lives longer than the trusted issuer's maxTTL"))
        }
        _ => Ok(()),
    }
}

/// Whom a token speaks for, and what its issuer says that it may do.
struct Granted {
    subject: String,
    roles: Vec<String>,
    scopes: Vec<String>,
}

fn granted(source: &Source<'_>, claims: &Claims) -> Result<Granted, Refusal> {
    let own_scopes = || claims::scopes(&claims.all).map_err(invalid);
    let (subject, roles, scopes) = match source {
        Source::Access(_) | Source::ApiKey(_) => {
            let roles = claims::strings(&claims.all, "roles", WrongType("roles is not a list of strings"));
            (claims.subject.clone().map_err(invalid)?, roles.map_err(invalid)?.unwrap_or_default(), own_scopes()?)
        }
        Source::Trusted(trusted) => {
            let mapped = trusted
                .mappings
                .apply(&claims.all)
                .map_err(|_| Refusal::InvalidClaims("a claim mapping of the trusted issuer's entry failed"))?;
            let scopes = match mapped.scopes {
                Some(scopes) => scopes,
                None => own_scopes()?,
            };
            let subject = match mapped.subject {
                Some(subject) => Some(subject),
                None => claims.subject.clone().map_err(invalid)?,
            };
            (subject, mapped.roles, scopes)
        }
    };
    match subject {
        Some(subject) if !subject.is_empty() => Ok(Granted { subject, roles, scopes }),
        _ => Err(Refusal::InvalidClaims("sub is missing")),
    }
}

fn check_revocation(credential: &Authenticated, revocations: &RevocationSet) -> Result<(), Refusal> {
    // Read before the lookups: an entry that comes in between them and the mark makes the mark old.
    let version = revocations.version();
    if credential.last_clean.0.load(Relaxed) != version {
        if let Some(hit) = revocations.lookup(&credential.revocation_ids, credential.issued_for_cutoffs) {
            return Err(Refusal::Revoked(hit.by));
        }
        credential.last_clean.0.store(version, Relaxed);
    }
    if credential.key_revoked { Err(Refusal::Revoked(RevokedBy::Key)) } else { Ok(()) }
}

fn check_staleness(policy: &Policy, world: &World<'_>) -> Result<(bool, Option<u64>), Refusal> {
    if world.behind {
        return Err(Refusal::Stale);
    }
    let bound = u64::try_from(policy.staleness.max_ms).unwrap_or(0);
    match world.feed_age_ms {
        Some(age) if age <= bound => Ok((false, Some(0))),
        _ if !policy.staleness.allow => Err(Refusal::Stale),
        age => Ok((true, age)),
    }
}

fn check_demands(
    policy: &Policy,
    credential: &Authenticated,
    ask: &Ask<'_>,
    world: &World<'_>,
) -> Result<(), Refusal> {
    let deny = |reason| Err(Refusal::Denied(Denial::of(reason)));
    let all = |wanted: &[Cow<'_, str>], held: &[String]| wanted.iter().all(|w| held.iter().any(|h| *h == **w));
    if !ask.require.permissions.iter().all(|wanted| roles::grants(&credential.permissions, wanted)) {
        return deny(DenialReason::Permission);
    }
    if !all(&ask.require.roles, &credential.roles) {
        return deny(DenialReason::Role);
    }
    if !all(&ask.require.scopes, &credential.scopes) {
        return deny(DenialReason::Scope);
    }
    if !all(&ask.require.audiences, &credential.audience) {
        return deny(DenialReason::Audience);
    }
    if !policy.rules.is_empty() {
        check_rules(policy, credential, ask, world.now)?;
    }
    check_address(policy, ask, world)
}

fn check_rules(policy: &Policy, credential: &Authenticated, ask: &Ask<'_>, now: UnixMillis) -> Result<(), Refusal> {
    let input = rules::RuleInput {
        credential: rules::Facts {
            subject: &credential.subject,
            kind: credential.kind.word(),
            issuer: credential.issuer.as_deref().unwrap_or_default(),
            roles: &credential.roles,
            permissions: &credential.permissions,
            scopes: &credential.scopes,
            audience: &credential.audience,
            amr: &credential.amr,
            claims: &credential.claims,
        },
        request: ask.request.clone(),
        client: ask.client.clone(),
        now,
    };
    match policy.rules.evaluate(&input) {
        None => Ok(()),
        Some(denial) => Err(Refusal::Denied(Denial {
            reason: DenialReason::Rule,
            rule: Some(denial.rule),
            missing: denial.missing,
        })),
    }
}

fn check_address(policy: &Policy, ask: &Ask<'_>, world: &World<'_>) -> Result<(), Refusal> {
    match policy.addresses.judge(ask.client.ip) {
        AddressVerdict::Allowed => {}
        AddressVerdict::Denied => return Err(Refusal::Denied(Denial::of(DenialReason::Ip))),
        AddressVerdict::Missing => {
            return Err(Refusal::Denied(Denial { reason: DenialReason::Ip, rule: None, missing: vec!["client.ip"] }));
        }
    }
    // A call without an address skips blocks: only the policy's own lists demand one.
    match ask.client.ip {
        Some(ip) if world.revocations.ip_blocked(&policy.name, ip, world.now) => {
            Err(Refusal::Denied(Denial::of(DenialReason::Ip)))
        }
        _ => Ok(()),
    }
}

fn invalid(wrong: WrongType) -> Refusal {
    Refusal::InvalidClaims(wrong.0)
}
