//! Mails to people: what they say, and how they get out.
//!
//! A mail is put into its policy's bounded queue and sent from there, so that no answer takes longer because one goes out, and
//! no policy's mails wait for another's server. What can't be sent is tried again a few times, then counted and logged by kind
//! alone: a log holds no address, code or link. A mail that waits is lost with the process; what is mailed so can be asked for
//! again. What can't be is kept in the store until it has left: see [`crate::notices`].

mod letter;
mod links;
mod outbox;
mod pages;
mod smtp;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use countersign_api::policy::EffectiveMail;
use countersign_core::names::PolicyName;
use countersign_jwks::Reach;
use lettre::{Address, Message, message::Mailbox};
use tokio::sync::watch;

pub(crate) use self::{
    letter::{Letter, Notice},
    links::{reset_link, verification_link},
    pages::{reset_page, verification_page},
};
pub use self::{
    outbox::{Kept, Outbox},
    smtp::{InvalidSmtp, SmtpSettings, SmtpTls},
};
use crate::lanes::{Bounds, Lanes, Place};

/// The target of what is logged here.
const TARGET: &str = "countersign::mail";
/// Mails of a policy that wait at once. Further ones are dropped and counted.
const QUEUE: usize = 1024;
/// Mails of a policy on their way at once. One that waits for its next try is not on its way.
const AT_ONCE: usize = 4;
/// See [`QUEUE`] and [`AT_ONCE`]; and what a namespace's and all policies may have waiting: one tenant's dead servers leave
/// room for the rest, however many there are.
const BOUNDS: Bounds = Bounds { each: QUEUE, namespace: 8 * QUEUE, all: 32 * QUEUE, at_once: AT_ONCE };
/// The pauses after failures. After the last one a mail is given up.
const PAUSES: Pauses = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];
/// See [`PAUSES`].
type Pauses = [Duration; 3];
/// The sender where nobody says another: of use in an outbox alone.
const NOBODY: &str = "Countersign <no-reply@localhost>";

/// How mails get out, unless a policy says otherwise.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// By this server.
    Smtp(Arc<SmtpSettings>),
    /// Not at all: they are kept as files.
    Outbox(Outbox),
    /// Not at all, and nowhere.
    Disabled,
}

/// A policy's own way of sending.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Whose mails these are.
    pub(crate) policy: PolicyName,
    /// The sender, as in `Shop <no-reply@shop.example>`.
    pub(crate) from: Option<String>,
    /// Its own server.
    pub(crate) smtp: Option<Arc<SmtpSettings>>,
}

impl Sending {
    /// What a policy says, with the server that its Secret names.
    pub(crate) fn new(policy: &PolicyName, mail: Option<&EffectiveMail>, smtp: Option<Arc<SmtpSettings>>) -> Self {
        Self { policy: policy.clone(), from: mail.and_then(|mail| mail.from.clone()), smtp }
    }
}

/// Why a mail didn't get out. Says what kind of failure it was, and nothing that a server said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// The recipient's or sender's address.
    #[error("the {0} is no address that a mail can have")]
    Address(&'static str),
    /// The message.
    #[error("the message can't be put together")]
    Message,
    /// Nothing is set up.
    #[error("no mail server is set up")]
    NotSetUp,
    /// The server's refusal.
    #[error("the mail server answered {0}")]
    Refused(String),
    /// No connection, or none that lasted.
    #[error("the mail server {0}")]
    Unreachable(&'static str),
    /// It is the policy's own, and nowhere that a policy's author may have us connect to.
    #[error("the address of the policy's own mail server is {0}")]
    Forbidden(&'static str),
    /// The outbox.
    #[error("the outbox can't be written: {0}")]
    Outbox(std::io::ErrorKind),
}

impl SendError {
    /// Whether another try may do better.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Outbox(_))
    }
}

/// What became of mails since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailCounts {
    /// They are with a server, or in the outbox.
    pub sent: u64,
    /// They were given up.
    pub failed: u64,
    /// The policy's queue was full.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    /// Counts what came of a mail, and logs a failure.
    fn count(&self, policy: &PolicyName, carried: Result<(), SendError>) -> Result<(), SendError> {
        match &carried {
            Ok(()) => self.sent.fetch_add(1, Relaxed),
            Err(error) => {
                tracing::error!(target: TARGET, %policy, %error, "a mail was given up");
                self.failed.fetch_add(1, Relaxed)
            }
        };
        carried
    }
}

struct Job {
    to: String,
    sending: Sending,
    notice: Notice,
}

