//! Uses of emergency tokens, on their way from the verifiers that saw them to whoever keeps the audit.
//!
//! They go the other way than revocations and through the same server. A use is told at least once: whoever takes uses out
//! has written them down first, and may find one again.

use std::sync::Arc;

use countersign_core::{check::EmergencyUse, names::PolicyName, time::UnixMillis};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    collecting::{CollectError, every_second},
    outbox::OutboxError,
    server::{BoxFuture, FeedServer},
};

/// How many uses wait on a server at most. Beyond that it takes no more, and in the end no emergency token is accepted.
pub const MAX_WAITING_USES: usize = 10_000;

/// How many are written down at a time.
const PAGE: usize = 500;

/// The longest text that is kept of what a caller sent, bytes.
const MAX_TEXT: usize = 256;

/// What the audit calls the event.
pub const EMERGENCY_USED: &str = "EMERGENCY_USED";

/// A use of an emergency token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedUse {
    /// Unique.
    pub id: String,
    /// When, by the verifier's clock.
    pub at: UnixMillis,
    /// By which policy.
    pub policy: PolicyName,
    /// Which verifier allowed it.
    pub verifier: String,
    /// Whom the token speaks for.
    pub subject: String,
    /// The token's id.
    pub token_id: Option<String>,
    /// Its session.
    pub session_id: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// When it expires.
    pub expires: Option<UnixMillis>,
    /// Why it was made.
    pub reason: String,
    /// From where it was used, as far as the caller told.
    pub ip: Option<String>,
    /// With which agent.
    pub user_agent: Option<String>,
    /// What for: method, host and path, as far as the caller told.
    pub request: Option<String>,
}

impl ReportedUse {
    /// What is told of a use that `verifier` is about to allow.
    pub fn new(id: String, verifier: &str, used: &EmergencyUse<'_>) -> Self {
        let (credential, ask) = (used.credential, used.ask);
        let parts = [ask.request.method, ask.request.host, ask.request.path];
        let request: Vec<&str> = parts.into_iter().flatten().collect();
        Self {
            id,
            at: used.at,
            policy: used.policy.clone(),
            verifier: verifier.to_owned(),
            subject: short(credential.subject()),
            token_id: credential.token_id().map(short),
            session_id: credential.session_id().map(short),
            roles: credential.roles().iter().map(|role| short(role)).collect(),
            expires: credential.expires_at(),
            reason: short(&used.reason().unwrap_or_default()),
            ip: ask.client.ip.map(|ip| ip.to_canonical().to_string()),
            user_agent: ask.client.user_agent.map(short),
            request: (!request.is_empty()).then(|| short(&request.join(" "))),
        }
    }
}

/// A use as it waits on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingUse {
    /// Where it stands there: by this it is taken out.
    pub place: String,
    /// It; absent: this release can't read it.
    pub used: Option<ReportedUse>,
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// Whoever keeps the audit.
pub trait UseKeeper: Send + Sync {
    /// Writes uses down for good. One that was written down before may come again.
    fn keep<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), OutboxError>>;
}

/// Brings uses from `server` to `keeper`, until `stop`.
pub async fn collect_uses(server: Arc<dyn FeedServer>, keeper: Arc<dyn UseKeeper>, stop: CancellationToken) {
    let warning = "uses of emergency tokens wait for the audit; with too many no such token is accepted";
    let collect = || {
        let (server, keeper) = (server.clone(), keeper.clone());
        async move { collect_waiting_uses(&*server, &*keeper).await }
    };
    every_second(warning, stop, collect).await;
}

/// Brings all uses that wait on `server` to `keeper`. A use is taken out only when it is written down.
pub async fn collect_waiting_uses(server: &dyn FeedServer, keeper: &dyn UseKeeper) -> Result<(), CollectError> {
    loop {
        let waiting = server.waiting_uses(PAGE).await?;
        let is_last = waiting.len() < PAGE;
        let mut places = Vec::with_capacity(waiting.len());
        let mut readable = Vec::with_capacity(waiting.len());
        for WaitingUse { place, used } in waiting {
            if let Some(used) = used {
                readable.push(used);
            } else {
                tracing::warn!(place, "a use of an emergency token can't be read; the verifier's log has it");
            }
            places.push(place);
        }
        if !readable.is_empty() {
            keeper.keep(&readable).await.map_err(CollectError::Keeper)?;
        }
        server.take_out_uses(&places).await?;
        if is_last {
            return Ok(());
        }
    }
}
