//! Every call of the HTTP contract, with its statuses and fields.

mod admin;
mod authorize;
mod configuration;
mod listings;
mod policy;
mod revocation;
mod verify;

use serde_json::{Value, json};

use crate::{
    http::{Answer, Request, Target},
    rig::{Dev, Policies},
};

/// One `dev` on the tests' policies.
struct World {
    policies: Policies,
    dev: Dev,
}

impl World {
    fn start() -> Self {
        let policies = Policies::new();
        let dev = Dev::start(&policies, None);
        Self { policies, dev }
    }

    /// The answer to a verify request at `shop/POLICY`.
    fn verify(&self, policy: &str, request: &Value) -> Answer {
        verify(&self.dev.socket(), policy, request)
    }

    /// Status and word of the verdict on a bare token.
    fn verdict(&self, policy: &str, token: &str) -> (u16, String) {
        let answer = self.verify(policy, &json!({"token": token}));
        (answer.status, answer.word())
    }

    /// The partner's token for a subject.
    fn partner(&self, changes: Value) -> String {
        self.policies.partner.token_of("EdDSA", &self.policies.partner.claims_with(changes))
    }
}

fn verify(target: &Target, policy: &str, request: &Value) -> Answer {
    Request::post(&format!("/v1/policies/shop/{policy}/verify"), request).send(target)
}

/// The names of an object's members, sorted.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.word())
}

fn is(status: u16, word: &str) -> (u16, String) {
    (status, word.to_owned())
}
