//! Rules between fields. Each stands here twice, side by side: as CEL for the API server, and as code for
//! `countersign dev`, where it can name the very field. A test holds both against each other.

use crate::{
    policy::{
        AuthPolicySpec, BreachedPasswordsMode, EffectivePolicy, Login, OauthClient, RevokedKey, Role, Rule, Switch,
        TokenAlgorithm, TrustedIssuer,
    },
    schema::Problem,
    session::{EffectiveSession, SessionSpec},
    values::Duration,
};

/// A rule for the API server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CelRule {
    /// Where it is attached: `spec.trustedIssuers[]`.
    pub(crate) at: &'static str,
    /// True: fine.
    pub(crate) cel: &'static str,
    /// What to tell.
    pub(crate) message: &'static str,
}

/// A rule over one type of resource.
struct Validation<E> {
    rule: CelRule,
    /// The fields that break it; empty: it holds. Rules about changes (`oldSelf`) break nowhere: whoever keeps the version
    /// before compares.
    broken: fn(&E) -> Vec<String>,
}

macro_rules! validations {
    ($($at:literal: $cel:expr, $message:literal, $broken:expr;)*) => {
        &[$(Validation { rule: CelRule { at: $at, cel: $cel, message: $message }, broken: $broken }),*]
    };
}

