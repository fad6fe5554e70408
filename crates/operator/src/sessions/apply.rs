//! Carrying a plan out.

use std::time::Duration;

use countersign_api::{
    bundle::RingName,
    cluster::{FIELD_MANAGER, FINALIZER, session_token::TOKEN},
    session::{EffectiveSession, Session, SessionStatus},
};
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
    time::UnixMillis,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    delivered::Delivered,
    delivering::SecretRefused,
    lately::Lately,
    secret::{self, Content},
    status,
    steps::{Outcome, Plan, Reason, Step},
    times::Ends,
};
use crate::{
    feed::Cutoffs,
    mint::MintError,
    registry::{Ending, PolicyView, SessionToken},
    run::Context,
};

/// How long the end of a session id may take to be written.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Why a plan was not carried out to its end. What was done stays done, and the next look goes on from there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// Somebody wrote meanwhile: what was decided on is no longer so.
    #[error("{0} changed meanwhile")]
    Changed(&'static str),
    /// The API server.
    #[error("{what}: {source}")]
    Api { what: &'static str, source: kube::Error },
    /// No token could be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The end of a session id could not be written.
    #[error(transparent)]
    Ending(#[from] Ending),
    /// It takes too long.
    #[error("the end of the session could not be written into the policy's bundle within {}s", END_WITHIN.as_secs())]
    EndPending,
    /// What the steps are about is missing; a plan doesn't ask for that.
    #[error("the plan asks for what isn't there: {0}")]
    Inconsistent(&'static str),
}

pub(super) enum StepError {
    Apply(ApplyError),
    Secret(SecretRefused),
}

impl<E: Into<ApplyError>> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::Apply(error.into())
    }
}

/// What a plan is carried out on.
pub(super) struct Applying<'a> {
    pub(super) context: &'a Context,
    pub(super) cutoffs: &'a Cutoffs,
    pub(super) session: &'a Session,
    pub(super) spec: Option<&'a EffectiveSession>,
    pub(super) policy: Option<&'a PolicyName>,
    pub(super) view: Option<&'a PolicyView>,
    pub(super) secret: Option<&'a Secret>,
    pub(super) now: UnixMillis,
    pub(super) lately: &'a Lately,
}

/// The session as it was last written.
struct Written {
    version: Option<String>,
    status: SessionStatus,
    token: Option<Delivered>,
}

