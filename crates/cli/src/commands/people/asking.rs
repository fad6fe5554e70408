//! Calls to the part of an admin API that is about one policy's people.

use std::{fmt::Write as _, time::Duration};

use countersign_core::names::PolicyName;
pub(in crate::commands) use countersign_core::percent::segment;
use serde_json::Value;

use crate::{
    Session,
    client::{Address, Answer, Client},
    failure::Failure,
    target::{self, Intent, Target},
};

/// An issuer, and the policy that is meant.
pub(in crate::commands) struct Asking {
    client: Client,
    policy: PolicyName,
}

impl Asking {
    /// Whom the flags name. What is about to change something says where first.
    pub(in crate::commands) async fn of(session: &Session, intent: Intent) -> Result<Self, Failure> {
        let target = target::find(session, intent).await?;
        let policy = target.policy(session).await?;
        let client = match target {
            Target::Server(client) => client,
            Target::Cluster(cluster) => Client::of_issuer(&cluster, session.common.timeout.0)?,
        };
        if intent == Intent::Change {
            session.printer.remark(&format!("{}, policy {policy}", client.address()));
        }
        Ok(Self { client, policy })
    }

    /// The policy.
    pub(in crate::commands) fn policy(&self) -> &PolicyName {
        &self.policy
    }

    /// Whether the issuer is asked over its socket, which lies on this machine.
    pub(super) fn is_on_a_socket(&self) -> bool {
        matches!(self.client.address(), Address::Socket(_))
    }

    fn path(&self, call: &str, query: &[(&str, Option<String>)]) -> String {
        let mut path = format!("/admin/v1/policies/{}/{call}", self.policy);
        let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (number, (name, value)) in given.enumerate() {
            let joint = if number == 0 { '?' } else { '&' };
            let _ = write!(path, "{joint}{name}={}", segment(value));
        }
        path
    }

    pub(in crate::commands) async fn get(&self, call: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        self.client.get(&self.path(call, query)).await?.success()
    }

    pub(in crate::commands) async fn post(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        self.client.post(&self.path(call, &[]), body, Duration::ZERO).await?.success()
    }

    /// As [`Asking::post`], for who looks at the status.
    pub(in crate::commands) async fn post_for_answer(&self, call: &str, body: &Value) -> Result<Answer, Failure> {
        self.client.post(&self.path(call, &[]), body, Duration::ZERO).await
    }

    pub(in crate::commands) async fn patch(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        self.client.patch(&self.path(call, &[]), body).await?.success()
    }

    pub(in crate::commands) async fn delete(&self, call: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        self.client.delete(&self.path(call, query)).await?.success()
    }
}
