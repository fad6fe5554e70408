//! A login that is complete: its session, its tokens and all that goes with them, in one transaction.

use aws_lc_rs::rand;
use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_api::policy::OnLimit;
use countersign_core::time::UnixMillis;
use countersign_store::{
    Appended, BeyondLimit, Candidate, Device, NewFamily, Opening, Password, RefreshToken, SecretHash, Session,
    SessionLimit, StoreError, Tx, User, UserStatus,
};
use serde_json::{Map, Value, json};

use crate::{
    audit::{self, EventKind},
    call::Call,
    lockout::Counter,
    minter::{Grant, MintRequest, new_id},
    problem::{Failed, Problem},
};

/// The most devices that an account knows.
const MAX_DEVICES: u32 = 10;
/// What a refresh token begins with, so that scanners of source code find one that was committed.
const REFRESH_PREFIX: &str = "csr_";

/// What a login asked for, besides who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Wishes {
    /// The longer pair of times.
    pub(crate) remember_me: bool,
    /// The client's own name for the device: a label.
    pub(crate) device_id: Option<String>,
    /// The hash of the secret that the device showed, in hex.
    pub(crate) device: Option<String>,
    /// The secret itself, as long as the request lasts that shows it.
    #[serde(skip)]
    pub(crate) device_token: Option<String>,
    /// Tokens in cookies.
    pub(crate) cookies: bool,
}

impl Wishes {
    /// With the secret that the device showed.
    pub(crate) fn shown(mut self, device_token: Option<String>) -> Self {
        self.device = device_token.as_deref().and_then(device_hash).map(|hash| hex::encode(hash.0));
        self.device_token = device_token;
        self
    }

    /// The hash of the secret that the device showed.
    pub(crate) fn device_hash(&self) -> Option<SecretHash> {
        let bytes: [u8; 32] = hex::decode(self.device.as_ref()?).ok()?.try_into().ok()?;
        Some(SecretHash(bytes))
    }
}

/// What was proven, and on what it rests.
#[derive(Clone, Debug)]
pub(crate) struct Proven<'a> {
    /// The account.
    pub(crate) user: &'a User,
    /// The password that was right: the login fails should it be another one by now.
    pub(crate) password: &'a Password,
    /// How its owner proved who they are (RFC 8176).
    pub(crate) amr: &'a [&'a str],
    /// What failures were counted on.
    pub(crate) counter: &'a Counter,
    /// What else was asked for.
    pub(crate) wishes: &'a Wishes,
}

/// A session that has begun, its access token yet to be signed.
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) user: User,
    pub(crate) grant: Grant,
    pub(crate) refresh: RefreshToken,
    /// The secret by which the device is known from now on; absent where none was asked for.
    pub(crate) device: Option<String>,
    /// Whether the tokens go into cookies.
    pub(crate) cookies: bool,
    /// Sessions that ended for this one.
    pub(crate) ended: Appended,
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Problem::internal(&"the system gave no random numbers"))?;
    Ok(bytes)
}

/// A refresh token as clients hold it.
pub(crate) fn refresh_text(token: &RefreshToken) -> String {
    format!("{REFRESH_PREFIX}{}", URL_SAFE_NO_PAD.encode(token.0))
}

/// A refresh token from its text: of exactly its length, or none.
pub(crate) fn refresh_token(text: &str) -> Option<RefreshToken> {
    let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(REFRESH_PREFIX)?).ok()?;
    bytes.try_into().ok().map(RefreshToken)
}

/// The hash by which a device's secret is known; absent when it isn't one.
pub(crate) fn device_hash(text: &str) -> Option<SecretHash> {
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    Some(SecretHash::of(&bytes))
}

