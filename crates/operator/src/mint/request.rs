//! A request for a token, and what it may ask for.

use countersign_api::{bundle::RingName, policy::EffectivePolicy};
use countersign_core::time::UnixMillis;
use serde::Deserialize;

use super::problem::Problem;

/// The longest subject, session id, role, scope or audience, bytes.
const MAX_TEXT: usize = 256;
/// The most roles, scopes or audiences of one token.
const MAX_ITEMS: usize = 64;

/// As it is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    subject: String,
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    audiences: Option<Vec<String>>,
    #[serde(default)]
    ttl_s: Option<i64>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    emergency: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
}

/// What is minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Access,
    ApiKey,
}

/// As it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) subject: String,
    pub(super) roles: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) audiences: Vec<String>,
    pub(super) ttl_ms: i64,
    pub(super) session_id: Option<String>,
    /// Why, for the audit; an emergency token says it, too.
    pub(super) reason: Option<String>,
    /// A break-glass token, and when the policy ends all of them.
    pub(super) emergency: Option<UnixMillis>,
    pub(super) warnings: Vec<String>,
}

impl Asked {
    /// Whether it asks for a break-glass token.
    pub(super) fn is_emergency(&self) -> bool {
        self.emergency == Some(true)
    }

    /// The ring that signs it.
    pub(super) fn ring(&self) -> RingName {
        match self.kind {
            Some(Kind::ApiKey) => RingName::ApiKey,
            Some(Kind::Access) | None => RingName::Access,
        }
    }

    /// Holds it against the policy.
    pub(super) fn under(self, policy: &EffectivePolicy, now: UnixMillis) -> Result<Wanted, Problem> {
        let emergency = if self.is_emergency() { Some(self.emergency_end(policy, now)?) } else { None };
        let kind = self.kind.unwrap_or(Kind::Access);
        let (roles, scopes) = (self.roles.unwrap_or_default(), self.scopes.unwrap_or_default());
        let asked_audiences = self.audiences.unwrap_or_default();
        text("subject", &self.subject)?;
        self.session_id.iter().try_for_each(|id| text("session_id", id))?;
        self.reason.iter().try_for_each(|reason| text("reason", reason))?;
        for (name, items) in [("roles", &roles), ("scopes", &scopes), ("audiences", &asked_audiences)] {
            if items.len() > MAX_ITEMS {
                return Err(Problem::validation(format!("{name}: at most {MAX_ITEMS}")));
            }
            items.iter().try_for_each(|item| text(name, item))?;
        }
        if let Some(scope) = scopes.iter().find(|scope| scope.contains(' ')) {
            let detail = format!("scopes: {scope:?} holds a space, which separates scopes (RFC 6749 section 3.3)");
            return Err(Problem::validation(detail));
        }
        if kind == Kind::ApiKey && self.session_id.is_some() {
            return Err(Problem::validation("session_id: an API key belongs to no session"));
        }
        let unknown: Vec<&str> = roles
            .iter()
            .filter(|role| !policy.roles.iter().any(|defined| defined.name == **role))
            .map(String::as_str)
            .collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = policy.roles.iter().map(|role| role.name.as_str()).collect();
            let detail =
                format!("roles: not in the policy's spec.roles: {} (there are: {})", unknown.join(", "), known.join(", "));
            return Err(Problem::validation(detail));
        }
        let mut warnings = Vec::new();
        let audiences = if asked_audiences.is_empty() { policy.audiences.clone() } else { asked_audiences };
        if !audiences.iter().any(|audience| policy.audiences.contains(audience)) {
            let known = policy.audiences.join(", ");
            warnings.push(format!("the policy answers wrong_audience to this token: its audiences are {known}"));
        }
        if emergency.is_some() {
            permit_emergency_roles(&roles, &policy.emergency.roles)?;
        }
        let (longest, field) = match kind {
            Kind::Access if emergency.is_some() => (policy.emergency.max_ttl, "emergency.maxTTL"),
            Kind::Access => (policy.tokens.access_ttl, "accessTTL"),
            Kind::ApiKey => (policy.tokens.api_key_max_ttl, "apiKeyMaxTTL"),
        };
        let longest_s = longest.as_millis() / 1000;
        let ttl_ms = match self.ttl_s {
            None => longest.as_millis(),
            Some(ttl_s) if (1..=longest_s).contains(&ttl_s) => ttl_s * 1000,
            Some(_) => {
                return Err(Problem::validation(format!(
                    "ttl_s must be 1 to {longest_s}: the policy's {field} is {longest}"
                )));
            }
        };
        Ok(Wanted {
            kind,
            subject: self.subject,
            roles,
            scopes,
            audiences,
            ttl_ms,
            session_id: self.session_id,
            reason: self.reason,
            emergency,
            warnings,
        })
    }

    /// When the policy ends every break-glass token, if it lets one be made now.
    fn emergency_end(&self, policy: &EffectivePolicy, now: UnixMillis) -> Result<UnixMillis, Problem> {
        if self.kind == Some(Kind::ApiKey) {
            return Err(Problem::validation("kind: an emergency token is an access token, not an API key"));
        }
        if self.reason.is_none() {
            return Err(Problem::validation("reason: an emergency token needs one; it is audited, and no secret"));
        }
        match policy.emergency_tokens_until() {
            Some(end) if now < end => Ok(end),
            Some(end) => Err(Problem::forbidden(format!(
                "the policy takes no emergency tokens: spec.emergency.notAfter, {end}, has passed"
            ))),
            None => Err(Problem::forbidden("the policy takes no emergency tokens: its spec.emergency.mode is Disabled")),
        }
    }
}

fn permit_emergency_roles(roles: &[String], permitted: &[String]) -> Result<(), Problem> {
    let beyond: Vec<&str> = roles.iter().filter(|role| !permitted.contains(role)).map(String::as_str).collect();
    if beyond.is_empty() {
        return Ok(());
    }
    Err(Problem::validation(format!(
        "roles: not among the policy's spec.emergency.roles: {} (there are: {})",
        beyond.join(", "),
        permitted.join(", ")
    )))
}

fn text(name: &str, value: &str) -> Result<(), Problem> {
    if value.is_empty() || value.len() > MAX_TEXT || value.chars().any(char::is_control) {
        let detail = format!("{name} must be 1 to {MAX_TEXT} bytes without control characters");
        return Err(Problem::validation(detail));
    }
    Ok(())
}
