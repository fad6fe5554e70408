//! `policy check` and `policy test`: what is wrong or odd about policies and sessions, and what rules do to a token.

use countersign_core::{
    claims::{self, Claims, WrongType},
    jose::compact,
    mapping::{ClaimMappings, Mapping, Source},
    mint::API_KEY_PREFIX,
    roles::{self, RoleDef, Roles},
    rules::{Client, Expression, Facts, Request, RuleDef, RuleInput, Rules, Vocabulary},
    time::UnixMillis,
};
use serde_json::{Map, json};

use crate::{
    load::{BrokenPolicy, Diagnostic, Loaded, LoadedSession, Severity},
    policy::{EffectiveListMapping, EffectivePolicy, EffectiveRule, EffectiveTrustedIssuer},
    references::References,
    resolve::resolve,
    schema::Problem,
};

/// Everything there is to tell about loaded files, by file and line: their mistakes, those in what they refer to (where
/// `references` are at hand), and warnings.
pub fn check(loaded: &Loaded, references: Option<&dyn References>, now: UnixMillis) -> Vec<Diagnostic> {
    let mut diagnostics = loaded.diagnostics.clone();
    for policy in &loaded.policies {
        let mut tell = |severity, problems: Vec<Problem>| {
            diagnostics.extend(problems.iter().map(|p| policy.place.diagnostic(severity, p)));
        };
        match references.map(|references| resolve(&policy.effective, references)) {
            Some(Err(problems)) => tell(Severity::Error, problems),
            Some(Ok((_, odd))) => tell(Severity::Warning, odd),
            None => {}
        }
        tell(Severity::Warning, warnings(&policy.effective, now));
        tell(Severity::Warning, private_sources(&policy.effective));
    }
    if let Some(references) = references {
        diagnostics.extend(loaded.broken.iter().flat_map(|broken| references_of_broken(broken, references)));
    }
    diagnostics.extend(loaded.sessions.iter().flat_map(|session| sessions_rights(session, loaded)));
    diagnostics.extend(shared_issuers(loaded));
    diagnostics.sort_by(|a, b| (&a.file, a.line, a.severity).cmp(&(&b.file, b.line, b.severity)));
    diagnostics
}

/// What is wrong with what a wrong policy refers to, but for lists that are wrong themselves.
fn references_of_broken(broken: &BrokenPolicy, references: &dyn References) -> Vec<Diagnostic> {
    let found = resolve(&broken.effective, references).err().unwrap_or_default();
    // A list that has a mistake itself may have lost entries: what is counted from its start is no place then.
    let told = |problem: &Problem| {
        let list = problem.field.split('[').next().unwrap_or_default();
        broken.fields.iter().any(|field| field.starts_with(list))
    };
    let found = found.iter().filter(|problem| !told(problem));
    found.map(|problem| broken.place.diagnostic(Severity::Error, problem)).collect()
}

/// What a session asks for beyond what its policy permits.
fn sessions_rights(session: &LoadedSession, loaded: &Loaded) -> Vec<Diagnostic> {
    let tell = |severity, problem: &Problem| session.place.diagnostic(severity, problem);
    if let Some(policy) = loaded.policies.iter().find(|p| p.name == session.policy) {
        let refused = session.effective.not_permitted_by(&policy.effective);
        refused.iter().map(|problem| tell(Severity::Error, problem)).collect()
    } else {
        let message = format!("policy {} isn't in these files: what it permits was not looked at", session.policy);
        vec![tell(Severity::Warning, &Problem::new("spec.policyRef.name", message))]
    }
}

