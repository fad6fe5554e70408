//! Rules beyond types. Each stands once, with both of its readings: CEL for the API server, and code for `countersign
//! dev` and `policy check`, which can name the very field. Tests hold the two against each other, rule by rule and on a
//! corpus of whole specs. Where a rule needs a default, it takes it from the one place where defaults stand.

mod bounds;
mod expand;
mod policy;
mod session;

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    policy::{AuthPolicySpec, Cors, EffectivePolicy, Login, OauthClient, RevokedKey, Role, Rule, TrustedIssuer},
    schema::Problem,
    session::{EffectiveSession, SessionSpec},
    settings::Resolve as _,
};
use bounds::Bound;

/// A rule for the API server.
#[derive(Clone, Debug)]
pub(crate) struct CelRule {
    /// Where it is attached: `spec.trustedIssuers[]`.
    pub(crate) at: &'static str,
    /// The field below that place which is to blame, `.issuer`; empty: the place itself.
    pub(crate) field: &'static str,
    /// True: fine.
    pub(crate) cel: String,
    /// What to tell: the field, and how to mend it.
    pub(crate) message: String,
}

/// A rule over one type of resource.
struct Validation<E> {
    at: &'static str,
    field: &'static str,
    /// CEL in which `$(self.a.b)` stands for that field or, where it is absent, its default.
    cel: &'static str,
    message: &'static str,
    /// The fields that break it; empty: it holds. Rules about changes (`oldSelf`) break nowhere: whoever keeps the version
    /// before compares.
    broken: fn(&E) -> Vec<String>,
}

/// Rows of `at field: cel, message, broken`.
macro_rules! validations {
    ($($at:literal $field:literal: $cel:expr, $message:expr, $broken:expr;)*) => {
        &[$($crate::validation::Validation { at: $at, field: $field, cel: $cel, message: $message, broken: $broken }),*]
    };
}
use validations;

static POLICY_RULES: LazyLock<Vec<CelRule>> = LazyLock::new(|| {
    let defaults = json!({"spec": sample_policy().resolve()});
    rules(policy::RULES, bounds::POLICY, &defaults)
});

static SESSION_RULES: LazyLock<Vec<CelRule>> = LazyLock::new(|| {
    let defaults = json!({"spec": sample_session().resolve()});
    rules(session::RULES, bounds::SESSION, &defaults)
});

fn rules<E>(validations: &[Validation<E>], bounds: &[Bound], defaults: &Value) -> Vec<CelRule> {
    let between_fields = validations.iter().map(|v| CelRule {
        at: v.at,
        field: v.field,
        cel: expand::expand(v.cel, v.at, defaults),
        message: v.message.to_owned(),
    });
    between_fields.chain(bounds.iter().map(Bound::rule)).collect()
}

/// The API server's rules for policies.
pub(crate) fn policy_rules() -> &'static [CelRule] {
    &POLICY_RULES
}

/// The API server's rules for sessions.
pub(crate) fn session_rules() -> &'static [CelRule] {
    &SESSION_RULES
}

/// The rules that a policy breaks. A rule over a part in which something is wrong already is left out: what it would say may
/// be wrong too.
pub(crate) fn check_policy(policy: &EffectivePolicy, already: &[Problem]) -> Vec<Problem> {
    broken(policy::RULES, bounds::POLICY, policy, already)
}

/// The rules that a session breaks.
pub(crate) fn check_session(session: &EffectiveSession, already: &[Problem]) -> Vec<Problem> {
    broken(session::RULES, bounds::SESSION, session, already)
}

fn broken<E: Serialize>(validations: &[Validation<E>], bounds: &[Bound], value: &E, already: &[Problem]) -> Vec<Problem> {
    let flawed: Vec<String> = already.iter().map(|p| without_places(&p.field)).collect();
    let is_sound = |at: &str| !flawed.iter().any(|field| lies_in(field, &at.replace("[]", "")));
    let problems = |v: &Validation<E>| {
        let message = v.message;
        (v.broken)(value).into_iter().map(move |field| Problem::new(field, message))
    };
    let mut found: Vec<Problem> = validations.iter().filter(|v| is_sound(v.at)).flat_map(problems).collect();
    let whole = json!({"spec": value});
    for bound in bounds.iter().filter(|b| is_sound(&format!("{}{}", b.at, b.field))) {
        let outside = places(&whole, bound.at).into_iter().filter(|(_, place)| bound.is_broken(place));
        found.extend(outside.map(|(at, _)| Problem::new(format!("{at}{}", bound.field), bound.message())));
    }
    found
}

/// The values at a rule's place, each with its path: `spec.trustedIssuers[]` may be `spec.trustedIssuers[0]` and `[1]`.
fn places<'v>(root: &'v Value, at: &str) -> Vec<(String, &'v Value)> {
    at.split('.').fold(vec![(String::new(), root)], |found, name| {
        let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        let below = found.into_iter().filter_map(|(path, place)| {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            Some((path, place.get(name)?))
        });
        if is_list {
            let items = |(path, list): (String, &'v Value)| {
                let items = list.as_array().into_iter().flatten().enumerate();
                items.map(move |(i, item)| (format!("{path}[{i}]"), item)).collect::<Vec<_>>()
            };
            below.flat_map(items).collect()
        } else {
            below.collect()
        }
    })
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

/// A policy with one entry in each list, to tell the defaults of their fields by.
pub(crate) fn sample_policy() -> AuthPolicySpec {
    AuthPolicySpec {
        roles: Some(vec![Role::default()]),
        rules: Some(vec![Rule::default()]),
        trusted_issuers: Some(vec![TrustedIssuer::default()]),
        keys: Some(crate::policy::Keys { revoked: Some(vec![RevokedKey::default()]), ..Default::default() }),
        login: Some(Login { clients: Some(vec![OauthClient::default()]), cors: Some(Cors::default()), ..Login::default() }),
        ..AuthPolicySpec::default()
    }
}

/// A session, to tell the defaults of its fields by.
pub(crate) fn sample_session() -> SessionSpec {
    SessionSpec::default()
}

#[cfg(test)]
mod tests;
