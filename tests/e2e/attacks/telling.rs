//! Whether there is an account: no answer tells it, nor what was done for it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PASSWORD, World, text};
use crate::http::{Answer, Request};

/// So often is each thing asked at most, each time of other names: what else goes on in the process adds statements, and a line
/// may come into the log only after the answer.
const TRIES: usize = 20;
/// A device's secret as clients hold it.
const DEVICE: &str = "AAECAwQFBgcICQoLDA0ODw";

/// A process that logs every statement.
fn watched() -> World {
    World::start(json!({}), &[("LOG_LEVEL", "warn,sqlx::query=debug")])
}

/// What an answer says but for names, ids and times, and what the database was asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    answer: String,
    headers: BTreeMap<String, String>,
    statements: Vec<String>,
}

impl Seen {
    fn of(world: &mut World, name: &str, request: &Request) -> Self {
        let before = world.dev.process().log().len();
        let answer = request.send(&world.issuer());
        let log = world.dev.process().log();
        let mut statements: Vec<String> = log[before..].lines().filter_map(statement).collect();
        statements.sort();
        Self { answer: shown(&answer, name), headers: headers(&answer), statements }
    }
}

/// What a statement's line in the log says of it.
fn statement(line: &str) -> Option<String> {
    let (_, of) = line.split_once("sqlx::query: ")?;
    Some(of.split_once(" rows_affected=")?.0.to_owned())
}

fn shown(answer: &Answer, name: &str) -> String {
    let mut body = answer.json();
    for varies in ["id", "created_at", "challenge_id", "locked_until"] {
        if let Some(value) = body.get_mut(varies) {
            *value = json!("…");
        }
    }
    format!("{} {}", answer.status, body.to_string().replace(name, "NAME"))
}

fn headers(answer: &Answer) -> BTreeMap<String, String> {
    let varies = |name: &str| ["x-request-id", "date", "retry-after", "content-length"].contains(&name);
    answer
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), if varies(name) { "…".to_owned() } else { value.clone() }))
        .collect()
}

/// What is done with a name.
type With<'a> = &'a dyn Fn(&World, &str);

/// What is asked of accounts, and of names that no account has.
struct Question<'a> {
    what: &'a str,
    /// Makes an account of a name.
    account: With<'a>,
    /// What comes before, of either.
    before: With<'a>,
    ask: &'a dyn Fn(&str) -> Request,
    /// Which statements count: those that the answer waits for.
    counts: fn(&str) -> bool,
}

impl Question<'_> {
    /// Every time the answers are alike; and so is the work of some time to that of some other, when nothing else went on in the
    /// process.
    fn is_answered_alike(&self, world: &mut World) {
        let mut all: [Vec<Seen>; 2] = [Vec::new(), Vec::new()];
        for n in 0..TRIES {
            let account = format!("{}-{n}", self.what.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
            (self.account)(world, &account);
            for (side, name) in [account.clone(), format!("{account}-nobody")].into_iter().enumerate() {
                (self.before)(world, &name);
                let mut seen = Seen::of(world, &name, &(self.ask)(&name));
                assert!(!seen.statements.is_empty(), "statements are logged");
                seen.statements.retain(|statement| (self.counts)(statement));
                if let Some(other) = all.iter().flatten().next() {
                    assert_eq!((&seen.answer, &seen.headers), (&other.answer, &other.headers), "{}: {name}", self.what);
                }
                all[side].push(seen);
            }
            let [of_accounts, of_nobody] = &all;
            if of_accounts.iter().any(|one| of_nobody.iter().any(|other| one.statements == other.statements)) {
                return;
            }
        }
        let quietest =
            |side: &[Seen]| side.iter().map(|seen| seen.statements.clone()).min_by_key(Vec::len).unwrap_or_default();
        let [one, other] = all.map(|side| quietest(&side));
        let (account, nobody) = (beyond(&one, &other), beyond(&other, &one));
        panic!("{}: done for an account alone: {account:?}; for nobody alone: {nobody:?}", self.what);
    }
}

/// What stands more often in the one than in the other.
fn beyond(one: &[String], another: &[String]) -> Vec<String> {
    let mut left = one.to_vec();
    for statement in another {
        if let Some(at) = left.iter().position(|held| held == statement) {
            left.remove(at);
        }
    }
    left
}

fn active(world: &World, name: &str) {
    world.account(name);
}

