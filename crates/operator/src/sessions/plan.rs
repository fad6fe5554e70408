//! What to do about a session now: a function of what is seen.

use countersign_api::{
    bundle::RingName,
    cluster::{FINALIZER, session_token::TOKEN},
    session::{EffectiveSession, Session},
    values::Duration,
};
use countersign_core::{
    revocation::{Kind, Revocable},
    time::UnixMillis,
};
use k8s_openapi::api::core::v1::Secret;

use super::{
    delivered::Delivered,
    secret::{self, Surroundings},
    steps::{Outcome, Plan, Reason, Step},
    times::{Ends, Renewal, began, renew_at},
};
use crate::{
    feed::Cutoffs,
    registry::{OwnKeys, PolicyView},
};

/// The longest that an access token of any policy may live, and the widest tolerance between clocks.
const LONGEST_TTL_MS: i64 = 24 * 3_600_000;
const WIDEST_SKEW_MS: i64 = 300_000;

/// What is seen.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) session: &'a Session,
    /// Its spec, or why it makes no sense.
    pub(super) spec: Result<EffectiveSession, String>,
    pub(super) policy: SeenPolicy<'a>,
    /// The Secret under the name that the spec asks for.
    pub(super) secret: Option<&'a Secret>,
    /// Names of Secrets that were made for this session under other names.
    pub(super) left_over: Vec<String>,
    pub(super) cutoffs: &'a Cutoffs,
    pub(super) now: UnixMillis,
    pub(super) leading_since: UnixMillis,
    /// The id that a new session would get.
    pub(super) fresh_id: String,
}

/// The policy that a session names.
#[derive(Clone, Copy, Debug)]
pub(super) enum SeenPolicy<'a> {
    /// There is none.
    Missing,
    /// There is one that the operator hasn't got round to.
    NotLookedAt,
    /// There is one, or was.
    View(&'a PolicyView),
}

/// What to do now.
pub(super) fn plan(seen: &Observed<'_>) -> Plan {
    if seen.session.metadata.deletion_timestamp.is_some() {
        return leave(seen);
    }
    let spec = match &seen.spec {
        Ok(spec) => spec,
        Err(problem) => return end(seen, Reason::NotPermitted, problem.clone()),
    };
    let view = match seen.policy {
        SeenPolicy::Missing => return refuse(Reason::PolicyNotFound, missing(spec)),
        SeenPolicy::NotLookedAt => return Plan::default(),
        SeenPolicy::View(view) if view.withdrawn => return refuse(Reason::PolicyNotFound, missing(spec)),
        SeenPolicy::View(view) => view,
    };
    if spec.suspend {
        return end(seen, Reason::Suspended, "spec.suspend is true: its tokens are refused everywhere".to_owned());
    }
    let Some(policy) = &view.effective else {
        let problem = view.problem.as_deref().unwrap_or("it is not accepted");
        return wait(format!("the policy {}: {problem}", spec.policy_ref.name), living_token(seen, view));
    };
    let problems = spec.not_permitted_by(policy);
    if !problems.is_empty() {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return end(seen, Reason::NotPermitted, told.join("; "));
    }
    let Some(own) = &view.own else {
        return wait("the policy's key rings can't be used; its own conditions say why", None);
    };
    if let Some(secret) = seen.secret
        && !secret::is_ours(secret, uid(seen.session))
    {
        let message =
            format!("Secret {} exists and was not made for this Session; delete it or name another", spec.secret.name);
        return refuse(Reason::SecretConflict, message);
    }
    Deciding { seen, spec, view, own }.decide()
}

/// A session that may have tokens.
struct Deciding<'a> {
    seen: &'a Observed<'a>,
    spec: &'a EffectiveSession,
    view: &'a PolicyView,
    own: &'a OwnKeys,
}

