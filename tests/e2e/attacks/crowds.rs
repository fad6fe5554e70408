//! Many at once: at one issuer here, and at two in `cluster::issuers`, where the same comes of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Front, PASSWORD, World, authenticator::Authenticator, said, text};
use crate::{http::Answer, rig::Mails};

/// Where crowds come to.
pub(crate) trait Place {
    /// What they come to.
    fn front(&self) -> Front;

    /// Makes an account of that name, with a verified address.
    fn account(&self, name: &str);

    /// What people get.
    fn mails(&self) -> &Mails;
}

impl Place for World {
    fn front(&self) -> Front {
        World::front(self)
    }

    fn account(&self, name: &str) {
        World::account(self, name);
    }

    fn mails(&self) -> &Mails {
        &self.mails
    }
}

/// What a crowd does, on a policy whose login has some members.
pub(crate) struct Crowd {
    pub(crate) name: &'static str,
    pub(crate) login: fn() -> Value,
    pub(crate) comes_to: fn(&dyn Place),
}

/// All of them.
pub(crate) const CROWDS: [Crowd; 6] = [LOCKED_OUT, REFRESHES, SESSIONS, LINKS, CODES, BACKUP_CODES];

fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer.status).or_default() += 1;
        counts
    })
}

fn log_in(front: &Front, name: &str) -> Answer {
    front.post("/auth/login", &json!({"username": name, "password": PASSWORD}))
}

/// The cost that accounts have unless a policy says otherwise: a check would show.
const LOCKED_OUT: Crowd = Crowd {
    name: "locked-out",
    login: || json!({"passwords": {}}),
    comes_to: |place| {
        lock_out(place);
        none_gets_in(&place.front());
    },
};

fn lock_out(place: &dyn Place) {
    let front = place.front();
    place.account("alice");
    for _ in 0..5 {
        let wrong = front.post("/auth/login", &json!({"username": "alice", "password": "wrong"}));
        assert_eq!(said(&wrong), (401, "invalid_credentials".into()));
    }
}

fn none_gets_in(front: &Front) {
    let right = || front.request("/auth/login", &json!({"username": "alice", "password": PASSWORD}));
    let answers = front.at_once((0..1000).map(|_| right()));
    assert_eq!(statuses(&answers), BTreeMap::from([(423, 1000)]));
    assert!(answers.iter().all(|answer| answer.word() == "account_locked" && answer.header("retry-after").is_some()));
}

const REFRESHES: Crowd = Crowd {
    name: "refreshes",
    login: || json!({}),
    comes_to: |place| {
        let front = place.front();
        place.account("alice");
        let first = text(&log_in(&front, "alice"), "refresh_token");
        let refresh = |token: &str| front.request("/auth/refresh", &json!({"refresh_token": token}));
        let answers = front.at_once((0..32).map(|_| refresh(&first)));
        assert_eq!(statuses(&answers), BTreeMap::from([(200, 32)]));
        let second = text(&answers[0], "refresh_token");
        assert!(answers.iter().all(|answer| text(answer, "refresh_token") == second), "one successor");
        // Its use closes the grace: whoever comes with the first one then is a thief, or was robbed.
        let third = front.send(&refresh(&second));
        assert_eq!(third.status, 200);
        assert_eq!(front.send(&refresh(&first)).status, 401);
        for token in [&second, &text(&third, "refresh_token")] {
            assert_eq!(front.send(&refresh(token)).status, 401, "no branch lives");
        }
    },
};

const SESSIONS: Crowd = Crowd {
    name: "sessions",
    login: || json!({"sessions": {"maxConcurrent": 3, "onLimit": "Reject"}}),
    comes_to: |place| {
        let front = place.front();
        place.account("alice");
        let login = || front.request("/auth/login", &json!({"username": "alice", "password": PASSWORD}));
        let answers = front.at_once((0..24).map(|_| login()));
        assert_eq!(statuses(&answers), BTreeMap::from([(200, 3), (403, 21)]));
        assert!(answers.iter().all(|answer| answer.status == 200 || answer.word() == "session_limit"));
        let let_in = answers.iter().find(|answer| answer.status == 200).unwrap();
        let ended = front.with_token("DELETE", "/auth/sessions", &text(let_in, "access_token"), &json!({}));
        assert_eq!(ended.json()["revoked"], 3);
        assert_eq!(log_in(&front, "alice").status, 200, "being turned away locks nobody");
    },
};

