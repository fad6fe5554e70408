//! Trusted issuers' key sets: fetched here, and nowhere else in a cluster, so that verifiers acknowledge them like our own.
//!
//! One task per key set, shared by the policies that agree on where it is and what its keys are for; an issuer that hangs or
//! errs stalls no other. What was fetched is told to the registry; the bundle keeps the last good set. Verifiers that meet a
//! key which isn't in the bundle say so in their acknowledgement, and have it looked for at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_api::policy::{AuthPolicy, EffectivePolicy, EffectiveTrustedIssuer};
use countersign_core::{
    jose::{Algorithm, JwkSet},
    names::PolicyName,
};
use countersign_jwks::{Client, ClientError, FetchRules, Fetched, Followers, Target};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;

use crate::{
    feed::{Changed, changed},
    registry::{Ending, FeedPresent, ForeignKeys, PolicyView, Registry},
    run::Context,
};

/// Why key sets can't be fetched any more.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// There is no client to fetch with.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The process ends.
    #[error(transparent)]
    Ending(#[from] Ending),
}

/// Fetches key sets until `context.stop`.
pub async fn run(context: Context) -> Result<(), JwksError> {
    let rules =
        FetchRules { allow_private: context.config.jwks_allow_private, ca_file: context.config.jwks_ca_file.clone() };
    let (mut followers, mut fetched) = Followers::new(Client::new(&rules)?);
    let registry = context.registry.clone();
    let mut changes = registry.changes();
    let mut feed = registry.feed();
    let mut wanted = Wanted::default();
    wanted.take_all(&registry, &mut followers).await?;
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            what = changed(&mut changes) => match what {
                None => return Ok(()),
                Some(Changed::Any) => wanted.take_all(&registry, &mut followers).await?,
                Some(Changed::These(names)) => {
                    let mut is_new = false;
                    for name in names {
                        is_new |= wanted.take(&registry, &name).await?;
                    }
                    if is_new {
                        wanted.follow(&mut followers);
                    }
                }
            },
            Some(fetched) = fetched.recv() => {
                for policy in wanted.took(&registry, fetched).await? {
                    tell(&context, &policy);
                }
            }
            Ok(()) = feed.changed() => {
                let present = feed.borrow_and_update().clone();
                wanted.asked_for(&present).into_iter().for_each(|target| followers.look_again(target));
            }
        }
    }
}

/// Which key sets are wanted by whom, and what is known of each.
#[derive(Debug, Default)]
struct Wanted {
    by_policy: BTreeMap<PolicyName, BTreeMap<String, Target>>,
    by_target: BTreeMap<Target, Known>,
}

/// A policy, and the name of its entry.
type User = (PolicyName, String);

#[derive(Debug, Default)]
struct Known {
    users: BTreeSet<User>,
    last_good: Option<Arc<JwkSet>>,
    problem: Option<String>,
    tried: bool,
}

impl Known {
    fn told(&self, target: &Target) -> ForeignKeys {
        ForeignKeys { target: target.clone(), keys: self.last_good.clone(), problem: self.problem.clone() }
    }
}

/// A policy that has to be told that a fetch failed which went well before.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    policy: PolicyName,
    note: String,
}

impl Wanted {
    async fn take_all(&mut self, registry: &Registry, followers: &mut Followers) -> Result<(), Ending> {
        let gone: Vec<PolicyName> = self.by_policy.keys().filter(|name| registry.policy(name).is_none()).cloned().collect();
        for name in gone {
            self.take(registry, &name).await?;
        }
        for view in registry.policies() {
            self.take(registry, &view.name).await?;
        }
        self.follow(followers);
        Ok(())
    }

    /// Each for the namespace of its first user, so that no tenant's hanging servers hold up another's.
    fn follow(&self, followers: &mut Followers) {
        let namespace =
            |known: &'_ Known| known.users.first().map_or_else(String::new, |(policy, _)| policy.namespace().to_owned());
        let grouped: Vec<(&Target, String)> = self.by_target.iter().map(|(t, known)| (t, namespace(known))).collect();
        followers.follow_for(grouped.iter().map(|(target, namespace)| (*target, namespace.as_str())));
    }

    /// Takes a policy in as it now is. True when other key sets are wanted than before.
    async fn take(&mut self, registry: &Registry, name: &PolicyName) -> Result<bool, Ending> {
        let view = registry.policy(name).filter(|view| !view.withdrawn);
        // A spec that makes no sense leaves in force what was.
        let spoiled = view.as_ref().is_some_and(|view| view.effective.is_none());
        if spoiled {
            return Ok(false);
        }
        let targets = view.and_then(|view| view.effective.clone()).map(|policy| targets(&policy)).unwrap_or_default();
        registry.retain_foreign_keys(name, |entry| targets.contains_key(entry));
        let changes = self.set(name, targets);
        for (entry, told) in self.known_to(name) {
            registry.set_foreign_keys(name, &entry, told).await?;
        }
        Ok(changes)
    }

