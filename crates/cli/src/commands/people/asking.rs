//! Calls to the part of an admin API that is about one policy's people.

use std::{fmt::Write as _, time::Duration};

use countersign_core::names::PolicyName;
use serde_json::Value;

use crate::{
    Session,
    client::Client,
    failure::Failure,
    target::{self, Intent, Target},
};

/// An issuer, and the policy that is meant.
pub(super) struct Asking {
    client: Client,
    policy: PolicyName,
}

impl Asking {
    /// Whom the flags name. What is about to change something says where first.
    pub(super) async fn of(session: &Session, intent: Intent) -> Result<Self, Failure> {
        let target = target::find(session, intent).await?;
        let policy = target.policy(session).await?;
        let client = match target {
            Target::Server(client) => client,
            Target::Cluster(cluster) => {
                return Err(Failure::usage(format!("{cluster}: accounts are an issuer's, not the operator's"))
                    .fix("name the issuer's admin API with --server URL, with --bearer-token-file"));
            }
        };
        if intent == Intent::Change {
            session.printer.remark(&format!("{}, policy {policy}", client.address()));
        }
        Ok(Self { client, policy })
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

    pub(super) async fn get(&self, call: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        self.client.get(&self.path(call, query)).await?.success()
    }

    pub(super) async fn post(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        self.client.post(&self.path(call, &[]), body, Duration::ZERO).await?.success()
    }

    pub(super) async fn patch(&self, call: &str, body: &Value) -> Result<Value, Failure> {
        self.client.patch(&self.path(call, &[]), body).await?.success()
    }

    pub(super) async fn delete(&self, call: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        self.client.delete(&self.path(call, query)).await?.success()
    }
}

/// A text as a part of a path or query (RFC 3986 section 2.3: what is unreserved stands for itself).
pub(super) fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_holds_no_delimiter() {
        assert_eq!(segment("alice@shop.example/../x?é"), "alice%40shop.example%2F..%2Fx%3F%C3%A9");
    }
}