/// Begins the session of a login that has proven everything. The account is as this transaction has read it, holding it: see
/// [`held`].
pub(crate) async fn open(tx: &mut Tx, call: &Call, proven: &Proven<'_>, held: &Candidate) -> Result<Opened, Failed> {
    let (policy, login) = (&call.policy, call.login()?);
    let mut user = proven.user.clone();
    let now = tx.database_now().await?;
    let mut session = new_session(call, &user, proven, now)?;
    // What is proven just now rests on nothing that ended before; it begins when its token does.
    let request = MintRequest { rests_on: None, ..token_of(&user, &session) };
    let grant = call.issuer.parts.minter.grant(tx, policy, &request, Some(session.ends())).await?;
    session.auth_time = grant.issued_at();
    let sessions = &login.settings.sessions;
    let limit = SessionLimit { max: sessions.max_concurrent, beyond: beyond(sessions.on_limit) };
    let opened = tx.open_session(&session, Some(limit), &policy.ending(now, "session limit")).await?;
    let Opening::Opened(evicted) = opened else {
        return Err(session_limit(sessions.max_concurrent).into());
    };
    let beyond = |ended: &String| {
        let event = call.event(EventKind::ConcurrentLimitExceeded).subject(&user.id).session(ended);
        event.detail("for", session.id.as_str())
    };
    let mut events: Vec<_> = evicted.sessions.iter().map(beyond).collect();
    let refresh = RefreshToken(random()?);
    tx.insert_family(&NewFamily {
        policy: &policy.name,
        id: &new_id(),
        session: &session.id,
        token: &refresh,
        rotates: policy.tokens.rotates,
        created: now,
        expires: now.plus(policy.tokens.refresh_ttl_ms),
    })
    .await?;
    let device = device(tx, call, proven.wishes, held.knows_device, &session, now).await?;
    if held.counter.is_some() {
        proven.counter.clear(tx, &policy.name, now).await?;
    }
    if user.last_login.is_some() && device.new {
        events.push(call.event(EventKind::NewDevice).subject(&user.id).session(&session.id));
    }
    user.last_login = Some(now);
    if held.user.as_ref().is_some_and(|read| read.status == user.status) {
        tx.logged_in(&policy.name, &user.id, now).await?;
    } else {
        // A lock was lifted, its time being over.
        tx.save_user(&user).await?;
    }
    let event = call.event(EventKind::LoginSucceeded).subject(&user.id).session(&session.id);
    events.push(event.detail("amr", json!(session.amr)));
    audit::write(tx, events, now).await?;
    let (cookies, ended) = (proven.wishes.cookies, evicted.revocations);
    Ok(Opened { session, user, grant, refresh, device: Some(device.text), cookies, ended })
}

/// An account with what decides on a login to it, held from here on.
pub(crate) async fn held(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    counter: &Counter,
    wishes: &Wishes,
) -> Result<Candidate, StoreError> {
    let policy = &call.policy.name;
    tx.lock_subject(policy, user).await?;
    tx.candidate(policy, user, counter.key(), wishes.device_hash().as_ref()).await
}

/// The account of a login, held from here on: if it is open still, and its password the one that was shown.
pub(crate) async fn still(tx: &mut Tx, call: &Call, proven: &Proven<'_>) -> Result<(User, Candidate), Failed> {
    let held = held(tx, call, &proven.user.id, proven.counter, proven.wishes).await?;
    let now = tx.database_now().await?;
    let user = held.user.clone().and_then(|user| admitted(user, now));
    match user {
        Some(user) if held.password.as_ref().is_some_and(|held| held.changed == proven.password.changed) => {
            Ok((user, held))
        }
        _ => Err(Problem::invalid_credentials().into()),
    }
}

/// An account that may log in. A lock whose time is over is lifted; [`open`] keeps that.
pub(crate) fn admitted(mut user: User, now: UnixMillis) -> Option<User> {
    if user.status == UserStatus::Locked && user.status_until.is_some_and(|until| until <= now) {
        (user.status, user.status_reason, user.status_until) = (UserStatus::Active, None, None);
    }
    (user.status == UserStatus::Active).then_some(user)
}

/// What the token of a session says.
pub(crate) fn token_of(user: &User, session: &Session) -> MintRequest {
    let mut extra = Map::new();
    // RFC 9068 section 2.2.1: when its owner last proved who they are.
    extra.insert("auth_time".to_owned(), json!(session.auth_time.as_secs()));
    MintRequest {
        subject: user.id.clone(),
        roles: user.roles.clone(),
        session_id: Some(session.id.clone()),
        amr: session.amr.clone(),
        extra,
        rests_on: Some(session.auth_time),
        ..MintRequest::default()
    }
}

