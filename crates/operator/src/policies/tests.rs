//! Whole looks at a policy, against an API server in memory.

mod informing;
mod issuers;
mod restores;
mod revoking;
mod unreadable;

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::{self, Bundle, RingName},
    cluster::{
        BUNDLE_KEY, BUNDLE_LABEL, ISSUE_LABEL, KEY_RING_LABEL, POLICY_ANNOTATION, bundle_name, issue_name, ring_name,
    },
};
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
    ring::KeyState,
    time::UnixMillis,
};
use countersign_feed::{Ack, Clock};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Dirty, Reconciler,
    caches::{Caches, bundle_seen, declared, issue_seen},
    claims::Claims,
    hearing::Hearing,
    keeping::Found,
    memory::{End, Managed, Next},
    reconcile::ReconcileError,
    record::{RingSecret, RingSeen},
    references::InUse,
    signing::BundleKeys,
};
use crate::{
    fleet::{Fleet, Verifier},
    registry::{FeedPresent, Registry, Request},
    scripted::ApiServer,
};

const POLICY: &str = "/apis/countersign.dev/v1alpha1/namespaces/shop/authpolicies/shop";

fn name() -> PolicyName {
    PolicyName::try_new("shop", "shop").unwrap()
}

fn ring_path() -> String {
    format!("/api/v1/namespaces/countersign-system/secrets/{}", ring_name(&name()))
}

fn bundle_path() -> String {
    format!("/api/v1/namespaces/countersign-bundles/configmaps/{}", bundle_name(&name()))
}

fn issue_path() -> String {
    format!("/api/v1/namespaces/countersign-system/secrets/{}", issue_name(&name()))
}

/// What a verifier says that has come to whatever is written.
fn has_applied_everything() -> Ack {
    Ack { history: "h".into(), revision: u64::MAX.to_string(), ..Ack::default() }
}

/// A leader with what it remembers of one policy.
struct Leader {
    server: ApiServer,
    reconciler: Reconciler,
    managed: Managed,
    /// What the reconciler asks of whoever has it look.
    inbox: mpsc::Receiver<Request>,
}

impl Leader {
    /// One who has just begun.
    async fn begins(server: &ApiServer) -> Self {
        let (context, inbox) = server.context();
        let keys = BundleKeys::load(&context, Clock::wall()).await.unwrap();
        let reconciler = Reconciler {
            caches: Caches::default(),
            keys,
            claims: Claims::default(),
            in_use: InUse::default(),
            dirty: Dirty::default(),
            hearing: Hearing::new(Instant::now()),
            feed: context.registry.feed(),
            context,
        };
        reconciler.caches.namespaces.set("shop", Some("n1".into()));
        let leader = Self { server: server.clone(), reconciler, managed: Managed::default(), inbox };
        leader.watches();
        leader
    }

    /// One who has heard everything. There is no verifier.
    async fn leads(server: &ApiServer) -> Self {
        let leader = Self::begins(server).await;
        leader.hears(Vec::new());
        leader
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.reconciler.context.registry
    }

    fn hears(&self, acks: Vec<Ack>) {
        let now = Clock::wall();
        let verifier =
            |ack| Verifier { name: "v".into(), pod: true, alive: true, ended: None, absent_ms: 0, ack: Some(ack) };
        let verifiers = acks.into_iter().map(verifier).collect();
        self.registry().set_fleet(Fleet::new(verifiers, "h".into(), true, true).at(now));
        let server_time = Some((now, Clock::boot_millis()));
        self.registry().set_feed(FeedPresent { fresh: true, caught_up: true, server_time, ..FeedPresent::default() });
        let present = self.reconciler.feed.borrow().clone();
        let bundles = self.reconciler.caches.bundles.all();
        let highest = bundles.iter().map(|bundle| bundle.generation).max().unwrap_or(0);
        self.reconciler.hearing.listen(&present, &self.registry().fleet(), Instant::now(), || highest);
    }

