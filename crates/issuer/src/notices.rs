//! Notices that must reach people whatever becomes of the process: written in the transaction that does what they tell of, sent
//! afterwards, and let go of once they are with a mail server.
//!
//! The answer that causes one waits for none. A process that is killed leaves it to the next one, or to another replica, so one
//! may be sent twice and none is lost. What a policy has no mail for is let go of.

use std::{sync::Arc, time::Duration};

use countersign_core::time::UnixMillis;
use countersign_store::{NewNotice, Notice as Kept, StoreError, Tx, User};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::Call,
    lanes::{Bounds, Lanes},
    mail::Notice,
    serving::Issuer,
};

/// How often is looked for notices that somebody else left.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long sending one may take before another sender takes it up, milliseconds: longer than a mail is tried for.
const LEASE_MS: i64 = 5 * 60_000;
/// How many are taken from the store at once.
const TAKEN: u32 = 8;
/// Of a policy that has so many on their way none is taken: its mail server may be dead.
const OF_POLICY: usize = 8;
/// Notices that are on their way at once, about.
const AT_ONCE: usize = 256;
/// Those of one namespace, which is one tenant's, however many policies with dead mail servers it has. Further ones wait until
/// [`LEASE_MS`] is over.
const OF_NAMESPACE: usize = 64;
/// Who is below [`OF_POLICY`] may be given [`TAKEN`] more; and so of all.
const BOUNDS: Bounds = Bounds {
    each: OF_POLICY + TAKEN as usize,
    namespace: OF_NAMESPACE,
    all: AT_ONCE + TAKEN as usize,
    at_once: OF_POLICY + TAKEN as usize,
};
/// How long a notice is worth sending, milliseconds.
const WORTH_MS: i64 = 24 * 3_600_000;
/// That failures have locked an account; its content is until when, milliseconds.
const LOCKED: &str = "account-locked";

/// Rung when a notice was written: it is sent at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell(Arc<Notify>);

/// Writes that failures have locked an account until then. For a name that no account has the same is written for nobody, so
/// that the two take the same time.
pub(crate) async fn locked(
    tx: &mut Tx,
    call: &Call,
    user: Option<&str>,
    until: UnixMillis,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let (policy, content) = (&call.policy.name, until.0.to_string());
    tx.put_notice(&NewNotice { policy, user, kind: LOCKED, content: &content, expires: now.plus(WORTH_MS) }).await?;
    // Whoever looks before this is committed looks again soon.
    call.issuer.parts.notices.0.notify_one();
    Ok(())
}

/// Sends notices until `stop`. Any number of issuers may do so on one database.
pub(crate) async fn keep(issuer: Issuer, stop: CancellationToken) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = UnderWay::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = issuer.parts.notices.0.notified() => {}
            _ = look.tick() => {}
            Some(sent) = under_way.tasks.join_next() => {
                reported(heard(sent));
                if !under_way.held_back {
                    continue;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            begun = under_way.begin(&issuer) => reported(begun),
        }
    }
}

fn reported(done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "notices can't be sent; they are tried again");
    }
}

/// One that panicked is given to another sender when its time is over.
fn heard(sent: Result<Result<(), StoreError>, JoinError>) -> Result<(), StoreError> {
    sent.unwrap_or(Ok(()))
}

/// Sends what waits now.
#[cfg(test)]
pub(crate) async fn send_all(issuer: &Issuer) -> Result<(), StoreError> {
    let mut under_way = UnderWay::default();
    under_way.begin(issuer).await?;
    while let Some(sent) = under_way.tasks.join_next().await {
        heard(sent)?;
        under_way.begin(issuer).await?;
    }
    Ok(())
}

/// What is being sent. None waits for another's mail server.
struct UnderWay {
    tasks: JoinSet<Result<(), StoreError>>,
    lanes: Lanes,
    /// Whether something may wait in the store because too much is on its way.
    held_back: bool,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), lanes: Lanes::new(BOUNDS), held_back: false }
    }
}

impl UnderWay {
    /// Begins to send what waits now, as far as there is room.
    async fn begin(&mut self, issuer: &Issuer) -> Result<(), StoreError> {
        if issuer.parts.policies.load().by_name.is_empty() {
            // Not read yet: what is taken now would wait until its time is over.
            return Ok(());
        }
        loop {
            let busy = self.lanes.with_at_least(OF_POLICY);
            let is_full = self.tasks.len() >= AT_ONCE;
            self.held_back = is_full || !busy.is_empty();
            if is_full {
                return Ok(());
            }
            let now = issuer.parts.store.database_now().await?;
            let taken = issuer.parts.store.take_notices(now, LEASE_MS, TAKEN, &busy).await?;
            if taken.is_empty() {
                return Ok(());
            }
            for notice in taken {
                let Some(place) = self.lanes.enter(&notice.policy) else { continue };
                let issuer = issuer.clone();
                self.tasks.spawn(async move {
                    let sent = send(issuer, notice, now).await;
                    drop(place);
                    sent
                });
            }
        }
    }
}

/// Sends one, unless there is nobody to tell. One that failed in passing waits until its time is over.
async fn send(issuer: Issuer, kept: Kept, now: UnixMillis) -> Result<(), StoreError> {
    // Of a policy that isn't read yet, or of a kind that a later version writes: somebody else's, or for another time.
    let Some(policy) = issuer.parts.policies.one(&kept.policy).filter(|_| kept.kind == LOCKED) else { return Ok(()) };
    if let Some((user, notice)) = told(&issuer, &kept, now).await?
        && let (Some(login), Some(to)) = (&policy.login, &user.email)
        && issuer.parts.mailer.deliver(&login.sending, &to.written, notice).await.is_err_and(|error| error.is_passing())
    {
        return Ok(());
    }
    issuer.parts.store.drop_notice(kept.id).await
}

/// Whom a notice tells, and what: somebody who has shown to receive mail, of what still holds.
async fn told(issuer: &Issuer, kept: &Kept, now: UnixMillis) -> Result<Option<(User, Notice)>, StoreError> {
    let Some(user) = &kept.user else { return Ok(None) };
    let user = issuer.parts.store.user(&kept.policy, user).await?.filter(|user| user.email_verified);
    let until = kept.content.parse().map(UnixMillis).ok().filter(|until| *until > now);
    Ok(user.zip(until.map(|until| Notice::AccountLocked { for_ms: until.since(now) })))
}
