//! Every call, by the documents that the issuer serves of itself: whatever a stranger can send that may name an account or
//! something of one is compared here, or stands here with the reason why there is nothing to compare.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Known, Question, Seen, watched};
use crate::{
    attacks::{CLIENT_SECRET, PASSWORD, World, text},
    http::Request,
};

/// A device's secret as clients hold it.
const DEVICE: &str = "AAECAwQFBgcICQoLDA0ODw";

/// A member of a call: of its body, its path or its query.
type Member = (String, String);

/// What is asked with what is known, by somebody with this token of their own, and the status that either gets.
struct Compared {
    status: u16,
    call: &'static str,
    members: &'static [&'static str],
    ask: fn(&str, &Known) -> Request,
}

const fn compared(
    status: u16,
    call: &'static str,
    members: &'static [&'static str],
    ask: fn(&str, &Known) -> Request,
) -> Compared {
    Compared { status, call, members, ask }
}

const COMPARED: [Compared; 22] = [
    compared(401, "POST /auth/login", &["username", "password"], |_, known| guess(known, json!({}))),
    compared(401, "POST /auth/login", &["email"], |_, known| {
        Request::post("/auth/login", &json!({"email": known.email(), "password": "wrong"}))
    }),
    compared(401, "POST /auth/login", &["mfa_code"], |_, known| guess(known, json!({"mfa_code": "123456"}))),
    compared(401, "POST /auth/login", &["mfa_code"], |_, known| guess(known, json!({"mfa_code": "abcd-efgh-jkmn"}))),
    compared(401, "POST /auth/login", &["device_id", "device_token"], |_, known| {
        guess(known, json!({"device_id": "a laptop", "device_token": DEVICE}))
    }),
    compared(401, "POST /auth/login", &["remember_me"], |_, known| guess(known, json!({"remember_me": true}))),
    compared(401, "POST /auth/login", &["cookies"], |_, known| guess(known, json!({"cookies": true}))),
    compared(401, "POST /auth/login", &["username", "password"], |_, known| {
        form("/auth/login", &format!("grant_type=password&username={}&password=wrong&scope=", known.name))
    }),
    compared(202, "POST /auth/forgot-password", &["email"], |_, known| {
        Request::post("/auth/forgot-password", &json!({"email": known.email()}))
    }),
    compared(202, "POST /auth/verify-email/resend", &["email"], |_, known| {
        Request::post("/auth/verify-email/resend", &json!({"email": known.email()}))
    }),
    compared(200, "PATCH /users/me", &["email"], |own, known| {
        with(own, Request::new("PATCH", "/users/me")).body(json!({"email": known.email()}).to_string())
    }),
    compared(404, "DELETE /auth/sessions/{id}", &["id"], |own, known| {
        with(own, Request::new("DELETE", &format!("/auth/sessions/{}", known.session)))
    }),
    compared(404, "DELETE /auth/api-keys/{id}", &["id"], |own, known| {
        with(own, Request::new("DELETE", &format!("/auth/api-keys/{}", known.api_key)))
    }),
    // Whoever lacks the right.
    compared(403, "GET /auth/audit", FILTERS, |own, known| with(own, Request::get(&filtered("/auth/audit", known)))),
    compared(403, "GET /auth/audit/suspicious", FILTERS, |own, known| {
        with(own, Request::get(&filtered("/auth/audit/suspicious", known)))
    }),
    compared(403, "GET /api/v1/auth/rate-limit-status", &["user", "ip"], |own, known| {
        with(own, Request::get(&format!("/api/v1/auth/rate-limit-status?user={}&ip=127.0.0.1", known.name)))
    }),
    compared(403, "POST /api/v1/auth/diagnose", &["user_id", "token", "ip"], |own, known| {
        let body = json!({"user_id": known.id, "token": known.token, "ip": "127.0.0.1"});
        with(own, Request::post("/api/v1/auth/diagnose", &body))
    }),
    compared(403, "POST /api/v1/auth/validate-token", &["token"], |own, known| {
        with(own, Request::post("/api/v1/auth/validate-token", &json!({"token": known.token})))
    }),
    // Whoever lacks the secret.
    compared(401, "POST /oauth/token", &["client_id", "client_secret", "grant_type", "scope"], |_, known| {
        form("/oauth/token", &format!("grant_type=client_credentials&scope=x&{}", guessed_client(known)))
    }),
    compared(401, "POST /oauth/introspect", &["client_id", "client_secret", "token", "token_type_hint"], |_, known| {
        form("/oauth/introspect", &format!("token={}&token_type_hint=x&{}", known.token, guessed_client(known)))
    }),
    compared(401, "POST /oauth/revoke", &["client_id", "client_secret", "token", "token_type_hint"], |_, known| {
        form("/oauth/revoke", &format!("token={}&token_type_hint=x&{}", known.token, guessed_client(known)))
    }),
    compared(401, "POST /oauth/introspect", &["token"], |_, known| {
        form("/oauth/introspect", &format!("token={}", known.token))
    }),
];

