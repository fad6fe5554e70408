//! The sessions' reconciler: what wakes it, and how much it does at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use countersign_api::{
    cluster::{FORMAT, OWNER_UID_LABEL, SESSION_TOKEN_LABEL, SESSION_TOKEN_TYPE},
    policy::AuthPolicy,
    session::{EffectiveSession, Session},
};
use countersign_core::{names::PolicyName, revocation::Kind, time::UnixMillis};
use countersign_feed::Clock;
use countersign_telemetry::traces::TARGET;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource as _,
    core::{ApiResource, DynamicObject},
    runtime::watcher::{self, watcher},
};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::Instant,
};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    apply::{ApplyError, Applying},
    lately::{self, Lately},
    owners::Owners,
    plan::{Observed, SeenPolicy, plan},
    queue::Queue,
    secret,
    steps::{Outcome, Reason},
};
use crate::{
    feed::{Changed, Cutoffs, Ended, changed},
    jitter::jittered,
    mirror::{Mirror, WatchLost},
    registry::SessionToken,
    run::Context,
};

/// How many sessions are looked at at once. Renewals after an outage, or after a revoked key, are as many as this at a time.
const WORKERS: usize = 16;
/// The longest time between two looks at a session: clocks step.
const AT_LEAST_EVERY: Duration = Duration::from_mins(10);
/// The next look after something was done, in case the watches don't say so before.
const AFTER_STEPS: Duration = Duration::from_secs(10);
/// How often somebody else's Secret is looked for again: no watch tells of it.
const CONFLICT: Duration = Duration::from_secs(30);
/// After somebody else's write.
const CHANGED: Duration = Duration::from_millis(100);
/// After a first failure, and at most.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_WITHIN: Duration = Duration::from_mins(1);
/// Failures in a row before a person is told.
const TOLD_AFTER: u32 = 3;

/// Reconciles sessions until `context.stop`.
pub async fn run(context: Context, cutoffs: Arc<Cutoffs>) -> Result<(), SessionsError> {
    let work = Arc::new(Work {
        context,
        cutoffs,
        leading_since: Clock::wall(),
        sessions: Mirror::default(),
        secrets: Mirror::default(),
        owners: Mutex::default(),
        lately: Lately::default(),
    });
    let (wake, woken) = mpsc::unbounded_channel();
    // Before the first look, so that no change falls between.
    let (policies, ended) = (work.context.registry.changes(), work.cutoffs.changes());
    tokio::select! {
        lost = work.watch_sessions(wake.clone()) => Ok(lost?),
        lost = work.watch_secrets(wake.clone()) => Ok(lost?),
        () = work.heed_policies(policies, wake.clone()) => Ok(()),
        () = work.heed_ends(ended, wake.clone()) => Ok(()),
        () = work.clone().reconcile(woken) => Ok(()),
    }
}

/// Why sessions can't be reconciled any more.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SessionsError(#[from] WatchLost);

type Wake = mpsc::UnboundedSender<String>;

struct Work {
    context: Context,
    cutoffs: Arc<Cutoffs>,
    leading_since: UnixMillis,
    sessions: Mirror<Arc<Session>>,
    secrets: Mirror<Arc<Secret>>,
    owners: Mutex<Owners>,
    lately: Lately,
}

impl Work {
    async fn watch_sessions(&self, wake: Wake) -> Result<(), WatchLost> {
        // A watch of what these types read would fail for all sessions by one that they can't.
        let api: Api<DynamicObject> = Api::all_with(self.context.client.clone(), &ApiResource::erase::<Session>(&()));
        let keep = |object: DynamicObject| {
            let (key, uid) = (key_of(&object.metadata)?, object.metadata.uid.clone());
            let session: Session = match object.try_parse() {
                Ok(session) => session,
                Err(error) => {
                    tracing::warn!(session = key, %error, "a Session can't be read; what it was before counts");
                    let held = self.sessions.one(&key).filter(|held| held.metadata.uid == uid)?;
                    return Some((key, held));
                }
            };
            self.owners.lock().put_session(&key, session.metadata.uid.as_deref()?, policy_of(&session));
            Some((key, Arc::new(session)))
        };
        let changed = |key: String| {
            if self.sessions.one(&key).is_none() {
                self.owners.lock().remove_session(&key);
            }
            // Nobody listens once the reconciler has ended.
            drop(wake.send(key));
        };
        self.sessions.run("sessions", watcher(api, watcher::Config::default()), keep, changed).await
    }