    /// Its watches come to the present.
    fn watches(&self) {
        let caches = &self.reconciler.caches;
        let labelled = |object: &Value, label: &str| object["metadata"]["labels"][label] == "v1";
        let policy = self.server.object(POLICY).map(|policy| serde_json::from_value::<DynamicObject>(policy).unwrap());
        caches.declared.set("shop/shop", policy.and_then(|policy| declared(policy).map(|(_, declared)| declared)));
        let ring = self.server.object(&ring_path()).filter(|ring| labelled(ring, KEY_RING_LABEL));
        let ring = ring.map(|ring| RingSecret::of(serde_json::from_value::<Secret>(ring).unwrap()));
        caches.rings.set(&ring_name(&name()), ring.map(RingSeen::Whole));
        let map = self.server.object(&bundle_path()).filter(|map| labelled(map, BUNDLE_LABEL));
        let map = map.and_then(|map| bundle_seen(serde_json::from_value::<ConfigMap>(map).unwrap()));
        caches.bundles.set(&bundle_name(&name()), map.map(|(_, seen)| seen));
        let issue = self.server.object(&issue_path()).filter(|secret| labelled(secret, ISSUE_LABEL));
        let issue = issue.and_then(|secret| issue_seen(serde_json::from_value::<Secret>(secret).unwrap()));
        caches.issues.set(&issue_name(&name()), issue.map(|(_, seen)| seen));
    }

    async fn look(&mut self) -> Result<Next, ReconcileError> {
        self.watches();
        self.reconciler.reconcile(&name(), &mut self.managed).await
    }

    /// Looks until there is nothing to do.
    async fn settles(&mut self) {
        for _ in 0..5 {
            self.look().await.unwrap();
        }
    }

    fn bundle(&self) -> Bundle {
        let map = self.server.object(&bundle_path()).unwrap();
        let text = map["data"][BUNDLE_KEY].as_str().unwrap();
        bundle::open(text.as_bytes(), &self.reconciler.keys.trust(), None).unwrap()
    }

    /// The access ring's keys as verifiers get them.
    fn keys(&self) -> BTreeMap<String, KeyState> {
        let verify = self.bundle().verify.unwrap();
        let keys = verify.keys.iter().filter(|key| key.ring == RingName::Access);
        keys.map(|key| (key.jwk.kid.clone().unwrap(), key.state)).collect()
    }

    fn signs(&self) -> Option<String> {
        let view = self.registry().policy(&name())?;
        let ring = view.own.as_ref()?.ring(RingName::Access)?.signer.clone();
        ring.map(|signer| signer.kid().to_owned())
    }
}

fn declares(server: &ApiServer, change: impl FnOnce(&mut Value)) {
    server.edit(POLICY, |policy| {
        if policy["spec"].is_null() {
            *policy = json!({
                "apiVersion": "countersign.dev/v1alpha1",
                "kind": "AuthPolicy",
                "metadata": {"name": "shop", "namespace": "shop", "uid": "u1", "generation": 0},
                "spec": {"audiences": ["shop-api"], "issuer": "https://auth.shop.example"},
            });
        }
        change(policy);
        policy["metadata"]["generation"] = (policy["metadata"]["generation"].as_i64().unwrap() + 1).into();
    });
}

/// The server with a policy that is in force, and whoever brought it there.
async fn in_force() -> (ApiServer, Leader) {
    let server = ApiServer::default();
    declares(&server, |_| {});
    let mut leader = Leader::leads(&server).await;
    leader.settles().await;
    assert!(leader.signs().is_some());
    (server, leader)
}

#[tokio::test]
async fn a_new_leader_signs_nothing_and_writes_no_bundle_before_it_has_heard_the_fleet() {
    let (server, first) = in_force().await;
    let signed = first.signs();
    let mut next = Leader::begins(&server).await;
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    let before = server.object(&bundle_path());
    next.settles().await;
    assert_eq!(server.object(&bundle_path()), before);
    let view = next.registry().policy(&name()).unwrap();
    assert!(view.own.is_some() && next.signs().is_none(), "who asks is answered 503");

    next.hears(Vec::new());
    next.settles().await;
    assert_eq!(next.signs(), signed);
    assert_eq!(next.bundle().verify.unwrap().audiences, ["other"]);
}

