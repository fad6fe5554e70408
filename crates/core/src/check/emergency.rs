//! Emergency tokens: no use of one goes unrecorded.
//!
//! They are told from access tokens by their `typ`, which the signature covers: whoever knows nothing of them (a verifier of an
//! earlier release, somebody who only reads the JWKS) refuses them, instead of taking them for access tokens and recording
//! nothing.

use std::fmt;

use serde_json::Value;

use super::{credential::Authenticated, judge::Ask};
use crate::{claims::ClaimSource, mint::EMERGENCY_CLAIM, names::PolicyName, time::UnixMillis};

/// Where uses of emergency tokens are recorded before they are allowed.
pub trait Witness: fmt::Debug + Send + Sync {
    /// Records a use. It is allowed only when this returns `Ok`.
    fn record(&self, used: &EmergencyUse<'_>) -> Result<(), NoRoom>;
}

/// For where no use can be recorded: no emergency token is accepted there.
#[derive(Clone, Copy, Debug)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn record(&self, _: &EmergencyUse<'_>) -> Result<(), NoRoom> {
        Err(NoRoom)
    }
}

/// The use can't be recorded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room to record the use of an emergency token")]
pub struct NoRoom;

/// An emergency token that is about to be allowed something.
#[derive(Clone, Copy, Debug)]
pub struct EmergencyUse<'a> {
    /// By which policy.
    pub policy: &'a PolicyName,
    /// The token.
    pub credential: &'a Authenticated,
    /// What for.
    pub ask: &'a Ask<'a>,
    /// When.
    pub at: UnixMillis,
}

impl EmergencyUse<'_> {
    /// Why the token was made.
    pub fn reason(&self) -> Option<String> {
        let claim = self.credential.claim(EMERGENCY_CLAIM)?;
        reason_of(&claim)
    }
}

/// Why an emergency token was made, as its claims say.
pub(super) fn emergency_reason(claims: &impl ClaimSource) -> Option<String> {
    reason_of(&claims.claim(EMERGENCY_CLAIM)?)
}

fn reason_of(claim: &Value) -> Option<String> {
    claim.get("reason")?.as_str().filter(|reason| !reason.is_empty()).map(str::to_owned)
}
