use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;
use crate::mint::{AccessTokenSpec, mint_access, mint_emergency};

/// A witness that writes down subject, reason and address, until there is no room.
#[derive(Debug, Default)]
pub(super) struct Notes {
    uses: Mutex<Vec<(String, Option<String>, bool)>>,
    full: AtomicBool,
}

impl Witness for Notes {
    fn record(&self, used: &EmergencyUse<'_>) -> Result<(), NoRoom> {
        if self.full.load(Relaxed) {
            return Err(NoRoom);
        }
        let note = (used.credential.subject().to_owned(), used.reason(), used.ask.client.ip.is_some());
        self.uses.lock().unwrap().push(note);
        Ok(())
    }
}

impl Notes {
    fn count(&self) -> usize {
        self.uses.lock().unwrap().len()
    }
}

fn spec() -> AccessTokenSpec {
    AccessTokenSpec {
        issuer: ISSUER.into(),
        subject: "alice".into(),
        audiences: strings(&["shop-api"]),
        roles: strings(&["admin"]),
        scopes: Vec::new(),
        session_id: Some("s-1".into()),
        token_id: "t-1".into(),
        issued_at: NOW,
        expires: NOW.plus(3_600_000),
        amr: Vec::new(),
        client_id: None,
        extra: Map::new(),
    }
}

fn emergency(scene: &Scene, spec: &AccessTokenSpec) -> String {
    mint_emergency(&scene.access, spec, "the pager is on fire").unwrap()
}

/// Claims under the type of an emergency token, with changes.
fn forged(scene: &Scene, typ: &str, changes: &Value) -> String {
    let mut all = claims(json!({"emergency": {"reason": "because"}}));
    all.extend(changes.as_object().unwrap().clone());
    all.retain(|_, v| !v.is_null());
    mint::sign(&scene.access, typ, &all).unwrap()
}

#[test]
fn an_emergency_token_is_told_apart_and_each_use_of_it_is_recorded() {
    let scene = Scene::new();
    let token = emergency(&scene, &spec());
    let credential = scene.authenticate(&token).unwrap();
    assert_eq!((credential.kind(), credential.kind().word()), (CredentialKind::Emergency, "emergency"));
    assert!(credential.cacheable(), "what is recorded is the use, not the proof");
    let from = |ip: &str| Ask {
        client: rules::Client { ip: Some(ip.parse().unwrap()), ..rules::Client::default() },
        ..Ask::default()
    };
    judge(&scene.policy, &credential, &Ask::default(), &scene.world()).unwrap();
    judge(&scene.policy, &credential, &from("192.0.2.1"), &scene.world()).unwrap();
    let reason = Some("the pager is on fire".to_owned());
    let noted = [("alice".to_owned(), reason.clone(), false), ("alice".to_owned(), reason, true)];
    assert_eq!(*scene.witness.uses.lock().unwrap(), noted);
}

#[test]
fn without_room_to_record_the_use_there_is_none() {
    let scene = Scene::new();
    let token = emergency(&scene, &spec());
    let credential = scene.authenticate(&token).unwrap();
    scene.witness.full.store(true, Relaxed);
    assert_eq!(scene.verdict(&token, &Ask::default()), Err(Refusal::Unrecorded));
    let proven_before = judge(&scene.policy, &credential, &Ask::default(), &scene.world());
    assert_eq!(proven_before.unwrap_err(), Refusal::Unrecorded);
    assert_eq!((Refusal::Unrecorded.status(), Refusal::Unrecorded.word()), (503, "not_ready"));
    // Everything else goes on.
    assert_eq!(scene.verdict(&own(&scene, json!({})), &Ask::default()), Ok(()));
    assert_eq!(scene.witness.count(), 0);
}

#[test]
fn what_is_refused_was_no_use() {
    let mut scene = Scene::new();
    let token = emergency(&scene, &spec());
    let credential = scene.authenticate(&token).unwrap();
    let unmet = Ask { require: Require { scopes: vec![Cow::Borrowed("none")], ..Require::default() }, ..Ask::default() };
    let denied = Refusal::Denied(Denial::of(DenialReason::Scope));
    assert_eq!(judge(&scene.policy, &credential, &unmet, &scene.world()).unwrap_err(), denied);
    let forged = Refusal::Denied(Denial::of(DenialReason::Csrf));
    let also = judge_also(&scene.policy, &credential, &Ask::default(), &scene.world(), |_| Some(forged.clone()));
    assert_eq!(also.unwrap_err(), forged);
    scene.policy.rate_limit = Some(RateLimit { limit: 1, window_ms: 60_000 });
    let limited = scene.authenticate(&token).unwrap();
    assert_eq!(scene.witness.count(), 0);
    judge(&scene.policy, &limited, &Ask::default(), &scene.world()).unwrap();
    let again = judge(&scene.policy, &limited, &Ask::default(), &scene.world());
    assert!(matches!(again, Err(Refusal::RateLimited { .. })));
    assert_eq!(scene.witness.count(), 1);
}

