//! What a killed process must not forget.

use serde_json::{Value, json};

use super::{PASSWORD, World, said, text};
use crate::http::{Answer, Request};

/// `kill -9`, and up again.
fn killed(world: &mut World) {
    world.dev.kill();
    world.dev.restart();
}

fn refresh(world: &World, token: &str) -> Answer {
    world.post("/auth/refresh", &json!({"refresh_token": token}))
}

#[test]
fn a_lock_from_failures_outlives_a_killed_process_and_goes_on_growing() {
    // Whoever wasn't locked yet has no more tries than were left.
    let mut world = World::start(json!({"lockout": {"maxFailures": 3, "duration": "1h", "backoffFactor": 2}}), &[]);
    world.account("alice");
    world.account("bob");
    let guess = |world: &World, name: &str| world.login(name, "wrong").status;
    assert_eq!((0..3).map(|_| guess(&world, "alice")).collect::<Vec<_>>(), [401; 3]);
    assert_eq!((0..2).map(|_| guess(&world, "bob")).collect::<Vec<_>>(), [401; 2]);
    let until = world.login("alice", PASSWORD).json()["locked_until"].clone();
    killed(&mut world);
    let locked = world.login("alice", PASSWORD);
    assert_eq!((said(&locked), &locked.json()["locked_until"]), ((423, "account_locked".into()), &until));
    assert_eq!((guess(&world, "bob"), guess(&world, "bob")), (401, 423), "the third locks");
    let audit = world.administer("GET", "audit?event_type=ACCOUNT_LOCKED", &Value::Null).json();
    assert_eq!(audit["events"].as_array().map(Vec::len), Some(2), "{audit}");
}

#[test]
fn a_refresh_token_that_was_used_is_not_revived_by_a_restart() {
    let mut world = World::start(json!({}), &[]);
    world.account("alice");
    let first = text(&world.login("alice", PASSWORD), "refresh_token");
    let second = text(&refresh(&world, &first), "refresh_token");
    let third = refresh(&world, &second);
    killed(&mut world);
    assert_eq!(said(&refresh(&world, &first)), (401, "invalid_refresh_token".into()), "an earlier generation");
    let last = text(&third, "refresh_token");
    assert_eq!(refresh(&world, &last).status, 401, "and with it the family has ended");
    assert_eq!(world.verdict(&text(&third, "access_token")), 401, "and the session");
    killed(&mut world);
    for token in [&first, &second, &last] {
        assert_eq!(said(&refresh(&world, token)), (401, "invalid_refresh_token".into()));
    }
}

#[test]
fn what_was_used_up_or_ended_stays_so_when_the_process_is_killed() {
    let mut world = World::start(json!({}), &[]);
    world.account("alice");
    let (gone, kept) = (world.login("alice", PASSWORD), world.login("alice", PASSWORD));
    let token = text(&kept, "access_token");
    let key = world.with_token("POST", "/auth/api-keys", &token, &json!({"name": "ci", "scopes": ["orders:read"]}));
    world.with_token("DELETE", &format!("/auth/api-keys/{}", text(&key, "id")), &token, &json!({}));
    world.with_token("POST", "/auth/logout", &text(&gone, "access_token"), &json!({}));
    let bob = world.account("bob");
    let of_bob = world.login("bob", PASSWORD);
    world.administer("PATCH", &format!("users/{bob}"), &json!({"status": "disabled"}));
    world.post("/auth/forgot-password", &json!({"email": "alice@shop.example"}));
    let link = world.mails.token("alice@shop.example");
    let reset = |world: &World, new: &str| world.post("/auth/reset-password", &json!({"token": link, "new_password": new}));
    assert_eq!(reset(&world, "another horse battery staple").status, 200);
    killed(&mut world);
    for ended in [&gone, &kept, &of_bob] {
        assert_eq!(world.verdict(&text(ended, "access_token")), 401);
        assert_eq!(refresh(&world, &text(ended, "refresh_token")).status, 401);
        let me = Request::get("/users/me").header("authorization", &format!("Bearer {}", text(ended, "access_token")));
        assert_eq!(me.send(&world.issuer()).status, 401);
    }
    assert_eq!(world.verdict(&text(&key, "key")), 401);
    assert_eq!(said(&world.login("bob", PASSWORD)), (403, "account_disabled".into()));
    assert_eq!(said(&reset(&world, "yet another horse battery")), (401, "invalid_token".into()));
    assert_eq!(world.login("alice", PASSWORD).status, 401);
    assert_eq!(world.login("alice", "another horse battery staple").status, 200);
}
