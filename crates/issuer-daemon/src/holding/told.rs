//! What others ask of the task that holds the policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_api::policy::EffectivePolicy;
use countersign_core::names::PolicyName;
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What others may ask.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(super) state: RwLock<State>,
    settled: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) settled: bool,
    pub(super) problems: Vec<String>,
    pub(super) broken: BTreeSet<PolicyName>,
    /// The policies for which nothing is signed, because the API server hasn't confirmed what is held.
    pub(super) lapsed: BTreeSet<PolicyName>,
    pub(super) effective: BTreeMap<PolicyName, Arc<EffectivePolicy>>,
}

impl Told {
    /// Returns once everything was read and put together for the first time.
    pub(crate) async fn settled(&self) {
        let mut notified = std::pin::pin!(self.settled.notified());
        notified.as_mut().enable();
        if !self.state.read().settled {
            notified.await;
        }
    }

    /// Lets those go on who wait for it.
    pub(super) fn settle(&self) {
        self.settled.notify_waiters();
    }

    pub(crate) fn status(&self) -> Value {
        let state = self.state.read();
        json!({"problems": state.problems, "broken_policies": state.broken})
    }

    pub(crate) fn effective(&self, policy: &PolicyName) -> Option<Value> {
        let effective = self.state.read().effective.get(policy).cloned()?;
        serde_json::to_value(&*effective).ok()
    }
}