#[test]
fn the_policy_bounds_emergency_tokens_by_switch_life_roles_and_end() {
    let scene = Scene::new();
    let too_long = "the token lives longer than the policy's emergency.maxTTL";
    let bad_role = "the token has a role that is not among the policy's emergency.roles";
    let no_reason = "emergency does not give a reason";
    let changed = |change: fn(&mut AccessTokenSpec)| {
        let mut spec = spec();
        change(&mut spec);
        emergency(&scene, &spec)
    };
    for (token, refusal) in [
        (changed(|s| s.expires = NOW.plus(3_601_000)), too_long),
        (changed(|s| s.roles = strings(&["admin", "root"])), bad_role),
        (forged(&scene, "emergency+jwt", &json!({"emergency": null})), no_reason),
        (forged(&scene, "emergency+jwt", &json!({"emergency": true})), no_reason),
        (forged(&scene, "emergency+jwt", &json!({"emergency": {"reason": ""}})), no_reason),
        (forged(&scene, "emergency+jwt", &json!({"emergency": {"reason": 7}})), no_reason),
        (forged(&scene, "emergency+jwt", &json!({"iat_ms": null})), "iat_ms is missing"),
        (forged(&scene, "at+jwt", &json!({})), "only an emergency token has the claim emergency"),
    ] {
        assert_eq!(scene.verdict(&token, &Ask::default()), Err(Refusal::InvalidClaims(refusal)), "{token}");
    }
    for typ in ["emergency+jwt", "application/emergency+jwt", "EMERGENCY+JWT"] {
        let token = forged(&scene, typ, &json!({}));
        assert_eq!(scene.authenticate(&token).unwrap().kind(), CredentialKind::Emergency, "{typ}");
    }

    let mut scene = Scene::new();
    let token = emergency(&scene, &spec());
    let credential = scene.authenticate(&token).unwrap();
    let end = NOW.plus(1000);
    scene.policy.own.as_mut().unwrap().emergency.as_mut().unwrap().not_after = end;
    let bounded = scene.authenticate(&token).unwrap();
    let at = |now| judge(&scene.policy, &bounded, &Ask::default(), &World { now, ..scene.world() }).map(|_| ());
    assert_eq!(at(end.minus(1)), Ok(()));
    // The end is the owner's word: no tolerance between clocks is added to it.
    assert_eq!(at(end), Err(Refusal::Expired));
    drop(credential);
    scene.policy.own.as_mut().unwrap().emergency = None;
    let off = Err(Refusal::InvalidClaims("the policy takes no emergency tokens"));
    assert_eq!(scene.verdict(&token, &Ask::default()), off);
}

#[test]
fn only_the_access_ring_of_the_policy_itself_signs_emergency_tokens() {
    let scene = Scene::new();
    let by_api_ring = mint_emergency(&scene.api, &spec(), "because").unwrap();
    let as_api_key = format!("csk_{}", emergency(&scene, &spec()));
    for token in [by_api_ring, as_api_key] {
        assert_eq!(scene.verdict(&token, &Ask::default()), Err(Refusal::UnknownKey));
    }
    let api_ring_as_key = format!("csk_{}", mint_emergency(&scene.api, &spec(), "because").unwrap());
    let wrong_type = Err(Refusal::InvalidClaims("typ is not that of an access token"));
    assert_eq!(scene.verdict(&api_ring_as_key, &Ask::default()), wrong_type);
    let mut all = claims(json!({"iss": FOREIGN, "azp": "shop", "iat_ms": null, "emergency": {"reason": "because"}}));
    all.remove("roles");
    let foreign = mint::sign(&scene.foreign, "emergency+jwt", &all).unwrap();
    assert_eq!(scene.verdict(&foreign, &Ask::default()), wrong_type);
    // A claim of a foreign token is that issuer's own business, and makes it nothing special.
    let foreign = mint::sign(&scene.foreign, "JWT", &all).unwrap();
    assert_eq!(scene.authenticate(&foreign).unwrap().kind(), CredentialKind::External);
    assert_eq!(scene.witness.count(), 0);
}

#[test]
fn whatever_ends_access_tokens_ends_emergency_tokens() {
    let merged = crate::revocation::ACCESS_RING_ONLY;
    for (kind, id, by) in [
        (Kind::Token, "t-1", RevokedBy::Token),
        (Kind::Session, "s-1", RevokedBy::Session),
        (Kind::Subject, "alice", RevokedBy::Subject),
        (Kind::Policy, "", RevokedBy::Policy),
        (Kind::Policy, merged, RevokedBy::Policy),
    ] {
        let scene = Scene::new();
        scene.revoke(kind, None, id, NOW);
        let verdict = scene.verdict(&emergency(&scene, &spec()), &Ask::default());
        assert_eq!(verdict, Err(Refusal::Revoked(by)), "{kind:?} {id:?}");
    }
    let mut scene = Scene::new();
    std::mem::swap(&mut scene.access, &mut scene.revoked);
    let verdict = scene.verdict(&emergency(&scene, &spec()), &Ask::default());
    assert_eq!(verdict, Err(Refusal::Revoked(RevokedBy::Key)));
}

#[test]
fn rules_can_tell_an_emergency_token() {
    let mut scene = Scene::new();
    scene.policy.rules = Rules::compile(&[RuleDef {
        name: "no-emergencies-by-fire".into(),
        expression: "kind == 'emergency' && claims.emergency.reason.contains('fire')".into(),
    }])
    .unwrap();
    let by_rule = Denial { reason: DenialReason::Rule, rule: Some("no-emergencies-by-fire".into()), missing: Vec::new() };
    let verdict = scene.verdict(&emergency(&scene, &spec()), &Ask::default());
    assert_eq!(verdict, Err(Refusal::Denied(by_rule)));
    assert_eq!(scene.verdict(&mint_access(&scene.access, &spec()).unwrap(), &Ask::default()), Ok(()));
}