/// 403: one session more than there may be. No failure of the person.
pub(crate) fn session_limit(max: u32) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "session_limit",
        format!("there are {max} sessions already, as many as there may be"),
    )
    .fix("end one of them, by DELETE /auth/sessions/ID or a logout there")
}

/// A device as it is known from now on.
pub(crate) struct Shown {
    /// Its secret.
    pub(crate) text: String,
    new: bool,
}

/// Remembers the device of a login: by the secret that it showed, if the account knows it, or by a new one.
pub(crate) async fn device(
    tx: &mut Tx,
    call: &Call,
    wishes: &Wishes,
    known: bool,
    session: &Session,
    now: UnixMillis,
) -> Result<Shown, Failed> {
    let policy = &call.policy.name;
    if let (Some(hash), Some(text), true) = (wishes.device_hash(), &wishes.device_token, known) {
        tx.device_used(policy, &session.subject, &hash, now).await?;
        return Ok(Shown { text: text.clone(), new: false });
    }
    // A known one that showed its secret in an earlier step gets another: nobody remembers what it showed.
    let fresh = random::<16>()?;
    let (user, label) = (session.subject.clone(), session.device.clone());
    let device = Device { user, secret: SecretHash::of(&fresh), label, created: now, last_used: now };
    tx.remember_device(policy, &device, MAX_DEVICES).await?;
    Ok(Shown { text: URL_SAFE_NO_PAD.encode(fresh), new: !known })
}

fn new_session(call: &Call, user: &User, proven: &Proven<'_>, now: UnixMillis) -> Result<Session, Problem> {
    let settings = &call.login()?.settings.sessions;
    let (idle, absolute) = if proven.wishes.remember_me {
        (settings.remember_me.idle_timeout, settings.remember_me.absolute_timeout)
    } else {
        (settings.idle_timeout, settings.absolute_timeout)
    };
    Ok(Session {
        policy: call.policy.name.clone(),
        id: new_id(),
        subject: user.id.clone(),
        created: now,
        auth_time: now,
        last_seen: now,
        idle_ms: idle.as_millis(),
        absolute_end: now.plus(absolute.as_millis()),
        ip: Some(call.client.ip.to_string()),
        user_agent: call.client.user_agent.clone(),
        device_id: proven.wishes.device_id.clone(),
        device: Some(call.client.device.clone()).filter(|device| !device.is_empty()),
        remember_me: proven.wishes.remember_me,
        amr: proven.amr.iter().map(|method| (*method).to_owned()).collect(),
        ended: None,
        ended_because: None,
    })
}

const fn beyond(on_limit: OnLimit) -> BeyondLimit {
    match on_limit {
        OnLimit::EvictOldest => BeyondLimit::EvictOldest,
        OnLimit::EvictIdle => BeyondLimit::EvictIdle,
        OnLimit::Reject => BeyondLimit::Reject,
    }
}

/// An account as its owner sees it.
pub(crate) fn user_json(call: &Call, user: &User, mfa_enabled: bool) -> Value {
    let written = |name: &Option<countersign_store::Folded>| name.as_ref().map(|name| name.written.clone());
    json!({
        "id": user.id,
        "username": written(&user.username),
        "email": written(&user.email),
        "pending_email": written(&user.pending_email),
        "first_name": user.first_name,
        "last_name": user.last_name,
        "roles": user.roles,
        "permissions": call.policy.compiled.roles.permissions_of(&user.roles),
        "status": user.status.word(),
        "email_verified": user.email_verified,
        "mfa_enabled": mfa_enabled,
        "created_at": user.created.as_secs(),
        "last_login_at": user.last_login.map(UnixMillis::as_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_is_read_at_exactly_its_length() {
        let token = RefreshToken([7; 32]);
        let text = refresh_text(&token);
        assert_eq!(refresh_token(&text), Some(token));
        for wrong in [&text[..text.len() - 1], &format!("{text}A"), &text[4..], &format!("{text}="), "csr_", ""] {
            assert_eq!(refresh_token(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_devices_secret_has_128_bits() {
        assert!(device_hash(&URL_SAFE_NO_PAD.encode([1; 16])).is_some());
        assert!(device_hash(&URL_SAFE_NO_PAD.encode([1; 15])).is_none());
        assert!(device_hash("nonsense!").is_none());
    }
}
