//! A ring that came back from a backup.

use super::{KeyState, PublicRingKey, Ring, RingKey};
use crate::time::UnixMillis;

impl Ring {
    /// What this ring is worth when verifiers hold a later one that nobody remembers: an older state came back, with what
    /// happened since unknown.
    ///
    /// No key of it signs again: any may have been retired since, and a verifier may have forgotten it. Every key verifies
    /// on, for what it may have signed since; the next plan makes a fresh one and has it acknowledged as in an emergency.
    /// What was revoked stays so; what was revoked since has to come from the feed, before this is published.
    ///
    /// `max_ttl_ms`: the longest life of a token that the ring's keys may have signed. `above`: the new version is higher than
    /// this, whatever the clock says.
    #[must_use]
    pub fn restored(&self, max_ttl_ms: i64, above: u64, now: UnixMillis) -> Self {
        let version = self.next_version(now).max(above.saturating_add(1));
        let mut ring = Self { version, ..self.clone() };
        for key in ring.keys.iter_mut().filter(|key| key.state != KeyState::Revoked) {
            key.state = KeyState::Retiring;
            key.activated = key.activated.or(Some(now));
            key.retiring_since = Some(now);
            key.retired_in = Some(version);
            key.remove_after = None;
            key.longest_ttl_ms = key.longest_ttl_ms.max(max_ttl_ms);
            key.unacknowledged = false;
            key.pkcs8 = None;
        }
        ring
    }

    /// This ring with what a later bundle of it, whose signature holds, says of its keys: those that are revoked there are
    /// revoked, and those that are missing here are there to verify with. To be [`restored`](Self::restored) next.
    #[must_use]
    pub fn with_published(&self, keys: &[PublicRingKey], now: UnixMillis) -> Self {
        let mut ring = self.clone();
        for published in keys {
            let falls = published.state == KeyState::Revoked;
            match ring.keys.iter_mut().find(|held| held.kid == published.kid) {
                Some(held) if falls && held.state != KeyState::Revoked => {
                    held.state = KeyState::Revoked;
                    held.revoked = Some(now);
                    held.remove_after = None;
                    held.unacknowledged = false;
                    held.pkcs8 = None;
                }
                Some(_) => {}
                None => ring.keys.push(RingKey {
                    kid: published.kid.clone(),
                    algorithm: published.alg,
                    state: published.state,
                    created: now,
                    activated: (published.state != KeyState::Pending).then_some(now),
                    retiring_since: None,
                    retired_in: None,
                    remove_after: None,
                    revoked: falls.then_some(now),
                    longest_ttl_ms: 0,
                    unacknowledged: false,
                    pkcs8: None,
                    public: published.jwk.clone(),
                }),
            }
        }
        ring
    }

    /// The version of the ring that takes this one's place. It rises over restores too: an issuer's word on a version of
    /// before must never be taken for its word on another one of the same number.
    pub(super) fn next_version(&self, now: UnixMillis) -> u64 {
        (self.version + 1).max(u64::try_from(now.0).unwrap_or(0))
    }
}