const LINKS: Crowd = Crowd {
    name: "links",
    login: || json!({}),
    comes_to: |place| {
        let (front, address) = (place.front(), "ann@shop.example");
        let account = json!({"email": address, "password": PASSWORD});
        assert_eq!(front.post("/auth/register", &account).status, 201);
        let verify = place.mails().token(address);
        let answers = front.at_once((0..16).map(|_| front.request("/auth/verify-email", &json!({"token": verify}))));
        assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, 15)]));
        assert_eq!(front.post("/auth/forgot-password", &json!({"email": address})).status, 202);
        let reset = place.mails().token(address);
        let passwords: Vec<String> = (0..16).map(|n| format!("another horse battery {n}")).collect();
        let resets = passwords.iter().map(|new| json!({"token": reset, "new_password": new}));
        let answers = front.at_once(resets.map(|reset| front.request("/auth/reset-password", &reset)));
        assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, 15)]));
        let won = answers.iter().position(|answer| answer.status == 200).unwrap();
        let login = front.post("/auth/login", &json!({"username": address, "password": passwords[won]}));
        assert_eq!(login.status, 200, "the winner's password holds");
    },
};

const CODES: Crowd = Crowd {
    name: "codes",
    login: || json!({"lockout": {"mode": "Disabled"}}),
    comes_to: |place| {
        let front = place.front();
        place.account("alice");
        let authenticator = Authenticator::enrol(&front, "alice", PASSWORD);
        let with_password = json!({"username": "alice", "password": PASSWORD, "mfa_code": authenticator.code(1)});
        one_of(&front, "/auth/login", &vec![with_password; 16]);
        one_of(&front, "/auth/2fa/verify", &answers_to_challenges(&front, &authenticator.code(2)));
    },
};

const BACKUP_CODES: Crowd = Crowd {
    name: "backup-codes",
    login: || json!({"lockout": {"mode": "Disabled"}}),
    comes_to: |place| {
        let front = place.front();
        place.account("alice");
        let codes = Authenticator::enrol(&front, "alice", PASSWORD).backup_codes;
        let with_password = json!({"username": "alice", "password": PASSWORD, "mfa_code": codes[0]});
        one_of(&front, "/auth/login", &vec![with_password; 16]);
        one_of(&front, "/auth/2fa/verify", &answers_to_challenges(&front, &codes[1]));
        let challenge = text(&log_in(&front, "alice"), "challenge_id");
        let last = front.post("/auth/2fa/verify", &json!({"challenge_id": challenge, "code": codes[2]}));
        let state = front.with_token("GET", "/auth/2fa", &text(&last, "access_token"), &Value::Null).json();
        assert_eq!(state["backup_codes_left"], codes.len() - 3, "{state}");
    },
};

/// One code, for challenges of as many logins.
fn answers_to_challenges(front: &Front, code: &str) -> Vec<Value> {
    let challenges = (0..16).map(|_| text(&log_in(front, "alice"), "challenge_id"));
    challenges.map(|challenge| json!({"challenge_id": challenge, "code": code})).collect()
}

/// Sends bodies at once, of which one gets in.
fn one_of(front: &Front, path: &str, bodies: &[Value]) {
    let answers = front.at_once(bodies.iter().map(|body| front.request(path, body)));
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 1), (401, bodies.len() - 1)]), "{path}");
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.word() == "invalid_code"), "{path}");
}

/// What a thousand answers may cost beyond what the process has, KiB: 64 for each, buffers of its connection included.
const ROOM_KIB: u64 = 64 << 10;

#[test]
fn of_a_thousand_logins_at_once_on_a_locked_account_none_gets_in_and_memory_stays_flat() {
    let mut world = World::start((LOCKED_OUT.login)(), &[]);
    lock_out(&world);
    world.account("bob");
    let before = world.dev.process().memory_kib().1;
    none_gets_in(&world.front());
    let after = world.dev.process().memory_kib().1;
    assert!(after < before + ROOM_KIB, "{before} KiB before, {after} KiB at most");
    assert_eq!(world.login("bob", PASSWORD).status, 200, "others come in");
    let sessions = world.administer("GET", "sessions?subject=alice", &json!({})).json();
    assert_eq!(sessions["sessions"], json!([]));
}

/// A crowd comes to one issuer.
fn come(crowd: &Crowd) {
    (crowd.comes_to)(&World::start((crowd.login)(), &[]));
}

#[test]
fn of_many_uses_of_one_refresh_token_at_once_there_is_one_successor_and_one_branch() {
    come(&REFRESHES);
}

#[test]
fn of_many_logins_at_once_no_more_get_in_than_there_is_room_for_and_the_others_have_not_failed() {
    come(&SESSIONS);
}

#[test]
fn of_many_uses_of_one_mailed_link_at_once_one_wins() {
    come(&LINKS);
}

#[test]
fn of_many_uses_of_one_authenticator_s_code_at_once_one_wins() {
    come(&CODES);
}

#[test]
fn of_many_uses_of_one_backup_code_at_once_one_wins() {
    come(&BACKUP_CODES);
}
