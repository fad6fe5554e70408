//! `dev`'s admin API, as far as measuring needs it.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::http1::{self, Client, Target};

/// A connection to the admin socket, for one policy.
pub(crate) struct Admin {
    client: Client,
    policy: String,
}

impl Admin {
    pub(crate) fn connect(target: &Target, policy: &str) -> Result<Self> {
        Ok(Self { client: Client::connect(target)?, policy: policy.to_owned() })
    }

    fn post(&mut self, resource: &str, body: &Value) -> Result<Value> {
        let path = format!("/admin/v1/policies/{}/{resource}", self.policy);
        let request = http1::request("POST", &path, &[], Some(body.to_string().as_bytes()));
        let (status, _, answer) = self.client.call(&request)?;
        if !(200..300).contains(&status) {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&answer));
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    /// A token for a subject with one role.
    pub(crate) fn mint(&mut self, subject: &str) -> Result<String> {
        let minted = self.post("tokens", &json!({"subject": subject, "roles": ["user"], "ttl_s": 900}))?;
        Ok(minted["token"].as_str().context("a minted token is a text")?.to_owned())
    }

    /// Revokes a token by its id; the position at which it is in the feed.
    pub(crate) fn revoke(&mut self, token_id: &str) -> Result<String> {
        let revoked = self.post("revocations", &json!({"kind": "token", "id": token_id, "reason": "bench"}))?;
        Ok(revoked["position"].as_str().context("the feed did not take the revocation in time")?.to_owned())
    }
}
