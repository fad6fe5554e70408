//! Policies from a cluster, whatever becomes of the API server.

mod acknowledging;
mod chaos;
mod starting;
mod trusting;

use std::time::Duration;

use countersign_api::bundle::{self, BundleKey, VerifySection};
use countersign_core::keys::SigningKey;
use countersign_feed::{Ack, FeedServer as _};
use countersign_verifier::{
    Config, StartError,
    config::{KubernetesSource, Source},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api_server::{ApiServer, NAMESPACE},
    rig::{Bundles, Rig, TestFeed, bundle_of, eventually, keys, section},
};

/// A cluster, a feed, and a node whose disk outlives its verifiers.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    pub(crate) feed: TestFeed,
    pub(crate) data: TempDir,
    files: TempDir,
    no_directory: Bundles,
    pub(crate) doubtful_after: Duration,
}

impl Cluster {
    /// With a history, trusted keys, and `shop/shop` at generation 5.
    pub(crate) async fn new() -> Self {
        let cluster = Self::empty().await;
        cluster.api.put_history("h1");
        cluster.put("shop/shop", 5, section());
        cluster
    }

    pub(crate) async fn empty() -> Self {
        let api = ApiServer::start().await;
        let files = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", api.address)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(files.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let feed = TestFeed::new().await;
        let (data, no_directory) = (tempfile::tempdir().unwrap(), Bundles::new());
        let doubtful_after = KubernetesSource::DOUBTFUL_AFTER;
        let cluster = Self { api, feed, data, files, no_directory, doubtful_after };
        cluster.trust(&[&keys().bundles]);
        cluster
    }

    pub(crate) fn put(&self, policy: &str, generation: u64, verify: VerifySection) -> u64 {
        self.put_signed(policy, generation, Some(verify), &keys().bundles)
    }

    pub(crate) fn put_signed(&self, policy: &str, generation: u64, verify: Option<VerifySection>, key: &SigningKey) -> u64 {
        self.api.put_bundle(policy, &bundle::seal(&bundle_of(policy, generation, verify), key).unwrap())
    }

    pub(crate) fn trust(&self, keys: &[&SigningKey]) {
        let set = json!({"keys": keys.iter().map(|key| key.public_jwk()).collect::<Vec<_>>()});
        let path = self.files.path().join("bundle-trust.json");
        std::fs::write(path.with_extension("new"), set.to_string()).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.files.path().join("kubeconfig")
    }

    pub(crate) fn trust_directory(&self) -> &std::path::Path {
        self.files.path()
    }

    pub(crate) fn forget_trust(&self) {
        std::fs::remove_file(self.files.path().join("bundle-trust.json")).unwrap();
    }

    fn configured(&self) -> impl FnOnce(&mut Config) + use<> {
        let source = KubernetesSource {
            kubeconfig: Some(self.kubeconfig()),
            namespace: NAMESPACE.into(),
            trust: self.files.path().to_owned(),
            relist_jitter: Duration::from_millis(20),
            doubtful_after: self.doubtful_after,
        };
        let data = self.data.path().to_owned();
        move |config| {
            config.source = Source::Kubernetes(source);
            config.data_dir = Some(data);
        }
    }

    pub(crate) async fn verifier(&self) -> Rig {
        self.try_verifier().await.unwrap()
    }

    pub(crate) async fn try_verifier(&self) -> Result<Rig, StartError> {
        Rig::try_with(&self.no_directory, self.feed.follow(), self.configured()).await
    }

    pub(crate) async fn ack(&self) -> Option<Ack> {
        self.feed.0.leases().await.unwrap().into_iter().find_map(|lease| lease.ack)
    }

    /// Waits for an acknowledgement of this history up to a version, and tells it.
    pub(crate) async fn acked(&self, history: &str, version: u64) -> Ack {
        let holds = |ack: &Ack| ack.history == history && ack.revision.parse::<u64>().unwrap() >= version;
        eventually(&format!("{history} {version} is acknowledged"), async || {
            self.ack().await.is_some_and(|ack| holds(&ack))
        })
        .await;
        self.ack().await.unwrap()
    }
}

/// What an acknowledgement refuses: policy, generation held, reason.
pub(crate) fn refused(ack: &Ack) -> Vec<(String, Option<u64>, String)> {
    ack.refused.iter().map(|r| (r.policy.clone(), r.held, r.reason.clone())).collect()
}

pub(crate) fn one(policy: &str, held: Option<u64>, reason: &str) -> Vec<(String, Option<u64>, String)> {
    vec![(policy.to_owned(), held, reason.to_owned())]
}

/// The generation in force of a policy.
pub(crate) async fn generation(rig: &Rig, policy: &str) -> Option<u64> {
    let listed = rig.get("/v1/policies").await.json();
    let policies = listed["policies"].as_array().unwrap();
    policies.iter().find(|p| p["policy"] == policy).and_then(|p| p["generation"].as_u64())
}

pub(crate) async fn source(rig: &Rig) -> Value {
    rig.health("/readyz").await.json()["source"].clone()
}

/// [`section`] with another key beside the usual ones.
pub(crate) fn section_with(key: BundleKey) -> VerifySection {
    let mut verify = section();
    verify.keys.push(key);
    verify
}
