//! Whose people the database keeps under a policy's name, and their end.
//!
//! A tombstone and the record in the policy's ring, both of which the operator signed, say that a policy was withdrawn and from
//! when on its people are to be erased; that is written down at once. When the time is over by the database's clock, the API
//! server itself is asked once more: a watch may have been away when the policy came back. What is absent, what isn't trusted
//! and what is older than what is known erases nothing.

use std::{future::Future, sync::Arc, time::Duration};

use countersign_api::{
    bundle::Bundle,
    cluster::{ADOPT_ANNOTATION, bundle_name, ring_name},
    key_ring::{Kept, Record},
};
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_issuer::erase_people;
use countersign_store::{Claim, Store, StoreError, Tenure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    assembling::{self, Lying, Refused, Stands},
    trust::Trusted,
    watching::Object,
};

/// How often is looked whose time is over.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a policy doesn't get the people that are kept under its name. It isn't served while that is so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotItsPeople {
    #[error("the people of an earlier policy of this name are being erased")]
    Erasing,
    #[error("the people of an earlier policy of this name, whose keys this one did not take over, are kept{}; {}", kept_until(*.until), hand_over(.policy, .uid))]
    Anothers { until: Option<UnixMillis>, policy: PolicyName, uid: String },
}

fn kept_until(until: Option<UnixMillis>) -> String {
    until.map_or_else(String::new, |until| format!(" until {until}"))
}

fn hand_over(policy: &PolicyName, uid: &str) -> String {
    let (secret, word) = (ring_name(policy), word(uid));
    format!("to hand them over, annotate Secret {secret} of the system namespace with {ADOPT_ANNOTATION}={word}")
}

/// An administrator's word that hands an earlier policy's people to the object of this uid.
fn word(uid: &str) -> String {
    format!("people:{uid}")
}

/// The policy object of a record, as far as it matters to its people.
fn tenure(record: &Record, generation: u64) -> Tenure<'_> {
    Tenure { policy: &record.policy, uid: &record.uid, origin: record.origin.as_deref(), generation }
}

/// Asks for the people of a policy that is in force.
pub(crate) async fn claim(
    store: &Store,
    record: &Record,
    bundle: &Bundle,
    ring: Option<&Object>,
) -> Result<Result<(), NotItsPeople>, StoreError> {
    let vouched = ring.and_then(|ring| ring.adopt.as_ref()).is_some_and(|adopt| *adopt == word(&record.uid));
    Ok(match store.claim_people(&tenure(record, bundle.generation), vouched).await? {
        Claim::Own => Ok(()),
        Claim::Erasing => Err(NotItsPeople::Erasing),
        Claim::Anothers { until } => {
            Err(NotItsPeople::Anothers { until, policy: record.policy.clone(), uid: record.uid.clone() })
        }
    })
}

/// From when on people are to be erased, where tombstone and record say alike that their policy was withdrawn.
fn erase_after(tombstone: &Bundle, record: &Record) -> Option<UnixMillis> {
    let withdrawn = record.withdrawn_time.filter(|_| record.uid == tombstone.uid)?;
    Some(withdrawn.plus(record.retain_ms))
}

/// Notes that a policy was withdrawn, if its record says so too. Whether its tombstone is none of long ago.
pub(crate) async fn withdraw(
    store: &Store,
    tombstone: &Bundle,
    ring: Option<&Object>,
    trusted: &Trusted,
) -> Result<bool, StoreError> {
    let kept = ring.and_then(|ring| Kept::open(&tombstone.policy, &ring.data, &trusted.trust).ok());
    let Some(Kept { record, .. }) = kept else { return Ok(true) };
    match erase_after(tombstone, &record) {
        Some(erase_after) => store.withdraw_people(&tenure(&record, tombstone.generation), erase_after).await,
        None => Ok(true),
    }
}

/// Where it can be asked what lies under a policy's names at this moment.
pub(crate) trait Look: Send + Sync {
    /// Bundle and ring as they are now, past every watch.
    fn look(&self, policy: &PolicyName) -> impl Future<Output = Result<Lying, kube::Error>> + Send;
}

