//! Who asks, and whether they may: Kubernetes says both.
//!
//! Callers prove who they are with a Kubernetes token of theirs, never by the connection: it comes through the API server's
//! service proxy, which doesn't verify a backend's certificate ([`self_signed`]).

mod strangers;
mod tls;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use countersign_core::{digest::sha256, jose::compact};
use http::HeaderMap;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use serde_json::Value;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use self::strangers::{Admission, Strangers, TokenHash, Whose};
pub use self::tls::{CertificateError, self_signed};

/// The header with a Kubernetes bearer token: the API server's service proxy takes `Authorization` for itself.
pub const TOKEN_HEADER: &str = "x-countersign-token";
/// The audience of tokens that are good here and nowhere else.
pub const AUDIENCE: &str = "countersign";
/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
const GROUP: &str = "countersign.dev";

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows who it is.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// They may not.
    #[error("{0}")]
    Forbidden(String),
    /// The API server is asked about too many strangers.
    #[error("the API server is asked about too many unknown tokens; try again")]
    Overloaded,
    /// The API server can't say.
    #[error("the API server can't be asked who you are now; try again")]
    Unavailable,
}

/// Tokens of those who were never let in that the API server is asked about at the same time.
const STRANGE_AT_ONCE: usize = 10;
/// The same from where others were let in.
const AT_HOME_AT_ONCE: usize = 16;

/// Asks the API server.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    strangers: Arc<Strangers>,
    /// While it is slow, questions about strangers stand in nobody's way.
    questions: Arc<Questions>,
}

struct Questions {
    of_strangers: Semaphore,
    at_home: Semaphore,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

/// Somebody whom the API server knows.
#[derive(Clone, Debug)]
pub struct Person {
    user: UserInfo,
    /// By which it is remembered that they were let in, and from where.
    token: TokenHash,
    source: Option<IpAddr>,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Right<'a> {
    /// `get`, `create` and so on.
    pub verb: &'a str,
    /// Of `authpolicies`; empty: the policy itself.
    pub subresource: &'a str,
    /// `None`: in every namespace.
    pub namespace: Option<&'a str>,
    /// Of which policy; `None`: of any.
    pub name: Option<&'a str>,
}

impl Reviewer {
    /// One that asks in this process' own name.
    pub fn new(client: Client) -> Self {
        let questions =
            Questions { of_strangers: Semaphore::new(STRANGE_AT_ONCE), at_home: Semaphore::new(AT_HOME_AT_ONCE) };
        Self { client, strangers: Arc::new(Strangers::new(Instant::now())), questions: Arc::new(questions) }
    }

    /// Whoever the token in the header belongs to. `source`: the address that the call comes from, where that is known; so many
    /// strangers of one address are asked about.
    pub async fn person(&self, headers: &HeaderMap, source: Option<IpAddr>) -> Result<Person, Refusal> {
        let mut tokens = headers.get_all(TOKEN_HEADER).iter();
        let (token, another) = (tokens.next(), tokens.next());
        let token = token.and_then(|value| value.to_str().ok()).filter(|token| !token.is_empty());
        let (Some(token), None) = (token, another) else {
            let detail = "one X-Countersign-Token header with a Kubernetes bearer token says who asks";
            return Err(Refusal::Unauthenticated(detail));
        };
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Unauthenticated("the token is over 16 KiB"));
        }
        let token = Zeroizing::new(token.to_owned());
        let hash = sha256(token.as_bytes());
        let bound = match self.strangers.admit(hash, source, Instant::now()) {
            Admission::Ask(Whose::Known) => None,
            Admission::Ask(Whose::AtHome) => Some(&self.questions.at_home),
            Admission::Ask(Whose::Strange) => Some(&self.questions.of_strangers),
            Admission::Refused => return Err(UNKNOWN),
            Admission::TooMany => return Err(Refusal::Overloaded),
        };
        let _place = bound.map(Semaphore::try_acquire).transpose().map_err(|_| Refusal::Overloaded)?;
        for audiences in asked_for(&token) {
            if let Some(user) = review(&self.client, &token, audiences).await? {
                self.strangers.known(hash, Instant::now());
                return Ok(Person { user, token: hash, source });
            }
        }
        self.strangers.refused(hash, Instant::now());
        Err(UNKNOWN)
    }

    /// Whether RBAC (or whoever authorises in this cluster) lets them.
    pub async fn may(&self, person: &Person, right: Right<'_>) -> Result<(), Refusal> {
        let user = &person.user;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                groups: user.groups.clone(),
                uid: user.uid.clone(),
                extra: user.extra.clone().map(BTreeMap::from_iter),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some("authpolicies".to_owned()),
                    subresource: Some(right.subresource.to_owned()).filter(|s| !s.is_empty()),
                    verb: Some(right.verb.to_owned()),
                    namespace: right.namespace.map(str::to_owned),
                    name: right.name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| unanswered(&error))?;
        let status = answer.status.unwrap_or_default();
        if status.allowed && status.denied != Some(true) {
            self.strangers.let_in(person.token, person.source, Instant::now());
            Ok(())
        } else {
            Err(Refusal::Forbidden(right.refusal(person.name())))
        }
    }
}

