//! Carrying out a plan.

use zeroize::Zeroizing;

use super::{Action, KeyState, PrivateKey, Ring, RingKey};
use crate::{
    jose::Algorithm,
    keys::{SigningKey, SigningKeyError},
    time::UnixMillis,
};

/// Why a plan could not be carried out. The ring is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// No key could be made.
    #[error("no new key: {0}")]
    Generate(#[from] SigningKeyError),
    /// The plan was made for another ring.
    #[error("the ring has no key {0} in the state that the plan supposes")]
    NotThisRing(String),
}

impl Ring {
    /// The ring that `actions` make of this one. `generate` makes new keys, usually [`SigningKey::generate`].
    pub fn apply(
        &self,
        actions: &[Action],
        now: UnixMillis,
        mut generate: impl FnMut(Algorithm) -> Result<SigningKey, SigningKeyError>,
    ) -> Result<Self, ApplyError> {
        if actions.is_empty() {
            return Ok(self.clone());
        }
        let mut ring = Self { version: self.next_version(now), ..self.clone() };
        for action in actions {
            match action {
                Action::Create { algorithm, .. } => ring.keys.push(pending(&generate(*algorithm)?, now)?),
                Action::Revoke { kid } => ring.revoke(kid, now)?,
                Action::Activate { kid, unacknowledged, ttl_ms, revision, rotation } => {
                    ring.activate(kid, *unacknowledged, *ttl_ms, now)?;
                    // A request that is withdrawn stays handled, or asking for the same again would rotate again.
                    ring.handled_revision = revision.clone().or(ring.handled_revision.take());
                    ring.handled_rotation = rotation.clone().or(ring.handled_rotation.take());
                }
                Action::Acknowledged { kid } => ring.key_mut(kid)?.unacknowledged = false,
                Action::NoteLifetime { kid, ttl_ms } => {
                    let key = ring.key_mut(kid)?;
                    key.longest_ttl_ms = key.longest_ttl_ms.max(*ttl_ms);
                }
                Action::ScheduleRemoval { kid, at } => {
                    let key = ring.key_mut(kid)?;
                    key.remove_after = Some(*at);
                    key.pkcs8 = None;
                }
                Action::Remove { kid } => {
                    ring.key_mut(kid)?;
                    ring.keys.retain(|key| key.kid != *kid);
                }
                Action::Restamp { kid, remove_by } => {
                    let key = ring.key_mut(kid)?;
                    key.created = key.created.min(now);
                    key.activated = key.activated.map(|at| at.min(now));
                    key.retiring_since = key.retiring_since.map(|at| at.min(now));
                    key.remove_after = key.remove_after.map(|at| remove_by.map_or(at, |by| at.min(by)));
                }
            }
        }
        Ok(ring)
    }

    /// A key that is not revoked.
    fn key_mut(&mut self, kid: &str) -> Result<&mut RingKey, ApplyError> {
        let found = self.keys.iter_mut().find(|key| key.kid == kid && key.state != KeyState::Revoked);
        found.ok_or_else(|| ApplyError::NotThisRing(kid.to_owned()))
    }

    fn revoke(&mut self, kid: &str, now: UnixMillis) -> Result<(), ApplyError> {
        let key = self.key_mut(kid)?;
        let was_active = key.state == KeyState::Active;
        key.state = KeyState::Revoked;
        key.revoked = Some(now);
        key.remove_after = None;
        key.unacknowledged = false;
        key.pkcs8 = None;
        if was_active {
            self.keys.retain(|key| key.state != KeyState::Pending);
        }
        Ok(())
    }

    fn activate(&mut self, kid: &str, unacknowledged: bool, ttl_ms: i64, now: UnixMillis) -> Result<(), ApplyError> {
        let version = self.version;
        if self.key_mut(kid)?.state != KeyState::Pending {
            return Err(ApplyError::NotThisRing(kid.to_owned()));
        }
        for key in self.keys.iter_mut().filter(|key| key.state == KeyState::Active) {
            key.state = KeyState::Retiring;
            key.retiring_since = Some(now);
            key.retired_in = Some(version);
            key.unacknowledged = false;
        }
        let key = self.key_mut(kid)?;
        key.state = KeyState::Active;
        key.activated = Some(now);
        key.unacknowledged = unacknowledged;
        key.longest_ttl_ms = key.longest_ttl_ms.max(ttl_ms);
        Ok(())
    }
}

fn pending(key: &SigningKey, now: UnixMillis) -> Result<RingKey, SigningKeyError> {
    let pkcs8: Zeroizing<Vec<u8>> = key.to_pkcs8()?;
    Ok(RingKey {
        kid: key.kid().to_owned(),
        algorithm: key.algorithm(),
        state: KeyState::Pending,
        created: now,
        activated: None,
        retiring_since: None,
        retired_in: None,
        remove_after: None,
        revoked: None,
        longest_ttl_ms: 0,
        unacknowledged: false,
        pkcs8: Some(PrivateKey::new(pkcs8)),
        public: key.public_jwk().clone(),
    })
}