impl Deciding<'_> {
    fn decide(&self) -> Plan {
        let now = self.seen.now;
        if self.is_ended_for_good() {
            let message = "its subject, or the whole policy, is revoked for good".to_owned();
            return end(self.seen, Reason::NotPermitted, message);
        }
        let held = session_id(self.seen.session);
        let Some((held, start)) = held.and_then(|id| Some((id, began(id)?))) else {
            return self.begin(held);
        };
        let token = living_token(self.seen, self.view).filter(|token| token.session_id == held);
        let ends = Ends::of(start, self.spec.lifetime.map(Duration::as_millis));
        if self.is_raised(ends) {
            return self.begin(Some(held));
        }
        // In the last second nothing new is made: times in tokens are whole seconds.
        if ends.is_over(now) || (token.is_none() && ends.is_over(now.plus(1000))) {
            return self.expire(held, ends);
        }
        if self.is_killed(held, token.as_ref()) {
            return self.begin(Some(held));
        }
        match token {
            Some(token) if self.serves(&token, ends) => self.keep(token, ends),
            token => self.deliver(held, ends, token),
        }
    }

    /// A new session id, and the end of the one before.
    fn begin(&self, before: Option<&str>) -> Plan {
        if !self.signs() {
            return without_key(None);
        }
        let session_id = self.seen.fresh_id.clone();
        let ends = Ends::of(self.seen.now, self.spec.lifetime.map(Duration::as_millis));
        let mut plan = Plan { outcome: Outcome::Issued { session_id: session_id.clone(), token: None }, ..Plan::default() };
        if !has_finalizer(self.seen.session) {
            plan.steps.push(Step::Protect);
        }
        plan.steps.extend(before.map(|before| self.seen.end_of(before)));
        plan.steps.push(Step::Begin { session_id: session_id.clone() });
        plan.steps.push(Step::Deliver { session_id, ends, first: true });
        plan.steps.extend(self.discards());
        plan
    }

    fn deliver(&self, session_id: &str, ends: Ends, token: Option<Delivered>) -> Plan {
        if let Some(token) = token.as_ref().filter(|_| ends.is_over(self.seen.now.plus(1000))) {
            return self.keep(token.clone(), ends);
        }
        if !self.signs() {
            return without_key(token);
        }
        // A session whose first token was noted but never delivered gets it now.
        let first = status_of(self.seen.session).is_none_or(|status| status.issue_time.is_none());
        let mut steps = vec![Step::Deliver { session_id: session_id.to_owned(), ends, first }];
        if !has_finalizer(self.seen.session) {
            steps.insert(0, Step::Protect);
        }
        steps.extend(self.discards());
        Plan { steps, outcome: Outcome::Issued { session_id: session_id.to_owned(), token: None }, wake: None }
    }

    fn keep(&self, token: Delivered, ends: Ends) -> Plan {
        let jwks = secret::jwks(self.own);
        let around = Surroundings { session: self.seen.session, spec: self.spec, jwks: &jwks, ends };
        let in_step = self.seen.secret.is_some_and(|secret| around.hold(secret, &token.session_id, token.expires));
        let mut steps = Vec::new();
        if !has_finalizer(self.seen.session) {
            steps.push(Step::Protect);
        }
        if !in_step {
            steps.push(Step::Refresh { ends });
        }
        steps.extend(self.discards());
        let wake = Some(self.next_look(&token, ends));
        Plan { steps, outcome: Outcome::Issued { session_id: token.session_id.clone(), token: Some(token) }, wake }
    }

    fn expire(&self, session_id: &str, ends: Ends) -> Plan {
        // The lifetime was shortened after a token was made. Without its Secret nobody knows how long the last one lives.
        let outlives = match delivered(self.seen, self.view).filter(|token| token.session_id == session_id) {
            Some(token) => ends.is_over(token.expires.minus(1000)) && token.expires > self.seen.now,
            None => !ends.is_over(self.seen.now.minus(LONGEST_TTL_MS + WIDEST_SKEW_MS)),
        };
        let outlives = outlives && !self.is_killed(session_id, None);
        let steps = if outlives { vec![self.seen.end_of(session_id)] } else { Vec::new() };
        let message = format!("its lifetime ended at {ends}; raise or remove spec.lifetime to start a new session");
        Plan { steps, ..refuse(Reason::Expired, message) }
    }

    fn discards(&self) -> impl Iterator<Item = Step> + '_ {
        self.seen.left_over.iter().map(|name| Step::Discard { name: name.clone() })
    }

    fn signs(&self) -> bool {
        self.own.ring(RingName::Access).is_some_and(|ring| ring.signer.is_some())
    }

    fn credential<'b>(&'b self, session_id: Option<&'b str>) -> Revocable<'b> {
        Revocable {
            policy: &self.view.name,
            issuer: Some(&self.own.issuer),
            own: true,
            access_ring: true,
            token_kind: Kind::Token,
            token_id: None,
            session_id,
            subject: Some(&self.spec.subject),
            kid: None,
        }
    }

    /// Whether whatever is minted for the subject is dead, however late.
    fn is_ended_for_good(&self) -> bool {
        self.seen.cutoffs.hit(&self.credential(None), UnixMillis::FOREVER).is_some()
    }

    /// Whether the session, or everything of its subject or policy up to the present token, was ended. A session without a
    /// token has nothing that a cut-off could end but its name.
    fn is_killed(&self, session_id: &str, token: Option<&Delivered>) -> bool {
        let issued = token.map_or(UnixMillis::FOREVER, |token| token.issued);
        self.seen.cutoffs.hit(&self.credential(Some(session_id)), issued).is_some()
    }

    /// Whether the session would now end later than it was told.
    fn is_raised(&self, ends: Ends) -> bool {
        let told = self.seen.secret.and_then(secret::ends);
        let has_expired = ready_reason(self.seen.session) == Some(Reason::Expired.as_str());
        told.is_some_and(|told| ends > told) || (has_expired && !ends.is_over(self.seen.now.plus(1000)))
    }

    /// Whether a token says what the spec asks for, is refused by nobody, and isn't due.
    fn serves(&self, token: &Delivered, ends: Ends) -> bool {
        let audiences = self.audiences();
        let says_it = token.issuer == self.own.issuer
            && token.subject == self.spec.subject
            && token.roles == self.spec.roles
            && token.audiences == audiences;
        let credential = Revocable {
            token_id: Some(&token.token_id),
            kid: Some(&token.kid),
            ..self.credential(Some(&token.session_id))
        };
        // Times in a token are whole seconds.
        let too_long = token.expires.since(token.issued) > self.spec.token_ttl.as_millis() + 1000
            || ends.is_over(token.expires.minus(1000));
        let is_last = ends.is_over(token.expires.plus(1000));
        let is_due = !is_last && self.renew_at(token) <= self.seen.now;
        says_it && !too_long && !is_due && self.seen.cutoffs.hit(&credential, token.issued).is_none()
    }

    fn audiences(&self) -> Vec<String> {
        audiences(self.spec, self.view)
    }

    fn renew_at(&self, token: &Delivered) -> UnixMillis {
        renew_at(&Renewal {
            issued: token.issued,
            expires: token.expires,
            renew_before_ms: self.spec.renew_before.as_millis(),
            leading_since: self.seen.leading_since,
            token_id: &token.token_id,
        })
    }

    fn next_look(&self, token: &Delivered, ends: Ends) -> UnixMillis {
        match ends {
            Ends::At(end) if ends.is_over(token.expires.plus(1000)) => end,
            Ends::At(end) => self.renew_at(token).min(end),
            Ends::Never => self.renew_at(token),
        }
    }
}

