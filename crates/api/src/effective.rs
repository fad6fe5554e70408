//! From a policy as it was written to the policy that holds: every default filled in, every mistake found at once.

use std::collections::BTreeSet;

use countersign_core::{
    jose::{Algorithm, JwkSet},
    keys::{KeyError, VerifyingKey},
    names::PolicyName,
    revocation::{Entry, Kind},
    ring::{self, RotationSpec},
    roles::{RoleDef, Roles, RolesError},
    rules::{Expression, Vocabulary},
    time::UnixMillis,
};
use serde_json::Value;

use crate::{
    bundle::RingName,
    policy::{AuthPolicy, AuthPolicySpec, EffectiveRevokedKey, EffectiveTrustedIssuer, OnUnacknowledged, Switch},
    schema::{self, Problem},
    session::{EffectiveSession, Session, SessionSpec},
    settings::Resolve as _,
    validation,
};

pub use crate::policy::EffectivePolicy;

impl TryFrom<&AuthPolicy> for EffectivePolicy {
    type Error = Vec<Problem>;

    fn try_from(policy: &AuthPolicy) -> Result<Self, Vec<Problem>> {
        Self::try_from(&policy.spec)
    }
}

impl TryFrom<&AuthPolicySpec> for EffectivePolicy {
    type Error = Vec<Problem>;

    /// Fills in the defaults and checks everything that can be checked without looking at what the policy refers to.
    fn try_from(spec: &AuthPolicySpec) -> Result<Self, Vec<Problem>> {
        let written = serde_json::to_value(spec).map_err(|e| vec![Problem::new("spec", e.to_string())])?;
        let checked = check_everything(&written);
        if checked.problems.is_empty() { Ok(checked.effective) } else { Err(checked.problems) }
    }
}

/// A spec, and what is wrong with it.
pub(crate) struct Checked {
    /// As it was written; where that makes no sense, without it.
    pub(crate) spec: AuthPolicySpec,
    /// With every default filled in.
    pub(crate) effective: EffectivePolicy,
    /// All that is wrong.
    pub(crate) problems: Vec<Problem>,
}

/// Checks a spec as JSON. Parts that make no sense are left out for the checks that follow, so that one mistake doesn't hide
/// another.
pub(crate) fn check_everything(written: &Value) -> Checked {
    let schema = schema::policy_spec_schema();
    let mut problems = schema::check(schema, written, "spec");
    let sound = if problems.is_empty() { written.clone() } else { schema::repaired(schema, written) };
    let spec: AuthPolicySpec = serde_json::from_value(sound).unwrap_or_else(|error| {
        problems.push(Problem::new("spec", error.to_string()));
        AuthPolicySpec::default()
    });
    let effective = spec.resolve();
    let beyond = [check_roles(&effective), check_expressions(&effective), check_keys(&effective)].concat();
    let mut more = validation::check_policy(&effective, &problems);
    // Code can say more of a field than a rule that must fit into CEL.
    more.retain(|found| !beyond.iter().any(|b| b.field == found.field));
    more.extend(beyond);
    // What was said of a field, or of a part of it, is enough.
    more.retain(|found| !problems.iter().any(|p| p.field.starts_with(&found.field)));
    problems.extend(more);
    Checked { spec, effective, problems }
}

/// Checks a session's spec as JSON.
pub(crate) fn check_session_spec(written: &Value) -> (SessionSpec, Vec<Problem>) {
    let schema = schema::session_spec_schema();
    let mut problems = schema::check(schema, written, "spec");
    let sound = if problems.is_empty() { written.clone() } else { schema::repaired(schema, written) };
    let spec: SessionSpec = serde_json::from_value(sound).unwrap_or_else(|error| {
        problems.push(Problem::new("spec", error.to_string()));
        SessionSpec::default()
    });
    let more = validation::check_session(&spec.resolve(), &problems);
    problems.extend(more);
    (spec, problems)
}

