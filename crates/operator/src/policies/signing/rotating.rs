//! How the key that signs bundles is replaced, and its objects are kept as they ought to be.
//!
//! Publish the new one, wait until every verifier that is waited for and every issuer trusts it, sign with it and have everything signed anew,
//! then remove the old one when nothing that is signed with it is left and everybody holds what took its place. Each step is
//! stored before it is acted on, so a new leader goes on where the last one stopped.

mod step;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use countersign_api::{
    bundle,
    cluster::{
        BUNDLE_KEY, BUNDLE_LABEL, BUNDLE_SIGNING, BUNDLE_TRUST, BUNDLE_TRUST_KEY, FIELD_MANAGER, FORMAT, ISSUE_KEY,
        ISSUE_LABEL, KEY_RING_LABEL,
    },
    issue,
    policy::ROTATE_ANNOTATION,
};
use countersign_feed::Clock;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::watcher,
};
use tokio::{sync::Notify, time::Instant};

use self::step::{Step, step};
use super::{BundleKeys, Held, SigningError, params};
use crate::{
    fleet::{Count, watching::longest_absent_after},
    mirror::{Mirror, WatchLost},
    policies::record::sealed_by,
    run::Context,
    versions::version_of,
};

/// How often a rotation that waits is looked at.
const WHILE_ROTATING: Duration = Duration::from_secs(1);
/// How often it is looked for what is signed with an old key still.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often the objects are looked at when nothing happens.
const IDLE: Duration = Duration::from_mins(5);
/// How often it is said for what a rotation waits.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// Objects read at a time.
const PAGE: u32 = 200;

/// Keeps Secret and ConfigMap as they ought to be and carries rotations, for ever. `touch` has every policy looked at.
pub(in crate::policies) async fn keep(context: &Context, keys: &BundleKeys, touch: impl Fn()) -> Result<(), WatchLost> {
    let keeper = Keeper::new(context, keys);
    let (secrets, maps) = (keeper.secrets.clone(), keeper.maps.clone());
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let told = |_| keeper.changed.notify_one();
    let seen = |secret: Secret| Some((secret.metadata.name.clone()?, version_of(&secret.metadata)));
    let published = |map: ConfigMap| Some((map.metadata.name.clone()?, version_of(&map.metadata)));
    tokio::select! {
        lost = keeper.secret.run("the key of bundles", watcher(secrets, named(BUNDLE_SIGNING)), seen, told) => lost,
        lost = keeper.map.run("the trust in bundles", watcher(maps, named(BUNDLE_TRUST)), published, told) => lost,
        () = keeper.run(touch) => Ok(()),
    }
}

struct Keeper<'a> {
    context: &'a Context,
    keys: &'a BundleKeys,
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    /// The versions at which the two objects were seen: any change has them read.
    secret: Mirror<u64>,
    map: Mirror<u64>,
    changed: Notify,
}

impl<'a> Keeper<'a> {
    fn new(context: &'a Context, keys: &'a BundleKeys) -> Self {
        let namespace = &context.config.system_namespace;
        Self {
            context,
            keys,
            secrets: Api::namespaced(context.client.clone(), namespace),
            maps: Api::namespaced(context.client.clone(), namespace),
            secret: Mirror::default(),
            map: Mirror::default(),
            changed: Notify::new(),
        }
    }

