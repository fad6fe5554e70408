//! Challenges: what a login or a session waits for a code with.

use countersign_core::time::UnixMillis;
use countersign_store::{Challenge, Tx};
use serde::{Deserialize, Serialize};

use crate::{
    audit::EventKind,
    call::Call,
    opening::{Wishes, random},
    problem::{Failed, Problem},
};

/// What a challenge was made for, as it is kept with it.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Pending {
    /// What the login asked for.
    pub(crate) wishes: Wishes,
    /// When the password was set that was right, milliseconds: with another one the challenge is void.
    pub(crate) password_changed: Option<i64>,
    /// The session that goes on with a code; absent: a new one begins.
    pub(crate) step_up: Option<String>,
}

impl Pending {
    pub(super) fn of(challenge: &Challenge) -> Result<Self, Problem> {
        serde_json::from_str(&challenge.request).map_err(|error| Problem::internal(&error))
    }
}

/// Asks for a code. The challenge's id.
pub(crate) async fn begin(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    pending: &Pending,
    now: UnixMillis,
) -> Result<String, Failed> {
    let id = hex::encode(random::<16>()?);
    let challenge = Challenge {
        policy: call.policy.name.clone(),
        id: id.clone(),
        user: user.to_owned(),
        created: now,
        expires: now.plus(call.login()?.settings.mfa.challenge_ttl.as_millis()),
        attempts: 0,
        ip: Some(call.client.ip.to_string()),
        user_agent: call.client.user_agent.clone(),
        request: serde_json::to_string(pending).map_err(|error| Problem::internal(&error))?,
        completed: None,
        session: None,
    };
    tx.insert_challenge(&challenge).await?;
    let mut event = call.event(EventKind::MfaChallenged).subject(user);
    if let Some(session) = &pending.step_up {
        event = event.session(session).detail("step_up", true);
    }
    event.write(tx, now).await?;
    Ok(id)
}