impl Observed<'_> {
    fn end_of(&self, session_id: &str) -> Step {
        let (ttl, skew) = match self.policy {
            SeenPolicy::View(PolicyView { effective: Some(policy), .. }) => {
                (policy.tokens.access_ttl.as_millis(), policy.tokens.clock_skew.as_millis())
            }
            _ => (LONGEST_TTL_MS, WIDEST_SKEW_MS),
        };
        // A token of before may have been given a longer life than the policy grants now.
        let told = status_of(self.session).and_then(|status| status.expiration_time.as_ref());
        let told = told.map_or(self.now, |time| UnixMillis(time.0.as_millisecond()));
        // So may one of which the status doesn't know yet.
        let held = match self.policy {
            SeenPolicy::View(view) => delivered(self, view).filter(|token| token.session_id == session_id),
            SeenPolicy::Missing | SeenPolicy::NotLookedAt => None,
        };
        let held = held.map_or(self.now, |token| token.expires);
        let until = self.now.plus(ttl).max(told).max(held).plus(skew).plus(1000);
        Step::End { session_id: session_id.to_owned(), until }
    }
}

/// The audiences of a session's tokens.
pub(super) fn audiences(spec: &EffectiveSession, view: &PolicyView) -> Vec<String> {
    let of_policy = || view.effective.as_ref().map(|policy| policy.audiences.clone()).unwrap_or_default();
    spec.audiences.clone().unwrap_or_else(of_policy)
}