impl Applying<'_> {
    /// Takes the steps, then writes the status. The outcome that was reached.
    pub(super) async fn apply(&self, plan: Plan) -> Result<Outcome, ApplyError> {
        let mut written = Written {
            version: self.session.metadata.resource_version.clone(),
            status: self.session.status.clone().unwrap_or_default(),
            token: None,
        };
        let mut outcome = plan.outcome;
        for step in &plan.steps {
            match self.take(step, &mut written).await {
                Ok(()) => {}
                Err(StepError::Apply(error)) => return Err(error),
                Err(StepError::Secret(SecretRefused(message))) => {
                    outcome = Outcome::Refused { reason: Reason::SecretConflict, message };
                    break;
                }
            }
        }
        if let Outcome::Issued { token, .. } = &mut outcome
            && token.is_none()
        {
            *token = written.token.take();
        }
        self.say(&outcome, written).await?;
        Ok(outcome)
    }

    async fn take(&self, step: &Step, written: &mut Written) -> Result<(), StepError> {
        match step {
            Step::Protect => self.set_finalizers(true, written).await?,
            Step::Release => self.set_finalizers(false, written).await?,
            Step::End { session_id, until } => self.end(session_id, *until).await?,
            Step::Begin { session_id } => {
                let begun = status::begun(&written.status, session_id);
                self.write_status(begun, written).await?;
            }
            Step::Deliver { session_id, ends, first } => {
                written.token = Some(self.deliver(session_id, *ends, *first).await?);
            }
            Step::Refresh { ends } => self.refresh(*ends).await?,
            Step::Discard { name } => self.discard(name).await?,
        }
        Ok(())
    }

    async fn set_finalizers(&self, ours: bool, written: &mut Written) -> Result<(), ApplyError> {
        let mut finalizers = self.session.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if ours {
            finalizers.push(FINALIZER.to_owned());
        }
        let patch = json!({"metadata": {"resourceVersion": written.version, "finalizers": finalizers}});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.sessions().patch(self.name(), &parameters, &Patch::Merge(patch)).await {
            Ok(patched) => written.version = patched.metadata.resource_version,
            // Gone is what releasing it is for.
            Err(kube::Error::Api(status)) if status.code == 404 && !ours => {}
            Err(error) => return Err(failed("the Session", error)),
        }
        Ok(())
    }

    async fn end(&self, session_id: &str, until: UnixMillis) -> Result<(), ApplyError> {
        let policy = self.policy.ok_or(ApplyError::Inconsistent("a policy to end a session of"))?;
        let is_it = |entry: &Entry| entry.kind == Kind::Session && entry.id == session_id;
        if self.view.is_some_and(|view| view.revoked.iter().any(is_it)) {
            return Ok(());
        }
        let entry = Entry {
            policy: policy.clone(),
            kind: Kind::Session,
            issuer: None,
            id: session_id.to_owned(),
            cutoff: UnixMillis::FOREVER,
            expires: until,
            version: 0,
            reason: format!("declared session {} ended", self.name()),
            source: FIELD_MANAGER.to_owned(),
        };
        let ended = self.context.registry.end(policy, vec![entry]);
        tokio::time::timeout(END_WITHIN, ended).await.map_err(|_| ApplyError::EndPending)??;
        tracing::info!(session = self.name(), %policy, session_id, "a declared session's id is ended");
        self.context.events.normal(
            &self.session.object_ref(&()),
            "Revoked",
            format!("session id {session_id} is refused on every verifier from now on"),
        );
        Ok(())
    }

    async fn deliver(&self, session_id: &str, ends: Ends, first: bool) -> Result<Delivered, StepError> {
        let spec = self.spec.ok_or(ApplyError::Inconsistent("a spec to make a token of"))?;
        let (view, minted) = self.mint(spec, session_id, ends).await?;
        let own = view.own.as_ref().ok_or(ApplyError::Inconsistent("key rings"))?;
        let content = Content { token: &minted.token, session_id, expires: minted.expires };
        self.write_secret(own, ends, &content).await?;
        let token = if first { SessionToken::Issued } else { SessionToken::Renewed };
        self.context.registry.counts().session_tokens.count(token);
        let ring = own.ring(RingName::Access);
        let delivered = ring.and_then(|ring| Delivered::read(&minted.token, &ring.ring));
        let delivered = delivered.ok_or(ApplyError::Inconsistent("a key that verifies what it signed"))?;
        let object = self.session.object_ref(&());
        let secret = &spec.secret.name;
        if first {
            self.context.events.normal(
                &object,
                "TokenIssued",
                format!("session {session_id}: its first token is in Secret {secret}"),
            );
        }
        if let Ends::At(end) = ends
            && ends.is_over(minted.expires.plus(1000))
        {
            self.context.events.warning(
                &object,
                "SessionExpiring",
                format!("the token in Secret {secret} is the last one: spec.lifetime ends the session at {end}"),
            );
        }
        tracing::debug!(session = self.name(), session_id, token_id = minted.token_id, kid = minted.kid, expires = %minted.expires, "a declared session's token is delivered");
        Ok(delivered)
    }

    /// Writes the Secret again with the token that is in it.
    async fn refresh(&self, ends: Ends) -> Result<(), StepError> {
        let held = self.secret.ok_or(ApplyError::Inconsistent("a Secret to refresh"))?;
        let view = self.view.ok_or(ApplyError::Inconsistent("a policy to refresh a Secret of"))?;
        let token = secret::value(held, TOKEN).ok_or(ApplyError::Inconsistent("a token to keep"))?;
        let own = view.own.as_ref().ok_or(ApplyError::Inconsistent("key rings"))?;
        let ring = own.ring(RingName::Access);
        let delivered = ring.and_then(|ring| Delivered::read(token, &ring.ring));
        let delivered = delivered.ok_or(ApplyError::Inconsistent("a token of ours to keep"))?;
        let content = Content { token, session_id: &delivered.session_id, expires: delivered.expires };
        self.write_secret(own, ends, &content).await
    }

    async fn say(&self, outcome: &Outcome, mut written: Written) -> Result<(), ApplyError> {
        let secret = self.session.spec.secret.name.as_str();
        let generation = self.session.metadata.generation;
        let after = status::status(&written.status, generation, secret, outcome, self.now);
        if after == written.status {
            return Ok(());
        }
        self.tell(outcome, &written.status);
        self.write_status(after, &mut written).await
    }

    /// An event for what a person should know, once.
    fn tell(&self, outcome: &Outcome, before: &SessionStatus) {
        let Outcome::Refused { reason: reason @ (Reason::SecretConflict | Reason::NotPermitted), message } = outcome else {
            return;
        };
        let is_known = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            condition.reason == reason.as_str() && condition.message == *message
        };
        if !before.conditions.iter().any(is_known) {
            self.context.events.warning(&self.session.object_ref(&()), reason.as_str(), message.clone());
        }
    }

    async fn write_status(&self, status: SessionStatus, written: &mut Written) -> Result<(), ApplyError> {
        let applied = json!({
            "apiVersion": Session::api_version(&()),
            "kind": Session::kind(&()),
            "metadata": {"name": self.name(), "resourceVersion": written.version},
            "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match self.sessions().patch_status(self.name(), &parameters, &Patch::Apply(applied)).await {
            Ok(patched) => {
                self.lately.wrote(&patched.metadata);
                written.version = patched.metadata.resource_version;
                written.status = status;
                Ok(())
            }
            Err(error) => Err(failed("the Session", error)),
        }
    }

    pub(super) fn uid(&self) -> &str {
        self.session.metadata.uid.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.session.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.session.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn sessions(&self) -> Api<Session> {
        Api::namespaced(self.context.client.clone(), self.namespace())
    }

    pub(super) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), self.namespace())
    }
}

pub(super) fn failed(what: &'static str, error: kube::Error) -> ApplyError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => ApplyError::Changed(what),
        source => ApplyError::Api { what, source },
    }
}
