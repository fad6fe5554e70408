//! Which versions of Sessions this process has just written, so that it doesn't decide on what the watch showed before.
//!
//! A Secret's event may come before the Session's own: a look at that moment would write once more, and be refused.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::versions::version_of;

/// How long a write is waited for. A watch that hasn't shown it by then may belong to an API server that was restored.
pub(super) const AT_MOST: Duration = Duration::from_secs(10);

/// What was written lately, by uid.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<HashMap<String, (u64, Instant)>>);

impl Lately {
    /// Remembers a write by what the API server answered.
    pub(super) fn wrote(&self, metadata: &ObjectMeta) {
        self.wrote_at(metadata, Instant::now());
    }

    fn wrote_at(&self, metadata: &ObjectMeta, now: Instant) {
        if let Some(uid) = &metadata.uid {
            self.0.lock().insert(uid.clone(), (version_of(metadata), now));
        }
    }

    /// Whether what the watch shows is from before the last write. Once it is not, or has been for long, the write is forgotten.
    pub(super) fn is_behind(&self, shown: &ObjectMeta) -> bool {
        let Some(uid) = &shown.uid else { return false };
        let mut written = self.0.lock();
        let behind = written.get(uid).is_some_and(|(version, at)| version_of(shown) < *version && at.elapsed() < AT_MOST);
        if !behind {
            written.remove(uid);
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some("u".into()), resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn what_was_written_is_waited_for_but_not_for_ever() {
        let lately = Lately::default();
        assert!(!lately.is_behind(&at("5")), "nothing was written");
        lately.wrote(&at("7"));
        assert!(lately.is_behind(&at("5")));
        assert!(!lately.is_behind(&at("7")));
        assert!(!lately.is_behind(&at("5")), "it was seen, so this is news");
        lately.wrote_at(&at("9"), Instant::now().checked_sub(AT_MOST).unwrap());
        assert!(!lately.is_behind(&at("8")));
    }
}