const FILTERS: &[&str] = &["event_type", "severity", "subject", "ip", "since", "until", "limit", "cursor"];

/// Why some members of some calls are not compared.
const TELLING_NOTHING: [(&str, &[&str], &str); 21] = [
    ("POST /auth/register", &["email"], "compared above, as far as it is the same: for some of them an account is made"),
    ("POST /auth/register", &["username"], NAMES),
    ("POST /auth/register", &["password", "first_name", "last_name"], "of the account that is made"),
    ("PATCH /users/me", &["username"], NAMES),
    ("PATCH /users/me", &["first_name", "last_name"], OWN),
    ("POST /auth/2fa/verify", &["challenge_id", "code"], SECRET),
    ("POST /auth/2fa/otp/send", &["challenge_id", "channel"], SECRET),
    ("POST /auth/refresh", &["refresh_token"], SECRET),
    ("POST /oauth/token", &["refresh_token"], SECRET),
    ("POST /auth/verify-email", &["token"], SECRET),
    ("POST /auth/reset-password", &["token", "new_password"], SECRET),
    ("POST /auth/2fa/backup-codes", &["code"], OWN),
    ("POST /auth/2fa/setup/sms", &["phone", "code"], OWN),
    ("POST /auth/2fa/verify/sms", &["code"], OWN),
    ("POST /auth/2fa/verify/totp", &["code"], OWN),
    ("DELETE /auth/2fa/sms", &["password", "code", "device_token"], OWN),
    ("DELETE /auth/2fa/totp", &["password", "code", "device_token"], OWN),
    ("POST /auth/api-keys", &["name", "scopes", "expires_in"], OWN),
    ("POST /auth/change-password", &["current_password", "new_password", "confirm_password", "device_token"], OWN),
    ("DELETE /auth/sessions", &["keep_current"], OWN),
    ("DELETE /users/me", &["password", "device_token"], OWN),
];

/// Statistics, which nobody without a right gets, of a time.
const OF_A_TIME: [&str; 2] = ["GET /auth/stats/active-users", "GET /auth/stats/login-attempts"];

const NAMES: &str = "names are public: who asks for a taken one is told so";
const OWN: &str = "of the caller's own account, by a credential of it";
const SECRET: &str = "of at least 128 random bits, which only the account's owner is given";

fn guess(known: &Known, more: Value) -> Request {
    let mut body = json!({"username": known.name, "password": "wrong"});
    let Value::Object(more) = more else { panic!("an object") };
    body.as_object_mut().unwrap().extend(more);
    Request::post("/auth/login", &body)
}

fn form(path: &str, parameters: &str) -> Request {
    Request::new("POST", path).header("content-type", "application/x-www-form-urlencoded").body(parameters)
}

fn guessed_client(known: &Known) -> String {
    format!("client_id={}&client_secret=wrong", known.client)
}

fn filtered(path: &str, known: &Known) -> String {
    format!(
        "{path}?subject={}&ip=127.0.0.1&event_type=LOGIN_FAILED&severity=INFO&since=1&until=2&limit=1&cursor=1",
        known.id
    )
}

fn with(token: &str, request: Request) -> Request {
    request.header("authorization", &format!("Bearer {token}"))
}

/// An account that is in use: it has logged in and has a key.
fn in_use(world: &World, name: &str) -> Known {
    let id = world.account(name);
    let login = world.login(name, PASSWORD);
    let (session, token) = (text(&login, "session_id"), text(&login, "access_token"));
    let key = world.with_token("POST", "/auth/api-keys", &token, &json!({"name": "ci", "scopes": ["orders:read"]}));
    Known { name: name.to_owned(), id, session, api_key: text(&key, "id"), token, client: "billing".to_owned() }
}

/// Every member that the calls of a document take.
fn members(document: &Value) -> BTreeSet<Member> {
    let mut members = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            let name = format!("{} {path}", method.to_uppercase());
            let parameters = call["parameters"].as_array().into_iter().flatten();
            let mut taken: BTreeSet<String> =
                parameters.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect();
            for content in call["requestBody"]["content"].as_object().into_iter().flatten() {
                properties(document, &content.1["schema"], &mut taken);
            }
            members.extend(taken.into_iter().map(|member| (name.clone(), member)));
        }
    }
    members
}