/// What somebody who guesses sends.
fn guesses(name: &str) -> [(&'static str, Request); 6] {
    let json = |body: Value| Request::post("/auth/login", &body);
    let form = format!("grant_type=password&username={name}&password=wrong&scope=");
    [
        ("a name", json(json!({"username": name, "password": "wrong"}))),
        ("an address", json(json!({"email": format!("{name}@shop.example"), "password": "wrong"}))),
        ("a code", json(json!({"username": name, "password": "wrong", "mfa_code": "123456"}))),
        ("a backup code", json(json!({"username": name, "password": "wrong", "mfa_code": "abcd-efgh-jkmn"}))),
        ("a device", json(json!({"username": name, "password": "wrong", "device_token": DEVICE}))),
        (
            "a form",
            Request::new("POST", "/auth/login").header("content-type", "application/x-www-form-urlencoded").body(form),
        ),
    ]
}

#[test]
fn a_wrong_password_is_answered_alike_after_the_same_work_whether_or_not_there_is_an_account() {
    let mut world = watched();
    let guess = |name: &str| guesses(name).into_iter().next().unwrap().1;
    let nothing = |_: &World, _: &str| {};
    for (n, (what, _)) in guesses("").into_iter().enumerate() {
        let ask = |name: &str| guesses(name).into_iter().nth(n).unwrap().1;
        let question = Question { what, account: &active, before: &nothing, ask: &ask, counts: |_| true };
        question.is_answered_alike(&mut world);
    }
    // Whatever has become of it, and also by the failure that locks and the one after.
    let standings: [(&str, With<'_>); 5] = [
        ("disabled", &|world, name| {
            let id = world.account(name);
            world.administer("PATCH", &format!("users/{id}"), &json!({"status": "disabled"}));
        }),
        ("locked", &|world, name| {
            let id = world.account(name);
            world.administer("POST", &format!("users/{id}/lock"), &json!({"reason": "stolen"}));
        }),
        ("pending", &|world, name| {
            let body = json!({"email": format!("{name}@shop.example"), "username": name, "password": PASSWORD});
            assert_eq!(world.post("/auth/register", &body).status, 201);
        }),
        ("invited", &|world, name| {
            world.administer("POST", "users", &json!({"email": format!("{name}@shop.example"), "username": name}));
        }),
        ("active", &active),
    ];
    let fail = |times: usize| {
        move |world: &World, name: &str| (0..times).for_each(|_| assert_eq!(world.login(name, "wrong").status, 401))
    };
    for (standing, account) in standings {
        let (locking, locked) = (format!("{standing} locking"), format!("{standing} locked out"));
        for (what, before, counts) in [
            (standing, &fail(0), (|_| true) as fn(&str) -> bool),
            // Whoever mails the owner is at work by then, for nobody too.
            (&*locking, &fail(4), |statement| statement.contains("INSERT INTO")),
            (&*locked, &fail(5), |_| true),
        ] {
            Question { what, account, before, ask: &guess, counts }.is_answered_alike(&mut world);
        }
    }
}

#[test]
fn who_asks_for_a_mail_learns_nothing_whoever_has_the_address() {
    let mut world = watched();
    let nothing = |_: &World, _: &str| {};
    let pending = |world: &World, name: &str| {
        let body = json!({"email": format!("{name}@shop.example"), "password": PASSWORD});
        assert_eq!(world.post("/auth/register", &body).status, 201);
    };
    for path in ["/auth/forgot-password", "/auth/verify-email/resend"] {
        let ask = |name: &str| Request::post(path, &json!({"email": format!("{name}@shop.example")}));
        let accounts: [(&str, With<'_>); 2] = [("active", &active), ("pending", &pending)];
        for (standing, account) in accounts {
            let what = format!("{standing}{path}");
            let question = Question { what: &what, account, before: &nothing, ask: &ask, counts: |_| true };
            question.is_answered_alike(&mut world);
        }
    }
    // Nor whoever wants an address for their own account.
    world.account("owner");
    let token = text(&world.login("owner", PASSWORD), "access_token");
    let ask = |name: &str| {
        let body = json!({"email": format!("{name}@shop.example")});
        Request::new("PATCH", "/users/me").header("authorization", &format!("Bearer {token}")).body(body.to_string())
    };
    let question = Question { what: "wanted", account: &active, before: &nothing, ask: &ask, counts: |_| true };
    question.is_answered_alike(&mut world);
}

#[test]
fn who_registers_with_an_address_learns_nothing_whoever_has_it() {
    let mut world = watched();
    world.account("taken");
    let register = |email: &str| Request::post("/auth/register", &json!({"email": email, "password": PASSWORD}));
    let new = Seen::of(&mut world, "new@shop.example", &register("new@shop.example"));
    assert!(new.answer.starts_with("201 "), "{}", new.answer);
    for taken in ["taken@shop.example", "new@shop.example", "TAKEN@shop.example", "\u{ff54}aken@shop.example"] {
        let seen = Seen::of(&mut world, taken, &register(taken));
        let (answer, headers) = (seen.answer.replace("taken@shop.example", "NAME"), seen.headers);
        assert_eq!((answer, headers), (new.answer.clone(), new.headers.clone()), "{taken}");
    }
}
