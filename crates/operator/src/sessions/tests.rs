//! The plan, carried out on values.

mod rules;
mod story;
mod writing;

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::RingName,
    cluster::{FINALIZER, session_token::TOKEN},
    policy::{AuthPolicySpec, EffectivePolicy},
    session::{EffectiveSession, Session, SessionSpec, SessionStatus},
};
use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    revocation::{Entry, Kind, Revocable},
    ring::{Action, Cause, Phase, Ring, RingStatus},
    time::UnixMillis,
};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use uuid::{ContextV7, Timestamp, Uuid};

use super::{
    delivered::Delivered,
    plan::{Observed, SeenPolicy, audiences, plan},
    secret::{self, Content, Surroundings},
    status,
    steps::{Outcome, Plan, Step},
};
use crate::{
    feed::Cutoffs,
    mint::{Moment, TokenOrder, sign},
    registry::{OwnKeys, PolicyView, RingView},
};

const UID: &str = "5e551001-0000-4000-8000-000000000001";

/// One session, its policy, and what stands in for the API server.
pub(crate) struct World {
    pub(super) now: UnixMillis,
    pub(super) leading_since: UnixMillis,
    pub(super) session: Option<Session>,
    pub(crate) view: PolicyView,
    pub(super) policy_is_missing: bool,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(crate) cutoffs: Cutoffs,
    /// Every token that was ever made, with what it says.
    pub(super) minted: Vec<Delivered>,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = UnixMillis(1_800_000_000_000);
        let spec = json!({
            "policyRef": {"name": "shop"}, "subject": "svc-billing", "roles": ["user"], "secret": {"name": "billing-token"},
        });
        let mut session = Session::new("billing", serde_json::from_value(spec).unwrap());
        session.metadata.namespace = Some("shop".into());
        session.metadata.uid = Some(UID.into());
        session.metadata.generation = Some(1);
        let policy = json!({
            "audiences": ["shop-api"], "issuer": "https://auth.shop.example",
            "roles": [{"name": "user", "permissions": ["orders:read"]}], "declaredSessions": {"roles": ["user", "admin"]},
        });
        let view = PolicyView {
            name: "shop/shop".parse().unwrap(),
            uid: "p".into(),
            namespace_uid: "n".into(),
            generation: 1,
            effective: Some(Arc::new(effective(policy))),
            problem: None,
            withdrawn: false,
            bundle_generation: 1,
            bundle_version: 1,
            own: Some(OwnKeys {
                issuer: "https://auth.shop.example".into(),
                rings: RingName::ALL.into_iter().map(|name| (name, Box::new(ring_view(Ring::default())))).collect(),
            }),
            revoked: Arc::new([]),
        };
        let mut world = Self {
            now,
            leading_since: now.minus(1),
            session: Some(session),
            view,
            policy_is_missing: false,
            secrets: BTreeMap::new(),
            cutoffs: Cutoffs::new(),
            minted: Vec::new(),
        };
        world.next_key();
        world
    }

    /// Looks once and does what is to be done, up to `steps` steps: then the operator dies.
    pub(super) fn look_and_die_after(&mut self, steps: usize) -> Plan {
        let Some(session) = self.session.clone() else { return Plan::default() };
        let spec = EffectiveSession::try_from(&session).map_err(|problems| problems[0].to_string());
        let name = session.spec.secret.name.clone();
        let left_over: Vec<String> = self
            .secrets
            .iter()
            .filter(|(held, secret)| **held != name && secret::is_ours(secret, UID))
            .map(|(held, _)| held.clone())
            .collect();
        let secret = self.secrets.get(&name).cloned();
        let plan = plan(&Observed {
            session: &session,
            spec,
            policy: if self.policy_is_missing { SeenPolicy::Missing } else { SeenPolicy::View(&self.view) },
            secret: secret.as_ref(),
            left_over,
            cutoffs: &self.cutoffs,
            now: self.now,
            leading_since: self.leading_since,
            fresh_id: id_at(self.now),
        });
        let mut token = None;
        for (done, step) in plan.steps.iter().enumerate() {
            if done == steps {
                return plan;
            }
            self.take(step, &mut token);
        }
        let mut outcome = plan.outcome.clone();
        if let Outcome::Issued { token: held, .. } = &mut outcome
            && held.is_none()
        {
            *held = token;
        }
        if steps > plan.steps.len()
            && let Some(session) = &mut self.session
        {
            let before = session.status.clone().unwrap_or_default();
            session.status = Some(status::status(&before, session.metadata.generation, &name, &outcome, self.now));
        }
        plan
    }

    pub(super) fn look(&mut self) -> Plan {
        self.look_and_die_after(usize::MAX)
    }

    /// Looks until there is nothing to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..8 {
            if self.look().steps.is_empty() {
                return;
            }
        }
        panic!("there is always something to do: {:?}", self.look());
    }

    fn take(&mut self, step: &Step, token: &mut Option<Delivered>) {
        let Some(session) = &mut self.session else { return };
        match step {
            Step::Protect => session.metadata.finalizers = Some(vec![FINALIZER.into()]),
            Step::Release => {
                session.metadata.finalizers = None;
                if session.metadata.deletion_timestamp.is_some() {
                    self.session = None;
                    self.secrets.clear();
                }
            }
            Step::End { session_id, until } => self.end(Kind::Session, &session_id.clone(), *until),
            Step::Begin { session_id } => {
                let before = session.status.clone().unwrap_or_default();
                session.status = Some(status::begun(&before, session_id));
            }
            Step::Deliver { session_id, ends, .. } => {
                let spec = EffectiveSession::try_from(&*session).unwrap();
                let order = TokenOrder {
                    subject: spec.subject.clone(),
                    roles: spec.roles.clone(),
                    scopes: Vec::new(),
                    audiences: audiences(&spec, &self.view),
                    session_id: session_id.clone(),
                    ttl_ms: spec.token_ttl.as_millis(),
                    not_after: ends.instant(),
                    emergency: None,
                };
                let moment = Moment { now: self.now, server_now: Some(self.now), reserved: None };
                let issue = moment.issue(&self.view, &self.cutoffs, RingName::Access, &order).unwrap();
                let minted = sign(&self.view, &self.cutoffs, RingName::Access, &order, issue.at).unwrap();
                let ring = &self.view.own.as_ref().unwrap().rings[&RingName::Access].ring;
                let delivered = Delivered::read(&minted.token, ring).unwrap();
                self.write(&minted.token, &delivered, *ends);
                self.minted.push(delivered.clone());
                *token = Some(delivered);
            }
            Step::Refresh { ends } => {
                let held = self.token().unwrap();
                let text = self.text();
                self.write(&text, &held, *ends);
            }
            Step::Discard { name } => drop(self.secrets.remove(name)),
        }
    }

    fn write(&mut self, token: &str, delivered: &Delivered, ends: super::times::Ends) {
        let session = self.session.as_ref().unwrap();
        let spec = EffectiveSession::try_from(session).unwrap();
        let jwks = secret::jwks(self.view.own.as_ref().unwrap());
        let around = Surroundings { session, spec: &spec, jwks: &jwks, ends };
        let content = Content { token, session_id: &delivered.session_id, expires: delivered.expires };
        let name = spec.secret.name.clone();
        let before = self.secrets.get(&name);
        assert!(before.is_none_or(|before| secret::is_ours(before, UID)), "somebody else's Secret is never written");
        let written = around.with(&content, before);
        self.secrets.insert(name, written);
    }

    /// As the bundle, and then the feed, would say it.
    pub(super) fn end(&mut self, kind: Kind, id: &str, expires: UnixMillis) {
        self.cut(kind, id, UnixMillis::FOREVER, expires);
    }

    pub(super) fn cut(&mut self, kind: Kind, id: &str, cutoff: UnixMillis, expires: UnixMillis) {
        let entry = Entry {
            policy: self.view.name.clone(),
            kind,
            issuer: None,
            id: id.into(),
            cutoff,
            expires,
            version: 0,
            reason: String::new(),
            source: "test".into(),
        };
        self.cutoffs.apply(&entry);
        self.view.revoked = self.view.revoked.iter().cloned().chain([entry]).collect();
    }

    /// Another key signs; the one before verifies.
    pub(super) fn next_key(&mut self) {
        let create = Action::Create { algorithm: Algorithm::EdDSA, cause: Cause::First };
        let made = self.ring().apply(&[create], self.now, SigningKey::generate).unwrap();
        let kid = made.keys.last().unwrap().kid.clone();
        let activate = Action::Activate { kid, unacknowledged: false, ttl_ms: 1, revision: None, rotation: None };
        let made = made.apply(&[activate], self.now, SigningKey::generate).unwrap();
        self.set_ring(made);
    }

    /// The key that signs is revoked, and no other takes its place yet.
    pub(super) fn revoke_key(&mut self) {
        let Some(kid) = self.ring().active().map(|key| key.kid.clone()) else { return };
        let revoke = Action::Revoke { kid: kid.clone() };
        let ring = self.ring().apply(&[revoke], self.now, SigningKey::generate).unwrap();
        self.set_ring(ring);
        self.end(Kind::Key, &kid, UnixMillis::FOREVER);
    }

    fn ring(&self) -> Ring {
        self.view.own.as_ref().unwrap().rings[&RingName::Access].ring.as_ref().clone()
    }

    fn set_ring(&mut self, ring: Ring) {
        self.view.own.as_mut().unwrap().rings.insert(RingName::Access, Box::new(ring_view(ring)));
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut SessionSpec)) {
        if let Some(session) = &mut self.session {
            change(&mut session.spec);
            session.metadata.generation = session.metadata.generation.map(|generation| generation + 1);
        }
    }

    pub(crate) fn edit_policy(&mut self, change: impl FnOnce(&mut EffectivePolicy)) {
        change(Arc::make_mut(self.view.effective.as_mut().unwrap()));
    }

    pub(super) fn delete(&mut self) {
        if let Some(session) = &mut self.session {
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
            session.metadata.deletion_timestamp = Some(now);
            if session.metadata.finalizers.is_none() {
                self.session = None;
                self.secrets.clear();
            }
        }
    }

    pub(super) fn pass(&mut self, millis: i64) {
        self.now = self.now.plus(millis);
    }

    pub(super) fn status(&self) -> SessionStatus {
        self.session.as_ref().and_then(|session| session.status.clone()).unwrap_or_default()
    }

    /// Status, reason and message of `Ready`.
    pub(super) fn ready(&self) -> (String, String, String) {
        let status = self.status();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    }

    pub(super) fn reason(&self) -> String {
        self.ready().1
    }

    fn text(&self) -> String {
        let name = &self.session.as_ref().unwrap().spec.secret.name;
        secret::value(&self.secrets[name], TOKEN).unwrap().to_owned()
    }

    /// The token in the Secret, if it is one of ours.
    pub(super) fn token(&self) -> Option<Delivered> {
        let secret = self.secrets.get(&self.session.as_ref()?.spec.secret.name)?;
        Delivered::read(secret::value(secret, TOKEN)?, &self.ring())
    }

    /// Whether verifiers accept a token now.
    pub(super) fn is_good(&self, token: &Delivered) -> bool {
        let credential = Revocable {
            policy: &self.view.name,
            issuer: Some(&token.issuer),
            own: true,
            access_ring: true,
            token_kind: Kind::Token,
            token_id: Some(&token.token_id),
            session_id: Some(&token.session_id),
            subject: Some(&token.subject),
            kid: Some(&token.kid),
        };
        token.expires > self.now && self.cutoffs.hit(&credential, token.issued).is_none()
    }

    pub(super) fn has_good_token(&self) -> bool {
        self.token().is_some_and(|token| self.is_good(&token))
    }
}

fn effective(spec: serde_json::Value) -> EffectivePolicy {
    let spec: AuthPolicySpec = serde_json::from_value(spec).unwrap();
    EffectivePolicy::try_from(&spec).unwrap()
}

fn ring_view(ring: Ring) -> RingView {
    let signer = ring.signing_key().unwrap().map(Arc::new);
    let status = RingStatus {
        phase: Phase::Ready,
        active_kid: ring.active().map(|key| key.kid.clone()),
        last_rotation: None,
        next_rotation: None,
        waiting: None,
    };
    RingView { ring: Arc::new(ring), status, signer }
}

fn id_at(now: UnixMillis) -> String {
    let seconds = u64::try_from(now.0 / 1000).unwrap();
    let nanoseconds = u32::try_from(now.0 % 1000 * 1_000_000).unwrap();
    Uuid::new_v7(Timestamp::from_unix(ContextV7::new(), seconds, nanoseconds)).to_string()
}