#[tokio::test]
async fn a_generation_is_above_whatever_any_verifier_holds_of_any_policy() {
    let (server, _) = in_force().await;
    let mut next = Leader::begins(&server).await;
    let ahead = u64::try_from(Clock::wall().plus(60_000).0).unwrap();
    next.hears(vec![Ack { history: "h".into(), revision: "1".into(), highest_held: ahead, ..Ack::default() }]);
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    next.settles().await;
    assert!(next.bundle().generation > ahead);
}

#[tokio::test]
async fn a_ring_that_is_older_than_its_bundle_takes_over_what_that_says() {
    let (server, mut leader) = in_force().await;
    leader.hears(vec![has_applied_everything()]);
    let older = server.object(&ring_path()).unwrap();
    let fallen = leader.signs().unwrap();
    declares(&server, |policy| policy["spec"]["keys"] = json!({"revoked": [{"kid": fallen, "reason": "lost"}]}));
    leader.settles().await;
    let successor = leader.signs().unwrap();
    assert_eq!(leader.keys()[&fallen], KeyState::Revoked);
    drop(leader);

    // Only the namespace of the rings came back, and the policy's owner has since thought better of it.
    server.edit(&ring_path(), |ring| ring["data"] = older["data"].clone());
    declares(&server, |policy| policy["spec"]["keys"] = json!({}));
    let mut next = Leader::leads(&server).await;
    next.hears(vec![has_applied_everything()]);
    next.settles().await;
    let keys = next.keys();
    assert_eq!((keys[&fallen], keys[&successor]), (KeyState::Revoked, KeyState::Retiring), "{keys:?}");
    assert!(next.signs().is_some_and(|kid| kid != fallen && kid != successor));
    assert!(next.bundle().revoked.iter().any(|entry| entry.kind == Kind::Key && entry.id == fallen));
}

#[tokio::test]
async fn a_leader_of_yesterday_overwrites_no_bundle() {
    let (server, mut yesterday) = in_force().await;
    let mut today = Leader::leads(&server).await;
    today.settles().await;
    // Its watch lags while another leads.
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["today"]));
    today.settles().await;
    let written = server.object(&bundle_path());
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["yesterday"]));
    let policy = serde_json::from_value::<DynamicObject>(server.object(POLICY).unwrap()).unwrap();
    yesterday.reconciler.caches.declared.set("shop/shop", declared(policy).map(|(_, declared)| declared));
    let looked = yesterday.reconciler.reconcile(&name(), &mut yesterday.managed).await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
    assert_eq!(server.object(&bundle_path()), written);
}

#[tokio::test]
async fn acknowledgements_of_a_bundle_that_somebody_changed_make_no_key_sign() {
    let (server, mut leader) = in_force().await;
    let signed = leader.signs();
    leader.hears(vec![Ack { revision: "1".into(), ..has_applied_everything() }]);
    declares(&server, |policy| policy["metadata"]["annotations"] = json!({"countersign.dev/rotate": "now"}));
    leader.settles().await;
    assert_eq!(leader.keys().len(), 2);
    // Everyone has the pending key. Then somebody touches the bundle, and the watch hasn't shown it yet.
    leader.hears(vec![has_applied_everything()]);
    server.edit(&bundle_path(), |map| map["data"] = json!({}));
    let looked = leader.reconciler.reconcile(&name(), &mut leader.managed).await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
    assert_eq!(leader.signs(), signed);
    leader.settles().await;
    assert_ne!(leader.signs(), signed, "the bundle is mended, and acknowledged anew");
}

#[tokio::test]
async fn a_bundle_that_is_deleted_as_soon_as_it_is_written_is_written_again() {
    let (server, mut leader) = in_force().await;
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    leader.look().await.unwrap();
    server.delete(&bundle_path());
    leader.settles().await;
    assert_eq!(leader.bundle().verify.unwrap().audiences, ["other"]);
}

#[tokio::test]
async fn a_bundle_that_was_seen_later_than_now_shows_a_restore() {
    let (server, mut leader) = in_force().await;
    let backup = server.backup();
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    leader.settles().await;
    server.restore(backup);
    let looked = leader.look().await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
}

