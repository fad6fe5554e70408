//! Is this credential genuine? Parse, issuer, key, signature, claims.

use serde_json::Value;

use super::{
    credential::{Authenticated, CredentialKind, Draft, Times},
    emergency::emergency_reason,
};
use crate::{
    claims::{self, ClaimSet, ClaimSource as _, WrongType},
    jose::{Algorithm, Decoded, MAX_TOKEN_BYTES, Malformed},
    keys::{KeyEntry, KeySet},
    mint::{ACCESS_TOKEN_TYPE, API_KEY_PREFIX, API_KEY_TYPE, EMERGENCY_CLAIM, EMERGENCY_TOKEN_TYPE},
    opaque::OpaqueKey,
    policy::{OwnIssuer, Policy, TrustedIssuer},
    revocation::IdHasher,
    time::UnixMillis,
    verdict::Refusal,
};

type Claims = claims::Claims<ClaimSet>;

/// How many keys are tried for a token that names none.
pub const MAX_KEYS_TRIED: usize = 8;

/// Is this credential genuine? Everything that a cache may spare: size, shape, issuer, key, signature, claims.
pub fn authenticate(policy: &Policy, token: &str, now: UnixMillis, hasher: &IdHasher) -> Result<Authenticated, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed("the token is over 16 KiB"));
    }
    if token.bytes().filter(|b| *b == b'.').count() != 2 {
        return authenticate_opaque(policy, token, now, hasher);
    }
    let (text, is_api_key) = match token.strip_prefix(API_KEY_PREFIX) {
        Some(rest) => (rest, true),
        None => (token, false),
    };
    let malformed = |malformed: Malformed| Refusal::Malformed(malformed.0);
    let jws = Decoded::new(text).map_err(malformed)?;
    let header = jws.header().map_err(malformed)?;
    // Names the keys to try; nothing of it is believed before the signature holds.
    let claims = Claims::new(jws.claims().map_err(malformed)?);
    let source = source_of(policy, &claims, is_api_key, header.typ.as_deref(), now)?;
    let key = find_key(source.keys(), source.kid(header.kid.as_deref()), &header.alg, &jws)?;
    admit(policy, &source, claims, header.typ.as_deref(), key, now, hasher)
}