/// Sends mails, in the background.
#[derive(Clone)]
pub struct Mailer {
    lanes: Lanes,
    counters: Arc<Counters>,
    pending: watch::Sender<usize>,
    route: Route,
    works: bool,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Mailer {
    /// A sender of mails by `delivery`, unless a policy has a server of its own: that is connected to within `reach`.
    pub fn new(delivery: Delivery, reach: Reach) -> Self {
        let works = !matches!(delivery, Delivery::Disabled);
        Self::over(Arc::new(Ways { delivery, reach }), works, PAUSES)
    }

    fn over(post: Arc<dyn Post>, works: bool, pauses: Pauses) -> Self {
        let (lanes, route) = (Lanes::new(BOUNDS), Route { post, pauses });
        Self { lanes, counters: Arc::default(), pending: watch::Sender::new(0), route, works }
    }

    /// Whether a mail of this policy can get out at all.
    pub(crate) fn can_send(&self, sending: &Sending) -> bool {
        self.works || sending.smtp.is_some()
    }

    /// Puts a mail into its policy's queue. Takes the same time whatever becomes of it. To be called within a runtime.
    pub(crate) fn send(&self, sending: &Sending, to: &str, notice: Notice) {
        let Some(place) = self.lanes.enter(&sending.policy) else {
            self.counters.dropped.fetch_add(1, Relaxed);
            tracing::warn!(target: TARGET, policy = %sending.policy, "a mail was dropped: too many are waiting already");
            return;
        };
        self.pending.send_modify(|n| *n += 1);
        let job = Job { to: to.to_owned(), sending: sending.clone(), notice };
        let (route, counters, pending) = (self.route.clone(), self.counters.clone(), self.pending.clone());
        let policy = sending.policy.clone();
        tokio::spawn(async move {
            // Counted and logged: there is nobody else to tell.
            let _ = counters.count(&policy, carry(&route, job, Some(&place)).await);
            drop(place);
            pending.send_modify(|n| *n -= 1);
        });
    }

    /// Sends a mail now, beside the queue: for who keeps it until it has left.
    pub(crate) async fn deliver(&self, sending: &Sending, to: &str, notice: Notice) -> Result<(), SendError> {
        if !self.can_send(sending) {
            return Err(SendError::NotSetUp);
        }
        let job = Job { to: to.to_owned(), sending: sending.clone(), notice };
        self.counters.count(&sending.policy, carry(&self.route, job, None).await)
    }

    /// What became of mails so far.
    pub fn counts(&self) -> MailCounts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let Counters { sent, failed, dropped } = &*self.counters;
        MailCounts { sent: read(sent), failed: read(failed), dropped: read(dropped) }
    }

    /// Returns when no mail waits or is on its way, or after this long. Whether none is left.
    pub async fn settled(&self, within: Duration) -> bool {
        let mut pending = self.pending.subscribe();
        tokio::time::timeout(within, pending.wait_for(|n| *n == 0)).await.is_ok_and(|found| found.is_ok())
    }
}

/// What carries a mail away.
trait Post: Send + Sync + 'static {
    /// The sender where the policy names none.
    fn sender(&self) -> Option<&str>;

    fn carry<'a>(&'a self, mail: &'a Prepared) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;
}

/// A mail that is ready to go.
struct Prepared {
    message: Message,
    link: Option<String>,
    subject: &'static str,
    to: String,
    smtp: Option<Arc<SmtpSettings>>,
}

/// How mails get out: the issuer's own way, and how far a policy's may lead.
struct Ways {
    delivery: Delivery,
    reach: Reach,
}

impl Post for Ways {
    fn sender(&self) -> Option<&str> {
        match &self.delivery {
            Delivery::Smtp(smtp) => smtp.sender(),
            Delivery::Outbox(_) => Some(NOBODY),
            Delivery::Disabled => None,
        }
    }

    fn carry<'a>(&'a self, mail: &'a Prepared) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>> {
        Box::pin(async move {
            match (&mail.smtp, &self.delivery) {
                (Some(own), _) => own.send(&mail.message, Some(self.reach)).await,
                (None, Delivery::Smtp(smtp)) => smtp.send(&mail.message, None).await,
                (None, Delivery::Outbox(outbox)) => {
                    let formatted = mail.message.formatted();
                    let kept = outbox.keep(formatted).await.map_err(|error| SendError::Outbox(error.kind()))?;
                    outbox.tell(&Kept { to: &mail.to, subject: mail.subject, link: mail.link.as_deref(), path: &kept });
                    Ok(())
                }
                (None, Delivery::Disabled) => Err(SendError::NotSetUp),
            }
        })
    }
}

/// By what mails go, and how patiently.
#[derive(Clone)]
struct Route {
    post: Arc<dyn Post>,
    pauses: Pauses,
}

/// Carries a mail away, in its turn where it has a place in a queue. Between two tries others have theirs.
async fn carry(Route { post, pauses }: &Route, job: Job, place: Option<&Place>) -> Result<(), SendError> {
    let turn = async || match place {
        Some(place) => place.turn().await,
        None => None,
    };
    let mut held = turn().await;
    let mail = prepared(job, post.sender())?;
    let mut pauses = pauses.iter();
    loop {
        let carried = post.carry(&mail).await;
        drop(held);
        match (carried, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Some(pause)) if error.is_passing() => {
                tracing::warn!(target: TARGET, %error, "a mail is tried again in {} ms", pause.as_millis());
                tokio::time::sleep(*pause).await;
            }
            (Err(error), _) => return Err(error),
        }
        held = turn().await;
    }
}

/// The recipient is an address and nothing else, the subject one of ours: nothing that a person typed stands in a header.
fn prepared(Job { to, sending, notice }: Job, sender: Option<&str>) -> Result<Prepared, SendError> {
    let Letter { subject, text, html, link } = notice.letter();
    let address: Address = to.parse().map_err(|_| SendError::Address("recipient"))?;
    let own = match &sending.smtp {
        Some(smtp) => smtp.sender(),
        None => sender,
    };
    let from = sending.from.as_deref().or(own).and_then(|from| from.parse::<Mailbox>().ok());
    let from = from.ok_or(SendError::Address("sender"))?;
    let message = letter::message(from, Mailbox::new(None, address), subject, text, html)?;
    Ok(Prepared { message, link, subject, to, smtp: sending.smtp })
}

#[cfg(test)]
mod tests;
