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

/// What a watch shows of an object, beside what this process last wrote or read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing, though it has shown it before.
    Gone,
    /// An earlier state than what was written: it will come to that.
    Lags,
    /// What was written.
    AsWritten,
    /// What somebody wrote since.
    Later,
    /// An earlier state than it has shown before, which no watch does unless the API server was restored from a backup. One
    /// that was restored with its versions raised is noticed by this alone.
    WentBack,
}

/// Compares what was `written`, which the watch has shown since if `confirmed`, with what it shows.
pub fn shown(written: Option<u64>, confirmed: bool, now: Option<u64>) -> Shown {
    match (written, now) {
        (Some(_), None) if confirmed => Shown::Gone,
        (_, None) => Shown::Lags,
        (None, Some(_)) => Shown::Later,
        (Some(written), Some(now)) if now == written => Shown::AsWritten,
        (Some(written), Some(now)) if now > written => Shown::Later,
        _ if confirmed => Shown::WentBack,
        _ => Shown::Lags,
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

    #[test]
    fn a_watch_lags_only_until_it_has_shown_what_was_written_and_a_lower_version_then_shows_a_restore() {
        for (written, confirmed, now, expected) in [
            (Some(8), false, Some(7), Shown::Lags),
            (Some(8), true, Some(7), Shown::WentBack),
            (Some(8), false, Some(8), Shown::AsWritten),
            (Some(8), true, Some(9), Shown::Later),
            (Some(8), false, Some(9), Shown::Later),
            (Some(8), false, None, Shown::Lags),
            (Some(8), true, None, Shown::Gone),
            (None, false, Some(9), Shown::Later),
            (None, false, None, Shown::Lags),
        ] {
            assert_eq!(shown(written, confirmed, now), expected, "{written:?} {confirmed} {now:?}");
        }
    }
}