impl TryFrom<&Session> for EffectiveSession {
    type Error = Vec<Problem>;

    fn try_from(session: &Session) -> Result<Self, Vec<Problem>> {
        let written = serde_json::to_value(&session.spec).map_err(|e| vec![Problem::new("spec", e.to_string())])?;
        let (spec, problems) = check_session_spec(&written);
        if problems.is_empty() { Ok(spec.resolve()) } else { Err(problems) }
    }
}

impl EffectivePolicy {
    /// The longest life of what the access ring signs, emergency tokens too: keys retire and revocations end by it.
    pub fn longest_access_life_ms(&self) -> i64 {
        let emergency = self.emergency_tokens_until().map_or(0, |_| self.emergency.max_ttl.as_millis());
        self.tokens.access_ttl.as_millis().max(emergency)
    }

    /// How a ring of the policy turns. `rotation`: the latest request to rotate it; `revoked`: keys that are revoked for good.
    pub fn rotation_spec(&self, ring: RingName, rotation: Option<String>, revoked: BTreeSet<String>) -> RotationSpec {
        let (tokens, keys) = (&self.tokens, &self.keys);
        let (interval, max_ttl_ms) = match ring {
            RingName::Access => (keys.rotation.interval, self.longest_access_life_ms()),
            RingName::ApiKey => (keys.rotation.api_key_interval, tokens.api_key_max_ttl.as_millis()),
        };
        RotationSpec {
            algorithm: tokens.algorithm.into(),
            interval_ms: interval.as_millis(),
            prepublish_ms: keys.rotation.prepublish.as_millis(),
            revision: Some(keys.rotation.revision.clone()),
            rotation,
            revoked,
            on_unacknowledged: match keys.on_unacknowledged {
                OnUnacknowledged::Wait => ring::OnUnacknowledged::Wait,
                OnUnacknowledged::Proceed => ring::OnUnacknowledged::Proceed,
            },
            ack_timeout_ms: keys.ack_timeout.as_millis(),
            max_ttl_ms,
            clock_skew_ms: tokens.clock_skew.as_millis(),
        }
    }

    /// Until when emergency tokens are minted and taken; `None`: not at all.
    pub fn emergency_tokens_until(&self) -> Option<UnixMillis> {
        let is_on = self.issuer.is_some() && self.emergency.mode == Switch::Enabled;
        self.emergency.not_after.filter(|_| is_on).map(|end| end.0)
    }

    /// The policy's `keys.revoked` as revocations: verifiers drop such keys whatever ring they are found in.
    pub fn revoked_keys(&self, name: &PolicyName) -> Vec<Entry> {
        let entry = |revoked: &EffectiveRevokedKey| Entry {
            policy: name.clone(),
            kind: Kind::Key,
            issuer: None,
            id: revoked.kid.clone(),
            cutoff: UnixMillis::FOREVER,
            expires: UnixMillis::FOREVER,
            version: 0,
            reason: revoked.reason.clone(),
            source: "policy".to_owned(),
        };
        self.keys.revoked.iter().map(entry).collect()
    }
}

fn check_roles(policy: &EffectivePolicy) -> Vec<Problem> {
    let definitions = policy.roles.iter().map(|role| RoleDef {
        name: role.name.clone(),
        permissions: role.permissions.clone(),
        inherits: role.inherits.clone(),
    });
    // A name that stands twice was told by the schema.
    let mut names = BTreeSet::new();
    let definitions: Vec<RoleDef> = definitions.filter(|role| names.insert(role.name.clone())).collect();
    let place = |role: &str| policy.roles.iter().position(|r| r.name == role).unwrap_or_default();
    match Roles::new(definitions) {
        Ok(_) => Vec::new(),
        Err(error) => {
            let (RolesError::Duplicate(role) | RolesError::Cycle(role) | RolesError::UnknownParent { role, .. }) = &error;
            vec![Problem::new(format!("spec.roles[{}].inherits", place(role)), error.to_string())]
        }
    }
}