#[tokio::test]
async fn a_ring_without_its_marks_is_found_by_its_name_and_a_deleted_policy_leaves_its_tombstone() {
    let (server, leader) = in_force().await;
    drop(leader);
    server.edit(&ring_path(), |ring| {
        ring["metadata"]["labels"] = Value::Null;
        ring["metadata"]["annotations"] = Value::Null;
    });
    declares(&server, |policy| policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    assert_eq!(next.bundle().verify, None, "verifiers answer 404");
    let ring = server.object(&ring_path()).unwrap();
    assert_eq!(ring["metadata"]["annotations"][POLICY_ANNOTATION], "shop/shop");
    assert!(matches!(next.reconciler.find(&name(), &mut next.managed).await, Ok(Found::Stored)));
}

#[tokio::test]
async fn a_policy_that_goes_with_a_ring_that_nobody_trusts_leaves_a_record_for_its_time_and_its_namespace() {
    let (server, leader) = in_force().await;
    drop(leader);
    server.edit(&ring_path(), |ring| ring["data"]["seal.json"] = "e30=".into());
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    assert!(next.bundle().verify.is_some(), "the last bundle stays in force");
    server.edit(&bundle_path(), |map| map["data"] = json!({}));
    next.settles().await;
    assert!(next.bundle().verify.is_some(), "whoever edits it");
    declares(&server, |policy| {
        policy["spec"]["retainAfterDelete"] = "5h".into();
        policy["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    next.settles().await;
    assert_eq!(next.bundle().verify, None);
    let record = &next.managed.stored.as_ref().unwrap().kept.record;
    assert_eq!((record.retain_ms, record.namespace_uid.as_str()), (5 * 3_600_000, "n1"));
    assert!(record.withdrawn_time.is_some());
}

#[tokio::test]
async fn a_bundle_whose_ring_and_policy_are_gone_is_withdrawn() {
    let (server, leader) = in_force().await;
    drop(leader);
    let map = server.object(&bundle_path()).unwrap();
    let server = ApiServer::default();
    let mut next = Leader::leads(&server).await;
    server.edit(&bundle_path(), |found| *found = map);
    next.look().await.unwrap();
    assert!(server.object(&ring_path()).is_none(), "another cluster's key signed it");
}

#[tokio::test]
async fn a_mistake_in_an_edit_stops_neither_signing_nor_turning() {
    let (server, mut leader) = in_force().await;
    let signed = leader.signs();
    declares(&server, |policy| policy["spec"]["audiences"] = json!([]));
    leader.settles().await;
    assert_eq!(leader.signs(), signed);
    assert!(leader.registry().policy(&name()).unwrap().problem.is_some());
    declares(&server, |policy| policy["metadata"]["annotations"] = json!({"countersign.dev/rotate": "now"}));
    leader.settles().await;
    assert_eq!(leader.keys().len(), 2);
}

#[tokio::test]
async fn a_leader_that_begins_while_an_edit_is_mistaken_signs_and_turns_as_the_one_before() {
    let (server, leader) = in_force().await;
    let signed = leader.signs();
    declares(&server, |policy| policy["spec"]["audiences"] = json!([]));
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    assert_eq!(next.signs(), signed);
    assert!(next.registry().policy(&name()).unwrap().problem.is_some());
    declares(&server, |policy| policy["metadata"]["annotations"] = json!({"countersign.dev/rotate": "now"}));
    next.settles().await;
    assert_eq!(next.keys().len(), 2);
}

#[tokio::test]
async fn a_spec_that_made_sense_is_nothing_to_another_object_of_its_name() {
    let (server, mut leader) = in_force().await;
    declares(&server, |policy| {
        policy["metadata"]["uid"] = json!("another");
        policy["spec"]["audiences"] = json!([]);
    });
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    assert!(next.registry().policy(&name()).unwrap().effective.is_none());
    leader.settles().await;
    assert!(leader.registry().policy(&name()).unwrap().effective.is_none());
}

#[tokio::test]
async fn an_administrator_s_word_is_taken_off_by_the_write_that_seals_anew() {
    let (server, leader) = in_force().await;
    drop(leader);
    server.edit(&ring_path(), |ring| ring["data"]["seal.json"] = "e30=".into());
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    assert!(next.signs().is_none());
    let said = server.object(POLICY).unwrap()["status"]["conditions"].to_string();
    let word = said.split("countersign.dev/adopt=").nth(1).unwrap();
    let word: String = word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == ':').collect();
    assert!(word.starts_with("u1:"), "{word}");
    server.edit(&ring_path(), |ring| ring["metadata"]["annotations"]["countersign.dev/adopt"] = word.into());
    next.settles().await;
    assert!(next.signs().is_some());
    assert!(server.object(&ring_path()).unwrap()["metadata"]["annotations"]["countersign.dev/adopt"].is_null());
}

#[tokio::test]
async fn the_word_weak_key_is_for_keys_and_for_nothing_else() {
    let trusts = |jwks: Value| json!([{"name": "partner", "issuer": "https://partner.example", "algorithms": ["EdDSA"], "jwks": jwks}]);
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let private = json!({"inline": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "d": x}]}});
    let nonsense = json!({"configMapKeyRef": {"name": "sets", "key": "jwks.json"}});
    for (jwks, expected) in [(private, "WeakKey"), (nonsense, "Invalid")] {
        let (server, mut leader) = in_force().await;
        server.edit("/api/v1/namespaces/shop/configmaps/sets", |map| map["data"] = json!({"jwks.json": "no key set"}));
        declares(&server, |policy| policy["spec"]["trustedIssuers"] = trusts(jwks));
        leader.settles().await;
        let status = server.object(POLICY).unwrap()["status"].clone();
        let accepted = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Accepted").unwrap();
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!(expected)), "{accepted}");
    }
}

