//! What people do with their accounts, and what was answered them, which is held against the end.

use serde_json::{Value, json};

use super::{administer, call, text};
use crate::{
    http::{Answer, Request, Target},
    rig::Dev,
};

/// What a client was told of one account.
#[derive(Clone, Debug)]
pub(super) struct Told {
    name: String,
    /// Passwords of which one is the right one: two while a change was not answered.
    passwords: Vec<String>,
    /// Sessions that were ended, by whomever.
    ended: Vec<Tokens>,
    /// A session that goes on: its refresh tokens, each given for the one before it.
    family: Vec<String>,
    /// API keys that were made.
    keys: Vec<String>,
    /// And those that were revoked.
    revoked_keys: Vec<String>,
    standing: Standing,
}

/// An access and a refresh token of one session.
#[derive(Clone, Debug)]
struct Tokens {
    session: String,
    access: String,
    refresh: String,
}

impl Tokens {
    fn of(login: &Answer) -> Self {
        assert_eq!(login.status, 200, "{}", login.json());
        let [session, access, refresh] = ["session_id", "access_token", "refresh_token"].map(|of| text(&login.json(), of));
        Self { session, access, refresh }
    }
}

/// Whether somebody may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// Failures were begun, so that it may be locked.
    Guessed,
    /// They have locked it.
    LockedOut,
    /// An administrator was not answered.
    MayBeClosed,
    /// An administrator has locked it.
    Closed,
}

fn done(answer: &Answer) {
    assert!(matches!(answer.status, 200..=202), "{} {}", answer.status, answer.json());
}

fn refresh(target: &Target, token: &str) -> Option<Answer> {
    call(target, "POST", "/auth/refresh", None, &json!({"refresh_token": token}))
}

/// The refresh token that a refresh gave.
fn successor(refreshed: &Answer) -> String {
    assert_eq!(refreshed.status, 200, "{}", refreshed.json());
    text(&refreshed.json(), "refresh_token")
}

