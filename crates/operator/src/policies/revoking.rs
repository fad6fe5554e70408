//! Keys that a spec has begun to call revoked.
//!
//! A leaked key waits neither for its policy's turn among those that are looked at nor for the two writes that a look takes before
//! its bundle says so. The spec is on the API server, whoever may edit it may revoke, and what is revoked stays so: nothing that a
//! look decides takes it back. So what signs with such a key stops, and the feed's writer is told, as soon as a watch shows the spec.
//! The look that follows writes ring and bundle.

use std::collections::HashSet;

use countersign_api::policy::EffectivePolicy;
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
};

use super::{Reconciler, caches::Declared};
use crate::registry::PolicyView;

impl Reconciler {
    /// Shows the other parts what a policy's spec revokes beyond what they know.
    pub(super) fn show_revoked(&self, name: &PolicyName) {
        let registry = &self.context.registry;
        let (Some(declared), Some(shown)) = (self.caches.policy(name), registry.policy(name)) else { return };
        let revoked = revoked_beyond(&shown, &declared);
        if !revoked.is_empty() {
            tracing::info!(policy = %name, keys = ?revoked.iter().map(|entry| &entry.id).collect::<Vec<_>>(), "keys are revoked");
            registry.publish(without(&shown, revoked));
        }
    }
}

/// The keys that a spec revokes and that a view of the same object doesn't. None while the spec makes no sense.
fn revoked_beyond(shown: &PolicyView, declared: &Declared) -> Vec<Entry> {
    let known: HashSet<&str> =
        shown.revoked.iter().filter(|entry| entry.kind == Kind::Key).map(|entry| entry.id.as_str()).collect();
    let spec = declared.policy.spec.keys.as_ref().and_then(|keys| keys.revoked.as_ref());
    let says_more = spec.is_some_and(|keys| keys.iter().any(|key| !known.contains(key.kid.as_str())));
    if !says_more || shown.own.is_none() || shown.uid != declared.uid() || declared.deleting() {
        return Vec::new();
    }
    let Ok(effective) = EffectivePolicy::try_from(&declared.policy) else { return Vec::new() };
    let mut revoked = effective.revoked_keys(&shown.name);
    revoked.retain(|entry| !known.contains(entry.id.as_str()));
    revoked
}

/// A view in which these keys are revoked, and sign nothing.
fn without(shown: &PolicyView, revoked: Vec<Entry>) -> PolicyView {
    let mut view = shown.clone();
    for ring in view.own.iter_mut().flat_map(|own| own.rings.values_mut()) {
        ring.signer.take_if(|signer| revoked.iter().any(|entry| entry.id == signer.kid()));
    }
    view.revoked = shown.revoked.iter().cloned().chain(revoked).collect();
    view
}
