//! Following one AuthPolicy until it says what is waited for.

use std::time::Duration;

use countersign_core::names::PolicyName;
use futures_util::{StreamExt as _, pin_mut};
use kube::{
    api::{WatchEvent, WatchParams},
    core::DynamicObject,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Cluster,
    refusal::{self, Need},
};
use crate::failure::Failure;

/// The longest watch that the API server is asked for; it may end any earlier.
const LONGEST_WATCH_S: u64 = 290;

/// How soon a watch that ended is opened again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How following ended.
pub(crate) struct Followed<T> {
    /// The policy as it was last seen.
    pub(crate) object: DynamicObject,
    /// What was found in it; none when time ran out first.
    pub(crate) found: Option<T>,
}

/// How one watch ended.
enum Watched<T> {
    Found(T),
    TimeIsUp,
    Deleted,
    /// The server closed it, or says that it must be begun anew.
    Closed,
    Failed(kube::Error),
}

impl Cluster {
    /// Watches a policy, from `object` on, until `look` finds something in it or `deadline` has passed. What happens while no
    /// watch is open is caught up with by reading.
    pub(crate) async fn follow<T>(
        &self,
        policy: &PolicyName,
        mut object: DynamicObject,
        deadline: Instant,
        mut look: impl FnMut(&DynamicObject) -> Option<T>,
    ) -> Result<Followed<T>, Failure> {
        let mut pause = PAUSES.0;
        loop {
            if let Some(found) = look(&object) {
                return Ok(Followed { object, found: Some(found) });
            }
            let opened = Instant::now();
            match self.watch(policy, &mut object, deadline, &mut look).await {
                Watched::Found(found) => return Ok(Followed { object, found: Some(found) }),
                Watched::TimeIsUp => return Ok(Followed { object, found: None }),
                Watched::Deleted => return Err(Failure::unable(format!("{self}: policy {policy} was deleted meanwhile"))),
                Watched::Failed(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                    return Err(refusal::refused(self, Need::policy("watch", policy), &status));
                }
                Watched::Closed | Watched::Failed(_) => {}
            }
            // A watch that held for a while was no failure.
            pause = if opened.elapsed() > PAUSES.1 { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            sleep_until((Instant::now() + pause).min(deadline)).await;
            if Instant::now() >= deadline {
                return Ok(Followed { object, found: None });
            }
            match timeout_at(deadline, self.policies(policy.namespace()).get(policy.name())).await {
                Ok(Ok(present)) => object = present,
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => {
                    return Err(refusal::refused(self, Need::policy("get", policy), &status));
                }
                // Out of reach for the moment: until the deadline that is no answer.
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    async fn watch<T>(
        &self,
        policy: &PolicyName,
        object: &mut DynamicObject,
        deadline: Instant,
        look: &mut impl FnMut(&DynamicObject) -> Option<T>,
    ) -> Watched<T> {
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        let seconds = u32::try_from((left + 1).min(LONGEST_WATCH_S)).unwrap_or(u32::MAX);
        let params = WatchParams::default().fields(&format!("metadata.name={}", policy.name())).timeout(seconds);
        let api = self.policies(policy.namespace());
        let from = object.metadata.resource_version.clone().unwrap_or_default();
        let events = match timeout_at(deadline, api.watch(&params, &from)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return Watched::Failed(error),
            Err(_) => return Watched::TimeIsUp,
        };
        pin_mut!(events);
        loop {
            match timeout_at(deadline, events.next()).await {
                Err(_) => return Watched::TimeIsUp,
                Ok(Some(Ok(WatchEvent::Added(seen) | WatchEvent::Modified(seen)))) => {
                    let found = look(&seen);
                    *object = seen;
                    if let Some(found) = found {
                        return Watched::Found(found);
                    }
                }
                Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => {
                    object.metadata.resource_version = Some(mark.metadata.resource_version);
                }
                Ok(Some(Ok(WatchEvent::Deleted(_)))) => return Watched::Deleted,
                Ok(None | Some(Ok(WatchEvent::Error(_)))) => return Watched::Closed,
                Ok(Some(Err(error))) => return Watched::Failed(error),
            }
        }
    }
}
