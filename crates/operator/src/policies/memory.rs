//! What is remembered of a policy between two looks at it. All of it can be had again from the API server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::Bundle,
    issue::IssueSection,
    key_ring::Kept,
    policy::{AuthPolicyStatus, EffectivePolicy},
};
use countersign_core::{revocation::Entry, time::UnixMillis};
use tokio::{sync::oneshot, time::Instant};

use super::{informing::Told, record::RingSecret, references::Resolution, status::Acceptance};
use crate::fleet::Since;

/// What the ring Secret holds.
#[derive(Debug)]
pub(crate) struct Stored {
    /// `None`: it has to be created.
    pub(crate) version: Option<u64>,
    pub(crate) kept: Kept,
    /// The watch has shown that version, so that a lower one there means something.
    pub(crate) confirmed: bool,
}

/// A bundle as it was last written, or found as it ought to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) since: Since,
    pub(crate) sha256: [u8; 32],
    /// The watch has shown it, so that its absence there means something.
    pub(crate) confirmed: bool,
}

/// A spec that was looked at: which one, and what came of it.
#[derive(Debug)]
pub(crate) struct Understood {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) outcome: Result<Arc<EffectivePolicy>, Acceptance>,
}

/// Entries that somebody wants in the bundle.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) entries: Vec<Entry>,
    pub(crate) done: oneshot::Sender<()>,
}

/// A time up to which somebody wants to issue tokens.
#[derive(Debug)]
pub(crate) struct Reserve {
    pub(crate) until: UnixMillis,
    pub(crate) done: oneshot::Sender<()>,
}

/// What is remembered of a policy.
#[derive(Debug, Default)]
pub(crate) struct Managed {
    pub(crate) stored: Option<Stored>,
    /// What is stored has to be read anew before it is relied on.
    pub(crate) unsure: bool,
    /// That there is nothing stored was asked of the API server itself.
    pub(crate) asked: bool,
    /// The Secret bears an administrator's word, which the next write takes off.
    pub(crate) vouched: bool,
    /// It has to be written anew.
    pub(crate) rewrite: bool,
    /// So has the bundle, under a new generation.
    pub(crate) rewrite_bundle: bool,
    pub(crate) understood: Option<Understood>,
    /// What the references of the understood spec gave.
    pub(crate) resolved: Option<Result<Resolution, Acceptance>>,
    /// The content of the present bundle, where it is needed.
    pub(crate) present: Option<Arc<Bundle>>,
    pub(crate) written: Option<Written>,
    /// Whether the last attempt to write bundle or verify-secrets is known to have succeeded; else they are read first.
    pub(crate) bundle_unsure: bool,
    /// A ring's Secret that isn't trusted, as it was found last.
    pub(crate) untrusted: Option<RingSecret>,
    /// A verifier was seen to hold more than is kept.
    pub(crate) suspected: bool,
    /// The history under which the rings were taken for an older state.
    pub(crate) restored_in: Option<String>,
    /// The generation and the digest of a bundle that is decided, stored, and not written yet.
    pub(crate) reserved: Option<(u64, [u8; 32])>,
    /// Why the bundle can't be written, for people.
    pub(crate) unwritten: Option<String>,
    /// The last spec that made sense, and whose it was.
    pub(crate) last_effective: Option<(String, Arc<EffectivePolicy>)>,
    /// The version of the verify-secrets that are known to be as they ought to, and whether the watch has shown it.
    pub(crate) secrets: Option<(u64, bool)>,
    /// What issuers are told beside, as it was last written or found.
    pub(crate) told: Option<Told>,
    /// The last attempt to write that isn't known to have succeeded.
    pub(crate) told_unsure: bool,
    /// What they were told last, whatever became of it since.
    pub(crate) section: Option<Arc<IssueSection>>,
    /// From which write on the bundle holds each key.
    pub(crate) since: BTreeMap<String, Since>,
    pub(crate) ends: Vec<End>,
    pub(crate) reserves: Vec<Reserve>,
    /// The status that was last written, and the version that it gave the policy, until the watch shows that.
    pub(crate) status: Option<(u64, AuthPolicyStatus)>,
    pub(crate) status_at: Option<Instant>,
    /// Since when the present generation of the spec has been looked at.
    pub(crate) generation_since: Option<(i64, Instant)>,
    /// What verifiers ought to hold.
    pub(crate) holds: Option<Waits>,
    /// Since when verifiers have lacked the present bundle.
    pub(crate) lagging_since: Option<Instant>,
    pub(crate) failures: u32,
}

impl Managed {
    /// The version of the ring's Secret; 0 while it isn't there.
    pub(crate) fn stored_version(&self) -> u64 {
        self.stored.as_ref().and_then(|stored| stored.version).unwrap_or(0)
    }

    /// Those who don't wait any more ask again.
    pub(crate) fn drop_those_who_left(&mut self) {
        self.ends.retain(|end| !end.done.is_closed());
    }

    /// The bundle isn't as it was written, or may not be: no acknowledgement so far says that anybody holds its keys.
    pub(crate) fn bundle_changed(&mut self) {
        self.written = None;
        self.since.clear();
    }

    /// What was to be ended is, on the API server.
    pub(crate) fn tell_ended(&mut self) {
        for end in self.ends.drain(..) {
            // Whoever asked may have given up.
            let _ = end.done.send(());
        }
    }

    /// What was to be reserved is, on the API server.
    pub(crate) fn tell_reserved(&mut self) {
        for reserve in self.reserves.drain(..) {
            // Whoever asked may have given up.
            let _ = reserve.done.send(());
        }
    }

    /// The API server was restored: no version of before means anything, and verifiers may hold later bundles.
    pub(crate) fn went_back(&mut self) {
        self.unsure = true;
        if let Some(stored) = &mut self.stored {
            (stored.version, stored.confirmed) = (None, false);
        }
        self.rewrite_bundle = true;
        self.bundle_unsure = true;
        self.bundle_changed();
        self.reserved = None;
        // The same generation may be of another spec now.
        (self.understood, self.resolved) = (None, None);
        self.present = None;
        self.secrets = None;
        self.told = None;
        self.told_unsure = true;
        self.status = None;
    }
}

/// When a policy is to be looked at again, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    /// In so long, whatever happens.
    pub(crate) within: Option<Duration>,
    /// When every verifier has applied so much.
    pub(crate) waits_for: Option<Waits>,
    /// When every issuer has applied the key rings up to this version.
    pub(crate) waits_for_issuers: Option<u64>,
    /// What verifiers ought to hold.
    pub(crate) holds: Option<Waits>,
    /// Nothing is left of it.
    pub(crate) gone: bool,
}

/// Up to which version verifiers have to be, and how long one may be absent before it isn't waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) version: u64,
    pub(crate) absent_after_ms: i64,
}
