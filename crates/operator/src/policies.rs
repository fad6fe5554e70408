//! The policies' reconciler.
//!
//! [`dispatching`] says which policy is looked at when; [`reconcile`] is one look: [`standing`] decides what the policy is, then
//! [`living`] or [`withdrawing`] plans, stores the plan ([`keeping`]), writes the bundle ([`drafting`], [`bundles`]) and tells
//! issuers the rest ([`informing`]), and what came of it is told ([`viewing`], [`telling`], [`reporting`]). Ahead of all that
//! goes a key that a spec revokes ([`revoking`]). A new leader listens first ([`hearing`]).

mod accepting;
mod bundles;
mod caches;
mod claims;
mod dispatching;
mod drafting;
mod finalizing;
mod foreign;
mod hearing;
mod informing;
mod keeping;
mod living;
mod memory;
mod reconcile;
mod record;
mod references;
mod reporting;
mod revoking;
mod signing;
mod standing;
mod status;
mod telling;
mod turning;
mod viewing;
mod withdrawing;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use countersign_api::cluster::{bundle_name, issue_name};
use countersign_core::names::PolicyName;
use countersign_feed::Clock;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

pub(crate) use self::reconcile::ERRORS;
use self::{
    caches::{BundleSeen, Caches, Changed, IssueSeen},
    claims::Claims,
    dispatching::Dispatcher,
    hearing::Hearing,
    references::InUse,
    signing::BundleKeys,
};
use crate::{
    history::History,
    registry::{FeedPresent, Request},
    run::{Context, PartError},
};

/// What looks at policies.
pub(crate) struct Reconciler {
    context: Context,
    caches: Caches,
    keys: BundleKeys,
    claims: Claims,
    in_use: InUse,
    dirty: Dirty,
    hearing: Hearing,
    feed: watch::Receiver<Arc<FeedPresent>>,
}

/// Policies of which something changed.
#[derive(Debug, Default)]
struct Dirty {
    names: Mutex<HashSet<PolicyName>>,
    changed: Notify,
}

impl Dirty {
    fn add(&self, name: PolicyName) {
        self.names.lock().insert(name);
        self.changed.notify_one();
    }

    async fn take(&self) -> HashSet<PolicyName> {
        self.changed.notified().await;
        std::mem::take(&mut *self.names.lock())
    }
}

/// Works until the process ends.
pub(crate) async fn run(context: Context, inbox: mpsc::Receiver<Request>, history: Arc<History>) -> Result<(), PartError> {
    let keys = BundleKeys::load(&context, Clock::wall()).await?;
    let feed = context.registry.feed();
    let reconciler = Arc::new(Reconciler {
        caches: Caches::default(),
        keys,
        claims: Claims::default(),
        in_use: InUse::default(),
        dirty: Dirty::default(),
        hearing: Hearing::new(Instant::now()),
        feed,
        context,
    });
    let objects = Arc::new(Mutex::new(HashMap::new()));
    let changed = |change| note(&reconciler, &objects, &change);
    let touched = |name: &PolicyName| reconciler.dirty.add(name.clone());
    let dispatcher = Dispatcher::new(reconciler.clone(), history, objects.clone());
    let touch_all = || {
        let declared = reconciler.caches.declared.keys().into_iter().filter_map(|key| key.parse().ok());
        let kept = reconciler.caches.rings.all().into_iter().filter_map(|ring| ring.policy().cloned());
        declared.chain(kept).for_each(|name| reconciler.dirty.add(name));
    };
    tokio::select! {
        lost = reconciler.caches.run(&reconciler.context, changed) => lost.map_err(Into::into),
        () = reconciler.in_use.poll(&reconciler.context.client, touched) => Ok(()),
        lost = signing::keep(&reconciler.context, &reconciler.keys, touch_all) => lost.map_err(Into::into),
        done = dispatcher.run(inbox) => done,
    }
}

/// The policies behind objects of ours, by the objects' names.
type Objects = Mutex<HashMap<String, PolicyName>>;

fn note(reconciler: &Reconciler, objects: &Objects, change: &Changed) {
    match change {
        Changed::Policy(key) => {
            if let Ok(name) = key.parse() {
                reconciler.show_revoked(&name);
                reconciler.dirty.add(name);
            }
        }
        Changed::Ring(object) => {
            let known = objects.lock().get(&object.replacen("r-", "b-", 1)).cloned();
            let name = known.or_else(|| reconciler.caches.rings.one(object)?.policy().cloned());
            if let Some(name) = name {
                reconciler.dirty.add(name);
            }
        }
        Changed::Bundle(object) => {
            // Of one that belongs to no policy of ours, its annotation says whose it may be; its signature is looked at then.
            let known = objects.lock().get(object).cloned();
            if let Some(name) = known.or_else(|| claimed(object, &reconciler.caches.bundles.one(object)?)) {
                reconciler.dirty.add(name);
            }
        }
        Changed::Issue(object) => {
            let known = objects.lock().get(&object.replacen("i-", "b-", 1)).cloned();
            if let Some(name) = known.or_else(|| told(object, &reconciler.caches.issues.one(object)?)) {
                reconciler.dirty.add(name);
            }
        }
        Changed::Namespace(namespace) => {
            let names: Vec<PolicyName> =
                objects.lock().values().filter(|name| name.namespace() == namespace).cloned().collect();
            for name in names {
                reconciler.dirty.add(name);
            }
        }
    }
}

/// The policy that a bundle's ConfigMap says it is of, if that goes with its name.
fn claimed(object: &str, bundle: &BundleSeen) -> Option<PolicyName> {
    let name: PolicyName = bundle.policy.as_deref()?.parse().ok()?;
    (bundle_name(&name) == object).then_some(name)
}

/// The policy that a Secret for issuers says it is of, if that goes with its name.
fn told(object: &str, seen: &IssueSeen) -> Option<PolicyName> {
    let name: PolicyName = seen.policy.as_deref()?.parse().ok()?;
    (issue_name(&name) == object).then_some(name)
}

#[cfg(test)]
mod tests;
