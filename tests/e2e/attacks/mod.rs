//! What strangers do to an issuer over HTTP, done to the real one: find out who has an account, come in crowds, send texts that
//! mean something to somebody, and wait for it to be killed.

mod crowds;
mod restarts;
mod telling;
mod texts;

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Answer, Request, Target},
    rig::{Dev, PATIENCE, eventually},
};

const PASSWORD: &str = "correct horse battery staple";
const ADMIN: &str = "/admin/v1/policies/shop/app";

/// One `dev` with the policy `shop/app`, which is the default one.
struct World {
    dev: Dev,
    _policies: TempDir,
    /// Mails that were looked at.
    read: Mutex<BTreeSet<PathBuf>>,
}

impl World {
    /// With these members of `spec.login` beside cheap hashing and no limits.
    fn start(login: Value, environment: &[(&str, &str)]) -> Self {
        let mut settings = json!({
            "passwords": {"argon2id": {"memory": "64Ki", "iterations": 1}},
            "registration": {"emailVerification": "Required", "defaultRoles": ["user"]},
            "rateLimits": {"login": {}, "register": {}, "passwordReset": {}, "api": {}},
        });
        let Value::Object(more) = login else { panic!("an object") };
        settings.as_object_mut().unwrap().extend(more);
        let policy = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"name": "app", "namespace": "shop"},
            "spec": {
                "issuer": "https://auth.shop.example", "audiences": ["shop-api"],
                "roles": [{"name": "user", "permissions": ["orders:read"]}, {"name": "admin", "permissions": ["*"]}],
                "login": settings,
            },
        });
        let policies = tempfile::tempdir().unwrap();
        fs::write(policies.path().join("app.yaml"), policy.to_string()).unwrap();
        Self { dev: Dev::start_on(policies.path(), environment), _policies: policies, read: Mutex::default() }
    }

    fn issuer(&self) -> Target {
        self.dev.issuer()
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        Request::post(path, body).send(&self.issuer())
    }

    /// With a token of a login.
    fn with_token(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        let request = Request::new(method, path).header("authorization", &format!("Bearer {token}"));
        request.body(body.to_string()).send(&self.issuer())
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

    /// The text of the next mail to an address that has a link.
    fn mail(&self, to: &str) -> String {
        let outbox = self.dev.data().join("outbox");
        eventually(&format!("a mail to {to}"), PATIENCE, || {
            let mut read = self.read.lock().unwrap();
            let files = fs::read_dir(&outbox).ok()?.map(|entry| entry.unwrap().path());
            let mails = files.filter(|path| path.extension().is_some_and(|ext| ext == "eml") && !read.contains(path));
            let mut found = mails.map(|path| (fs::read_to_string(&path).unwrap(), path));
            let (mail, path) = found.find(|(mail, _)| mail.contains(&format!("To: {to}")) && mail.contains("token="))?;
            read.insert(path);
            Some(mail)
        })
    }

    /// The token in its link.
    fn mailed(&self, to: &str) -> String {
        let mail = self.mail(to);
        let (_, token) = mail.split_once("token=").unwrap();
        token.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
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