fn check_expressions(policy: &EffectivePolicy) -> Vec<Problem> {
    let rules = policy
        .rules
        .iter()
        .enumerate()
        .map(|(i, rule)| (format!("spec.rules[{i}].expression"), rule.expression.as_str(), Vocabulary::Rule));
    let mappings = policy.trusted_issuers.iter().enumerate().flat_map(|(i, trusted)| {
        let mappings = &trusted.claim_mappings;
        let texts = [
            ("subject", mappings.subject.as_ref().and_then(|m| m.expression.as_deref())),
            ("roles", mappings.roles.as_ref().and_then(|m| m.expression.as_deref())),
            ("scopes", mappings.scopes.as_ref().and_then(|m| m.expression.as_deref())),
        ];
        let place = move |target: &str| format!("spec.trustedIssuers[{i}].claimMappings.{target}.expression");
        texts.into_iter().filter_map(move |(target, text)| Some((place(target), text?, Vocabulary::Mapping)))
    });
    rules
        .chain(mappings)
        // An empty or too long one was told by the schema.
        .filter(|(_, text, _)| (1..=1024).contains(&text.chars().count()))
        .filter_map(|(field, text, vocabulary)| {
            let error = Expression::compile(text, vocabulary).err()?;
            Some(Problem::new(field, error.to_string()))
        })
        .collect()
}

/// Keys and values that stand in the policy itself.
fn check_keys(policy: &EffectivePolicy) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, trusted) in policy.trusted_issuers.iter().enumerate() {
        let place = format!("spec.trustedIssuers[{i}]");
        if let Some(inline) = trusted.jwks.as_ref().and_then(|jwks| jwks.inline.as_ref()) {
            problems.extend(check_jwks(inline, &algorithms(trusted), &format!("{place}.jwks.inline")).0);
        }
        for (j, m) in trusted.r#match.iter().enumerate() {
            if m.value.is_array() || m.value.is_object() {
                let message = "must be a text, a number or a boolean";
                problems.push(Problem::new(format!("{place}.match[{j}].value"), message));
            }
        }
    }
    problems
}

/// What a trusted issuer's keys may be used with.
pub(crate) fn algorithms(trusted: &EffectiveTrustedIssuer) -> Vec<Algorithm> {
    trusted.algorithms.iter().map(|a| Algorithm::from(*a)).collect()
}

/// What is wrong with a key set that stands in a policy or beside it, and what is merely not used of it.
pub(crate) fn check_jwks(value: &Value, algorithms: &[Algorithm], field: &str) -> (Vec<Problem>, Vec<Problem>) {
    let (mut problems, mut unused) = (Vec::new(), Vec::new());
    let set = match JwkSet::try_from(value.clone()) {
        Ok(set) => set,
        Err(error) => return (vec![Problem::new(field, error.to_string())], unused),
    };
    let mut usable = 0;
    for (index, jwk) in set.keys.iter().enumerate() {
        let place = format!("{field}.keys[{index}]");
        if value["keys"][index].get("d").is_some() {
            let message =
                "is a private key: whoever reads it can forge tokens. Make a new key and give its public half only";
            problems.push(Problem::weak_key(&place, message));
            continue;
        }
        match VerifyingKey::from_jwk(jwk, algorithms) {
            Ok(_) => usable += 1,
            Err(KeyError::NotForSignatures) => {}
            Err(error @ (KeyError::AlgorithmNotAllowed | KeyError::UnsupportedType)) => {
                unused.push(Problem::new(place, error.to_string()));
            }
            Err(error) => problems.push(Problem::weak_key(place, error.to_string())),
        }
    }
    if usable == 0 && problems.is_empty() {
        let words: Vec<&str> = algorithms.iter().map(|a| a.as_str()).collect();
        problems.push(Problem::new(field, format!("holds no key that can be used with {}", words.join(", "))));
    }
    (problems, unused)
}
