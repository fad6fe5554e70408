//! Whether there is an account: no answer tells it, nor what was done for it.

mod calls;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PASSWORD, World, authenticator::Authenticator, text};
use crate::http::{Answer, Request, Target};

/// So often is each thing asked at most, each time of other names: what else goes on in the process adds statements, and a line
/// may come into the log only after the answer.
const TRIES: usize = 20;

/// A process that logs every statement.
fn watched(login: Value) -> World {
    let mut world = World::start(login, &[("LOG_LEVEL", "warn,sqlx::query=debug")]);
    assert!(world.dev.process().log().lines().any(|line| statement(line).is_some()), "statements are logged");
    world
}

/// What somebody may have of an account that isn't theirs.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    id: String,
    session: String,
    api_key: String,
    token: String,
    /// Of a program that the policy knows.
    client: String,
}

impl Known {
    /// All of nobody's, in the shape of what accounts have.
    fn of_nobody(name: &str) -> Self {
        let token = "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.e30.c2lnbmF0dXJl".to_owned();
        let [id, session, api_key] = ["a", "b", "c"].map(|of| format!("0190d5f0-0000-7000-8000-00000000000{of}"));
        Self { name: name.to_owned(), id, session, api_key, token, client: "nobody".to_owned() }
    }

    fn email(&self) -> String {
        format!("{}@shop.example", self.name)
    }

    /// A text without all that tells one from another.
    fn taken_out_of(&self, text: &str) -> String {
        let Self { name, id, session, api_key, token, client } = self;
        [name, id, session, api_key, token, client].into_iter().fold(text.to_owned(), |text, own| text.replace(own, "OWN"))
    }
}

/// What an answer says but for names, ids and times, and what the database was asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    answer: String,
    headers: BTreeMap<String, String>,
    statements: Vec<String>,
}

impl Seen {
    fn of(world: &mut World, target: &Target, known: &Known, request: &Request) -> Self {
        let before = world.dev.process().log().len();
        let answer = request.send(target);
        let log = world.dev.process().log();
        let mut statements: Vec<String> = log[before..].lines().filter_map(statement).collect();
        statements.sort();
        Self { answer: shown(&answer, known), headers: headers(&answer), statements }
    }
}

/// What a statement's line in the log says of it.
fn statement(line: &str) -> Option<String> {
    let (_, of) = line.split_once("sqlx::query: ")?;
    Some(of.split_once(" rows_affected=")?.0.to_owned())
}

fn shown(answer: &Answer, known: &Known) -> String {
    let mut body = answer.json();
    for varies in ["id", "created_at", "challenge_id", "locked_until"] {
        if let Some(value) = body.get_mut(varies) {
            *value = json!("…");
        }
    }
    format!("{} {}", answer.status, known.taken_out_of(&body.to_string()))
}

fn headers(answer: &Answer) -> BTreeMap<String, String> {
    let varies = |name: &str| ["x-request-id", "date", "retry-after", "content-length"].contains(&name);
    answer
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), if varies(name) { "…".to_owned() } else { value.clone() }))
        .collect()
}

/// Makes an account of a name; what is known of it.
type Account<'a> = &'a dyn Fn(&World, &str) -> Known;
/// What is asked with that.
type Ask<'a> = &'a dyn Fn(&Known) -> Request;

/// What is asked of accounts, and of names that no account has.
struct Question<'a> {
    what: &'a str,
    account: Account<'a>,
    /// What comes before, of either.
    before: &'a dyn Fn(&World, &str),
    ask: Ask<'a>,
    /// Which statements count: those that the answer waits for.
    counts: fn(&str) -> bool,
}