#[tokio::test]
async fn sessions_of_a_policy_whose_kept_keys_are_refused_are_ended_all_the_same() {
    let (server, mut leader) = in_force().await;
    // Its namespace was deleted and made again, and so was it.
    leader.reconciler.caches.namespaces.set("shop", Some("n2".into()));
    declares(&server, |policy| policy["metadata"]["uid"] = "u2".into());
    let entry = Entry {
        policy: name(),
        kind: Kind::Session,
        issuer: None,
        id: "s1".into(),
        cutoff: UnixMillis::FOREVER,
        expires: Clock::wall().plus(3_600_000),
        version: 0,
        reason: String::new(),
        source: "operator".into(),
    };
    let (done, mut written) = oneshot::channel();
    leader.managed.ends.push(End { entries: vec![entry], done });
    leader.settles().await;
    assert_eq!(written.try_recv(), Ok(()));
    let bundle = leader.bundle();
    assert_eq!(bundle.verify, None, "the earlier policy is gone");
    assert!(bundle.revoked.iter().any(|entry| entry.id == "s1"));

    let (done, nobody_waits) = oneshot::channel();
    drop(nobody_waits);
    leader.managed.ends.push(End { entries: Vec::new(), done });
    leader.look().await.unwrap();
    assert!(leader.managed.ends.is_empty());
}

#[tokio::test]
async fn a_write_that_failed_is_repeated_under_the_generation_that_was_stored_for_it() {
    let (server, mut leader) = in_force().await;
    declares(&server, |policy| policy["spec"]["audiences"] = json!(["other"]));
    leader.watches();
    // Somebody touches the bundle behind the watch's back.
    server.edit(&bundle_path(), |map| map["metadata"]["annotations"]["touched"] = "yes".into());
    let looked = leader.reconciler.reconcile(&name(), &mut leader.managed).await;
    assert!(matches!(looked, Err(ReconcileError::Conflict)), "{looked:?}");
    let stored = leader.managed.stored.as_ref().unwrap().kept.record.generation;
    leader.settles().await;
    assert_eq!(leader.bundle().verify.as_ref().unwrap().audiences, ["other"]);
    assert_eq!(leader.managed.stored.as_ref().unwrap().kept.record.generation, leader.bundle().generation);
    assert_eq!(leader.bundle().generation, stored);
}