    async fn run(&self, touch: impl Fn()) {
        tokio::join!(self.secret.synced(), self.map.synced());
        let mut said: Option<(String, Instant)> = None;
        loop {
            let wait = match self.look(&touch).await {
                Ok((wait, waits_for)) => {
                    if let Some(text) = &waits_for
                        && said.as_ref().is_none_or(|(before, at)| before != text || at.elapsed() >= SAY_AGAIN)
                    {
                        tracing::warn!("the rotation of the key that signs bundles waits: {text}");
                        said = Some((text.clone(), Instant::now()));
                    }
                    wait
                }
                Err(error) => {
                    tracing::error!(%error, "the key that signs bundles can't be seen to now; trying again");
                    LOOK_AGAIN
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look. When the next is due, and what a rotation waits for.
    async fn look(&self, touch: &impl Fn()) -> Result<(Duration, Option<String>), SigningError> {
        let held = self.keys.held();
        let found = self.repair(&held).await?;
        self.repair_trust(&held).await?;
        let asked = found.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE_ANNOTATION)).map(String::as_str);
        match step(&held, asked) {
            Step::Nothing => Ok((IDLE, None)),
            Step::Publish(asked) => {
                self.store(held.with_new_key(asked, Clock::wall())?, &found).await?;
                self.keys.publish(self.context).await?;
                tracing::info!("a new key for bundles is made; it signs once every verifier trusts it");
                Ok((WHILE_ROTATING, None))
            }
            Step::SignOnceTrusted(kid) => {
                let trusting = self.context.registry.fleet().trusting(&kid, longest_absent_after(self.context));
                let issuers = self.context.registry.fleet().issuers_trusting(&kid);
                let waits_for =
                    [("verifiers", !trusting.complete(), trusting), ("issuers", issuers.held < issuers.required, issuers)];
                if let Some((who, _, count)) = waits_for.iter().find(|(_, waits, _)| *waits) {
                    let Count { held, required, lagging, .. } = count;
                    let lagging = lagging.join(", ");
                    let text = format!("{held} of {required} {who} trust the new key; not yet: {lagging}");
                    return Ok((WHILE_ROTATING, Some(text)));
                }
                self.store(held.signed_by_newest(), &found).await?;
                tracing::info!(kid, "bundles and key rings are signed with the new key from here on, and all of them anew");
                touch();
                Ok((WHILE_ROTATING, None))
            }
            Step::RemoveOthers => {
                let left = self.left(&held).await?;
                if !left.names.is_empty() {
                    touch();
                    return Ok((LOOK_AGAIN, Some(format!("signed with an old key still: {}", left.names.join(", ")))));
                }
                let quorum = self.context.registry.fleet().quorum(longest_absent_after(self.context));
                if quorum.required.is_empty() || quorum.floor < left.highest {
                    return Ok((WHILE_ROTATING, Some("not every verifier has come to what is signed anew".to_owned())));
                }
                self.store(held.without_others(), &found).await?;
                self.keys.publish(self.context).await?;
                tracing::info!("the old key for bundles is removed");
                Ok((WHILE_ROTATING, None))
            }
        }
    }

    /// The Secret, after it was written anew if somebody changed or deleted it.
    async fn repair(&self, held: &Held) -> Result<Secret, SigningError> {
        let wanted = held.data()?;
        match self.secrets.get_opt(BUNDLE_SIGNING).await? {
            Some(found) if found.data.as_ref() == Some(&wanted) => Ok(found),
            Some(found) => {
                // One that an earlier release wrote lacks a part, and is no less ours.
                if Held::of(&found).is_err() || found.data.as_ref().is_some_and(|data| data.len() >= wanted.len()) {
                    tracing::error!("the Secret {BUNDLE_SIGNING} was changed by somebody else; it is written anew");
                }
                self.write(held, found.metadata.resource_version).await
            }
            None => {
                tracing::error!("the Secret {BUNDLE_SIGNING} was deleted; it is written anew");
                self.write(held, None).await
            }
        }
    }

    async fn repair_trust(&self, held: &Held) -> Result<(), SigningError> {
        let found = self.maps.get_opt(BUNDLE_TRUST).await?;
        let text = found.and_then(|map| map.data?.remove(BUNDLE_TRUST_KEY));
        if text != Some(held.published()?) {
            tracing::error!("the ConfigMap {BUNDLE_TRUST} is not as it should be; it is written anew");
            self.keys.publish(self.context).await?;
        }
        Ok(())
    }

    /// Stores what is to be, then goes by it.
    async fn store(&self, next: Held, over: &Secret) -> Result<(), SigningError> {
        self.write(&next, over.metadata.resource_version.clone()).await?;
        *self.keys.0.write() = Arc::new(next);
        Ok(())
    }

    async fn write(&self, held: &Held, version: Option<String>) -> Result<Secret, SigningError> {
        let secret = held.to_secret(version.clone())?;
        let written = if version.is_some() {
            self.secrets.patch(BUNDLE_SIGNING, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret)).await?
        } else {
            self.secrets.create(&params(), &secret).await?
        };
        self.context.versions.note(version_of(&written.metadata));
        Ok(written)
    }

    /// What is signed with another key of ours than the one that signs.
    async fn left(&self, held: &Held) -> Result<Left, SigningError> {
        let mut left = Left::default();
        let old = |kid: &str| kid != held.signer.signing.kid() && held.keys.iter().any(|key| key.signing.kid() == kid);
        let bundles: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &self.context.config.bundles_namespace);
        let mut page = ListParams::default().labels(&format!("{BUNDLE_LABEL}={FORMAT}")).limit(PAGE);
        loop {
            let list = bundles.list(&page).await?;
            for map in &list.items {
                let text = map.data.as_ref().and_then(|data| data.get(BUNDLE_KEY));
                left.note(&map.metadata, text.and_then(|text| bundle::signed_by(text.as_bytes())).as_deref(), old);
                left.highest = left.highest.max(version_of(&map.metadata));
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        for label in [KEY_RING_LABEL, ISSUE_LABEL] {
            let mut page = ListParams::default().labels(&format!("{label}={FORMAT}")).limit(PAGE);
            loop {
                let list = self.secrets.list(&page).await?;
                for secret in &list.items {
                    left.note(&secret.metadata, signed_by(secret).as_deref(), old);
                }
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(left)
    }
}

/// The kid of the key that a Secret of ours says to be signed with, be it a ring's or one for issuers.
fn signed_by(secret: &Secret) -> Option<String> {
    let told = || issue::signed_by(&secret.data.as_ref()?.get(ISSUE_KEY)?.0);
    sealed_by(secret).or_else(told)
}

/// What keeps an old key from going.
#[derive(Debug, Default)]
struct Left {
    /// The policies behind some of what is signed with it.
    names: Vec<String>,
    /// The version of the latest bundle.
    highest: u64,
}

impl Left {
    fn note(
        &mut self,
        metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        signed_by: Option<&str>,
        old: impl Fn(&str) -> bool,
    ) {
        if !signed_by.is_some_and(old) || self.names.len() >= crate::fleet::MAX_NAMED {
            return;
        }
        let policy = metadata.annotations.as_ref().and_then(|a| a.get(countersign_api::cluster::POLICY_ANNOTATION));
        let name = policy.or(metadata.name.as_ref()).cloned().unwrap_or_default();
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }
}