/// What is no mistake but likely not meant.
pub fn warnings(policy: &EffectivePolicy, now: UnixMillis) -> Vec<Problem> {
    let mut found = Vec::new();
    for (i, trusted) in policy.trusted_issuers.iter().enumerate() {
        let place = format!("spec.trustedIssuers[{i}]");
        if trusted.audiences.as_ref().is_some_and(|a| a.iter().any(|a| a == "*")) {
            let message = "the audience is not checked: tokens that this issuer made for anyone are accepted";
            found.push(Problem::new(format!("{place}.audiences"), message));
        }
        if trusted.not_after.is_some_and(|end| end.0 <= now) {
            let message = "has passed: nothing of this issuer is accepted any more; remove the entry";
            found.push(Problem::new(format!("{place}.notAfter"), message));
        }
    }
    if policy.emergency_tokens_until().is_some_and(|end| end <= now) {
        let message = "has passed: no emergency token is minted or taken any more";
        found.push(Problem::new("spec.emergency.notAfter", message));
    } else if policy.emergency_tokens_until().is_some() && policy.emergency.roles.is_empty() {
        let message = "is empty: an emergency token can carry no role, and so has no permission";
        found.push(Problem::new("spec.emergency.roles", message));
    }
    found.extend(undefined_roles(policy));
    found.extend(rules_that_deny_everyone(policy, now));
    found
}

/// Addresses of others' keys that a verifier doesn't fetch from unless it is told to: plain http, and hosts that are private
/// by their looks. What a name resolves to is known only where it is fetched.
pub fn private_sources(policy: &EffectivePolicy) -> Vec<Problem> {
    let problem = |(i, trusted): (usize, &EffectiveTrustedIssuer)| {
        if trusted.secret_key_ref.is_some() {
            return None;
        }
        let (field, address) = match (&trusted.jwks, &trusted.issuer) {
            (Some(jwks), _) => ("jwks.url", jwks.url.as_deref()?),
            (None, issuer) => ("issuer", issuer.as_deref()?),
        };
        let message = "verifiers fetch keys from https and public addresses alone, so this needs --jwks-allow-private \
                       (countersign-verifier) or --allow-private-issuers (countersign dev)";
        is_private(address).then(|| Problem::new(format!("spec.trustedIssuers[{i}].{field}"), message))
    };
    policy.trusted_issuers.iter().enumerate().filter_map(problem).collect()
}

fn is_private(address: &str) -> bool {
    let Some((scheme, rest)) = address.split_once("://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let private = match host.parse::<std::net::IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(std::net::IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        Ok(std::net::IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    };
    scheme == "http" || private
}

/// Roles that are granted but not defined: they carry no permission.
fn undefined_roles(policy: &EffectivePolicy) -> Vec<Problem> {
    let mut granted: Vec<(String, &[String])> = vec![
        ("spec.emergency.roles".into(), &policy.emergency.roles),
        ("spec.declaredSessions.roles".into(), &policy.declared_sessions.roles),
    ];
    if let Some(login) = &policy.login {
        granted.push(("spec.login.registration.defaultRoles".into(), &login.registration.default_roles));
        granted.push(("spec.login.mfa.requiredForRoles".into(), &login.mfa.required_for_roles));
        let clients = login.clients.iter().enumerate();
        granted.extend(clients.map(|(i, c)| (format!("spec.login.clients[{i}].roles"), c.roles.as_slice())));
    }
    let is_undefined = |role: &&String| !policy.roles.iter().any(|defined| defined.name == **role);
    let problem = |(field, roles): (String, &[String])| {
        let names: Vec<&str> = roles.iter().filter(is_undefined).map(String::as_str).collect();
        let message = format!("not defined in spec.roles, so without any permission: {}", names.join(", "));
        (!names.is_empty()).then(|| Problem::new(field, message))
    };
    granted.into_iter().filter_map(problem).collect()
}

/// Tries each rule on a token without roles and scopes, of a caller that sends nothing about the request.
fn rules_that_deny_everyone(policy: &EffectivePolicy, now: UnixMillis) -> Vec<Problem> {
    let claims = json!({
        "iss": policy.issuer, "sub": "someone", "aud": policy.audiences, "iat": now.as_secs(), "exp": now.as_secs() + 900,
        "jti": "1", "sid": "1", "roles": [], "scope": "",
    });
    let none = Map::new();
    let facts = Facts {
        subject: "someone",
        kind: "access",
        issuer: policy.issuer.as_deref().unwrap_or_default(),
        roles: &[],
        permissions: &[],
        scopes: &[],
        audience: &policy.audiences,
        amr: &[],
        claims: claims.as_object().unwrap_or(&none),
    };
    let input = RuleInput { credential: facts, request: Request::default(), client: Client::default(), now };
    let problem = |(i, trial): (usize, RuleTrial)| {
        let message = match trial.outcome {
            Outcome::Passes => return None,
            Outcome::Denies => {
                "denies even a token without roles whose bearer does nothing: nobody may get past it".to_owned()
            }
            Outcome::Fails { missing } if missing.is_empty() => {
                "can't be evaluated on a token without roles, and so denies it; ask has(claims.…) before using a claim"
                    .to_owned()
            }
            Outcome::Fails { missing } => {
                let missing = missing.join(", ");
                format!("denies every call that doesn't send {missing}; that is right only if all callers send it")
            }
        };
        Some(Problem::new(format!("spec.rules[{i}].expression"), message))
    };
    try_each(policy, &input).into_iter().enumerate().filter_map(problem).collect()
}

/// Policies that claim one issuer: both work, but a token doesn't tell whose it is.
fn shared_issuers(loaded: &Loaded) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, policy) in loaded.policies.iter().enumerate() {
        let earlier = &loaded.policies[..i];
        let twin = earlier.iter().find(|p| p.effective.issuer.is_some() && p.effective.issuer == policy.effective.issuer);
        if let Some(twin) = twin {
            let problem = Problem::new("spec.issuer", format!("policy {} has the same issuer", twin.name));
            found.push(policy.place.diagnostic(Severity::Warning, &problem));
        }
    }
    found
}

