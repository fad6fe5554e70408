//! A call to an issuer's own routes, as its handler sees it.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use countersign_core::{revocation::Position, time::UnixMillis};
use countersign_store::{Appended, Ended, Store, StoreError, Tx};

use crate::{
    IssuerPolicy,
    actor::Actor,
    audit::{self, Event, EventKind},
    client::Client,
    limits::{CountedBy, Standing, Window},
    policies::LoginPolicy,
    problem::{Failed, Problem},
    serving::Issuer,
};

/// The policy that a request is for. The router puts it there.
#[derive(Clone, Debug)]
pub(crate) struct Routed(pub(crate) Arc<IssuerPolicy>);

/// A call: whom it is for, who makes it, and what answers it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) issuer: Issuer,
    pub(crate) policy: Arc<IssuerPolicy>,
    pub(crate) client: Client,
    /// The administrator who makes it, where it is an administrator's call.
    pub(crate) actor: Option<Actor>,
    /// The limits that it was counted by.
    pub(crate) counted_by: CountedBy,
}

impl FromRequestParts<Issuer> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Problem> {
        let routed = parts.extensions.get::<Routed>().cloned();
        let client = parts.extensions.get::<Client>().cloned();
        let (Some(Routed(policy)), Some(client)) = (routed, client) else {
            return Err(Problem::not_found("no such call"));
        };
        let counted_by = parts.extensions.get::<CountedBy>().cloned().unwrap_or_default();
        Ok(Self { issuer: issuer.clone(), policy, client, actor: None, counted_by })
    }
}

impl Call {
    /// What the policy says about people. A policy without a login has none of their routes.
    pub(crate) fn login(&self) -> Result<&LoginPolicy, Problem> {
        self.policy.login.as_deref().ok_or_else(|| Problem::not_found("this policy has no login (spec.login is absent)"))
    }

    /// The durable truth.
    pub(crate) fn store(&self) -> &Store {
        &self.issuer.parts.store
    }

    /// The database's clock.
    pub(crate) async fn now(&self) -> Result<UnixMillis, StoreError> {
        self.store().database_now().await
    }

    /// An event of this call, to be written in the transaction that does what it tells of.
    pub(crate) fn event(&self, kind: EventKind) -> Event<'_> {
        let metrics = &self.issuer.parts.metrics;
        Event::new(&self.policy.name, kind, Some(&self.client), metrics).by(self.actor.as_ref())
    }

    /// Counts a try, or refuses it with 429. The answer tells how the tightest limit stands.
    pub(crate) async fn count(
        &self,
        windows: impl IntoIterator<Item = Option<Window>>,
    ) -> Result<Option<Standing>, Failed> {
        let windows: Vec<Window> = windows.into_iter().flatten().collect();
        if windows.is_empty() {
            return Ok(None);
        }
        let now = self.now().await?;
        let Some(standing) = self.issuer.parts.limits.hit(&self.policy.name, &windows, now).await? else { return Ok(None) };
        self.counted_by.note(standing);
        if standing.allowed { Ok(Some(standing)) } else { Err(Problem::rate_limited(standing).into()) }
    }

    /// Writes an event for each session of a subject that has ended, with a detail that says why or by whom.
    pub(crate) async fn tell_ended(
        &self,
        tx: &mut Tx,
        subject: &str,
        ended: &Ended,
        detail: Option<(&str, &str)>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let told = |session: &String| {
            let event = self.event(EventKind::SessionRevoked).subject(subject).session(session);
            match detail {
                Some((name, value)) => event.detail(name, value),
                None => event,
            }
        };
        audit::write(tx, ended.sessions.iter().map(told).collect(), now).await
    }

    /// Publishes what has ended. Absent when nothing has, or the feed is out of reach: see [`Ending`].
    pub(crate) async fn publish(&self, ended: Appended) -> Published {
        if ended.ids.is_empty() {
            return Published::Nothing;
        }
        match self.issuer.parts.revoker.published(&self.policy, ended).await {
            Some(position) => Published::At(position),
            None => Published::Later,
        }
    }
}

/// What became of an end that verifiers must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Nothing ended.
    Nothing,
    /// It is in the feed.
    At(Position),
    /// The feed is out of reach: it is committed, and published as soon as that is possible.
    Later,
}
