//! Who asks, and whether they may: Kubernetes says both.

use std::{collections::BTreeMap, time::Instant};

use axum::http::HeaderMap;
use countersign_core::jose::compact;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{api::Api as Operator, problem::Problem, strangers::Admission};

/// The header with a Kubernetes bearer token: the API server's service proxy takes `Authorization` for itself.
pub(super) const TOKEN_HEADER: &str = "x-countersign-token";
/// The audience of tokens that are good here and nowhere else.
pub(super) const AUDIENCE: &str = "countersign";
/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
const GROUP: &str = "countersign.dev";

/// Somebody whom the API server knows.
#[derive(Clone, Debug)]
pub(super) struct Person(UserInfo);

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Right<'a> {
    pub(super) verb: &'a str,
    /// Of `authpolicies`; empty: the policy itself.
    pub(super) subresource: &'a str,
    /// `None`: in every namespace.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: Option<&'a str>,
}

impl Person {
    /// Whoever the token in the header belongs to.
    pub(super) async fn of(api: &Operator, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut tokens = headers.get_all(TOKEN_HEADER).iter();
        let (token, another) = (tokens.next(), tokens.next());
        let token = token.and_then(|value| value.to_str().ok()).filter(|token| !token.is_empty());
        let (Some(token), None) = (token, another) else {
            let detail = "one X-Countersign-Token header with a Kubernetes bearer token says who asks";
            return Err(Problem::unauthenticated(detail));
        };
        if token.len() > MAX_TOKEN {
            return Err(Problem::unauthenticated("the token is over 16 KiB"));
        }
        let token = Zeroizing::new(token.to_owned());
        match api.strangers.admit(&token, Instant::now()) {
            Admission::Ask => {}
            Admission::Refused => return Err(unknown()),
            Admission::TooMany => return Err(Problem::overloaded()),
        }
        for audiences in asked_for(&token) {
            if let Some(user) = review(&api.context.client, &token, audiences).await? {
                api.strangers.note(&token, true, Instant::now());
                return Ok(Self(user));
            }
        }
        api.strangers.note(&token, false, Instant::now());
        Err(unknown())
    }

    /// Their name, for the log.
    pub(super) fn name(&self) -> &str {
        self.0.username.as_deref().unwrap_or("unknown")
    }

    /// Whether RBAC (or whoever authorises in this cluster) lets them.
    pub(super) async fn may(&self, client: &Client, right: Right<'_>) -> Result<(), Problem> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: self.0.username.clone(),
                groups: self.0.groups.clone(),
                uid: self.0.uid.clone(),
                extra: self.0.extra.clone().map(BTreeMap::from_iter),
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
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| unanswered(&error))?;
        let status = answer.status.unwrap_or_default();
        if status.allowed && status.denied != Some(true) {
            Ok(())
        } else {
            Err(Problem::forbidden(right.refusal(self.name())))
        }
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

fn unknown() -> Problem {
    Problem::unauthenticated("the API server doesn't know this token")
}

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

async fn review(client: &Client, token: &str, audiences: Option<Vec<String>>) -> Result<Option<UserInfo>, Problem> {
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

fn unanswered(error: &kube::Error) -> Problem {
    tracing::warn!(%error, "the API server can't say who asks, or whether they may");
    Problem::unavailable("the API server can't be asked who you are now; try again")
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