/// What one rule did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTrial {
    /// The rule.
    pub rule: String,
    /// What it did.
    pub outcome: Outcome,
}

/// What a rule did to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has nothing against it.
    Passes,
    /// It is true, and so denies.
    Denies,
    /// It couldn't be evaluated, and so denies.
    Fails {
        /// What it needs and wasn't sent; empty where something else is the cause.
        missing: Vec<&'static str>,
    },
}

/// What a policy makes of a token, its signature and times aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// `access`, `api_key` or `external`.
    pub kind: &'static str,
    /// Whom it speaks for.
    pub subject: String,
    /// Its roles, mapped where a mapping applies.
    pub roles: Vec<String>,
    /// What they grant.
    pub permissions: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// What each rule does.
    pub rules: Vec<RuleTrial>,
}

/// Why rules can't be tried on a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// Not a signed token.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Its issuer is nobody whom the policy trusts.
    #[error("the policy trusts no issuer {0:?}")]
    UntrustedIssuer(String),
    /// Its claims can't be used.
    #[error("the token's claims are invalid: {0}")]
    InvalidClaims(String),
}

/// Tries a policy's rules on a token. Nothing is verified: this tells what rules do, not whether a token is good.
pub fn try_token(
    policy: &EffectivePolicy,
    token: &str,
    request: Request<'_>,
    client: Client<'_>,
    now: UnixMillis,
) -> Result<Trial, TrialError> {
    let (text, is_api_key) = match token.strip_prefix(API_KEY_PREFIX) {
        Some(rest) => (rest, true),
        None => (token, false),
    };
    let jws = compact::parse(text).map_err(|malformed| TrialError::Malformed(malformed.0))?;
    let claims = Claims::new(jws.payload);
    let invalid = |wrong: WrongType| TrialError::InvalidClaims(wrong.0.to_owned());
    let issuer = claims.issuer.clone().map_err(invalid)?;
    let is_own = policy.issuer.is_some() && policy.issuer == issuer;
    let own_scopes = claims::scopes(&claims.all).map_err(invalid)?;
    let subject = claims.subject.clone().map_err(invalid)?;
    let (kind, subject, roles, scopes) = if is_own {
        let roles = claims::strings(&claims.all, "roles", WrongType("roles is not a list of strings")).map_err(invalid)?;
        (if is_api_key { "api_key" } else { "access" }, subject, roles.unwrap_or_default(), own_scopes)
    } else {
        let trusted = policy
            .trusted_issuers
            .iter()
            .find(|t| t.issuer == issuer)
            .ok_or_else(|| TrialError::UntrustedIssuer(issuer.clone().unwrap_or_default()))?;
        let mapped = mappings(trusted)
            .and_then(|mappings| mappings.apply(&claims.all).map_err(|e| e.to_string()))
            .map_err(TrialError::InvalidClaims)?;
        ("external", mapped.subject.or(subject), mapped.roles, mapped.scopes.unwrap_or(own_scopes))
    };
    let subject = subject.ok_or_else(|| TrialError::InvalidClaims("sub is missing".into()))?;
    let mut permissions = permissions_of(policy, &roles);
    if kind == "api_key" {
        permissions = scopes.iter().filter(|scope| roles::grants(&permissions, scope)).cloned().collect();
    }
    let audience = claims.audience.map_err(invalid)?.unwrap_or_default();
    let amr = claims.amr.map_err(invalid)?.unwrap_or_default();
    let input = RuleInput {
        credential: Facts {
            subject: &subject,
            kind,
            issuer: issuer.as_deref().unwrap_or_default(),
            roles: &roles,
            permissions: &permissions,
            scopes: &scopes,
            audience: &audience,
            amr: &amr,
            claims: &claims.all,
        },
        request,
        client,
        now,
    };
    let trials = try_each(policy, &input);
    Ok(Trial { kind, subject, roles, permissions, scopes, rules: trials })
}

