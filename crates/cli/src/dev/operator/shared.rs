//! What other tasks may ask of the operator.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use countersign_api::bundle::RingName;
use countersign_core::names::PolicyName;
use countersign_issuer::{KeyOperator, Policies, RingChoice, RotateError};
use countersign_store::{Store, StoreError};
use tokio::sync::Notify;

use super::OperatorError;
use crate::dev::{bundles::fresh_id, declared::Declared};

/// Where rotations that were asked for are kept: `POLICY RING` to the latest request.
const REQUESTS: &str = "rotation-requests";

/// Requests to the operator, durable before they are answered.
pub(crate) struct Shared {
    store: Arc<Store>,
    policies: Policies,
    requests: Mutex<BTreeMap<String, String>>,
    /// One write at a time.
    writing: tokio::sync::Mutex<()>,
    key_revoked: Arc<Notify>,
    woken: Notify,
}

impl Shared {
    /// With the requests of earlier runs.
    pub(crate) async fn open(store: Arc<Store>, policies: Policies) -> Result<Self, StoreError> {
        let kept = store.meta(REQUESTS).await?;
        let requests = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Self {
            store,
            policies,
            requests: Mutex::new(requests),
            writing: tokio::sync::Mutex::default(),
            key_revoked: Arc::default(),
            woken: Notify::new(),
        })
    }

    /// The latest request to rotate a ring.
    pub(super) fn requested(&self, policy: &PolicyName, ring: RingName) -> Option<String> {
        self.lock().get(&entry(policy, ring)).cloned()
    }

    /// Annotations are the other door to a rotation: a new value asks for one. The first that is ever seen doesn't: the ring
    /// is made with it.
    pub(super) async fn heed_annotations(&self, policy: &PolicyName, declared: &Declared) -> Result<(), OperatorError> {
        for (ring, value) in [(RingName::Access, &declared.rotate_access), (RingName::ApiKey, &declared.rotate_api_key)] {
            let place = format!("rotation-annotation {}", entry(policy, ring));
            let value = value.as_deref().unwrap_or_default();
            let seen = self.store.meta(&place).await?;
            if seen.as_deref() == Some(value) {
                continue;
            }
            if seen.is_some() && !value.is_empty() {
                self.request(policy, &[ring]).await?;
            }
            self.store.set_meta(&place, value).await?;
        }
        Ok(())
    }

    /// Returns when there is something to do.
    pub(super) async fn woken(&self) {
        tokio::select! {
            () = self.key_revoked.notified() => {}
            () = self.woken.notified() => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(&self, policy: &PolicyName, rings: &[RingName]) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let mut requests = self.lock().clone();
        for ring in rings {
            requests.insert(entry(policy, *ring), fresh_id());
        }
        let text = serde_json::to_string(&requests).map_err(|_| StoreError::Corrupt("a request to rotate"))?;
        self.store.set_meta(REQUESTS, &text).await?;
        *self.lock() = requests;
        self.woken.notify_one();
        Ok(())
    }
}

fn entry(policy: &PolicyName, ring: RingName) -> String {
    format!("{policy} {}", ring.word())
}

impl KeyOperator for Shared {
    fn rotate<'a>(
        &'a self,
        policy: &'a PolicyName,
        ring: RingChoice,
    ) -> Pin<Box<dyn Future<Output = Result<(), RotateError>> + Send + 'a>> {
        Box::pin(async move {
            if self.policies.one(policy).is_none_or(|p| p.own.is_none()) {
                return Err(RotateError::NoRings);
            }
            let rings: &[RingName] = match ring {
                RingChoice::Access => &[RingName::Access],
                RingChoice::ApiKey => &[RingName::ApiKey],
                RingChoice::All => &RingName::ALL,
            };
            self.request(policy, rings).await.map_err(|e| RotateError::Store(e.to_string()))
        })
    }

    fn key_revoked(&self) -> Arc<Notify> {
        self.key_revoked.clone()
    }
}
