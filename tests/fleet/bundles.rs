//! What all simulated verifiers hold: the bundles, by one ordered watch.

use std::{collections::BTreeMap, path::PathBuf, pin::pin, time::Duration};

use anyhow::{Context as _, Result, bail};
use countersign_api::{
    bundle::{self, Bundle, Trust},
    cluster::{BUNDLE_KEY, BUNDLE_TRUST_KEY, HISTORY, HISTORY_KEY, POLICY_ANNOTATION},
};
use countersign_core::jose::JwkSet;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{sync::watch, time::sleep};

const PAGE: u32 = 500;
/// Events that are applied together, at most.
const CHUNK: usize = 256;
/// Between two tries to reach the API server.
const RETRY: Duration = Duration::from_millis(500);

/// What has been applied at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) history: String,
    pub(crate) revision: u64,
    /// The keys whose signatures count.
    pub(crate) trusted: Vec<String>,
    /// Policies whose bundle isn't good, with the generation held in its place.
    pub(crate) refused: Vec<(String, Option<u64>)>,
    /// The highest generation held of any.
    pub(crate) highest: u64,
}

/// Follows the bundles, and holds them.
pub(crate) struct Bundles {
    api: Api<ConfigMap>,
    trust_directory: PathBuf,
    trust: Trust,
    publish: watch::Sender<Option<Applied>>,
    held: BTreeMap<String, Bundle>,
    refused: BTreeMap<String, String>,
    history: String,
    revision: u64,
}

impl Bundles {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        trust_directory: PathBuf,
        publish: watch::Sender<Option<Applied>>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            trust_directory,
            trust: Trust::Keys(Vec::new()),
            publish,
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            history: String::new(),
            revision: 0,
        }
    }

    /// Lists, then watches, for ever; a watch that can't be resumed begins with a list again.
    pub(crate) async fn follow(mut self) -> Result<()> {
        loop {
            let followed = async {
                if self.revision == 0 {
                    self.list().await?;
                }
                self.watch().await
            };
            if let Err(error) = followed.await {
                eprintln!("bundles are listed again: {error:#}");
                self.revision = 0;
                sleep(RETRY).await;
            }
        }
    }

    async fn list(&mut self) -> Result<()> {
        self.read_trust()?;
        let mut parameters = ListParams::default().limit(PAGE);
        let mut listed = BTreeMap::new();
        let version = loop {
            let page = self.api.list(&parameters).await?;
            let version = number(page.metadata.resource_version.as_deref())?;
            listed.extend(page.items.into_iter().map(|object| (object.metadata.name.clone().unwrap_or_default(), object)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break version,
            }
        };
        self.held.retain(|name, _| listed.contains_key(name));
        self.refused.retain(|name, _| listed.contains_key(name));
        for (name, object) in listed {
            self.apply(name, object)?;
        }
        self.reach(version);
        Ok(())
    }

    async fn watch(&mut self) -> Result<()> {
        let events = self.api.watch(&WatchParams::default(), &self.revision.to_string()).await?;
        let mut events = pin!(events.ready_chunks(CHUNK));
        while let Some(chunk) = events.next().await {
            let mut version = self.revision;
            for event in chunk {
                version = match event? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        let version = number(object.metadata.resource_version.as_deref())?;
                        self.apply(object.metadata.name.clone().unwrap_or_default(), object)?;
                        version
                    }
                    WatchEvent::Deleted(object) => {
                        let name = object.metadata.name.unwrap_or_default();
                        self.held.remove(&name);
                        self.refused.remove(&name);
                        number(object.metadata.resource_version.as_deref())?
                    }
                    WatchEvent::Bookmark(bookmark) => number(Some(&bookmark.metadata.resource_version))?,
                    WatchEvent::Error(status) => bail!("{}", status.message),
                };
            }
            if version < self.revision {
                bail!("versions went back");
            }
            self.reach(version);
        }
        Ok(())
    }

    fn apply(&mut self, name: String, object: ConfigMap) -> Result<()> {
        let mut data = object.data.unwrap_or_default();
        if name == HISTORY {
            self.history = data.remove(HISTORY_KEY).unwrap_or_default();
            return Ok(());
        }
        let (Some(sealed), Some(policy)) =
            (data.remove(BUNDLE_KEY), object.metadata.annotations.and_then(|mut all| all.remove(POLICY_ANNOTATION)))
        else {
            return Ok(());
        };
        let highest = self.held.get(&name).map(|held| held.generation);
        let mut opened = bundle::open(sealed.as_bytes(), &self.trust, highest);
        if opened.is_err() {
            // Perhaps by a key that is trusted since.
            self.read_trust()?;
            opened = bundle::open(sealed.as_bytes(), &self.trust, highest);
        }
        match opened {
            Ok(bundle) => {
                self.refused.remove(&name);
                self.held.insert(name, bundle);
            }
            Err(refusal) => {
                eprintln!("{policy}: {refusal}");
                self.refused.insert(name, policy);
            }
        }
        Ok(())
    }

    /// Everything up to here is held: says so.
    fn reach(&mut self, version: u64) {
        self.revision = version;
        let held = |name: &String| self.held.get(name).map(|held| held.generation);
        let applied = Applied {
            history: self.history.clone(),
            revision: version,
            trusted: match &self.trust {
                Trust::Keys(keys) => keys.iter().filter_map(|key| key.kid().map(str::to_owned)).collect(),
                Trust::FileSystem => Vec::new(),
            },
            refused: self.refused.iter().map(|(name, policy)| (policy.clone(), held(name))).collect(),
            highest: self.held.values().map(|held| held.generation).max().unwrap_or(0),
        };
        self.publish.send_replace(Some(applied));
    }

    fn read_trust(&mut self) -> Result<()> {
        let file = self.trust_directory.join(BUNDLE_TRUST_KEY);
        let text = std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        let set = JwkSet::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        self.trust = Trust::from_jwks(&set);
        Ok(())
    }
}

fn number(text: Option<&str>) -> Result<u64> {
    text.and_then(|text| text.parse().ok()).with_context(|| format!("{text:?} is no version"))
}
