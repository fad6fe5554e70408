//! The feed as a part of a leading operator.

use std::sync::Arc;

use countersign_api::{
    bundle::{self, Trust},
    cluster::{BUNDLE_KEY, BUNDLE_LABEL, BUNDLE_TRUST, BUNDLE_TRUST_KEY, FORMAT},
};
use countersign_core::jose::JwkSet;
use countersign_feed::{FeedServer, InvalidRedisUrl, RedisFeed, RedisOptions, RedisUrl, collect_uses};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ListParams};

use super::{BundleOutbox, ConfigMapEpochs, Cutoffs, FeedFollower, FeedWriter, uses::UseTeller};
use crate::run::Context;

/// Bundles read at a time.
const PAGE: u32 = 200;

/// Why the feed is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FeedPartError {
    /// The settings.
    #[error("--redis (REDIS_URL): {0}")]
    Redis(#[from] InvalidRedisUrl),
    /// What the bundles call revoked can't be read.
    #[error("the bundles can't be read to seed the feed: {0}")]
    Bundles(#[from] kube::Error),
}

/// Follows the feed, and with `--no-issuer` writes it, until `context.stop`.
pub async fn run(context: Context, cutoffs: Arc<Cutoffs>) -> Result<(), FeedPartError> {
    let redis = &context.config.redis;
    let options = RedisOptions { ca_pem: redis.ca_pem.clone(), ..RedisOptions::default() };
    let server: Arc<dyn FeedServer> = Arc::new(RedisFeed::new(RedisUrl::clone(&redis.url), options)?);
    let follower = FeedFollower::new(server.clone(), context.registry.clone(), cutoffs);
    let following = async {
        follower.run(context.stop.clone()).await;
        Ok(())
    };
    let writing = async {
        if !context.config.no_issuer {
            return Ok(());
        }
        let epochs = ConfigMapEpochs::new(context.client.clone(), &context.config.system_namespace);
        let outbox = BundleOutbox::new(epochs);
        // A writer calls the feed complete when nothing that it knows of is missing in it: so first it knows everything.
        tokio::select! {
            seeded = seed(&context, &outbox) => seeded?,
            () = context.stop.cancelled() => return Ok(()),
        }
        tracing::info!(entries = outbox.len(), "no issuer is installed: this operator writes the feed");
        let writer = FeedWriter::spawn(server.clone(), outbox, context.registry.clone(), &context.config.identity);
        let teller = Arc::new(UseTeller(context.clone()));
        tokio::join!(writer.run(context.stop.clone()), collect_uses(server, teller, context.stop.clone()));
        Ok(())
    };
    tokio::try_join!(following, writing).map(|_| ())
}

/// Takes in what every bundle of ours calls revoked, as it was written before this leader's time.
async fn seed(context: &Context, outbox: &BundleOutbox) -> Result<(), kube::Error> {
    let system: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let trust = system.get_opt(BUNDLE_TRUST).await?;
    let trust = trust.and_then(|map| JwkSet::parse(map.data?.get(BUNDLE_TRUST_KEY)?.as_bytes()).ok());
    // Without keys there never was a bundle of ours.
    let Some(trust) = trust.map(|set| Trust::from_jwks(&set)) else { return Ok(()) };
    let bundles: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.bundles_namespace);
    let mut page = ListParams::default().labels(&format!("{BUNDLE_LABEL}={FORMAT}")).limit(PAGE);
    loop {
        let list = bundles.list(&page).await?;
        for map in &list.items {
            let sealed = map.data.as_ref().and_then(|data| data.get(BUNDLE_KEY));
            match sealed.map(|sealed| bundle::open(sealed.as_bytes(), &trust, None)) {
                Some(Ok(bundle)) => drop(outbox.set(&bundle.policy, &bundle.revoked)),
                // One that was edited by hand is repaired, and then told by the registry.
                Some(Err(refusal)) => {
                    tracing::warn!(bundle = ?map.metadata.name, %refusal, "a bundle is not used to seed the feed");
                }
                None => {}
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}
