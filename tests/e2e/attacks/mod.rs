//! What strangers do to an issuer over HTTP, done to the real one: find out who has an account, come in crowds, send texts that
//! mean something to somebody, and wait for it to be killed.

mod authenticator;
pub(crate) mod crowds;
mod front;
mod restarts;
mod telling;
mod texts;

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use self::front::Front;
use crate::{
    http::{Answer, Request, Target},
    rig::{Dev, Mails},
};

pub(crate) const PASSWORD: &str = "correct horse battery staple";
const ADMIN: &str = "/admin/v1/policies/shop/app";
const CLIENT_SECRET: &str = "a secret of a program at least";

/// One `dev` with the policy `shop/app`, which is the default one.
struct World {
    dev: Dev,
    _policies: TempDir,
    mails: Mails,
}

/// `spec.login` with these members beside cheap hashing and no limits.
pub(crate) fn login_with(members: Value) -> Value {
    let mut settings = json!({
        "passwords": {"argon2id": {"memory": "64Ki", "iterations": 1}},
        "registration": {"emailVerification": "Required", "defaultRoles": ["user"]},
        "rateLimits": {"login": {}, "register": {}, "passwordReset": {}, "api": {}},
    });
    let Value::Object(members) = members else { panic!("an object") };
    settings.as_object_mut().unwrap().extend(members);
    settings
}

impl World {
    /// See [`login_with`]. `login.clients` may refer to the Secret `billing`, key `secret`.
    fn start(login: Value, environment: &[(&str, &str)]) -> Self {
        let policy = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"name": "app", "namespace": "shop"},
            "spec": {
                "issuer": "https://auth.shop.example", "audiences": ["shop-api"],
                "roles": [{"name": "user", "permissions": ["orders:read"]}, {"name": "admin", "permissions": ["*"]}],
                "login": login_with(login),
            },
        });
        let policies = tempfile::tempdir().unwrap();
        let secret = policies.path().join("secrets/billing");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("secret"), CLIENT_SECRET).unwrap();
        fs::write(policies.path().join("app.yaml"), policy.to_string()).unwrap();
        let dev = Dev::start_on(policies.path(), environment);
        let mails = Mails::of(dev.data().join("outbox"));
        Self { dev, _policies: policies, mails }
    }

    fn issuer(&self) -> Target {
        self.dev.issuer()
    }

    fn front(&self) -> Front {
        Front::of(vec![self.issuer()], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.front().post(path, body)
    }

    fn with_token(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        self.front().with_token(method, path, token, body)
    }

    fn login(&self, name: &str, password: &str) -> Answer {
        self.post("/auth/login", &json!({"username": name, "password": password}))
    }

    fn administer(&self, method: &str, call: &str, body: &Value) -> Answer {
        let request = Request::new(method, &format!("{ADMIN}/{call}")).body(body.to_string());
        let answer = request.send(&self.dev.admin());
        assert!(matches!(answer.status, 200 | 201), "{method} {call}: {} {}", answer.status, answer.json());
        answer
    }

    /// An account of that name and `NAME@shop.example`, with a verified address. Its id.
    fn account(&self, name: &str) -> String {
        let email = format!("{name}@shop.example");
        let body =
            json!({"username": name, "email": email, "password": PASSWORD, "email_verified": true, "roles": ["user"]});
        text(&self.administer("POST", "users", &body), "id")
    }

    /// What a verifier says of a token: the status.
    fn verdict(&self, token: &str) -> u16 {
        Request::post("/v1/policies/shop/app/verify", &json!({"token": token})).send(&self.dev.socket()).status
    }
}

fn text(answer: &Answer, member: &str) -> String {
    let body = answer.json();
    body[member].as_str().unwrap_or_else(|| panic!("{member} in {} {body}", answer.status)).to_owned()
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.word())
}
