//! Many at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Barrier},
    thread,
};

use serde_json::json;

use super::{PASSWORD, World, said, text};
use crate::http::{Answer, Connection, Request, Target};

/// Sends requests at once, each on a connection of its own. Every one is answered.
fn at_once(target: &Target, requests: Vec<Request>) -> Vec<Answer> {
    let ready = Arc::new(Barrier::new(requests.len()));
    let threads: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let (target, ready) = (target.clone(), ready.clone());
            // A thousand stacks of the usual size are more memory than what is measured.
            thread::Builder::new().stack_size(256 << 10).spawn(move || {
                let connection = Connection::open(&target);
                ready.wait();
                request.send_on(&mut connection.expect("a connection")).expect("an answer")
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.unwrap().join().unwrap()).collect()
}

fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer.status).or_default() += 1;
        counts
    })
}

/// What a thousand answers may cost beyond what the process has, KiB: 64 for each, buffers of its connection included.
const ROOM_KIB: u64 = 64 << 10;

#[test]
fn of_a_thousand_logins_at_once_on_a_locked_account_none_gets_in_and_memory_stays_flat() {
    // The cost that accounts have unless a policy says otherwise: a check would show.
    let mut world = World::start(json!({"passwords": {}}), &[]);
    world.account("alice");
    world.account("bob");
    for _ in 0..5 {
        assert_eq!(said(&world.login("alice", "wrong")), (401, "invalid_credentials".into()));
    }
    let before = world.dev.process().memory_kib().1;
    let right = || Request::post("/auth/login", &json!({"username": "alice", "password": PASSWORD}));
    let answers = at_once(&world.issuer(), (0..1000).map(|_| right()).collect());
    assert_eq!(statuses(&answers), BTreeMap::from([(423, 1000)]));
    assert!(answers.iter().all(|answer| answer.word() == "account_locked" && answer.header("retry-after").is_some()));
    let after = world.dev.process().memory_kib().1;
    assert!(after < before + ROOM_KIB, "{before} KiB before, {after} KiB at most");
    assert_eq!(world.login("bob", PASSWORD).status, 200, "others come in");
    let sessions = world.administer("GET", "sessions?subject=alice", &json!({})).json();
    assert_eq!(sessions["sessions"], json!([]));
}

#[test]
fn of_many_uses_of_one_refresh_token_at_once_there_is_one_successor_and_one_branch() {
    let world = World::start(json!({}), &[]);
    world.account("alice");
    let login = world.login("alice", PASSWORD);
    let first = text(&login, "refresh_token");
    let refresh = |token: &str| Request::post("/auth/refresh", &json!({"refresh_token": token}));
    let answers = at_once(&world.issuer(), (0..32).map(|_| refresh(&first)).collect());
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 32)]));
    let second = text(&answers[0], "refresh_token");
    assert!(answers.iter().all(|answer| text(answer, "refresh_token") == second), "one successor");
    // Its use closes the grace: whoever comes with the first one then is a thief, or was robbed.
    let third = refresh(&second).send(&world.issuer());
    assert_eq!(third.status, 200);
    assert_eq!(refresh(&first).send(&world.issuer()).status, 401);
    for token in [&second, &text(&third, "refresh_token")] {
        assert_eq!(refresh(token).send(&world.issuer()).status, 401, "no branch lives");
    }
}

#[test]
fn of_many_logins_at_once_no_more_get_in_than_there_is_room_for_and_the_others_have_not_failed() {
    let world = World::start(json!({"sessions": {"maxConcurrent": 3, "onLimit": "Reject"}}), &[]);
    world.account("alice");
    let login = || Request::post("/auth/login", &json!({"username": "alice", "password": PASSWORD}));
    let answers = at_once(&world.issuer(), (0..24).map(|_| login()).collect());
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 3), (403, 21)]));
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.word() == "session_limit"));
    let token = answers.iter().find(|answer| answer.status == 200).map(|answer| text(answer, "access_token")).unwrap();
    assert_eq!(world.with_token("DELETE", "/auth/sessions", &token, &json!({})).json()["revoked"], 3);
    assert_eq!(world.login("alice", PASSWORD).status, 200, "being turned away locks nobody");
}

#[test]
fn of_many_uses_of_one_mailed_link_at_once_one_wins() {
    let world = World::start(json!({}), &[]);
    let address = "ann@shop.example";
    assert_eq!(world.post("/auth/register", &json!({"email": address, "password": PASSWORD})).status, 201);
    let verify = world.mailed(address);
    let answers =
        at_once(&world.issuer(), (0..16).map(|_| Request::post("/auth/verify-email", &json!({"token": verify}))).collect());
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, 15)]));
    assert_eq!(world.post("/auth/forgot-password", &json!({"email": address})).status, 202);
    let reset = world.mailed(address);
    let passwords: Vec<String> = (0..16).map(|n| format!("another horse battery {n}")).collect();
    let requests =
        passwords.iter().map(|new| Request::post("/auth/reset-password", &json!({"token": reset, "new_password": new})));
    let answers = at_once(&world.issuer(), requests.collect());
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, 15)]));
    let won = answers.iter().position(|answer| answer.status == 200).unwrap();
    assert_eq!(world.login(address, &passwords[won]).status, 200, "the winner's password holds");
}
