//! Several hundred requests that nobody means well with, each with the one right answer; and after each table a good token
//! is still answered. The tables are data: what is sent, and what must come back.

mod bodies;
mod claims;
mod encoding;
mod framing;
mod keys;
mod proxies;
mod signatures;

use std::time::Duration;

use serde_json::json;

use crate::{
    http::{self, Answer, Request, Target},
    rig::{Dev, Policies, Redis, Verifier},
};

/// A credential, and the verdict on it.
pub(crate) struct TokenCase {
    name: String,
    policy: &'static str,
    token: String,
    expected: (u16, &'static str),
}

impl TokenCase {
    fn new(name: impl Into<String>, token: impl Into<String>, expected: (u16, &'static str)) -> Self {
        Self { name: name.into(), policy: "shop", token: token.into(), expected }
    }

    fn at(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }
}

const VALID: (u16, &str) = (200, "valid");
const MALFORMED: (u16, &str) = (401, "malformed");
const UNTRUSTED_ISSUER: (u16, &str) = (401, "untrusted_issuer");
const UNKNOWN_KEY: (u16, &str) = (401, "unknown_key");
const BAD_SIGNATURE: (u16, &str) = (401, "bad_signature");
const NOT_YET_VALID: (u16, &str) = (401, "not_yet_valid");
const EXPIRED: (u16, &str) = (401, "expired");
const WRONG_AUDIENCE: (u16, &str) = (401, "wrong_audience");
const INVALID_CLAIMS: (u16, &str) = (401, "invalid_claims");

/// A whole request, byte by byte, and the answer to it.
pub(crate) struct RequestCase {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

/// What must come back.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// One of these statuses; 0 is a connection closed without an answer.
    statuses: &'static [u16],
    /// The `verdict` or `error` in the body; `None`: not looked at.
    word: Option<&'static str>,
    /// Whether the connection must be closed after it.
    closes: bool,
}

impl Expected {
    const fn status(statuses: &'static [u16]) -> Self {
        Self { statuses, word: None, closes: false }
    }

    const fn word(mut self, word: &'static str) -> Self {
        self.word = Some(word);
        self
    }

    const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }
}

impl RequestCase {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: Expected) -> Self {
        Self { name: name.into(), bytes: bytes.into(), expected }
    }
}

/// What the tables are run against.
struct Bench<'a> {
    targets: Vec<(&'static str, Target)>,
    dev: &'a Dev,
    policies: &'a Policies,
}

impl Bench<'_> {
    /// Runs every table and fails with all that went wrong.
    fn run(&self) {
        let tokens: Vec<TokenCase> = [
            encoding::cases(self.policies),
            keys::cases(self.policies, self.dev),
            signatures::cases(self.policies),
            claims::cases(self.policies),
        ]
        .into_iter()
        .flatten()
        .collect();
        let requests: Vec<RequestCase> =
            [bodies::cases(self.policies), framing::cases(self.policies), proxies::cases(self.policies, self.dev)]
                .into_iter()
                .flatten()
                .collect();
        assert!(tokens.len() + requests.len() >= 300, "the corpus has shrunk to {}", tokens.len() + requests.len());

        let mut wrong = Vec::new();
        for (place, target) in &self.targets {
            for case in &tokens {
                check_token(place, target, case, &mut wrong);
            }
            self.good_token_is_answered(place, target, &mut wrong);
            for case in &requests {
                check_request(place, target, case, &mut wrong);
                self.good_token_is_answered(&format!("{place} after {}", case.name), target, &mut wrong);
            }
        }
        let count = (tokens.len() + requests.len()) * self.targets.len();
        assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
        eprintln!("{count} requests answered as they should be");
    }

    fn good_token_is_answered(&self, place: &str, target: &Target, wrong: &mut Vec<String>) {
        let token = self.policies.partner.token("ES256");
        check_token(place, target, &TokenCase::new("a good token", token, VALID), wrong);
    }
}

fn check_token(place: &str, target: &Target, case: &TokenCase, wrong: &mut Vec<String>) {
    let path = format!("/v1/policies/shop/{}/verify", case.policy);
    let answer = Request::post(&path, &json!({"token": case.token})).send(target);
    let said = (answer.status, answer.word());
    if (said.0, said.1.as_str()) != case.expected {
        let detail = answer.json()["detail"].clone();
        wrong.push(format!("{place}: {}: {said:?} {detail}, not {:?}", case.name, case.expected));
    }
    if let Some(flaw) = challenge_flaw(&answer) {
        wrong.push(format!("{place}: {}: {flaw}", case.name));
    }
}

/// RFC 6750 section 3: a refused credential is answered with a challenge, an accepted one is not.
fn challenge_flaw(answer: &Answer) -> Option<String> {
    let challenge = answer.header("www-authenticate");
    match answer.status {
        401 if !challenge.is_some_and(|c| c.starts_with("Bearer")) => Some(format!("401 with the challenge {challenge:?}")),
        200 if challenge.is_some() => Some("200 with a challenge".into()),
        _ => None,
    }
}

/// How soon any of these must be answered.
const PROMPT: Duration = Duration::from_secs(3);

fn check_request(place: &str, target: &Target, case: &RequestCase, wrong: &mut Vec<String>) {
    let mut connection = http::Connection::open_for(target, PROMPT).unwrap();
    // The server may refuse before it has read everything.
    let _ = connection.send(&case.bytes);
    let answer = connection.answer();
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    let word = answer.as_ref().map(Answer::word).unwrap_or_default();
    if !case.expected.statuses.contains(&status) || case.expected.word.is_some_and(|wanted| wanted != word) {
        let body = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).unwrap_or_default();
        wrong.push(format!("{place}: {}: {status} {word:?}, not {:?}; {body}", case.name, case.expected));
    } else if connection.hung() {
        wrong.push(format!("{place}: {}: neither answered nor closed", case.name));
    } else if case.expected.closes && !connection.is_closed() {
        wrong.push(format!("{place}: {}: the connection stays open, or more was answered", case.name));
    }
}

#[test]
fn dev_answers_the_corpus_exactly_on_socket_and_tcp() {
    let policies = Policies::new();
    let dev = Dev::start(&policies, None);
    let targets = vec![("dev's socket", dev.socket()), ("dev's port", dev.tcp())];
    Bench { targets, dev: &dev, policies: &policies }.run();
}

#[test]
fn a_separate_verifier_answers_the_corpus_exactly() {
    let policies = Policies::new();
    let redis = Redis::start();
    let dev = Dev::start(&policies, Some(&redis));
    let mut verifier = Verifier::start(&dev.bundles(), &redis.url());
    verifier.wait_until_fresh();
    let targets = vec![("the verifier's socket", verifier.socket()), ("the verifier's port", verifier.tcp())];
    Bench { targets, dev: &dev, policies: &policies }.run();
}
