//! Accounts that somebody else had got hold of: what they leave behind is gone once the owner, or an administrator, acts.

use countersign_store::{User, UserStatus, transact};
use serde_json::json;

use super::rig::{Answer, QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";
const OTHER: &str = "another horse battery staple";
const THIEF: &str = "thief@evil.example";

/// What an owner or an administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Reset,
    Change,
    Lock,
    Disable,
}

const ACTS: [Act; 4] = [Act::Reset, Act::Change, Act::Lock, Act::Disable];

impl Act {
    /// Does it, with a login of the owner's own.
    async fn done(self, rig: &Rig, own: &Answer) {
        let admin = "/admin/v1/policies/shop/shop/users/alice";
        let answer = match self {
            Self::Reset => {
                rig.post("/auth/forgot-password").json(json!({"email": "alice@shop.example"})).send().await;
                let mails = rig.mails().await;
                let token = mails.iter().find(|mail| mail.link.is_some()).unwrap().token();
                rig.post("/auth/reset-password").json(json!({"token": token, "new_password": OTHER})).send().await
            }
            Self::Change => {
                let device = own.text("device_token");
                let body = json!({"current_password": PASSWORD, "new_password": OTHER, "confirm_password": OTHER, "device_token": device});
                rig.post("/auth/change-password").bearer(&own.text("access_token")).json(body).send().await
            }
            Self::Lock => {
                let asking = rig.post(&format!("{admin}/lock")).json(json!({"reason": "laptop stolen"}));
                asking.over_admin_socket().send().await
            }
            Self::Disable => rig.patch(admin).json(json!({"status": "disabled"})).over_admin_socket().send().await,
        };
        assert_eq!(answer.status, 200, "{self:?}: {}", answer.body);
    }

    /// Takes it back, where an administrator did it.
    async fn undone(self, rig: &Rig) {
        let admin = "/admin/v1/policies/shop/shop/users/alice";
        match self {
            Self::Reset | Self::Change => {}
            Self::Lock => drop(rig.post(&format!("{admin}/unlock")).over_admin_socket().send().await),
            Self::Disable => {
                rig.patch(admin).json(json!({"status": "active"})).over_admin_socket().send().await;
            }
        }
    }
}

/// The link that made the thief's address the account's.
async fn asked(rig: &Rig, stolen: &str) -> String {
    let answer = rig.patch("/users/me").bearer(stolen).json(json!({"email": THIEF})).send().await;
    assert_eq!(answer.body["pending_email"], THIEF, "{}", answer.body);
    let mails = rig.mails().await;
    mails.iter().find(|mail| mail.to == THIEF).unwrap().token()
}

async fn verify(rig: &Rig, token: &str) -> Answer {
    rig.post("/auth/verify-email").json(json!({"token": token})).send().await
}

async fn held(rig: &Rig, user: &User) -> User {
    rig.store.user(rig.name(), &user.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_address_that_waits_for_its_link_is_withdrawn_with_the_link() {
    for act in ACTS {
        let rig = Rig::new(QUICK).await;
        let alice = rig.account("alice", PASSWORD, &[]).await;
        let stolen = rig.login("alice", PASSWORD).await.text("access_token");
        let own = rig.login("alice", PASSWORD).await;
        let link = asked(&rig, &stolen).await;
        act.done(&rig, &own).await;
        assert_eq!(held(&rig, &alice).await.pending_email, None, "{act:?}");
        assert_eq!(verify(&rig, &link).await.refusal(), (401, "invalid_token"), "{act:?}");
        act.undone(&rig).await;
        // Nor by chance, should the same address wait again.
        let again = User { pending_email: Some(super::rig::folded(THIEF)), ..held(&rig, &alice).await };
        transact!(&*rig.store, |tx| { tx.save_user(&again).await }).unwrap();
        assert_eq!(verify(&rig, &link).await.refusal(), (401, "invalid_token"), "{act:?}");
        assert_eq!(held(&rig, &alice).await.email, alice.email);
    }
}

#[tokio::test]
async fn no_link_changes_an_account_while_an_administrator_keeps_it_out() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    let stolen = rig.login("alice", PASSWORD).await.text("access_token");
    let link = asked(&rig, &stolen).await;
    let now = rig.store.database_now().await.unwrap();
    for (status, until, answered) in [
        (UserStatus::Disabled, None, 401),
        (UserStatus::Locked, None, 401),
        (UserStatus::Locked, Some(now.plus(3_600_000)), 401),
        (UserStatus::Locked, Some(now.plus(-1)), 200),
    ] {
        let kept_out = User { status, status_until: until, ..held(&rig, &alice).await };
        transact!(&*rig.store, |tx| { tx.save_user(&kept_out).await }).unwrap();
        assert_eq!(
            verify(&rig, &link).await.status.as_u16(),
            answered,
            "{status:?} {until:?}: and no try uses the link up"
        );
    }
}

#[tokio::test]
async fn devices_are_forgotten_but_the_one_that_the_owner_shows() {
    for act in ACTS {
        let rig = Rig::new(QUICK).await;
        let alice = rig.account("alice", PASSWORD, &[]).await;
        rig.login("alice", PASSWORD).await;
        let own = rig.login("alice", PASSWORD).await;
        assert_eq!(rig.store.devices(rig.name(), &alice.id).await.unwrap().len(), 2);
        act.done(&rig, &own).await;
        let left = rig.store.devices(rig.name(), &alice.id).await.unwrap();
        let own = crate::opening::device_hash(&own.text("device_token")).unwrap();
        let expected = if act == Act::Change { vec![own] } else { Vec::new() };
        assert_eq!(left.into_iter().map(|device| device.secret).collect::<Vec<_>>(), expected, "{act:?}");
    }
}

#[tokio::test]
async fn a_browser_shows_its_device_by_the_cookie() {
    let rig = Rig::new(&format!("{QUICK}    cookies: {{mode: Enabled}}\n")).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    rig.login("alice", PASSWORD).await;
    let own = rig.login("alice", PASSWORD).await;
    let body = json!({"current_password": PASSWORD, "new_password": OTHER, "confirm_password": OTHER});
    let asking = rig.post("/auth/change-password").bearer(&own.text("access_token")).json(body);
    let changed = asking.header("cookie", &format!("__Host-cs_device={}", own.text("device_token"))).send().await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let left = rig.store.devices(rig.name(), &alice.id).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(Some(left[0].secret), crate::opening::device_hash(&own.text("device_token")));
}

#[tokio::test]
async fn the_owner_hears_of_guesses_from_a_device_that_is_known() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let device = rig.login("alice", PASSWORD).await.text("device_token");
    for _ in 0..5 {
        let guess = json!({"username": "alice", "password": "wrong", "device_token": device});
        assert_eq!(rig.post("/auth/login").json(guess).send().await.status, 401);
    }
    let told: Vec<(String, String)> = rig.mails().await.into_iter().map(|mail| (mail.to, mail.subject)).collect();
    assert_eq!(told, [("alice@shop.example".to_owned(), "Your account is locked for a while".to_owned())]);
}
