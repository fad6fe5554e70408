//! The API server's version, which only ever rises, unless the API server is restored from a backup.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The highest version seen.
#[derive(Debug, Default)]
pub struct Versions(AtomicU64);

impl Versions {
    /// Takes note of an object's version.
    pub fn note(&self, version: u64) {
        self.0.fetch_max(version, SeqCst);
    }

    /// The highest seen so far.
    pub fn highest(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Takes note of the version that a write was given, where `before` was the highest seen before it was asked for.
    /// Whether the API server went back: every write gets a higher version than any that was seen before it began.
    pub fn went_back(&self, before: u64, version: u64) -> bool {
        if version > before {
            self.note(version);
            return false;
        }
        self.0.store(version, SeqCst);
        true
    }
}

/// An object's version as a number, which since Kubernetes 1.35 it is by contract; 0 for one that has none.
pub fn version_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_began_after_a_higher_version_was_seen_shows_that_it_went_back() {
        let versions = Versions::default();
        assert!(!versions.went_back(versions.highest(), 10));
        let before = versions.highest();
        versions.note(15);
        assert!(!versions.went_back(before, 12), "written side by side");
        assert_eq!(versions.highest(), 15);
        assert!(versions.went_back(versions.highest(), 13));
        assert_eq!(versions.highest(), 13);
    }
}
