//! Rules of policies.

use std::collections::BTreeSet;

use super::{Validation, validations, when};
use crate::policy::{
    BreachedPasswordsMode, EffectiveLogin, EffectivePolicy, EffectiveTrustedIssuer, MfaMode, SameSite, Switch,
    TokenAlgorithm,
};

pub(super) const RULES: &[Validation<EffectivePolicy>] = validations! {
    // Who speaks.
    "spec" ".issuer": "has(self.issuer) == has(oldSelf.issuer) && (!has(self.issuer) || self.issuer == oldSelf.issuer)",
        "issuer can't be changed: tokens and users belong to it; make another policy", |_| Vec::new();
    "spec" ".issuer": "!has(self.issuer) || !self.issuer.startsWith('http:') || self.issuer.matches(r'^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?(/|$)')",
        "issuer must be https (http only for loopback)",
        |p| when(p.issuer.as_deref().is_some_and(|i| !is_https_or_loopback(i)), "spec.issuer");
    "spec" ".issuer": "!has(self.issuer) || !self.issuer.matches(r'^https://[^/?#]*@')",
        "issuer holds a user or password (…@), which each token would show to everybody: remove it",
        |p| when(p.issuer.as_deref().is_some_and(names_a_user), "spec.issuer");
    "spec" ".audiences": "self.audiences.all(a, a != '*')",
        "audiences must name whom tokens are for; \"*\" is for trustedIssuers[].audiences alone",
        |p| {
            let open = p.audiences.iter().enumerate().filter(|(_, a)| *a == "*");
            open.map(|(i, _)| format!("spec.audiences[{i}]")).collect()
        };
    "spec" ".trustedIssuers": "has(self.issuer) || (has(self.trustedIssuers) && size(self.trustedIssuers) > 0)",
        "trustedIssuers is empty and there is no issuer, so nobody's tokens are accepted: set issuer, or add an entry",
        |p| when(p.issuer.is_none() && p.trusted_issuers.is_empty(), "spec.trustedIssuers");
    "spec" ".login": "has(self.issuer) || !has(self.login)",
        "login needs issuer: set it, or remove login", |p| when(p.issuer.is_none() && p.login.is_some(), "spec.login");
    "spec" ".emergency": "has(self.issuer) || !has(self.emergency) || !has(self.emergency.mode) || self.emergency.mode != 'Enabled'",
        "emergency needs issuer: set it, or set emergency.mode to Disabled",
        |p| when(p.issuer.is_none() && p.emergency.mode == Switch::Enabled, "spec.emergency");
    // Whom else to believe.
    "spec" ".trustedIssuers": "!has(self.trustedIssuers) || self.trustedIssuers.all(a, !has(a.issuer) || ((!has(self.issuer) || self.issuer != a.issuer) && self.trustedIssuers.exists_one(b, has(b.issuer) && b.issuer == a.issuer)))",
        "no two of trustedIssuers, nor the policy itself, may have the same issuer: join them, or remove one", shared_issuers;
    "spec" ".trustedIssuers": "!has(self.trustedIssuers) || size(self.trustedIssuers.filter(a, !has(a.issuer))) <= 1",
        "only one of trustedIssuers can be for tokens without iss: give the others an issuer", |p| {
            let without = p.trusted_issuers.iter().enumerate().filter(|(_, t)| t.issuer.is_none());
            without.skip(1).map(|(i, _)| format!("spec.trustedIssuers[{i}].issuer")).collect()
        };
    "spec.trustedIssuers[]" ".algorithms": "!has(self.algorithms) || self.algorithms.all(a, a.startsWith('HS')) || !self.algorithms.exists(a, a.startsWith('HS'))",
        "algorithms mixes symmetric ones (HS…) and others: make two entries",
        |p| each(p, ".algorithms", |t| t.algorithms.iter().any(|a| is_symmetric(*a)) && !symmetric(t));
    "spec.trustedIssuers[]" ".secretKeyRef": "has(self.secretKeyRef) == (has(self.algorithms) && self.algorithms.exists(a, a.startsWith('HS')))",
        "secretKeyRef goes with symmetric algorithms (HS…), and they with it: add the one, or remove the other",
        |p| each(p, ".secretKeyRef", |t| t.secret_key_ref.is_some() != t.algorithms.iter().any(|a| is_symmetric(*a)));
    "spec.trustedIssuers[]" ".notAfter": "!has(self.secretKeyRef) || has(self.notAfter)",
        "notAfter is needed with a symmetric key: the time at which it ends",
        |p| each(p, ".notAfter", |t| t.secret_key_ref.is_some() && t.not_after.is_none());
    "spec.trustedIssuers[]" ".jwks": "!(has(self.secretKeyRef) && has(self.jwks))",
        "jwks and secretKeyRef don't go together: remove one", |p| each(p, ".jwks", |t| t.secret_key_ref.is_some() && t.jwks.is_some());
    "spec.trustedIssuers[]" ".issuer": "has(self.issuer) || has(self.secretKeyRef)",
        "issuer is needed: add it (only symmetric keys can be for tokens without iss)",
        |p| each(p, ".issuer", |t| t.issuer.is_none() && t.secret_key_ref.is_none());
    "spec.trustedIssuers[]" ".issuer": "has(self.secretKeyRef) || has(self.jwks) || !has(self.issuer) || self.issuer.matches(r'^(https://|http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?(/|$))')",
        "issuer is where the keys are found, because there is no jwks, and must then be an https address: change it, or add jwks",
        |p| each(p, ".issuer", |t| {
            t.secret_key_ref.is_none() && t.jwks.is_none() && t.issuer.as_deref().is_some_and(|i| !is_https_or_loopback(i))
        });
    "spec.trustedIssuers[]" ".issuer": "has(self.secretKeyRef) || has(self.jwks) || !has(self.issuer) || !self.issuer.matches(r'^https://[^/?#]*@')",
        "issuer holds a user or password (…@), which logs and events would show, and keys are fetched without one: remove it, or add jwks",
        |p| each(p, ".issuer", |t| {
            t.secret_key_ref.is_none() && t.jwks.is_none() && t.issuer.as_deref().is_some_and(names_a_user)
        });
    "spec.trustedIssuers[]" ".audiences": "!has(self.audiences) || size(self.audiences) == 1 || self.audiences.all(a, a != '*')",
        "audiences holds \"*\" (not checked), which stands alone: remove it, or the others",
        |p| each(p, ".audiences", |t| t.audiences.as_ref().is_some_and(|a| a.len() > 1 && a.iter().any(|a| a == "*")));
    "spec.trustedIssuers[].jwks" "": "(has(self.url) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + (has(self.inline) ? 1 : 0) == 1",
        "jwks takes exactly one of url, configMapKeyRef and inline",
        |p| each(p, ".jwks", |t| t.jwks.as_ref().is_some_and(|j| {
            usize::from(j.url.is_some()) + usize::from(j.config_map_key_ref.is_some()) + usize::from(j.inline.is_some()) != 1
        }));
    "spec.trustedIssuers[].jwks" ".url": "!has(self.url) || !self.url.startsWith('http:') || self.url.matches(r'^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?([/?]|$)')",
        "url must be https (http only for loopback)",
        |p| each(p, ".jwks.url", |t| t.jwks.as_ref().and_then(|j| j.url.as_deref()).is_some_and(|u| !is_https_or_loopback(u)));
    "spec.trustedIssuers[].jwks" ".url": "!has(self.url) || !self.url.matches(r'^https://[^/?#]*@')",
        "url holds a user or password (…@), which logs and events would show, and keys are fetched without one: remove it",
        |p| each(p, ".jwks.url", |t| t.jwks.as_ref().and_then(|j| j.url.as_deref()).is_some_and(names_a_user));
    "spec.trustedIssuers[].jwks.inline" ".keys": "self.keys.all(k, !has(k.d))",
        "keys holds a private key (d): whoever reads it can forge tokens. Make a new key and give its public half only",
        private_keys;
    "spec.trustedIssuers[].claimMappings.subject" "": "has(self.claim) != has(self.expression)",
        "subject takes exactly one of claim and expression",
        |p| each(p, ".claimMappings.subject", |t| {
            t.claim_mappings.subject.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    "spec.trustedIssuers[].claimMappings.roles" "": "has(self.claim) != has(self.expression)",
        "roles takes exactly one of claim and expression",
        |p| each(p, ".claimMappings.roles", |t| {
            t.claim_mappings.roles.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    "spec.trustedIssuers[].claimMappings.scopes" "": "has(self.claim) != has(self.expression)",
        "scopes takes exactly one of claim and expression",
        |p| each(p, ".claimMappings.scopes", |t| {
            t.claim_mappings.scopes.as_ref().is_some_and(|m| m.claim.is_some() == m.expression.is_some())
        });
    // Tokens and keys.
    "spec.tokens" ".refreshTTL": "duration($(self.refreshTTL)) >= duration($(self.accessTTL))",
        "refreshTTL must not be shorter than accessTTL: raise it, or lower accessTTL",
        |p| when(p.tokens.refresh_ttl < p.tokens.access_ttl, "spec.tokens.refreshTTL");
    "spec.keys" ".ackTimeout": "duration($(self.ackTimeout)) + duration($(self.ackTimeout)) >= duration($(self.absentAfter))",
        "ackTimeout must be at least half of absentAfter: raise it, or lower absentAfter",
        |p| when(2 * p.keys.ack_timeout.as_millis() < p.keys.absent_after.as_millis(), "spec.keys.ackTimeout");
    "spec.keys.rotation" ".interval": "duration($(self.interval)) > duration($(self.prepublish))",
        "interval must be longer than prepublish: raise it, or lower prepublish",
        |p| when(p.keys.rotation.interval <= p.keys.rotation.prepublish, "spec.keys.rotation.interval");
    "spec.keys.rotation" ".apiKeyInterval": "duration($(self.apiKeyInterval)) > duration($(self.prepublish))",
        "apiKeyInterval must be longer than prepublish: raise it, or lower prepublish",
        |p| when(p.keys.rotation.api_key_interval <= p.keys.rotation.prepublish, "spec.keys.rotation.apiKeyInterval");
    "spec.emergency" ".notAfter": "$(self.mode) != 'Enabled' || has(self.notAfter)",
        "notAfter is needed when the mode is Enabled: the time at which emergency tokens end",
        |p| when(p.emergency.mode == Switch::Enabled && p.emergency.not_after.is_none(), "spec.emergency.notAfter");
    // What bearers may do.
    "spec" ".roles": "!has(self.roles) || self.roles.all(r, !has(r.inherits) || r.inherits.all(p, self.roles.exists(o, o.name == p)))",
        "inherits must name roles of this policy: define the missing one in roles, or remove it from inherits", |p| {
            let names: BTreeSet<&str> = p.roles.iter().map(|r| r.name.as_str()).collect();
            let orphans = p.roles.iter().enumerate().filter(|(_, r)| r.inherits.iter().any(|i| !names.contains(i.as_str())));
            orphans.map(|(i, _)| format!("spec.roles[{i}].inherits")).collect()
        };
    // People.
    "spec" ".login.sessions.idleTimeout": "!has(self.login) || duration($(self.login.sessions.idleTimeout)) > duration($(self.tokens.accessTTL))",
        "login.sessions.idleTimeout must be longer than tokens.accessTTL, or a session ends before it can be refreshed: raise it, or lower accessTTL",
        |p| login(p, "spec.login.sessions.idleTimeout", |l| l.sessions.idle_timeout <= p.tokens.access_ttl);
    "spec" ".login.sessions.rememberMe.idleTimeout": "!has(self.login) || duration($(self.login.sessions.rememberMe.idleTimeout)) > duration($(self.tokens.accessTTL))",
        "login.sessions.rememberMe.idleTimeout must be longer than tokens.accessTTL, or a session ends before it can be refreshed: raise it, or lower accessTTL",
        |p| login(p, "spec.login.sessions.rememberMe.idleTimeout", |l| l.sessions.remember_me.idle_timeout <= p.tokens.access_ttl);
    "spec.login.sessions" ".absoluteTimeout": "duration($(self.absoluteTimeout)) >= duration($(self.idleTimeout))",
        "absoluteTimeout must not be shorter than idleTimeout: raise it, or lower idleTimeout",
        |p| login(p, "spec.login.sessions.absoluteTimeout", |l| l.sessions.absolute_timeout < l.sessions.idle_timeout);
    "spec.login.sessions.rememberMe" ".absoluteTimeout": "duration($(self.absoluteTimeout)) >= duration($(self.idleTimeout))",
        "rememberMe.absoluteTimeout must not be shorter than idleTimeout: raise it, or lower idleTimeout",
        |p| login(p, "spec.login.sessions.rememberMe.absoluteTimeout", |l| {
            l.sessions.remember_me.absolute_timeout < l.sessions.remember_me.idle_timeout
        });
    "spec.login.lockout" ".maxDuration": "duration($(self.maxDuration)) >= duration($(self.duration))",
        "maxDuration must not be shorter than duration: raise it, or lower duration",
        |p| login(p, "spec.login.lockout.maxDuration", |l| l.lockout.max_duration < l.lockout.duration);
    "spec.login.passwords" ".minLength": "$(self.minLength) <= $(self.maxLength)",
        "minLength must not be over maxLength: lower it, or raise maxLength",
        |p| login(p, "spec.login.passwords.minLength", |l| l.passwords.min_length > l.passwords.max_length);
    "spec.login.passwords.breachedPasswords" ".configMapKeyRef": "has(self.configMapKeyRef) == ($(self.mode) == 'Custom')",
        "configMapKeyRef goes with the mode Custom, and the mode with it: add the one, or remove the other",
        |p| login(p, "spec.login.passwords.breachedPasswords.configMapKeyRef", |l| {
            let breached = &l.passwords.breached_passwords;
            breached.config_map_key_ref.is_some() != (breached.mode == BreachedPasswordsMode::Custom)
        });
    "spec.login.mfa" ".requiredForRoles": "$(self.mode) != 'Disabled' || size($(self.requiredForRoles)) == 0",
        "requiredForRoles asks for second factors, which the mode Disabled turns off: set the mode to Optional, or empty the list",
        |p| login(p, "spec.login.mfa.requiredForRoles", |l| {
            l.mfa.mode == MfaMode::Disabled && !l.mfa.required_for_roles.is_empty()
        });
    "spec.login.cookies" ".domain": "!has(self.domain) || $(self.prefix).startsWith('__Secure-')",
        "domain needs a prefix that begins with __Secure-: change prefix, or remove domain",
        |p| login(p, "spec.login.cookies.domain", |l| {
            l.cookies.domain.is_some() && !l.cookies.prefix.starts_with("__Secure-")
        });
    "spec.login.cookies" ".sameSite": "$(self.sameSite) != 'None' || $(self.prefix).startsWith('__Secure-') || $(self.prefix).startsWith('__Host-')",
        "sameSite None needs a prefix that begins with __Host- or __Secure-: browsers drop such cookies unless they are Secure",
        |p| login(p, "spec.login.cookies.sameSite", |l| {
            let is_secure = ["__Secure-", "__Host-"].iter().any(|prefix| l.cookies.prefix.starts_with(prefix));
            l.cookies.same_site == SameSite::None && !is_secure
        });
    "spec.login.mail" ".verifyURL": "!has(self.verifyURL) || self.verifyURL.contains('{token}')",
        "verifyURL must hold {token}, which is replaced",
        |p| login(p, "spec.login.mail.verifyURL", |l| {
            l.mail.as_ref().and_then(|m| m.verify_url.as_deref()).is_some_and(|u| !u.contains("{token}"))
        });
    "spec.login.mail" ".resetURL": "!has(self.resetURL) || self.resetURL.contains('{token}')",
        "resetURL must hold {token}, which is replaced",
        |p| login(p, "spec.login.mail.resetURL", |l| {
            l.mail.as_ref().and_then(|m| m.reset_url.as_deref()).is_some_and(|u| !u.contains("{token}"))
        });
    "spec.login.sms" ".url": "!self.url.startsWith('http:') || self.url.matches(r'^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?([/?]|$)')",
        "url must be https (http only for loopback)",
        |p| login(p, "spec.login.sms.url", |l| l.sms.as_ref().is_some_and(|sms| !is_https_or_loopback(&sms.url)));
    "spec.login.sms" ".url": "!self.url.matches(r'^https://[^/?#]*@')",
        "url holds a user or password (…@), which logs would show: remove it; requests are signed with signingSecretKeyRef",
        |p| login(p, "spec.login.sms.url", |l| l.sms.as_ref().is_some_and(|sms| names_a_user(&sms.url)));
    "spec.login.cors" ".allowedOrigins": "!$(self.allowCredentials) || !self.allowedOrigins.exists(o, o == '*')",
        "allowedOrigins can't be \"*\" with allowCredentials: name the origins, or set allowCredentials to false",
        |p| login(p, "spec.login.cors.allowedOrigins", |l| {
            l.cors.as_ref().is_some_and(|c| c.allow_credentials && c.allowed_origins.iter().any(|o| o == "*"))
        });
};

fn each(policy: &EffectivePolicy, field: &str, is_broken: impl Fn(&EffectiveTrustedIssuer) -> bool) -> Vec<String> {
    let broken = policy.trusted_issuers.iter().enumerate().filter(|(_, t)| is_broken(t));
    broken.map(|(i, _)| format!("spec.trustedIssuers[{i}]{field}")).collect()
}

fn login(policy: &EffectivePolicy, field: &str, is_broken: impl Fn(&EffectiveLogin) -> bool) -> Vec<String> {
    when(policy.login.as_ref().is_some_and(is_broken), field)
}

fn is_symmetric(algorithm: TokenAlgorithm) -> bool {
    countersign_core::jose::Algorithm::from(algorithm).is_symmetric()
}

fn symmetric(issuer: &EffectiveTrustedIssuer) -> bool {
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

fn private_keys(policy: &EffectivePolicy) -> Vec<String> {
    let mut found = Vec::new();
    for (i, trusted) in policy.trusted_issuers.iter().enumerate() {
        let keys = trusted.jwks.as_ref().and_then(|jwks| jwks.inline.as_ref()?.get("keys")?.as_array());
        for (j, _) in keys.into_iter().flatten().enumerate().filter(|(_, key)| key.get("d").is_some()) {
            found.push(format!("spec.trustedIssuers[{i}].jwks.inline.keys[{j}]"));
        }
    }
    found
}

/// Whether an address says as whom to come: `https://user:password@host`. (http can't: that goes to this machine alone.)
fn names_a_user(address: &str) -> bool {
    let rest = address.strip_prefix("https://");
    rest.is_some_and(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@'))
}

/// https anywhere; http only to this machine itself.
pub(super) fn is_https_or_loopback(address: &str) -> bool {
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