    fn set(&mut self, name: &PolicyName, targets: BTreeMap<String, Target>) -> bool {
        let before = self.by_policy.remove(name).unwrap_or_default();
        if before == targets {
            if !before.is_empty() {
                self.by_policy.insert(name.clone(), before);
            }
            return false;
        }
        for (entry, target) in before {
            if let Some(known) = self.by_target.get_mut(&target) {
                known.users.remove(&(name.clone(), entry));
                if known.users.is_empty() {
                    self.by_target.remove(&target);
                }
            }
        }
        for (entry, target) in &targets {
            self.by_target.entry(target.clone()).or_default().users.insert((name.clone(), entry.clone()));
        }
        if !targets.is_empty() {
            self.by_policy.insert(name.clone(), targets);
        }
        true
    }

    /// What others' fetches have already brought for a policy.
    fn known_to(&self, name: &PolicyName) -> Vec<(String, ForeignKeys)> {
        let targets = self.by_policy.get(name).into_iter().flatten();
        let known = targets.filter_map(|(entry, target)| Some((entry, target, self.by_target.get(target)?)));
        known.filter(|(.., known)| known.tried).map(|(entry, target, known)| (entry.clone(), known.told(target))).collect()
    }

    /// Hands on what a fetch brought.
    async fn took(&mut self, registry: &Registry, fetched: Fetched) -> Result<Vec<Failed>, Ending> {
        let Some((told, users, failed)) = self.note(fetched) else { return Ok(Vec::new()) };
        for (policy, entry) in users {
            registry.set_foreign_keys(&policy, &entry, told.clone()).await?;
        }
        Ok(failed)
    }

    fn note(&mut self, fetched: Fetched) -> Option<(ForeignKeys, BTreeSet<User>, Vec<Failed>)> {
        // Nobody may want it any more by now.
        let known = self.by_target.get_mut(&fetched.target)?;
        let went_well = known.problem.is_none();
        known.tried = true;
        let mut failed = Vec::new();
        match fetched.result {
            Ok(set) => {
                if !went_well {
                    tracing::info!(from = %fetched.target, "a trusted issuer's key set can be fetched again");
                }
                known.last_good = Some(set);
                known.problem = None;
            }
            Err(error) => {
                known.problem = Some(format!("{}: {error}", fetched.target));
                if went_well {
                    let kept = known.last_good.is_some();
                    tracing::warn!(from = %fetched.target, %error, last_good_kept = kept, "a trusted issuer's key set was not fetched");
                    failed.extend(known.users.iter().map(|(policy, entry)| Failed {
                        policy: policy.clone(),
                        note: format!(
                            "the keys of trusted issuer {entry} were not fetched from {}: {error}",
                            fetched.target
                        ),
                    }));
                }
            }
        }
        Some((known.told(&fetched.target), known.users.clone(), failed))
    }

    /// The key sets that verifiers miss a key of.
    fn asked_for(&self, present: &FeedPresent) -> BTreeSet<&Target> {
        let acks = present.leases.iter().filter_map(|lease| lease.ack.as_ref());
        let unknown = acks.flat_map(|ack| &ack.unknown_keys);
        let target = |policy: &str, entry: &str| self.by_policy.get(&policy.parse().ok()?)?.get(entry);
        unknown.filter_map(|unknown| target(&unknown.policy, &unknown.trusted_issuer)).collect()
    }
}

/// The key sets that a policy's trusted issuers have somewhere else, by entry.
fn targets(policy: &EffectivePolicy) -> BTreeMap<String, Target> {
    let fetched = policy.trusted_issuers.iter().filter_map(|trusted| Some((trusted.name.clone(), target(trusted)?)));
    fetched.collect()
}

/// Where a trusted issuer's keys are fetched from, if they are.
pub(crate) fn target(trusted: &EffectiveTrustedIssuer) -> Option<Target> {
    let given = trusted.jwks.as_ref().is_some_and(|jwks| jwks.url.is_none());
    if trusted.secret_key_ref.is_some() || given {
        return None;
    }
    let url = trusted.jwks.as_ref().and_then(|jwks| jwks.url.as_deref());
    let algorithms: Vec<Algorithm> = trusted.algorithms.iter().map(|algorithm| (*algorithm).into()).collect();
    Target::new(url, trusted.issuer.as_deref(), &algorithms)
}

fn tell(context: &Context, failed: &Failed) {
    if let Some(view) = context.registry.policy(&failed.policy) {
        context.events.warning(&reference(&view), "JWKSFetchFailed", failed.note.clone());
    }
}

/// The policy as events name it.
pub(crate) fn reference(view: &PolicyView) -> ObjectReference {
    ObjectReference {
        api_version: Some(AuthPolicy::api_version(&()).into_owned()),
        kind: Some(AuthPolicy::kind(&()).into_owned()),
        namespace: Some(view.name.namespace().to_owned()),
        name: Some(view.name.name().to_owned()),
        uid: Some(view.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;