/// Each rule by itself: in a verdict the first that denies hides those after it.
fn try_each(policy: &EffectivePolicy, input: &RuleInput<'_>) -> Vec<RuleTrial> {
    let trial = |rule: &EffectiveRule| {
        let definition = RuleDef { name: rule.name.clone(), expression: rule.expression.clone() };
        let outcome = match Rules::compile(&[definition]).map(|rules| rules.evaluate(input)) {
            Err(_) => Outcome::Fails { missing: Vec::new() },
            Ok(None) => Outcome::Passes,
            Ok(Some(denial)) if denial.failed => Outcome::Fails { missing: denial.missing },
            Ok(Some(_)) => Outcome::Denies,
        };
        RuleTrial { rule: rule.name.clone(), outcome }
    };
    policy.rules.iter().map(trial).collect()
}

fn permissions_of(policy: &EffectivePolicy, held: &[String]) -> Vec<String> {
    let definitions = policy.roles.iter().map(|role| RoleDef {
        name: role.name.clone(),
        permissions: role.permissions.clone(),
        inherits: role.inherits.clone(),
    });
    Roles::new(definitions.collect()).map(|roles| roles.permissions_of(held)).unwrap_or_default()
}

fn mappings(trusted: &EffectiveTrustedIssuer) -> Result<ClaimMappings, String> {
    let list = |mapping: &EffectiveListMapping| -> Result<Mapping, String> {
        let source = source(mapping.claim.as_deref(), mapping.expression.as_deref())?;
        Ok(Mapping { source, prefix: mapping.prefix.clone(), allow: mapping.allow.clone() })
    };
    let given = &trusted.claim_mappings;
    let subject = given.subject.as_ref().map(|m| source(m.claim.as_deref(), m.expression.as_deref())).transpose()?;
    Ok(ClaimMappings {
        subject: subject.map(|source| Mapping { source, prefix: None, allow: None }),
        roles: given.roles.as_ref().map(list).transpose()?,
        scopes: given.scopes.as_ref().map(list).transpose()?,
    })
}

fn source(claim: Option<&str>, expression: Option<&str>) -> Result<Source, String> {
    match (claim, expression) {
        (Some(claim), _) => Ok(Source::Claim(claim.to_owned())),
        (None, Some(text)) => {
            Expression::compile(text, Vocabulary::Mapping).map(Source::Expression).map_err(|e| e.to_string())
        }
        (None, None) => Err("a mapping names neither claim nor expression".to_owned()),
    }
}

#[cfg(test)]
mod tests;