/// The token in the Secret, if it is ours, verifies, and lives.
fn living_token(seen: &Observed<'_>, view: &PolicyView) -> Option<Delivered> {
    delivered(seen, view).filter(|token| token.expires > seen.now)
}

/// The token in the Secret, if it is ours and verifies.
fn delivered(seen: &Observed<'_>, view: &PolicyView) -> Option<Delivered> {
    let secret = seen.secret.filter(|secret| secret::is_ours(secret, uid(seen.session)))?;
    let ring = view.own.as_ref()?.ring(RingName::Access)?;
    Delivered::read(secret::value(secret, TOKEN)?, &ring.ring)
}

fn leave(seen: &Observed<'_>) -> Plan {
    let mut steps = Vec::new();
    if has_finalizer(seen.session) {
        // Also of a policy that isn't there: its keys may be kept, and verify again when it is created anew.
        steps.extend(session_id(seen.session).map(|id| seen.end_of(id)));
        steps.push(Step::Release);
    }
    Plan { steps, ..Plan::default() }
}

/// Ends what is left of the session, then says why.
fn end(seen: &Observed<'_>, reason: Reason, message: String) -> Plan {
    let steps = session_id(seen.session).map(|id| seen.end_of(id)).into_iter().collect();
    Plan { steps, ..refuse(reason, message) }
}

fn refuse(reason: Reason, message: String) -> Plan {
    Plan { outcome: Outcome::Refused { reason, message }, ..Plan::default() }
}

fn wait(message: impl Into<String>, token: Option<Delivered>) -> Plan {
    Plan { outcome: Outcome::Waiting { message: message.into(), token }, ..Plan::default() }
}

fn without_key(token: Option<Delivered>) -> Plan {
    wait("the policy has no Active access key to sign with", token)
}

fn missing(spec: &EffectiveSession) -> String {
    format!("there is no AuthPolicy {} in this namespace", spec.policy_ref.name)
}

fn status_of(session: &Session) -> Option<&countersign_api::session::SessionStatus> {
    session.status.as_ref()
}

fn session_id(session: &Session) -> Option<&str> {
    status_of(session)?.session_id.as_deref()
}

fn ready_reason(session: &Session) -> Option<&str> {
    Some(status_of(session)?.conditions.iter().find(|c| c.type_ == "Ready")?.reason.as_str())
}

fn uid(session: &Session) -> &str {
    session.metadata.uid.as_deref().unwrap_or_default()
}

fn has_finalizer(session: &Session) -> bool {
    session.metadata.finalizers.as_ref().is_some_and(|held| held.iter().any(|f| f == FINALIZER))
}
