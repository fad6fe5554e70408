//! Sessions that are used and sessions that aren't: what a verifier sees keeps one alive as what its issuer sees does.

use serde_json::{Value, json};

use super::{call, text};
use crate::{
    http::Request,
    rig::{Clock, Dev, PATIENCE, Policies, Redis, Verifier, VerifierOptions, eventually},
};

const MINUTE: i64 = 60;

/// Somebody's session.
struct Session {
    subject: String,
    access: String,
    refresh: String,
}

/// An issuer and a verifier, on one clock.
struct Home {
    clock: Clock,
    dev: Dev,
    verifier: Verifier,
    _redis: Redis,
}

impl Home {
    fn start() -> Self {
        let policies = Policies::new();
        policies.write(
            "people",
            &json!({
                "audiences": ["shop-api"], "issuer": "https://auth.people.example",
                "roles": [{"name": "user", "permissions": ["orders:read"]}],
                "tokens": {"accessTTL": "8m"},
                "login": {
                    "passwords": {"argon2id": {"memory": "64Ki", "iterations": 1}},
                    "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]},
                    "sessions": {"idleTimeout": "10m"},
                },
            }),
        );
        let (clock, redis) = (Clock::start(), Redis::start());
        let (url, environment) = (redis.url(), clock.environment());
        let mut of_dev: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        of_dev.push(("REDIS_URL", &url));
        let dev = Dev::start_on(policies.directory(), &of_dev);
        let options = VerifierOptions { redis: Some(url.clone()), environment, ..VerifierOptions::default() };
        let mut verifier = Verifier::with(&dev.bundles(), options);
        verifier.wait_until_fresh();
        Self { clock, dev, verifier, _redis: redis }
    }

    fn login(&self, name: &str) -> Session {
        let issuer = self.dev.issuer();
        let password = "correct Horse battery staple 9!";
        let account = json!({"email": format!("{name}@shop.example"), "username": name, "password": password});
        assert_eq!(call(&issuer, "POST", "/auth/register", None, &account).unwrap().status, 201);
        let login = json!({"username": name, "password": password});
        let login = call(&issuer, "POST", "/auth/login", None, &login).unwrap().json();
        let subject = text(&login["user"], "id");
        Session { subject, access: text(&login, "access_token"), refresh: text(&login, "refresh_token") }
    }

    /// The ends of somebody's live sessions, as the issuer sees them.
    fn ends(&self, session: &Session) -> Vec<i64> {
        let path = format!("/admin/v1/policies/shop/people/sessions?subject={}", session.subject);
        let sessions = Request::get(&path).send(&self.dev.admin()).json();
        let sessions = sessions["sessions"].as_array().unwrap_or_else(|| panic!("{sessions}"));
        sessions.iter().map(|session| session["expires_at"].as_i64().unwrap()).collect()
    }

    /// A refresh's status, and what it gave.
    fn refresh(&self, session: &Session) -> (u16, Value) {
        let body = json!({"refresh_token": session.refresh});
        let answer = call(&self.dev.issuer(), "POST", "/auth/refresh", None, &body).unwrap();
        (answer.status, answer.json())
    }

    fn verdict(&self, token: &str) -> (u16, String) {
        self.verifier.verify("people", token)
    }

    /// The session is over, wherever somebody asks.
    fn is_over(&self, session: &Session) {
        let (status, said) = self.refresh(session);
        assert_eq!((status, said["error"].as_str()), (401, Some("invalid_refresh_token")), "{said}");
        assert!(self.ends(session).is_empty(), "it is listed no longer");
        assert_eq!(self.verdict(&session.access), (401, "expired".to_owned()));
    }
}

#[test]
fn a_session_that_a_verifier_alone_sees_outlives_its_idle_timeout_and_one_that_nobody_sees_does_not() {
    let home = Home::start();
    let (used, unused) = (home.login("used"), home.login("unused"));
    for session in [&used, &unused] {
        assert_eq!(home.verdict(&session.access), (200, "valid".to_owned()));
    }
    let (before, of_unused) = (home.ends(&used)[0], home.ends(&unused));
    home.clock.set(7 * MINUTE);
    eventually("the issuer hears that the session was used", PATIENCE, || {
        assert_eq!(home.verdict(&used.access), (200, "valid".to_owned()));
        (home.ends(&used)[0] >= before + 6 * MINUTE).then_some(())
    });
    assert_eq!(home.ends(&unused), of_unused);

    // Past ten minutes since both logins.
    home.clock.set(11 * MINUTE);
    home.is_over(&unused);
    let (status, tokens) = home.refresh(&used);
    assert_eq!(status, 200, "{tokens}");
    let used = Session { access: text(&tokens, "access_token"), refresh: text(&tokens, "refresh_token"), ..used };
    assert_eq!(home.verdict(&used.access), (200, "valid".to_owned()));

    // And past ten minutes since it was used last.
    home.clock.set(22 * MINUTE);
    home.is_over(&used);
}
