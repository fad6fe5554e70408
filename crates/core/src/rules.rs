//! CEL rules: what a policy denies beyond roles and scopes.
//!
//! A rule is an expression that is true when the request must be denied. One that fails to evaluate denies as well: what a
//! rule needs and the caller doesn't send is no way around it. `&&` and `||` absorb errors as the CEL specification says, so
//! `'temp' in roles && request.method != 'GET'` asks for the method only of those whom it concerns.

mod checker;
mod cost;
mod expression;
mod pattern;
mod scope;
mod vocabulary;

use std::net::IpAddr;

use serde_json::{Map, Value};

pub use expression::{Expression, ExpressionError, MAX_EXPRESSION_BYTES};
pub use vocabulary::{Vocabulary, closest};

pub(crate) use scope::{ClaimScope, Texts};

use crate::time::UnixMillis;

/// How many rules a policy may have.
pub const MAX_RULES: usize = 16;

/// A rule as a policy states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDef {
    /// Its name, which a denial tells.
    pub name: String,
    /// True denies.
    pub expression: String,
}

/// Which rule is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {index}: {message}")]
pub struct RuleError {
    /// Its place, counted from 0.
    pub index: usize,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// A policy's rules, compiled.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<(String, Expression)>,
}

/// A denial by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDenial {
    /// The rule's name.
    pub rule: String,
    /// Whether it denies because it could not be evaluated, not because it is true.
    pub failed: bool,
    /// What it refers to and the caller didn't send; only where the rule could not be evaluated.
    pub missing: Vec<&'static str>,
}

/// What is known of a credential.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whom it speaks for.
    pub subject: &'a str,
    /// `access`, `api_key`, `external` or `emergency`.
    pub kind: &'a str,
    /// Its issuer; empty when it has none.
    pub issuer: &'a str,
    /// Its roles.
    pub roles: &'a [String],
    /// What its roles grant.
    pub permissions: &'a [String],
    /// Its scopes.
    pub scopes: &'a [String],
    /// Whom it is for.
    pub audience: &'a [String],
    /// How its subject was authenticated.
    pub amr: &'a [String],
    /// All its claims.
    pub claims: &'a Map<String, Value>,
}

/// The request that a credential came with, as far as the caller tells.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST`, ….
    pub method: Option<&'a str>,
    /// The path, percent-decoded.
    pub path: Option<&'a str>,
    /// The host.
    pub host: Option<&'a str>,
    /// What follows the `?`.
    pub query: Option<&'a str>,
}

/// The client that sent it, as far as the caller tells.
#[derive(Clone, Debug, Default)]
pub struct Client<'a> {
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Its user agent.
    pub user_agent: Option<&'a str>,
    /// A label for its device.
    pub device_id: Option<&'a str>,
}

/// Everything that a rule sees.
#[derive(Clone, Debug)]
pub struct RuleInput<'a> {
    /// The credential.
    pub credential: Facts<'a>,
    /// The request.
    pub request: Request<'a>,
    /// The client.
    pub client: Client<'a>,
    /// The time.
    pub now: UnixMillis,
}

impl Rules {
    /// Compiles a policy's rules. The first one that is wrong is the error; to see all, compile each [`Expression`] by itself.
    pub fn compile(definitions: &[RuleDef]) -> Result<Self, RuleError> {
        if definitions.len() > MAX_RULES {
            let message = format!("a policy may have at most {MAX_RULES} rules");
            return Err(RuleError { index: MAX_RULES, message });
        }
        let compile = |(index, def): (usize, &RuleDef)| {
            Expression::compile(&def.expression, Vocabulary::Rule)
                .map(|expression| (def.name.clone(), expression))
                .map_err(|error| RuleError { index, message: error.to_string() })
        };
        Ok(Self { rules: definitions.iter().enumerate().map(compile).collect::<Result<_, _>>()? })
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that denies, in the policy's order.
    pub fn evaluate(&self, input: &RuleInput<'_>) -> Option<RuleDenial> {
        let client_ip = input.client.ip.map(|ip| ip.to_canonical().to_string());
        let scope = scope::RuleScope::new(input, client_ip.as_deref());
        self.rules.iter().find_map(|(name, expression)| match expression.holds(&scope) {
            Some(false) => None,
            Some(true) => Some(RuleDenial { rule: name.clone(), failed: false, missing: Vec::new() }),
            None => Some(RuleDenial { rule: name.clone(), failed: true, missing: scope.missing_of(expression.needs()) }),
        })
    }
}

#[cfg(test)]
mod tests;
