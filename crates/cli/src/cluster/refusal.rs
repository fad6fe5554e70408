//! What the API server's errors mean to the person at the terminal: one line, and what to do.

use countersign_core::names::PolicyName;
use kube::core::Status;

use super::{AUTH_POLICIES, Cluster};
use crate::{
    failure::{Failure, chain},
    output::printable,
};

/// What a call asks for, as RBAC names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'a> {
    /// The verb.
    pub(super) verb: &'static str,
    /// The resource, with its group.
    pub(super) resource: &'static str,
    /// Which one.
    pub(super) name: Option<&'a str>,
    /// Its namespace; absent: all.
    pub(super) namespace: Option<&'a str>,
}

impl<'a> Need<'a> {
    /// Of one AuthPolicy.
    pub(super) fn policy(verb: &'static str, policy: &'a PolicyName) -> Self {
        Self { verb, resource: AUTH_POLICIES, name: Some(policy.name()), namespace: Some(policy.namespace()) }
    }

    fn place(&self) -> String {
        self.namespace.map_or_else(|| "in every namespace".to_owned(), |ns| format!("in namespace {ns}"))
    }

    /// A right that would do, as a command to check it with.
    fn check(&self) -> String {
        let scope = self.namespace.map_or_else(|| "-A".to_owned(), |ns| format!("-n {ns}"));
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let subresource = if subresource.is_empty() { String::new() } else { format!(" --subresource={subresource}") };
        let name = self.name.map_or_else(String::new, |name| format!("/{name}"));
        format!("kubectl auth can-i {} {resource}{name}{subresource} {scope}", self.verb)
    }
}

/// It took too long.
pub(super) fn too_slow(cluster: &Cluster) -> Failure {
    Failure::unable(format!("{cluster} did not answer in time")).fix("give it longer with --timeout")
}

/// An error of the client library.
pub(super) fn failure(cluster: &Cluster, need: Need<'_>, error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => refused(cluster, need, &status),
        kube::Error::Auth(error) => Failure::unable(format!("can't log in to {cluster}: {}", chain(&error)))
            .fix("does `kubectl get --raw /version` work with this context?"),
        kube::Error::Service(error) => unreachable(cluster, &*error),
        kube::Error::HyperError(error) => unreachable(cluster, &error),
        other => Failure::unable(format!("{cluster}: {}", chain(&other))),
    }
}

fn unreachable(cluster: &Cluster, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    Failure::unable(format!("can't reach {cluster} at {}: {deepest}", cluster.config.cluster_url))
        .fix("is it up, and the right one? --context names another")
}

/// What the API server said.
pub(super) fn refused(cluster: &Cluster, need: Need<'_>, status: &Status) -> Failure {
    let said = printable(&status.message);
    match status.code {
        401 => {
            Failure::unable(format!("{cluster} refuses these credentials")).fix("log in again, or name another --context")
        }
        403 if status.message.contains(" cannot ") || status.message.is_empty() => {
            forbidden(cluster, need, &status.message)
        }
        404 => missing(cluster, need, status),
        409 => Failure::unable(format!("{cluster}: somebody else changed it at the same time: {said}")).fix("try again"),
        400 | 422 => Failure::usage(format!("{cluster} refuses it: {said}")),
        410 => Failure::unable(format!("{cluster} no longer knows that version: {said}")).fix("try again"),
        429 | 503 | 504 => Failure::unable(format!("{cluster} can't do it now: {said}")).fix("try again"),
        // Admission's refusals come as 403 as well; their text is the reason.
        _ => Failure::unable(format!("{cluster} refuses it: {said}")),
    }
}

fn forbidden(cluster: &Cluster, need: Need<'_>, message: &str) -> Failure {
    let user = message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"')).map(|(user, _)| printable(user));
    let who = user.map_or_else(|| "you".to_owned(), |user| format!("you ({user})"));
    let what = need.name.map_or_else(|| need.resource.to_owned(), |name| format!("{} {name}", need.resource));
    Failure::unable(format!("{cluster}: {who} may not {} {what} {}", need.verb, need.place())).fix(format!(
        "ask for a role with verb {:?} on {:?} {}; check with: {}",
        need.verb,
        need.resource,
        need.place(),
        need.check()
    ))
}

fn missing(cluster: &Cluster, need: Need<'_>, status: &Status) -> Failure {
    let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    match (need.resource, need.name, need.namespace) {
        // A kind that the API server doesn't have is not found without a name.
        (AUTH_POLICIES, ..) if !named => {
            Failure::unable(format!("{cluster} has no AuthPolicies: Countersign is not installed there"))
                .fix("install the chart, or name another --context")
        }
        (AUTH_POLICIES, Some(name), Some(namespace)) => {
            Failure::unable(format!("{cluster} has no AuthPolicy {namespace}/{name}"))
                .fix("`kubectl get authpolicies.countersign.dev -A` lists them; -n and --policy name one")
        }
        (resource, name, _) => {
            let name = name.map_or_else(String::new, |name| format!(" {name}"));
            Failure::unable(format!("{cluster} has no {resource}{name} {}", need.place()))
        }
    }
}
