//! Where subject, roles and scopes of a trusted issuer's token come from.

use std::cell::OnceCell;

use serde_json::{Map, Value};

use crate::{
    claims::ClaimSource,
    rules::{ClaimScope, Expression, Texts},
};

/// A policy's mappings for one trusted issuer. Without one for roles, its tokens have none.
#[derive(Debug, Default)]
pub struct ClaimMappings {
    /// Absent: `sub`.
    pub subject: Option<Mapping>,
    /// Absent: none.
    pub roles: Option<Mapping>,
    /// Absent: `scope` and `scp`.
    pub scopes: Option<Mapping>,
}

/// Where one of them comes from.
#[derive(Debug)]
pub struct Mapping {
    /// The source.
    pub source: Source,
    /// Put before each role or scope.
    pub prefix: Option<String>,
    /// The roles or scopes (prefix included) that may come through; others are dropped. An empty list lets none through.
    pub allow: Option<Vec<String>>,
}

/// The source of a mapping.
#[derive(Debug)]
pub enum Source {
    /// A top-level claim, by name.
    Claim(String),
    /// A CEL expression over `claims`.
    Expression(Expression),
}

/// What the mappings made of a token's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// `None`: no mapping.
    pub subject: Option<String>,
    /// Empty without a mapping.
    pub roles: Vec<String>,
    /// `None`: no mapping.
    pub scopes: Option<Vec<String>>,
}

/// A mapping that failed on a token's claims: the claims are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// An expression that errs, or yields neither a string nor a list of strings.
    #[error("the claim mapping for {0} could not be evaluated")]
    Expression(&'static str),
    /// A subject that is mapped and isn't there. `sub` doesn't take its place: it may name somebody else.
    #[error("the claim mapped to subject is missing")]
    NoSubject,
    /// A claim that is neither a string nor, for roles and scopes, a list of strings.
    #[error("the claim mapped to {0} is of a wrong type")]
    WrongType(&'static str),
}

impl ClaimMappings {
    /// Applies the mappings. A claim that isn't there gives no role and no scope; without its mapped subject a token has none.
    pub fn apply(&self, claims: &impl ClaimSource) -> Result<Mapped, MappingError> {
        let claims = Mappable { claims, tree: OnceCell::new() };
        let claims = &claims;
        let subject = match &self.subject {
            None => None,
            Some(mapping) => match mapping.texts(claims, "subject")? {
                Texts::Nothing => return Err(MappingError::NoSubject),
                Texts::One(subject) => Some(subject),
                Texts::Many(_) => return Err(MappingError::WrongType("subject")),
            },
        };
        let roles = match &self.roles {
            None => Vec::new(),
            Some(mapping) => mapping.filtered(match mapping.texts(claims, "roles")? {
                Texts::Nothing => Vec::new(),
                Texts::One(role) => vec![role],
                Texts::Many(roles) => roles,
            }),
        };
        let scopes = match &self.scopes {
            None => None,
            Some(mapping) => Some(mapping.filtered(match mapping.texts(claims, "scopes")? {
                Texts::Nothing => Vec::new(),
                // One string of scopes is a list with spaces, as in the claim `scope` (RFC 8693 section 4.2).
                Texts::One(scopes) => scopes.split(' ').map(str::to_owned).collect(),
                Texts::Many(scopes) => scopes,
            })),
        };
        Ok(Mapped { subject, roles, scopes })
    }
}

/// Claims with their tree, once an expression wants it.
struct Mappable<'a, S> {
    claims: &'a S,
    tree: OnceCell<Map<String, Value>>,
}

impl Mapping {
    fn texts(&self, from: &Mappable<'_, impl ClaimSource>, target: &'static str) -> Result<Texts, MappingError> {
        match &self.source {
            Source::Claim(name) => texts_of(from.claims.claim(name)).ok_or(MappingError::WrongType(target)),
            Source::Expression(expression) => {
                let tree = from.tree.get_or_init(|| from.claims.tree());
                expression.texts(&ClaimScope::new(tree)).ok_or(MappingError::Expression(target))
            }
        }
    }

    /// Each with the prefix, those that are allowed, each once, in the token's order.
    fn filtered(&self, names: Vec<String>) -> Vec<String> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut kept: Vec<String> = Vec::with_capacity(names.len());
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let name = if prefix.is_empty() { name } else { format!("{prefix}{name}") };
            let allowed = self.allow.as_ref().is_none_or(|allow| allow.contains(&name));
            if allowed && !kept.contains(&name) {
                kept.push(name);
            }
        }
        kept
    }
}