/// How many accounts were told of what.
pub(super) fn counts(told: &[Told]) -> [(&'static str, usize); 5] {
    let count = |of: fn(&Told) -> bool| told.iter().filter(|one| of(one)).count();
    [
        ("ended sessions", count(|one| !one.ended.is_empty())),
        ("refreshes", count(|one| one.family.len() > 1)),
        ("locks by failures", count(|one| one.standing == Standing::LockedOut)),
        ("locks by administrators", count(|one| one.standing == Standing::Closed)),
        ("revoked API keys", count(|one| !one.revoked_keys.is_empty())),
    ]
}

impl Told {
    /// One account's life, as far as it gets. What was told of it; nothing if not even its registration was answered.
    pub(super) fn live(issuer: &Target, admin: &Target, number: u32) -> Option<Self> {
        let (name, first) = (format!("person-{number}"), format!("first password of {number}"));
        let account = json!({"email": format!("{name}@shop.example"), "username": name, "password": first});
        let registered = call(issuer, "POST", "/auth/register", None, &account)?;
        assert_eq!(registered.status, 201, "{}", registered.json());
        let mut told = Self {
            name,
            passwords: vec![first],
            ended: Vec::new(),
            family: Vec::new(),
            keys: Vec::new(),
            revoked_keys: Vec::new(),
            standing: Standing::Open,
        };
        // From here on whatever isn't answered leaves what was told as it is.
        let _: Option<()> = told.go_on(issuer, admin, number, &text(&registered.json(), "id"));
        Some(told)
    }

    fn go_on(&mut self, issuer: &Target, admin: &Target, number: u32, id: &str) -> Option<()> {
        let first = Tokens::of(&self.log_in(issuer, &self.passwords[0])?);
        self.change_password(issuer, &first, format!("next password of {number}"))?;
        let second = Tokens::of(&self.log_in(issuer, &self.passwords[0])?);
        self.family = vec![second.refresh.clone()];
        for _ in 0..2 {
            self.renew(issuer)?;
        }
        let (key, _) = Self::key(issuer, &first)?;
        self.keys.push(key);
        let (key, of_key) = Self::key(issuer, &first)?;
        done(&call(issuer, "DELETE", &format!("/auth/api-keys/{of_key}"), Some(&first.access), &Value::Null)?);
        self.revoked_keys.push(key);
        done(&call(issuer, "POST", "/auth/logout", Some(&first.access), &json!({}))?);
        self.ended.push(first);
        match number % 4 {
            0 => {
                self.standing = Standing::Guessed;
                for _ in 0..3 {
                    self.log_in(issuer, "wrong")?;
                }
                self.standing = Standing::LockedOut;
            }
            1 => {
                self.family.clear();
                let revocation = json!({"kind": "session", "id": second.session, "reason": "stolen"});
                done(&administer(admin, "revocations", &revocation)?);
                self.ended.push(second);
            }
            2 => {
                self.standing = Standing::MayBeClosed;
                self.family.clear();
                let keys = std::mem::take(&mut self.keys);
                done(&administer(admin, &format!("users/{id}/lock"), &json!({"reason": "left"}))?);
                self.standing = Standing::Closed;
                self.ended.push(second);
                self.revoked_keys.extend(keys);
            }
            _ => {}
        }
        Some(())
    }

    fn log_in(&self, issuer: &Target, password: &str) -> Option<Answer> {
        call(issuer, "POST", "/auth/login", None, &json!({"username": self.name, "password": password}))
    }

    fn change_password(&mut self, issuer: &Target, tokens: &Tokens, next: String) -> Option<()> {
        let change = json!({"current_password": self.passwords[0], "new_password": next, "confirm_password": next});
        self.passwords.push(next);
        done(&call(issuer, "POST", "/auth/change-password", Some(&tokens.access), &change)?);
        self.passwords.remove(0);
        Some(())
    }

    /// Refreshes twice with the last token, as one who lost the first answer: the successor is one.
    fn renew(&mut self, issuer: &Target) -> Option<()> {
        let last = self.family.last().unwrap();
        let [next, again] = [refresh(issuer, last)?, refresh(issuer, last)?].map(|answer| successor(&answer));
        assert_eq!(next, again, "{}", self.name);
        self.family.push(next);
        Some(())
    }

    /// A new API key, and its id.
    fn key(issuer: &Target, tokens: &Tokens) -> Option<(String, String)> {
        let wanted = json!({"name": "ci", "scopes": ["orders:read"]});
        let made = call(issuer, "POST", "/auth/api-keys", Some(&tokens.access), &wanted)?;
        assert_eq!(made.status, 201, "{}", made.json());
        Some((text(&made.json(), "key"), text(&made.json(), "id")))
    }

    /// What was told holds.
    pub(super) fn check(&self, dev: &Dev) {
        let (issuer, name) = (dev.issuer(), &self.name);
        let refused = |token: &str| {
            let refreshed = refresh(&issuer, token).unwrap();
            assert_eq!((refreshed.status, refreshed.word().as_str()), (401, "invalid_refresh_token"), "{name}");
        };
        let verdict = |token: &str| {
            let verify = json!({"token": token});
            let verdict = Request::post("/v1/policies/shop/people/verify", &verify).send(&dev.socket());
            (verdict.status, verdict.word())
        };
        for Tokens { access, refresh, .. } in &self.ended {
            assert_eq!(verdict(access), (401, "revoked".to_owned()), "{name}");
            refused(refresh);
        }
        for key in &self.keys {
            assert_eq!(verdict(key), (200, "valid".to_owned()), "{name}");
        }
        for key in &self.revoked_keys {
            assert_eq!(verdict(key), (401, "revoked".to_owned()), "{name}");
        }
        if let [.., last] = &self.family[..] {
            // One branch lives: whoever asks gets the same successor, whose own closes what came before.
            let [next, again] = [last, last].map(|token| successor(&refresh(&issuer, token).unwrap()));
            assert_eq!(next, again, "{name}");
            let living = successor(&refresh(&issuer, &next).unwrap());
            // And with any token of before nothing begins: the family ends.
            self.family.iter().for_each(|used| refused(used));
            refused(&living);
        }
        self.check_login(&issuer);
    }

    fn check_login(&self, issuer: &Target) {
        let name = &self.name;
        let login = |password: &str| self.log_in(issuer, password).unwrap();
        // The later password first: a wrong guess of ours is a failure that counts.
        let statuses = || self.passwords.iter().rev().map(|password| login(password).status).collect::<Vec<_>>();
        match self.standing {
            Standing::Open => {
                let statuses = statuses();
                assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{name}: {statuses:?}");
            }
            // What was asked for last may have been done and not answered.
            Standing::Guessed | Standing::MayBeClosed => {
                let statuses = statuses();
                assert!(matches!(statuses[..], [200 | 423]), "{name}: {statuses:?}");
            }
            Standing::LockedOut | Standing::Closed => {
                assert_eq!(login(&self.passwords[0]).word(), "account_locked", "{name}");
            }
        }
    }
}
