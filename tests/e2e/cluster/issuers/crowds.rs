//! Crowds at two issuers: what comes of them is what comes of them at one.

use serde_json::json;

use super::served::Served;
use crate::{
    attacks::{
        Front, PASSWORD,
        crowds::{CROWDS, Place},
        login_with,
    },
    http::Target,
    rig::Mails,
};

/// A policy at both issuers.
struct Both<'a> {
    served: &'a Served,
    policy: &'a str,
}

impl Place for Both<'_> {
    fn front(&self) -> Front {
        let issuers = self.served.issuers.iter().map(|issuer| Target::Tcp(issuer.address().to_owned()));
        Front::of(issuers.collect(), &format!("/{}/shop", self.policy))
    }

    fn account(&self, name: &str) {
        // Mails to accounts of that name under the others, a lock's among them, arrive at the same server.
        let (front, email) = (self.front(), format!("{name}@{}.example", self.policy));
        let account = json!({"username": name, "email": email, "password": PASSWORD});
        let made = front.post("/auth/register", &account);
        assert_eq!(made.status, 201, "{}", made.json());
        let verified = front.post("/auth/verify-email", &json!({"token": self.mails().token(&email)}));
        assert_eq!(verified.status, 200, "{}", verified.json());
    }

    fn mails(&self) -> &Mails {
        self.served.mail.mails()
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn of_crowds_at_two_issuers_comes_what_comes_of_them_at_one() {
    let served = Served::shared();
    for crowd in CROWDS {
        served.with_login_and(crowd.name, |spec| spec["login"] = login_with((crowd.login)()));
        (crowd.comes_to)(&Both { served: &served, policy: crowd.name });
    }
}
