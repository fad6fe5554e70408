//! Positions: a verify that asks to include a revocation never misses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::{Value, json};

use crate::{
    http::{Connection, Request, Target},
    rig::{Dev, Policies, Redis, Verifier},
};

/// A revocation whose call has returned.
#[derive(Clone)]
struct Revoked {
    token: String,
    position: String,
}

/// Over concurrent revokes and verifies on several verifiers: whatever a verify asks to include, it includes.
#[test]
fn no_verify_misses_a_revocation_that_it_asked_to_include() {
    const REVOKERS: usize = 3;
    const EACH: usize = 60;

    let policies = Policies::new();
    let redis = Redis::start();
    let dev = Arc::new(Dev::start(&policies, Some(&redis)));
    let mut verifiers: Vec<Verifier> = (0..3).map(|_| Verifier::start(&dev.bundles(), &redis.url())).collect();
    for verifier in &mut verifiers {
        verifier.wait_until_fresh();
    }
    let targets: Vec<Target> = verifiers.iter().map(Verifier::socket).chain([dev.socket()]).collect();

    let missed = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let stale = Arc::new(AtomicUsize::new(0));
    // Each checker learns of every revocation at once, and later asks for it again and again.
    let (senders, checkers): (Vec<_>, Vec<_>) = targets
        .into_iter()
        .map(|target| {
            let (sender, receiver) = mpsc::channel::<Revoked>();
            let (missed, asked, stale) = (missed.clone(), asked.clone(), stale.clone());
            let checker = thread::spawn(move || {
                let mut connection = Connection::open(&target).unwrap();
                let mut known: Vec<Revoked> = Vec::new();
                let mut next = 0;
                loop {
                    known.extend(receiver.try_iter());
                    let Some(revoked) = known.get(next).cloned() else {
                        match receiver.recv() {
                            Ok(revoked) => known.push(revoked),
                            Err(mpsc::RecvError) => break,
                        }
                        continue;
                    };
                    // The newest known position asks for all that is known.
                    let newest = known.last().map_or(&revoked, |last| last).position.clone();
                    for position in [revoked.position.clone(), newest] {
                        let answer = verify(&mut connection, &revoked.token, &position);
                        asked.fetch_add(1, Ordering::Relaxed);
                        match answer.as_str() {
                            "revoked" => {}
                            "stale" => {
                                stale.fetch_add(1, Ordering::Relaxed);
                            }
                            other => {
                                eprintln!("{target:?}: {other} at {position}");
                                missed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    next += 1;
                }
            });
            (sender, checker)
        })
        .unzip();

    let revokers: Vec<_> = (0..REVOKERS)
        .map(|revoker| {
            let (dev, senders) = (dev.clone(), senders.clone());
            thread::spawn(move || {
                for n in 0..EACH {
                    let minted = dev.mint(
                        "shop",
                        &json!({"subject": format!("u-{revoker}-{n}"), "session_id": format!("s-{revoker}-{n}")}),
                    );
                    let (kind, id) = match n % 3 {
                        0 => ("token", minted["token_id"].clone()),
                        1 => ("session", minted["session_id"].clone()),
                        _ => ("subject", json!(format!("u-{revoker}-{n}"))),
                    };
                    let position = dev.revoked_at("shop", &json!({"kind": kind, "id": id, "reason": "history"}));
                    let token = minted["token"].as_str().unwrap().to_owned();
                    for sender in &senders {
                        sender.send(Revoked { token: token.clone(), position: position.clone() }).unwrap();
                    }
                }
            })
        })
        .collect();
    for revoker in revokers {
        revoker.join().unwrap();
    }
    drop(senders);
    for checker in checkers {
        checker.join().unwrap();
    }
    let (asked, stale) = (asked.load(Ordering::Relaxed), stale.load(Ordering::Relaxed));
    assert_eq!(missed.load(Ordering::Relaxed), 0, "of {asked}");
    assert!(asked >= REVOKERS * EACH * 4, "{asked}");
    assert!(stale * 20 < asked, "{stale} of {asked} calls waited in vain");
}

fn verify(connection: &mut Connection, token: &str, position: &str) -> String {
    let request = json!({"token": token, "min_position": position});
    let answer = Request::post("/v1/policies/shop/shop/verify", &request).send_on(connection).expect("an answer");
    answer.word()
}

#[test]
fn a_position_not_reached_is_stale_not_valid() {
    let policies = Policies::new();
    let redis = Redis::start();
    let dev = Dev::start(&policies, Some(&redis));
    let mut verifier = Verifier::start(&dev.bundles(), &redis.url());
    verifier.wait_until_fresh();
    let token = dev.token("shop", "alice");
    let position = dev.revoked_at("shop", &json!({"kind": "token", "id": "nothing", "reason": "test"}));
    assert_eq!(verifier.verify_request("shop", &json!({"token": token, "min_position": position})).status, 200);
    // One that lies ahead: the same epoch, far on.
    let ahead = ahead_of(&position);
    let answer = verifier.verify_request("shop", &json!({"token": token, "min_position": ahead}));
    assert_eq!((answer.status, answer.word().as_str()), (503, "stale"), "{position} -> {ahead}");
    // An earlier one of an earlier epoch has long been met.
    let answer: Value = verifier.verify_request("shop", &json!({"token": token, "min_position": position})).json();
    assert_eq!(answer["verdict"], "valid");
}

/// Positions are opaque to callers; a test may make one up by raising the last number in it.
fn ahead_of(position: &str) -> String {
    let digits = position.len() - position.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (front, number) = position.split_at(digits);
    format!("{front}{}", number.parse::<u64>().unwrap() + 1_000_000)
}