fn texts_of(claim: Option<Value>) -> Option<Texts> {
    match claim {
        None | Some(Value::Null) => Some(Texts::Nothing),
        Some(Value::String(text)) => Some(Texts::One(text)),
        Some(Value::Array(items)) => {
            let text = |item| if let Value::String(text) = item { Some(text) } else { None };
            items.into_iter().map(text).collect::<Option<_>>().map(Texts::Many)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::Vocabulary;

    fn claim(name: &str) -> Mapping {
        Mapping { source: Source::Claim(name.into()), prefix: None, allow: None }
    }

    fn expression(text: &str) -> Mapping {
        let compiled = Expression::compile(text, Vocabulary::Mapping).unwrap();
        Mapping { source: Source::Expression(compiled), prefix: None, allow: None }
    }

    fn apply(mappings: &ClaimMappings, claims: &Value) -> Result<Mapped, MappingError> {
        mappings.apply(claims.as_object().unwrap())
    }

    #[test]
    fn without_mappings_a_foreign_token_has_no_roles_and_keeps_its_own_subject_and_scopes() {
        let claims = json!({"sub": "u", "roles": ["admin"], "scope": "a b"});
        assert_eq!(apply(&ClaimMappings::default(), &claims), Ok(Mapped::default()));
    }

    #[test]
    fn roles_come_from_a_claim_or_an_expression_with_prefix_and_allow_list() {
        let nested = json!({"realm_access": {"roles": ["user", "admin", "user"]}, "groups": ["g1", "g2"], "group": "g3"});
        let limited = Mapping {
            prefix: Some("kc:".into()),
            allow: Some(vec!["kc:user".into()]),
            ..expression("claims.realm_access.roles")
        };
        let none_allowed = Mapping { allow: Some(vec![]), ..claim("groups") };
        for (mapping, expected) in [
            (claim("groups"), vec!["g1", "g2"]),
            (claim("group"), vec!["g3"]),
            (claim("absent"), vec![]),
            (claim("realm_access.roles"), vec![]),
            (limited, vec!["kc:user"]),
            (none_allowed, vec![]),
            (expression("claims.groups.filter(g, g != 'g1')"), vec!["g2"]),
            (expression("claims.groups.map(g, 'x:' + g)"), vec!["x:g1", "x:g2"]),
            (expression("has(claims.absent) ? claims.absent : []"), vec![]),
            (expression("has(claims.absent) ? claims.absent : null"), vec![]),
            (expression("claims.group"), vec!["g3"]),
            (expression("claims['group']"), vec!["g3"]),
        ] {
            let described = format!("{mapping:?}");
            let mappings = ClaimMappings { roles: Some(mapping), ..ClaimMappings::default() };
            let roles = apply(&mappings, &nested).unwrap().roles;
            assert_eq!(roles, expected, "{described}");
        }
    }

    #[test]
    fn what_cannot_be_mapped_makes_the_claims_invalid() {
        let claims = json!({"n": 1, "list": ["a", 1], "names": ["a"], "object": {}, "sub": "u"});
        let roles = |mapping| ClaimMappings { roles: Some(mapping), ..ClaimMappings::default() };
        for (mapping, expected) in [
            (claim("n"), MappingError::WrongType("roles")),
            (claim("list"), MappingError::WrongType("roles")),
            (claim("object"), MappingError::WrongType("roles")),
            (expression("claims.absent"), MappingError::Expression("roles")),
            (expression("claims.n"), MappingError::Expression("roles")),
            (expression("claims.list"), MappingError::Expression("roles")),
            (expression("claims.n / 0"), MappingError::Expression("roles")),
        ] {
            assert_eq!(apply(&roles(mapping), &claims), Err(expected));
        }
        let subject = ClaimMappings { subject: Some(claim("names")), ..ClaimMappings::default() };
        assert_eq!(apply(&subject, &claims), Err(MappingError::WrongType("subject")));
    }

    #[test]
    fn a_mapped_subject_and_mapped_scopes_take_the_place_of_the_registered_claims() {
        let claims = json!({"sub": "u", "user_id": "42", "n": 42, "perm": "a b  a", "scp": ["c"]});
        let mappings = ClaimMappings {
            subject: Some(claim("user_id")),
            roles: None,
            scopes: Some(Mapping { prefix: Some("p:".into()), ..claim("perm") }),
        };
        let mapped = apply(&mappings, &claims).unwrap();
        assert_eq!(mapped.subject.as_deref(), Some("42"));
        assert_eq!(mapped.scopes, Some(vec!["p:a".to_owned(), "p:b".to_owned()]));
        for nobody in [claim("absent"), expression("has(claims.absent) ? claims.absent : null")] {
            let mappings = ClaimMappings { subject: Some(nobody), ..ClaimMappings::default() };
            assert_eq!(apply(&mappings, &claims), Err(MappingError::NoSubject), "sub is no stand-in for it");
        }
        let text = ClaimMappings { subject: Some(expression("string(claims.n)")), ..ClaimMappings::default() };
        assert_eq!(apply(&text, &claims).unwrap().subject.as_deref(), Some("42"));
        let absent = ClaimMappings { scopes: Some(claim("absent")), ..ClaimMappings::default() };
        assert_eq!(apply(&absent, &claims).unwrap().scopes, Some(vec![]));
    }
}