impl Question<'_> {
    /// Every time the answers are alike; and so is the work of some time to that of some other, when nothing else went on in the
    /// process. The answer.
    fn is_answered_alike(&self, world: &mut World) -> String {
        let mut all: [Vec<Seen>; 2] = [Vec::new(), Vec::new()];
        for n in 0..TRIES {
            let name = format!("{}-{n}", self.what.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
            let account = (self.account)(world, &name);
            for (side, known) in [account, Known::of_nobody(&format!("{name}-nobody"))].into_iter().enumerate() {
                (self.before)(world, &known.name);
                let mut seen = Seen::of(world, &world.issuer(), &known, &(self.ask)(&known));
                seen.statements.retain(|statement| (self.counts)(statement));
                if let Some(other) = all.iter().flatten().next() {
                    assert_eq!((&seen.answer, &seen.headers), (&other.answer, &other.headers), "{}: {known:?}", self.what);
                }
                all[side].push(seen);
            }
            let [of_accounts, of_nobody] = &all;
            if of_accounts.iter().any(|one| of_nobody.iter().any(|other| one.statements == other.statements)) {
                return of_nobody[0].answer.clone();
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

/// One that nobody has logged in to.
fn active(world: &World, name: &str) -> Known {
    Known { id: world.account(name), ..Known::of_nobody(name) }
}

fn registered(world: &World, name: &str) -> Known {
    let made = world
        .post("/auth/register", &json!({"email": format!("{name}@shop.example"), "username": name, "password": PASSWORD}));
    assert_eq!(made.status, 201, "{}", made.json());
    Known { id: text(&made, "id"), ..Known::of_nobody(name) }
}

fn guess(known: &Known) -> Request {
    Request::post("/auth/login", &json!({"username": known.name, "password": "wrong"}))
}

#[test]
fn a_wrong_password_is_answered_alike_after_the_same_work_whether_or_not_there_is_an_account() {
    let mut world = watched(json!({}));
    // Whatever has become of it, and also by the failure that locks and the one after.
    let standings: [(&str, Account<'_>); 7] = [
        ("disabled", &|world, name| {
            let known = active(world, name);
            world.administer("PATCH", &format!("users/{}", known.id), &json!({"status": "disabled"}));
            known
        }),
        ("locked", &|world, name| {
            let known = active(world, name);
            world.administer("POST", &format!("users/{}/lock", known.id), &json!({"reason": "stolen"}));
            known
        }),
        ("erased", &|world, name| {
            let known = active(world, name);
            world.administer("DELETE", &format!("users/{}", known.id), &json!({}));
            known
        }),
        ("pending", &registered),
        ("invited", &|world, name| {
            let made = json!({"email": format!("{name}@shop.example"), "username": name});
            Known { id: text(&world.administer("POST", "users", &made), "id"), ..Known::of_nobody(name) }
        }),
        ("with a second factor", &|world, name| {
            let known = active(world, name);
            Authenticator::enrol(&world.front(), name, PASSWORD);
            known
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
fn who_asks_for_a_mail_learns_nothing_whatever_has_become_of_the_account() {
    let mut world = watched(json!({}));
    for path in ["/auth/forgot-password", "/auth/verify-email/resend"] {
        let ask = |known: &Known| Request::post(path, &json!({"email": known.email()}));
        let accounts: [(&str, Account<'_>); 2] = [("active", &active), ("pending", &registered)];
        for (standing, account) in accounts {
            let what = format!("{standing}{path}");
            let question = Question { what: &what, account, before: &|_, _| {}, ask: &ask, counts: |_| true };
            question.is_answered_alike(&mut world);
        }
    }
}

#[test]
fn who_registers_with_an_address_learns_nothing_whoever_has_it() {
    let mut world = watched(json!({}));
    world.account("taken");
    let register = |email: &str| Request::post("/auth/register", &json!({"email": email, "password": PASSWORD}));
    // An account is made or its owner is told, each in one transaction.
    let seen = |world: &mut World, email: &str| {
        let seen = Seen::of(world, &world.issuer(), &Known::of_nobody(email), &register(email));
        (seen.answer.replace("taken@shop.example", "OWN"), seen.headers)
    };
    let new = seen(&mut world, "new@shop.example");
    assert!(new.0.starts_with("201 "), "{}", new.0);
    for taken in ["taken@shop.example", "new@shop.example", "TAKEN@shop.example", "\u{ff54}aken@shop.example"] {
        assert_eq!(seen(&mut world, taken), new, "{taken}");
    }
}