/// Who is asked for the key: one source, so that no other issuer's or policy's keys are ever tried.
enum Source<'p> {
    Access(&'p OwnIssuer),
    /// The access ring as well: only the type tells them apart, and the signature covers it.
    Emergency(&'p OwnIssuer),
    ApiKey(&'p OwnIssuer),
    Trusted(&'p TrustedIssuer),
}

impl<'p> Source<'p> {
    fn keys(&self) -> &'p KeySet {
        match self {
            Self::Access(own) | Self::Emergency(own) => &own.access,
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

fn source_of<'p>(
    policy: &'p Policy,
    claims: &Claims,
    is_api_key: bool,
    typ: Option<&str>,
    now: UnixMillis,
) -> Result<Source<'p>, Refusal> {
    let issuer = claims.issuer.as_ref().map_err(|_| Refusal::UntrustedIssuer)?.as_deref();
    if let Some(own) = policy.own.as_ref().filter(|own| Some(&*own.issuer) == issuer) {
        return Ok(match is_api_key {
            true => Source::ApiKey(own),
            false if is_type(typ, EMERGENCY_TOKEN_TYPE) => Source::Emergency(own),
            false => Source::Access(own),
        });
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

fn find_key<'k>(keys: &'k KeySet, kid: Option<&str>, alg: &str, jws: &Decoded<'_>) -> Result<&'k KeyEntry, Refusal> {
    let named = || keys.all().iter().filter(|entry| kid.is_none_or(|kid| entry.key.kid() == Some(kid)));
    if kid.is_some() && named().next().is_none() {
        return Err(Refusal::UnknownKey);
    }
    let alg: Algorithm = alg.parse().map_err(|_| Refusal::BadSignature)?;
    named()
        .filter(|entry| entry.key.fits(alg))
        .take(MAX_KEYS_TRIED)
        .find(|entry| entry.key.verify(alg, jws.signing_input(), jws.signature()))
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
    let (ends, trusted_until) = match source {
        Source::Emergency(own) => (own.emergency.as_ref().map(|bounds| bounds.not_after), None),
        Source::Trusted(trusted) => (None, trusted.not_after),
        Source::Access(_) | Source::ApiKey(_) => (None, None),
    };
    let times = Times {
        not_before: claims.not_before.unwrap_or_default(),
        issued_at: claims.issued_at.unwrap_or_default(),
        expires: claims.expires.unwrap_or_default(),
        ends,
        trusted_until,
    };
    times.check(now, policy.clock_skew_ms)?;
    check_audience(policy, source, &claims)?;
    check_claims(source, &claims, typ, now)?;

    let granted = granted(source, &claims)?;
    if let Source::Emergency(own) = source {
        check_emergency(own, &claims, &granted.roles)?;
    }
    let (kind, own) = match source {
        Source::Access(_) => (CredentialKind::Access, true),
        Source::Emergency(_) => (CredentialKind::Emergency, true),
        Source::ApiKey(_) => (CredentialKind::ApiKey, true),
        Source::Trusted(_) => (CredentialKind::External, false),
    };
    let issuer = match source {
        Source::Access(own) | Source::Emergency(own) | Source::ApiKey(own) => Some(own.issuer.clone()),
        Source::Trusted(trusted) => trusted.issuer.clone(),
    };
    let issued_for_cutoffs = match (own, claims.issued_at_ms) {
        (true, Ok(Some(ms))) => Some(ms),
        // A whole second's tokens count as issued at its start: a cut-off within it ends them all.
        _ => times.issued_at.map(|t| UnixMillis::from_secs(t.as_secs())),
    };
    let cacheable = match source {
        Source::Trusted(trusted) => trusted.max_ttl_ms.is_none() || times.issued_at.is_some(),
        Source::Access(_) | Source::Emergency(_) | Source::ApiKey(_) => true,
    };
    let draft = Draft {
        kind,
        own,
        issuer,
        subject: granted.subject,
        audience: claims.audience.map_err(invalid)?.unwrap_or_default(),
        session_id: claims.session_id.map_err(invalid)?,
        token_id: claims.token_id.map_err(invalid)?,
        kid: key.key.kid(),
        times,
        issued_for_cutoffs,
        roles: granted.roles,
        scopes: granted.scopes,
        amr: claims.amr.map_err(invalid)?.unwrap_or_default(),
        claims: claims.all.into_json(),
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
    times.check(now, policy.clock_skew_ms)?;
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
        claims: "{}".into(),
        key_revoked: false,
        cacheable: true,
    };
    Ok(draft.finish(policy, hasher))
}

fn check_audience(policy: &Policy, source: &Source<'_>, claims: &Claims) -> Result<(), Refusal> {
    let wanted = match source {
        Source::Trusted(trusted) => match &trusted.audiences {
            Some(audiences) => audiences,
            None => return Ok(()),
        },
        Source::Access(_) | Source::Emergency(_) | Source::ApiKey(_) => &policy.audiences,
    };
    match &claims.audience {
        Ok(Some(audience)) if audience.iter().any(|a| wanted.contains(a)) => Ok(()),
        Ok(_) => Err(Refusal::WrongAudience),
        Err(wrong) => Err(invalid(*wrong)),
    }
}

fn check_claims(source: &Source<'_>, claims: &Claims, typ: Option<&str>, now: UnixMillis) -> Result<(), Refusal> {
    check_typ(source, typ)?;
    let wrong = [
        claims.subject.as_ref().err(),
        claims.audience.as_ref().err(),
        claims.expires.as_ref().err(),
        claims.not_before.as_ref().err(),
        claims.issued_at.as_ref().err(),
    ];
    if let Some(first) = wrong.into_iter().flatten().next() {
        return Err(invalid(*first));
    }
    let expires = claims.expires.unwrap_or_default();
    match source {
        Source::Access(_) | Source::Emergency(_) | Source::ApiKey(_) => {
            claims.issued_at_ms.map_err(invalid)?;
            if expires.is_none() {
                return Err(Refusal::InvalidClaims("exp is missing"));
            }
            if !matches!(claims.token_id, Ok(Some(_))) {
                return Err(Refusal::InvalidClaims("jti is missing or not a string"));
            }
            if !matches!(source, Source::Emergency(_)) && claims.all.claim(EMERGENCY_CLAIM).is_some() {
                return Err(Refusal::InvalidClaims("only an emergency token has the claim emergency"));
            }
        }
        Source::Trusted(trusted) => {
            let is_refresh =
                |name: &str| matches!(claims.all.claim(name), Some(Value::String(v)) if v.eq_ignore_ascii_case("refresh"));
            if ["type", "token_use", "typ"].into_iter().any(is_refresh) {
                return Err(Refusal::InvalidClaims("a refresh token is no access token"));
            }
            check_life(trusted, expires, claims.issued_at.unwrap_or_default().unwrap_or(now))?;
            if trusted.matches.iter().any(|m| claims.all.claim(&m.claim).as_ref() != Some(&m.value)) {
                return Err(Refusal::InvalidClaims("a claim is not what the trusted issuer's entry demands"));
            }
        }
    }
    Ok(())
}

/// RFC 9068 section 4 for our own tokens; explicit typing (RFC 8725 section 3.11) keeps other kinds of JWT out.
fn check_typ(source: &Source<'_>, typ: Option<&str>) -> Result<(), Refusal> {
    let fits = match source {
        Source::Access(_) => is_type(typ, ACCESS_TOKEN_TYPE),
        Source::Emergency(_) => is_type(typ, EMERGENCY_TOKEN_TYPE),
        Source::ApiKey(_) => is_type(typ, API_KEY_TYPE),
        Source::Trusted(_) => typ.is_none() || is_type(typ, "jwt") || is_type(typ, ACCESS_TOKEN_TYPE),
    };
    if fits { Ok(()) } else { Err(Refusal::InvalidClaims("typ is not that of an access token")) }
}

/// Whether a header's `typ` is `wanted`; `application/` may be left out (RFC 7515 section 4.1.9).
fn is_type(typ: Option<&str>, wanted: &str) -> bool {
    const PREFIX: &str = "application/";
    let typ = typ.map(|typ| match typ.split_at_checked(PREFIX.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    });
    typ.is_some_and(|typ| typ.eq_ignore_ascii_case(wanted))
}

/// What the policy demands of an emergency token. Whether it takes them still is asked on every call.
fn check_emergency(own: &OwnIssuer, claims: &Claims, roles: &[String]) -> Result<(), Refusal> {
    let refuse = |what| Err(Refusal::InvalidClaims(what));
    let Some(bounds) = &own.emergency else { return refuse("the policy takes no emergency tokens") };
    if emergency_reason(&claims.all).is_none() {
        return refuse("emergency does not give a reason");
    }
    let (Ok(Some(start)), Ok(Some(end))) = (&claims.issued_at_ms, &claims.expires) else {
        return refuse("iat_ms is missing");
    };
    if end.since(*start) > bounds.max_ttl_ms {
        return refuse("the token lives longer than the policy's emergency.maxTTL");
    }
    if roles.iter().any(|role| !bounds.roles.contains(role)) {
        return refuse("the token has a role that is not among the policy's emergency.roles");
    }
    Ok(())
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
        Source::Access(_) | Source::Emergency(_) | Source::ApiKey(_) => {
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

fn invalid(wrong: WrongType) -> Refusal {
    Refusal::InvalidClaims(wrong.0)
}