    async fn watch_secrets(&self, wake: Wake) -> Result<(), WatchLost> {
        let api: Api<Secret> = Api::all(self.context.client.clone());
        let config = watcher::Config::default()
            .labels(&format!("{SESSION_TOKEN_LABEL}={FORMAT}"))
            .fields(&format!("type={SESSION_TOKEN_TYPE}"));
        let keep = |mut secret: Secret| {
            let key = key_of(&secret.metadata)?;
            secret::keep_own_fields(&mut secret);
            // One whose label somebody took away is still looked at for the session that it was made for.
            let uid = secret.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL));
            if let Some(uid) = uid {
                self.owners.lock().put_secret(&key, uid);
            }
            Some((key, Arc::new(secret)))
        };
        let changed = |key: String| {
            let mut owners = self.owners.lock();
            if let Some(session) = owners.session_of(&key) {
                drop(wake.send(session.clone()));
            }
            if self.secrets.one(&key).is_none() {
                owners.remove_secret(&key);
            }
        };
        self.secrets.run("sessions' Secrets", watcher(api, config), keep, changed).await
    }

    /// A policy's change is its sessions' matter.
    async fn heed_policies(&self, mut changes: broadcast::Receiver<PolicyName>, wake: Wake) {
        while let Some(what) = changed(&mut changes).await {
            let keys = match what {
                Changed::Any => self.keys_under(None::<&[PolicyName]>),
                Changed::These(names) => self.keys_under(Some(&names)),
            };
            if keys.into_iter().any(|key| wake.send(key).is_err()) {
                return;
            }
        }
    }

    /// So is what the feed ends of theirs.
    async fn heed_ends(&self, mut changes: broadcast::Receiver<Arc<Ended>>, wake: Wake) {
        use broadcast::error::RecvError;
        loop {
            let mut ended = HashSet::new();
            let mut any = false;
            match changes.recv().await {
                Ok(one) => drop(ended.insert(one)),
                Err(RecvError::Lagged(_)) => any = true,
                Err(RecvError::Closed) => return,
            }
            while let Ok(one) = changes.try_recv() {
                ended.insert(one);
            }
            let keys = if any {
                self.keys_under(None::<&[PolicyName]>)
            } else {
                let policies: HashSet<&PolicyName> = ended.iter().map(|ended| &ended.policy).collect();
                let keys = self.keys_under(Some(policies));
                keys.into_iter().filter(|key| self.is_concerned(key, &ended)).collect()
            };
            if keys.into_iter().any(|key| wake.send(key).is_err()) {
                return;
            }
        }
    }

    fn is_concerned(&self, key: &str, ended: &HashSet<Arc<Ended>>) -> bool {
        let Some(session) = self.sessions.one(key) else { return false };
        let Some(policy) = policy_of(&session) else { return false };
        let of = |kind, id: Option<&str>| {
            id.is_some_and(|id| ended.contains(&Ended { policy: policy.clone(), kind, id: id.to_owned() }))
        };
        of(Kind::Subject, Some(&session.spec.subject))
            || of(Kind::Session, session.status.as_ref().and_then(|status| status.session_id.as_deref()))
            || ended.iter().any(|e| e.policy == policy && matches!(e.kind, Kind::Policy | Kind::Key))
    }

    /// The sessions of these policies; `None`: all.
    fn keys_under<'a>(&self, policies: Option<impl IntoIterator<Item = &'a PolicyName>>) -> Vec<String> {
        let owners = self.owners.lock();
        match policies {
            None => owners.sessions().cloned().collect(),
            Some(policies) => policies.into_iter().flat_map(|policy| owners.under(policy)).cloned().collect(),
        }
    }

    async fn reconcile(self: Arc<Self>, mut woken: mpsc::UnboundedReceiver<String>) {
        let stop = self.context.stop.clone();
        tokio::select! {
            () = stop.cancelled() => return,
            // Of a policy that nobody has looked at yet nothing is known, and of one without a view much would be asked.
            () = async { tokio::join!(self.sessions.synced(), self.secrets.synced(), self.context.registry.synced()); } => {}
        }
        let mut queue = Queue::default();
        let mut workers = JoinSet::new();
        let start = Instant::now();
        self.sessions.keys().into_iter().for_each(|key| queue.add(key, start));
        loop {
            while workers.len() < WORKERS
                && let Some(key) = queue.take(Instant::now())
            {
                let work = self.clone();
                let span = tracing::info_span!(target: TARGET, parent: None, "session", session = key);
                let look = async move {
                    let looked = work.look(&key).await;
                    (key, looked)
                };
                workers.spawn(look.instrument(span));
            }
            let due = queue.next().filter(|_| workers.len() < WORKERS);
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(key) = woken.recv() => queue.add(key, Instant::now()),
                Some(ended) = workers.join_next() => match ended {
                    Ok((key, looked)) => self.after(&mut queue, key, looked),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = due => {}
            }
        }
        // What is half done is better finished.
        while workers.join_next().await.is_some() {}
    }

    fn after(&self, queue: &mut Queue, key: String, looked: Result<Option<Duration>, ApplyError>) {
        let now = Instant::now();
        let next = match looked {
            Ok(next) => {
                queue.went_well(&key);
                next
            }
            Err(ApplyError::Changed(what)) => {
                tracing::debug!(session = key, what, "changed meanwhile; looking again");
                Some(jittered(CHANGED))
            }
            Err(error) => {
                let failures = queue.failed(&key);
                self.context.registry.counts().session_tokens.count(SessionToken::Failed);
                tracing::warn!(session = key, %error, failures, "a declared session could not be brought forward; trying again");
                if failures == TOLD_AFTER
                    && let Some(session) = self.sessions.one(&key)
                {
                    let object = session.object_ref(&());
                    self.context.events.warning(&object, "RenewalFailed", format!("{error}; it is tried again"));
                }
                let wait = RETRY.saturating_mul(1 << failures.min(10)).min(RETRY_WITHIN);
                Some(jittered(wait))
            }
        };
        if self.sessions.one(&key).is_none() {
            queue.went_well(&key);
        }
        queue.done(key, next.map(|wait| now + wait));
    }

    /// Observe, plan, apply, status. Says when to look again.
    async fn look(&self, key: &str) -> Result<Option<Duration>, ApplyError> {
        let Some(session) = self.sessions.one(key) else { return Ok(None) };
        if self.lately.is_behind(&session.metadata) {
            // Its own event wakes it; this is for the case that none comes.
            return Ok(Some(lately::AT_MOST));
        }
        let spec = EffectiveSession::try_from(&*session)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        let policy = policy_of(&session);
        let view = policy.as_ref().and_then(|name| self.context.registry.policy(name));
        let seen_policy = match &view {
            Some(view) => SeenPolicy::View(view),
            None if self.policy_exists(&session).await? => SeenPolicy::NotLookedAt,
            None => SeenPolicy::Missing,
        };
        let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
        let secret = self.secrets.one(&format!("{namespace}/{}", session.spec.secret.name));
        let now = Clock::wall();
        let seen = Observed {
            session: &session,
            spec,
            policy: seen_policy,
            secret: secret.as_deref(),
            left_over: self.left_over(&session),
            cutoffs: &self.cutoffs,
            now,
            leading_since: self.leading_since,
            fresh_id: Uuid::now_v7().to_string(),
        };
        let plan = plan(&seen);
        let (wake, has_steps) = (plan.wake, !plan.steps.is_empty());
        let applying = Applying {
            context: &self.context,
            cutoffs: &self.cutoffs,
            session: &session,
            spec: seen.spec.as_ref().ok(),
            policy: policy.as_ref(),
            view: view.as_deref(),
            secret: secret.as_deref(),
            now,
            lately: &self.lately,
        };
        let outcome = applying.apply(plan).await?;
        let next = match outcome {
            Outcome::Refused { reason: Reason::SecretConflict, .. } => Some(jittered(CONFLICT)),
            _ if has_steps => Some(AFTER_STEPS),
            // A token that goes on living while no other can be made.
            Outcome::Waiting { token: Some(token), .. } => Some(until(token.expires, now)),
            _ => wake.map(|wake| until(wake, now)),
        };
        Ok(next.map(|next| next.min(AT_LEAST_EVERY)))
    }

    async fn policy_exists(&self, session: &Session) -> Result<bool, ApplyError> {
        let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<AuthPolicy> = Api::namespaced(self.context.client.clone(), namespace);
        let found = api.get_metadata_opt(&session.spec.policy_ref.name).await;
        Ok(found.map_err(|source| ApplyError::Api { what: "the AuthPolicy", source })?.is_some())
    }

    fn left_over(&self, session: &Session) -> Vec<String> {
        let Some(uid) = session.metadata.uid.as_deref() else { return Vec::new() };
        let owners = self.owners.lock();
        let secrets = owners.secrets_of(uid).filter_map(|key| self.secrets.one(key));
        let names = secrets.filter(|secret| {
            let label = secret.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL));
            secret.metadata.namespace == session.metadata.namespace
                && label.is_some_and(|label| label == uid)
                && secret.metadata.name.as_deref() != Some(&session.spec.secret.name)
        });
        names.filter_map(|secret| secret.metadata.name.clone()).collect()
    }
}

fn until(at: UnixMillis, now: UnixMillis) -> Duration {
    Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0))
}

fn key_of(metadata: &ObjectMeta) -> Option<String> {
    Some(format!("{}/{}", metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

fn policy_of(session: &Session) -> Option<PolicyName> {
    PolicyName::try_new(session.metadata.namespace.as_deref()?, &session.spec.policy_ref.name).ok()
}