/// The API server.
pub(crate) struct ApiServer {
    rings: Api<Secret>,
    bundles: Api<ConfigMap>,
}

impl ApiServer {
    pub(crate) fn new(client: &Client, system: &str, bundles: &str) -> Self {
        Self { rings: Api::namespaced(client.clone(), system), bundles: Api::namespaced(client.clone(), bundles) }
    }
}

impl Look for ApiServer {
    async fn look(&self, policy: &PolicyName) -> Result<Lying, kube::Error> {
        // The ring first: whoever takes the name over writes it before the bundle.
        let ring = self.rings.get_opt(&ring_name(policy)).await?;
        let bundle = self.bundles.get_opt(&bundle_name(policy)).await?;
        Ok(Lying { ring: ring.map(Object::of), bundle: bundle.map(Object::of), ..Lying::default() })
    }
}

/// Erases people whose time is over.
pub(crate) struct Eraser<L> {
    pub(crate) store: Arc<Store>,
    pub(crate) api: L,
    pub(crate) trusted: watch::Receiver<Arc<Trusted>>,
}

impl<L: Look> Eraser<L> {
    /// Works until `stop`. Any number of replicas may do so on one database.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let erased = tokio::select! {
                () = stop.cancelled() => return,
                erased = async { ticks.tick().await; self.erase().await } => erased,
            };
            if let Err(error) = erased {
                tracing::warn!(%error, "erasing the people of policies that are gone failed; it is tried again");
            }
        }
    }

    /// Erases as far as it may be done now.
    pub(crate) async fn erase(&self) -> Result<(), StoreError> {
        for due in self.store.due_people().await? {
            if due.begun || self.may_begin(&due.policy).await? {
                erase_people(&self.store, &due.policy).await?;
            }
        }
        Ok(())
    }

    /// Whether the API server knows of nothing under a policy's name, or of its end. What it knows is written down, so that the
    /// people of a policy that came back are kept.
    async fn may_begin(&self, policy: &PolicyName) -> Result<bool, StoreError> {
        let lying = match self.api.look(policy).await {
            Ok(lying) => lying,
            Err(error) => {
                tracing::warn!(%policy, %error, "people whose time is over are kept until the API server can be asked");
                return Ok(false);
            }
        };
        let trusted = self.trusted.borrow().clone();
        match self.settled(policy, &lying, &trusted).await? {
            Ok(may) => Ok(may),
            Err(why) => {
                tracing::warn!(%policy, %why, "people whose time is over are kept as long as it isn't clear what lies there");
                Ok(false)
            }
        }
    }

    async fn settled(
        &self,
        policy: &PolicyName,
        lying: &Lying,
        trusted: &Trusted,
    ) -> Result<Result<bool, Refused>, StoreError> {
        let Lying { ring, bundle, .. } = lying;
        let (ring, record) = match (ring, bundle) {
            (None, None) => return Ok(Ok(true)),
            (None, Some(_)) => return Ok(Err(Refused::Missing("the key ring"))),
            (Some(ring), _) => match Kept::open(policy, &ring.data, &trusted.trust) {
                Ok(kept) => (ring, kept.record),
                Err(why) => return Ok(Err(Refused::Ring(why.to_string()))),
            },
        };
        Ok(match assembling::stands(&bundle_name(policy), lying, trusted) {
            Err(why) => Err(why),
            Ok(Stands::Withdrawn(tombstone)) => match erase_after(&tombstone, &record) {
                Some(erase_after) => {
                    let tenure = tenure(&record, tombstone.generation);
                    Ok(self.store.withdraw_people(&tenure, erase_after).await?)
                }
                None => Err(Refused::NotOne),
            },
            Ok(Stands::Lives(bundle)) if record.uid == bundle.uid && record.withdrawn_time.is_none() => {
                let claimed = claim(&self.store, &record, &bundle, Some(ring)).await?;
                Ok(claimed == Err(NotItsPeople::Erasing))
            }
            Ok(Stands::Lives(_)) => Err(Refused::NotOne),
        })
    }
}