impl Person {
    /// Their name, for the log and the audit.
    pub fn name(&self) -> &str {
        self.user.username.as_deref().unwrap_or("unknown")
    }
}

impl Right<'_> {
    fn refusal(&self, who: &str) -> String {
        let resource = match self.subresource {
            "" => "authpolicies".to_owned(),
            sub => format!("authpolicies/{sub}"),
        };
        let place = self.namespace.map_or_else(|| "in all namespaces".to_owned(), |ns| format!("in namespace {ns}"));
        format!("{who} may not {} {resource} ({GROUP}) {place}: a Role has to grant it", self.verb)
    }
}

const UNKNOWN: Refusal = Refusal::Unauthenticated("the API server doesn't know this token");

/// For whom the API server is asked about a token: for us, or (`None`) for itself. A JWT says for whom it is, and then one
/// question is enough; what it says is believed no further than that.
fn asked_for(token: &str) -> Vec<Option<Vec<String>>> {
    let ours = || Some(vec![AUDIENCE.to_owned()]);
    let Ok(parsed) = compact::parse(token) else { return vec![ours(), None] };
    let is_ours = match parsed.payload.get("aud") {
        Some(Value::String(one)) => one == AUDIENCE,
        Some(Value::Array(several)) => several.iter().any(|one| one == AUDIENCE),
        _ => false,
    };
    vec![if is_ours { ours() } else { None }]
}

async fn review(client: &Client, token: &str, audiences: Option<Vec<String>>) -> Result<Option<UserInfo>, Refusal> {
    let asked = audiences.clone();
    let review =
        TokenReview { spec: TokenReviewSpec { token: Some(token.to_owned()), audiences }, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(|error| unanswered(&error))?;
    let status = answer.status.unwrap_or_default();
    // An authenticator that doesn't look at audiences names none: such a token was not made for us.
    let is_for_us = asked.is_none_or(|asked| status.audiences.iter().flatten().any(|audience| asked.contains(audience)));
    Ok(status.user.filter(|_| status.authenticated == Some(true) && is_for_us))
}

fn unanswered(error: &kube::Error) -> Refusal {
    tracing::warn!(%error, "the API server can't say who asks, or whether they may");
    Refusal::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_says_for_whom_it_is_costs_one_question() {
        let jwt = |payload: &str| {
            let part = |text: &str| countersign_core::jose::base64url::encode(text.as_bytes());
            format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(payload), part("signature"))
        };
        let ours = Some(vec!["countersign".to_owned()]);
        for (token, expected) in [
            (jwt(r#"{"aud":["countersign"]}"#), vec![ours.clone()]),
            (jwt(r#"{"aud":"countersign"}"#), vec![ours.clone()]),
            (jwt(r#"{"aud":["https://kubernetes.default.svc"]}"#), vec![None]),
            (jwt("{}"), vec![None]),
            ("opaque".to_owned(), vec![ours, None]),
        ] {
            assert_eq!(asked_for(&token), expected, "{token}");
        }
    }
}
