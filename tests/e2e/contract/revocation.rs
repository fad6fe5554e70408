//! What ends what.

use serde_json::{Value, json};

use super::{World, is};
use crate::{
    forge::{self, with_signature},
    rig::{PATIENCE, eventually},
};

fn kid(token: &str) -> String {
    let header: Value = serde_json::from_slice(&forge::from_base64url(forge::parts(token)[0])).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

#[test]
fn each_kind_of_revocation_ends_what_it_names_and_nothing_else() {
    let world = World::start();
    let mint = |subject: &str, session: &str| {
        world.dev.mint("shop", &json!({"subject": subject, "session_id": session, "roles": ["user"]}))
    };
    let bystander = mint("bystander", "s-0");
    let text = |minted: &Value| minted["token"].as_str().unwrap().to_owned();

    let one = mint("alice", "s-1");
    let sibling = mint("alice", "s-1");
    world.dev.revoked_at("shop", &json!({"kind": "token", "id": one["token_id"], "reason": "lost"}));
    assert_eq!(world.verdict("shop", &text(&one)), is(401, "revoked"));
    assert_eq!(world.verdict("shop", &text(&sibling)), is(200, "valid"));

    let other_session = mint("alice", "s-2");
    world.dev.revoked_at("shop", &json!({"kind": "session", "id": "s-1", "reason": "logout"}));
    assert_eq!(world.verdict("shop", &text(&sibling)), is(401, "revoked"));
    assert_eq!(world.verdict("shop", &text(&other_session)), is(200, "valid"));

    world.dev.revoked_at("shop", &json!({"kind": "subject", "id": "alice", "reason": "left"}));
    assert_eq!(world.verdict("shop", &text(&other_session)), is(401, "revoked"));
    let later = mint("alice", "s-3");
    assert_eq!(world.verdict("shop", &text(&later)), is(200, "valid"), "a token minted after the cut-off lives");

    // By the credential itself.
    let shown = mint("harry", "s-4");
    world.dev.revoked_at("shop", &json!({"credential": shown["token"], "reason": "leaked"}));
    assert_eq!(world.verdict("shop", &text(&shown)), is(401, "revoked"));

    assert_eq!(world.verdict("shop", &text(&bystander)), is(200, "valid"));
    world.dev.revoked_at("shop", &json!({"kind": "policy", "reason": "incident"}));
    assert_eq!(world.verdict("shop", &text(&bystander)), is(401, "revoked"));
    let fresh = mint("bystander", "s-5");
    assert_eq!(world.verdict("shop", &text(&fresh)), is(200, "valid"));

    // The same subject and session of another policy are others.
    let elsewhere = world.dev.mint("other", &json!({"subject": "alice", "session_id": "s-1"}));
    assert_eq!(world.verdict("other", &text(&elsewhere)), is(200, "valid"));
}

#[test]
fn a_revoked_key_ends_all_that_it_signed_and_another_signs_soon() {
    let world = World::start();
    let token = world.dev.token("shop", "ida");
    assert_eq!(world.verdict("shop", &token), is(200, "valid"));
    world.dev.revoked_at("shop", &json!({"kind": "key", "id": kid(&token), "reason": "stolen"}));
    assert_eq!(world.verdict("shop", &token), is(401, "revoked"));
    let next = eventually("another key signs", PATIENCE, || {
        let path = "/admin/v1/policies/shop/shop/tokens";
        let answer = crate::http::Request::post(path, &json!({"subject": "ida"})).send(&world.dev.admin());
        match answer.status {
            200 | 201 => answer.json()["token"].as_str().map(str::to_owned),
            503 => None,
            other => panic!("{other}: {}", answer.json()),
        }
    });
    assert_ne!(kid(&next), kid(&token));
    assert_eq!(world.verdict("shop", &next), is(200, "valid"));
    assert_eq!(world.verdict("shop", &token), is(401, "revoked"));
}

#[test]
fn a_foreign_token_is_revoked_by_its_claims_whatever_its_text() {
    let world = World::start();
    let partner = &world.policies.partner;
    let claims = partner.claims_with(json!({"jti": "known", "sub": "jo"}));
    let (es, ed) = (partner.token_of("ES256", &claims), partner.token_of("EdDSA", &claims));
    let twin = with_signature(&es, forge::ecdsa_twin);
    for token in [&es, &ed, &twin] {
        assert_eq!(world.verdict("shop", token), is(200, "valid"));
    }
    world.dev.revoked_at("shop", &json!({"kind": "token", "id": "known", "issuer": partner.issuer, "reason": "lost"}));
    for token in [&es, &ed, &twin] {
        assert_eq!(world.verdict("shop", token), is(401, "revoked"));
    }
    let undated = world.partner(json!({"sub": "jo", "iat": null}));
    assert_eq!(world.verdict("shop", &undated), is(200, "valid"));
    world.dev.revoked_at("shop", &json!({"kind": "subject", "id": "jo", "reason": "left"}));
    assert_eq!(world.verdict("shop", &undated), is(401, "revoked"), "without iat it dies by any cut-off");
}

#[test]
fn a_blocked_address_is_denied_not_revoked_and_a_call_without_one_skips_blocks() {
    let world = World::start();
    let token = world.partner(json!({}));
    let ask = |ip: Option<&str>| {
        let mut body = json!({"token": token});
        if let Some(ip) = ip {
            body["client"] = json!({"ip": ip});
        }
        world.verify("shop", &body)
    };
    let (status, body) = world.dev.revoke("shop", &json!({"kind": "ip", "id": "198.51.100.9", "reason": "attack"}));
    assert_eq!(status, 200, "{body}");
    let blocked = ask(Some("198.51.100.9"));
    assert_eq!((blocked.status, blocked.word().as_str(), &blocked.json()["reason"]), (403, "denied", &json!("ip")));
    assert_eq!(ask(Some("::ffff:198.51.100.9")).status, 403);
    assert_eq!(ask(Some("198.51.100.10")).status, 200);
    assert_eq!(ask(None).status, 200);
}

#[test]
fn what_was_revoked_stays_revoked_after_a_kill() {
    let mut world = World::start();
    let (dead, alive) = (world.dev.token("shop", "kim"), world.dev.token("shop", "lea"));
    world.dev.revoked_at("shop", &json!({"kind": "subject", "id": "kim", "reason": "left"}));
    world.dev.restart();
    assert_eq!(world.verdict("shop", &dead), is(401, "revoked"));
    assert_eq!(world.verdict("shop", &alive), is(200, "valid"), "keys survive too");
}