const POLICY: &[Validation<EffectivePolicy>] = validations! {
    "spec": "has(self.issuer) == has(oldSelf.issuer) && (!has(self.issuer) || self.issuer == oldSelf.issuer)",
        "issuer can't be changed: tokens and users belong to it; make another policy", |_| Vec::new();
    "spec": "has(self.issuer) || (has(self.trustedIssuers) && size(self.trustedIssuers) > 0)",
        "without issuer the policy only verifies others' tokens: name one in trustedIssuers, or set issuer",
        |p| when(p.issuer.is_none() && p.trusted_issuers.is_empty(), "spec.trustedIssuers");
    "spec": "has(self.issuer) || !has(self.login)",
        "login needs issuer", |p| when(p.issuer.is_none() && p.login.is_some(), "spec.login");
    "spec": "!has(self.issuer) || !self.issuer.startsWith('http:') || self.issuer.matches(r'^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?(/|$)')",
        "issuer must be https (http only for loopback)",
        |p| when(p.issuer.as_deref().is_some_and(|i| !is_https_or_loopback(i)), "spec.issuer");
    "spec": "!has(self.trustedIssuers) || self.trustedIssuers.all(a, !has(a.issuer) || ((!has(self.issuer) || self.issuer != a.issuer) && self.trustedIssuers.exists_one(b, has(b.issuer) && b.issuer == a.issuer)))",
        "no two trusted issuers, nor the policy itself, may have the same issuer", shared_issuers;
    "spec": "!has(self.trustedIssuers) || size(self.trustedIssuers.filter(a, !has(a.issuer))) <= 1",
        "only one trusted issuer can be for tokens without iss", |p| {
            let without = p.trusted_issuers.iter().enumerate().filter(|(_, t)| t.issuer.is_none());
            without.skip(1).map(|(i, _)| format!("spec.trustedIssuers[{i}].issuer")).collect()
        };
    "spec": "!has(self.login) || duration(has(self.login.sessions) && has(self.login.sessions.idleTimeout) ? self.login.sessions.idleTimeout : '168h') > duration(has(self.tokens) && has(self.tokens.accessTTL) ? self.tokens.accessTTL : '15m')",
        "sessions.idleTimeout must be longer than tokens.accessTTL",
        |p| when(p.login.as_ref().is_some_and(|l| l.sessions.idle_timeout <= p.tokens.access_ttl), "spec.login.sessions.idleTimeout");
    "spec.tokens": "!has(self.accessTTL) || (duration(self.accessTTL) >= duration('1s') && duration(self.accessTTL) <= duration('24h'))",
        "accessTTL must be from 1s to 24h",
        |p| when(!between(p.tokens.access_ttl, Duration::secs(1), Duration::hours(24)), "spec.tokens.accessTTL");
    "spec.tokens": "!has(self.clockSkew) || duration(self.clockSkew) <= duration('5m')",
        "clockSkew must be at most 5m", |p| when(p.tokens.clock_skew > Duration::minutes(5), "spec.tokens.clockSkew");
    "spec.tokens": "duration(has(self.refreshTTL) ? self.refreshTTL : '720h') >= duration(has(self.accessTTL) ? self.accessTTL : '15m')",
        "refreshTTL must not be shorter than accessTTL",
        |p| when(p.tokens.refresh_ttl < p.tokens.access_ttl, "spec.tokens.refreshTTL");
    "spec.tokens": "!has(self.refreshGrace) || duration(self.refreshGrace) <= duration('5m')",
        "refreshGrace must be at most 5m", |p| when(p.tokens.refresh_grace > Duration::minutes(5), "spec.tokens.refreshGrace");
    "spec.tokens": "!has(self.apiKeyMaxTTL) || duration(self.apiKeyMaxTTL) >= duration('1s')",
        "apiKeyMaxTTL must be at least 1s", |p| when(p.tokens.api_key_max_ttl < Duration::secs(1), "spec.tokens.apiKeyMaxTTL");
    "spec.keys": "duration(has(self.ackTimeout) ? self.ackTimeout : '5m') + duration(has(self.ackTimeout) ? self.ackTimeout : '5m') >= duration(has(self.absentAfter) ? self.absentAfter : '10m')",
        "ackTimeout must be at least half of absentAfter",
        |p| when(2 * p.keys.ack_timeout.as_millis() < p.keys.absent_after.as_millis(), "spec.keys.ackTimeout");
    "spec.keys": "!has(self.absentAfter) || duration(self.absentAfter) >= duration('1s')",
        "absentAfter must be at least 1s", |p| when(p.keys.absent_after < Duration::secs(1), "spec.keys.absentAfter");
    "spec.keys.rotation": "duration(has(self.interval) ? self.interval : '720h') > duration(has(self.prepublish) ? self.prepublish : '10m')",
        "interval must be longer than prepublish",
        |p| when(p.keys.rotation.interval <= p.keys.rotation.prepublish, "spec.keys.rotation.interval");
    "spec.keys.rotation": "duration(has(self.apiKeyInterval) ? self.apiKeyInterval : '2160h') > duration(has(self.prepublish) ? self.prepublish : '10m')",
        "apiKeyInterval must be longer than prepublish",
        |p| when(p.keys.rotation.api_key_interval <= p.keys.rotation.prepublish, "spec.keys.rotation.apiKeyInterval");
    "spec.revocation": "!has(self.maxStaleness) || duration(self.maxStaleness) >= duration('100ms')",
        "maxStaleness must be at least 100ms",
        |p| when(p.revocation.max_staleness.as_millis() < 100, "spec.revocation.maxStaleness");
    "spec.verificationRateLimit": "duration(self.window) >= duration('1s')",
        "window must be at least 1s",
        |p| when(p.verification_rate_limit.as_ref().is_some_and(|l| l.window < Duration::secs(1)), "spec.verificationRateLimit.window");
    "spec.trustedIssuers[]": "!has(self.algorithms) || self.algorithms.all(a, a.startsWith('HS')) || !self.algorithms.exists(a, a.startsWith('HS'))",
        "symmetric algorithms (HS…) and others don't go together in one entry",
        |p| each(p, ".algorithms", |t| t.algorithms.iter().any(|a| is_symmetric(*a)) && !symmetric(t));
    "spec.trustedIssuers[]": "has(self.secretKeyRef) == (has(self.algorithms) && self.algorithms.exists(a, a.startsWith('HS')))",
        "secretKeyRef goes with symmetric algorithms (HS…), and they with it",
        |p| each(p, ".secretKeyRef", |t| t.secret_key_ref.is_some() != t.algorithms.iter().any(|a| is_symmetric(*a)));
    "spec.trustedIssuers[]": "!has(self.secretKeyRef) || has(self.notAfter)",
        "symmetric keys need notAfter: the day on which they end",
        |p| each(p, ".notAfter", |t| t.secret_key_ref.is_some() && t.not_after.is_none());
    "spec.trustedIssuers[]": "!(has(self.secretKeyRef) && has(self.jwks))",
        "secretKeyRef and jwks don't go together", |p| each(p, ".jwks", |t| t.secret_key_ref.is_some() && t.jwks.is_some());
    "spec.trustedIssuers[]": "has(self.issuer) || has(self.secretKeyRef)",
        "issuer is needed (only symmetric keys can be for tokens without iss)",
        |p| each(p, ".issuer", |t| t.issuer.is_none() && t.secret_key_ref.is_none());
    "spec.trustedIssuers[]": "has(self.secretKeyRef) || has(self.jwks) || !has(self.issuer) || self.issuer.matches(r'^(https://|http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?(/|$))')",
        "without jwks the keys are found through issuer, which must then be an https address",
        |p| each(p, ".issuer", |t| {
            t.secret_key_ref.is_none() && t.jwks.is_none() && t.issuer.as_deref().is_some_and(|i| !is_https_or_loopback(i))
        });
    "spec.trustedIssuers[]": "!has(self.maxTTL) || duration(self.maxTTL) >= duration('1s')",
        "maxTTL must be at least 1s", |p| each(p, ".maxTTL", |t| t.max_ttl < Duration::secs(1));
    "spec.trustedIssuers[].jwks": "(has(self.url) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + (has(self.inline) ? 1 : 0) == 1",
        "exactly one of url, configMapKeyRef and inline",
        |p| each(p, ".jwks", |t| t.jwks.as_ref().is_some_and(|j| {
            usize::from(j.url.is_some()) + usize::from(j.config_map_key_ref.is_some()) + usize::from(j.inline.is_some()) != 1
        }));
    "spec.trustedIssuers[].jwks": "!has(self.url) || !self.url.startsWith('http:') || self.url.matches(r'^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?([/?]|$)')",
        "url must be https (http only for loopback)",
        |p| each(p, ".jwks.url", |t| t.jwks.as_ref().and_then(|j| j.url.as_deref()).is_some_and(|u| !is_https_or_loopback(u)));
    "spec.trustedIssuers[].claimMappings.subject": "has(self.claim) != has(self.expression)",
        "exactly one of claim and expression",
        |p| each(p, ".claimMappings.subject", |t| {
            t.claim_mappings.subject.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    "spec.trustedIssuers[].claimMappings.roles": "has(self.claim) != has(self.expression)",
        "exactly one of claim and expression",
        |p| each(p, ".claimMappings.roles", |t| {
            t.claim_mappings.roles.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    "spec.trustedIssuers[].claimMappings.scopes": "has(self.claim) != has(self.expression)",
        "exactly one of claim and expression",
        |p| each(p, ".claimMappings.scopes", |t| {
            t.claim_mappings.scopes.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    "spec.emergency": "!has(self.mode) || self.mode != 'Enabled' || has(self.notAfter)",
        "emergency tokens need notAfter: the moment at which they end",
        |p| when(p.emergency.mode == Switch::Enabled && p.emergency.not_after.is_none(), "spec.emergency.notAfter");
    "spec.emergency": "!has(self.maxTTL) || duration(self.maxTTL) <= duration('24h')",
        "maxTTL must be at most 24h", |p| when(p.emergency.max_ttl > Duration::hours(24), "spec.emergency.maxTTL");
    "spec.login.sessions": "duration(has(self.absoluteTimeout) ? self.absoluteTimeout : '720h') >= duration(has(self.idleTimeout) ? self.idleTimeout : '168h')",
        "absoluteTimeout must not be shorter than idleTimeout",
        |p| login(p, "spec.login.sessions.absoluteTimeout", |l| l.sessions.absolute_timeout < l.sessions.idle_timeout);
    "spec.login.sessions.rememberMe": "duration(has(self.absoluteTimeout) ? self.absoluteTimeout : '2160h') >= duration(has(self.idleTimeout) ? self.idleTimeout : '720h')",
        "absoluteTimeout must not be shorter than idleTimeout",
        |p| login(p, "spec.login.sessions.rememberMe.absoluteTimeout", |l| {
            l.sessions.remember_me.absolute_timeout < l.sessions.remember_me.idle_timeout
        });
    "spec.login.lockout": "duration(has(self.maxDuration) ? self.maxDuration : '24h') >= duration(has(self.duration) ? self.duration : '30m')",
        "maxDuration must not be shorter than duration",
        |p| login(p, "spec.login.lockout.maxDuration", |l| l.lockout.max_duration < l.lockout.duration);
    "spec.login.passwords": "(has(self.minLength) ? self.minLength : 8) <= (has(self.maxLength) ? self.maxLength : 128)",
        "minLength must not be over maxLength",
        |p| login(p, "spec.login.passwords.minLength", |l| l.passwords.min_length > l.passwords.max_length);
    "spec.login.passwords.breachedPasswords": "has(self.configMapKeyRef) == (has(self.mode) && self.mode == 'Custom')",
        "configMapKeyRef goes with the mode Custom, and it with configMapKeyRef",
        |p| login(p, "spec.login.passwords.breachedPasswords", |l| {
            let breached = &l.passwords.breached_passwords;
            breached.config_map_key_ref.is_some() != (breached.mode == BreachedPasswordsMode::Custom)
        });
    "spec.login.cookies": "!has(self.domain) || (has(self.prefix) && self.prefix.startsWith('__Secure-'))",
        "domain needs a prefix that begins with __Secure-",
        |p| login(p, "spec.login.cookies.domain", |l| {
            l.cookies.domain.is_some() && !l.cookies.prefix.starts_with("__Secure-")
        });
    "spec.login.mail": "!has(self.verifyURL) || self.verifyURL.contains('{token}')",
        "verifyURL must hold {token}",
        |p| login(p, "spec.login.mail.verifyURL", |l| {
            l.mail.as_ref().and_then(|m| m.verify_url.as_deref()).is_some_and(|u| !u.contains("{token}"))
        });
    "spec.login.mail": "!has(self.resetURL) || self.resetURL.contains('{token}')",
        "resetURL must hold {token}",
        |p| login(p, "spec.login.mail.resetURL", |l| {
            l.mail.as_ref().and_then(|m| m.reset_url.as_deref()).is_some_and(|u| !u.contains("{token}"))
        });
    "spec.login.cors": "!has(self.allowCredentials) || !self.allowCredentials || !self.allowedOrigins.exists(o, o == '*')",
        "credentials can't be allowed for every origin; name the origins",
        |p| login(p, "spec.login.cors.allowedOrigins", |l| {
            l.cors.as_ref().is_some_and(|c| c.allow_credentials && c.allowed_origins.iter().any(|o| o == "*"))
        });
};

const SESSION: &[Validation<EffectiveSession>] = validations! {
    "spec": "self.policyRef == oldSelf.policyRef", "policyRef can't be changed; make another Session", |_| Vec::new();
    "spec": "self.subject == oldSelf.subject", "subject can't be changed; make another Session", |_| Vec::new();
    "spec": "!has(self.tokenTTL) || duration(self.tokenTTL) >= duration('1m')",
        "tokenTTL must be at least 1m", |s| when(s.token_ttl < Duration::minutes(1), "spec.tokenTTL");
    "spec": "duration(has(self.renewBefore) ? self.renewBefore : '5m') < duration(has(self.tokenTTL) ? self.tokenTTL : '15m')",
        "renewBefore must be less than tokenTTL", |s| when(s.renew_before >= s.token_ttl, "spec.renewBefore");
};

/// The API server's rules for policies.
pub(crate) fn policy_rules() -> impl Iterator<Item = CelRule> {
    POLICY.iter().map(|v| v.rule)
}

/// The API server's rules for sessions.
pub(crate) fn session_rules() -> impl Iterator<Item = CelRule> {
    SESSION.iter().map(|v| v.rule)
}

/// The rules between fields that a policy breaks. A rule over a part in which something is wrong already is left out: what
/// it would say may be wrong too.
pub(crate) fn check_policy(policy: &EffectivePolicy, already: &[Problem]) -> Vec<Problem> {
    broken(POLICY, policy, already)
}

/// The rules between fields that a session breaks.
pub(crate) fn check_session(session: &EffectiveSession, already: &[Problem]) -> Vec<Problem> {
    broken(SESSION, session, already)
}

fn broken<E>(validations: &[Validation<E>], value: &E, already: &[Problem]) -> Vec<Problem> {
    let flawed: Vec<String> = already.iter().map(|p| without_places(&p.field)).collect();
    let is_sound = |v: &&Validation<E>| !flawed.iter().any(|field| lies_in(field, &v.rule.at.replace("[]", "")));
    let problems = |v: &Validation<E>| {
        let message = v.rule.message;
        (v.broken)(value).into_iter().map(move |field| Problem::new(field, message))
    };
    validations.iter().filter(is_sound).flat_map(problems).collect()
}

/// `spec.roles[3].name` as `spec.roles.name`.
fn without_places(field: &str) -> String {
    field.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

fn lies_in(field: &str, part: &str) -> bool {
    field.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn when(is_broken: bool, field: &str) -> Vec<String> {
    if is_broken { vec![field.to_owned()] } else { Vec::new() }
}

fn between(value: Duration, least: Duration, most: Duration) -> bool {
    (least..=most).contains(&value)
}

fn each(
    policy: &EffectivePolicy,
    field: &str,
    is_broken: impl Fn(&<TrustedIssuer as crate::settings::Resolve>::Effective) -> bool,
) -> Vec<String> {
    let broken = policy.trusted_issuers.iter().enumerate().filter(|(_, t)| is_broken(t));
    broken.map(|(i, _)| format!("spec.trustedIssuers[{i}]{field}")).collect()
}

fn login(
    policy: &EffectivePolicy,
    field: &str,
    is_broken: impl Fn(&<Login as crate::settings::Resolve>::Effective) -> bool,
) -> Vec<String> {
    when(policy.login.as_ref().is_some_and(is_broken), field)
}

fn is_symmetric(algorithm: TokenAlgorithm) -> bool {
    countersign_core::jose::Algorithm::from(algorithm).is_symmetric()
}

fn symmetric(issuer: &<TrustedIssuer as crate::settings::Resolve>::Effective) -> bool {
    issuer.algorithms.iter().all(|a| is_symmetric(*a))
}

fn shared_issuers(policy: &EffectivePolicy) -> Vec<String> {
    let mut seen: Vec<&str> = policy.issuer.as_deref().into_iter().collect();
    let mut shared = Vec::new();
    for (index, trusted) in policy.trusted_issuers.iter().enumerate() {
        if let Some(issuer) = trusted.issuer.as_deref() {
            if seen.contains(&issuer) {
                shared.push(format!("spec.trustedIssuers[{index}].issuer"));
            }
            seen.push(issuer);
        }
    }
    shared
}

/// https anywhere; http only to this machine itself.
fn is_https_or_loopback(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else { return address.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').unwrap_or_default(),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    // Nothing but a port may follow: the host of http://localhost:80@elsewhere is elsewhere.
    let is_port = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
        return false;
    }
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A policy with one entry in each list, to tell the defaults of their fields by.
pub(crate) fn sample_policy() -> AuthPolicySpec {
    AuthPolicySpec {
        roles: Some(vec![Role::default()]),
        rules: Some(vec![Rule::default()]),
        trusted_issuers: Some(vec![TrustedIssuer::default()]),
        keys: Some(crate::policy::Keys { revoked: Some(vec![RevokedKey::default()]), ..Default::default() }),
        login: Some(Login { clients: Some(vec![OauthClient::default()]), ..Login::default() }),
        ..AuthPolicySpec::default()
    }
}

/// A session, to tell the defaults of its fields by.
pub(crate) fn sample_session() -> SessionSpec {
    SessionSpec::default()
}

#[cfg(test)]
mod tests;
