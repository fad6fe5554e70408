//! A session whose address or device has changed, and which goes on with a code.

use countersign_core::time::UnixMillis;
use countersign_store::{Appended, NewFamily, RefreshToken, Session, Tx, User};

use super::{Pending, challenge, proving::invalid_challenge};
use crate::{
    audit::EventKind,
    call::Call,
    minter::{MintError, new_id},
    opening::{Opened, Wishes, random, token_of},
    problem::Failed,
};

/// Where a session waits for a code.
pub(crate) struct Asked {
    /// The challenge's id.
    pub(crate) challenge: String,
    /// Whether it was made just now.
    pub(crate) new: bool,
}

/// Asks for a code in a session, whose tokens are in cookies or not: once for one client, however often that tries meanwhile.
pub(crate) async fn ask(
    tx: &mut Tx,
    call: &Call,
    session: &Session,
    cookies: bool,
    now: UnixMillis,
) -> Result<Asked, Failed> {
    let password = tx.password(&session.policy, &session.subject).await?;
    let pending = Pending {
        wishes: Wishes { remember_me: session.remember_me, cookies, ..Wishes::default() },
        password_changed: password.map(|password| password.changed.0),
        step_up: Some(session.id.clone()),
    };
    let at_most = call.login()?.settings.mfa.max_attempts;
    let ip = call.client.ip.to_string();
    for open in tx.open_challenges(&session.policy, &session.subject, at_most, now).await? {
        // Of another client it is another's: nobody uses up the attempts of the session's owner.
        let same_client = open.ip.as_deref() == Some(&ip) && open.user_agent == call.client.user_agent;
        if same_client && Pending::of(&open).is_ok_and(|open| open == pending) {
            return Ok(Asked { challenge: open.id, new: false });
        }
    }
    let challenge = challenge::begin(tx, call, &session.subject, &pending, now).await?;
    Ok(Asked { challenge, new: true })
}

/// The session goes on, from the client that showed the code, with a new refresh token in the place of the old ones. The login
/// that it rests on stays the same: a cut-off since then ends it all the same.
pub(super) async fn go_on(
    tx: &mut Tx,
    call: &Call,
    user: User,
    (id, cookies): (&str, bool),
    now: UnixMillis,
) -> Result<Opened, Failed> {
    let policy = &call.policy;
    let session = tx.session(&policy.name, id).await?;
    let session = session.filter(|session| session.is_live(now) && session.subject == user.id);
    let mut session = session.ok_or_else(invalid_challenge)?;
    let grant = call.issuer.parts.minter.grant(tx, policy, &token_of(&user, &session), Some(session.ends())).await;
    let grant = grant.map_err(|error| match error {
        MintError::SessionEnded | MintError::Ended => invalid_challenge().into(),
        error => Failed::from(error),
    })?;
    (session.ip, session.user_agent) = (Some(call.client.ip.to_string()), call.client.user_agent.clone());
    session.device = Some(call.client.device.clone());
    let (ip, agent) = (session.ip.as_deref(), (session.user_agent.as_deref(), session.device.as_deref()));
    tx.session_client(&policy.name, id, ip, agent, session.auth_time).await?;
    tx.session_seen(&policy.name, id, now).await?;
    if policy.tokens.rotates {
        tx.end_families(&policy.name, id, now).await?;
    }
    let refresh = RefreshToken(random()?);
    tx.insert_family(&NewFamily {
        policy: &policy.name,
        id: &new_id(),
        session: id,
        token: &refresh,
        rotates: policy.tokens.rotates,
        created: now,
        expires: now.plus(policy.tokens.refresh_ttl_ms),
    })
    .await?;
    let event = call.event(EventKind::MfaSucceeded).subject(&user.id).session(id);
    event.detail("for", "step-up").write(tx, now).await?;
    let ended = Appended { ids: Vec::new(), merged: Vec::new() };
    Ok(Opened { session, user, grant, refresh, device: None, cookies, ended })
}