/// The members of a schema, whichever of its kinds is sent.
fn properties(document: &Value, schema: &Value, taken: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#'));
        properties(document, schema.unwrap_or_else(|| panic!("{reference} is in the document")), taken);
    }
    for kinds in ["allOf", "anyOf", "oneOf"] {
        schema[kinds].as_array().into_iter().flatten().for_each(|kind| properties(document, kind, taken));
    }
    taken.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
}

/// A process whose policy has cookies and knows a program.
fn world() -> World {
    let client = json!({"clientID": "billing", "secretKeyRef": {"name": "billing", "key": "secret"}, "scopes": ["x"]});
    let world = watched(json!({"clients": [client], "cookies": {"mode": "Enabled"}}));
    let right = form(
        "/oauth/token",
        &format!("grant_type=client_credentials&client_id=billing&client_secret={}", CLIENT_SECRET.replace(' ', "+")),
    );
    assert_eq!(right.send(&world.issuer()).status, 200, "the policy knows the program");
    world
}

#[test]
fn whatever_a_call_takes_that_may_name_an_account_is_compared_or_known_to_tell_nothing() {
    let world = world();
    let document = Request::get("/openapi.json").send(&world.issuer()).json();
    let compared = COMPARED.iter().map(|compared| (compared.call, compared.members));
    let others = TELLING_NOTHING.iter().map(|(call, members, _)| (*call, *members));
    let of_a_time = OF_A_TIME.iter().map(|call| (*call, &["window_s"][..]));
    let looked_at: BTreeSet<Member> = compared
        .chain(others)
        .chain(of_a_time)
        .flat_map(|(call, members)| members.iter().map(move |member| (call.to_owned(), (*member).to_owned())))
        .collect();
    let taken = members(&document);
    let missing: Vec<_> = taken.difference(&looked_at).collect();
    assert!(missing.is_empty(), "nobody has looked at what these tell a stranger: {missing:?}");
    let gone: Vec<_> = looked_at.difference(&taken).collect();
    assert!(gone.is_empty(), "no call takes these: {gone:?}");
}

#[test]
fn whatever_names_an_account_in_any_call_is_answered_alike_after_the_same_work_whether_or_not_there_is_one() {
    let mut world = world();
    world.account("stranger");
    let own = text(&world.login("stranger", PASSWORD), "access_token");
    for (n, Compared { status, call, ask, .. }) in COMPARED.iter().enumerate() {
        let what = format!("{n} {call}");
        let ask = |known: &Known| ask(&own, known);
        let question = Question { what: &what, account: &in_use, before: &|_, _| {}, ask: &ask, counts: |_| true };
        let answer = question.is_answered_alike(&mut world);
        assert!(answer.starts_with(&format!("{status} ")), "{what}: {answer}");
    }
}

#[test]
fn an_administrator_s_call_tells_nobody_else_whether_there_is_an_account() {
    let mut world = watched(json!({}));
    world.account("stranger");
    let own = text(&world.login("stranger", PASSWORD), "access_token");
    let accounts = [in_use(&world, "alice"), Known::of_nobody("bob")];
    let admin = crate::http::Target::Tcp(world.dev.address("admin"));
    let document = Request::get("/admin/v1/openapi.json").send(&admin).json();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let guarded = item.as_object().unwrap().iter().filter(|(_, call)| call["security"].is_array());
        for (method, token) in guarded.flat_map(|(method, _)| [(method, None), (method, Some(&own))]) {
            let [account, nobody] = accounts.each_ref().map(|known| {
                let id = if path.contains("/sessions/") {
                    &known.session
                } else if path.contains("/api-keys/") {
                    &known.api_key
                } else {
                    &known.id
                };
                let path = path.replace("{namespace}", "shop").replace("{name}", "app").replace("{id}", id);
                let path = format!("{path}?subject={id}&username={}&email={}", known.name, known.email());
                let body = json!({"id": id, "kind": "subject", "subject": id, "email": known.email(), "user_id": id});
                let request = Request::new(&method.to_uppercase(), &path).body(body.to_string());
                let request = match token {
                    Some(token) => with(token, request),
                    None => request,
                };
                Seen::of(&mut world, &admin, known, &request)
            });
            let what = format!("{method} {path} {}", if token.is_some() { "with a token" } else { "without one" });
            assert!(account.answer.starts_with("401 ") || account.answer.starts_with("403 "), "{what}: {}", account.answer);
            assert_eq!((&account.answer, &account.headers), (&nobody.answer, &nobody.headers), "{what}");
            asked += 1;
        }
    }
    assert!(asked > 40, "the document tells of {asked} calls");
}
