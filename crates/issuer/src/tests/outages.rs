//! PostgreSQL is killed in the middle of people's calls to two issuers, again and again. Clients keep account of what they were
//! answered; at the end all of it holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use countersign_test_servers::Postgres;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    home::Home,
    rig::{Answer, QUICK, Rig},
};

const CLIENTS: usize = 4;
const KILLS: u32 = 4;
/// How long what normally takes well under a second may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client was told of one account.
#[derive(Debug)]
struct Told {
    number: u32,
    /// Passwords of which one is the right one: two while a change was not answered.
    passwords: Vec<String>,
    /// The last refresh token of a session that nobody ended, and whether it was shown without an answer.
    goes_on: Option<(String, bool)>,
    /// Sessions that were ended: an access and a refresh token of each.
    ended: Vec<(String, String)>,
    /// Whether failures were begun, so that it may be locked.
    guessed: bool,
    /// Whether they have locked it.
    locked: bool,
}

fn name(number: u32) -> String {
    format!("person-{number}")
}

/// A call; none when it was not done, or nobody knows whether it was.
async fn call(rig: &Rig, path: &str, token: Option<&str>, body: Value) -> Option<Answer> {
    let mut asking = rig.post(path).json(body);
    if let Some(token) = token {
        asking = asking.bearer(token);
    }
    let answer = asking.send().await;
    if answer.status.is_server_error() {
        assert_eq!(answer.refusal(), (503, "unavailable"), "{path}: {}", answer.body);
        return None;
    }
    Some(answer)
}

async fn log_in(rig: &Rig, number: u32, password: &str) -> Option<Answer> {
    call(rig, "/auth/login", None, json!({"username": name(number), "password": password})).await
}

async fn refresh(rig: &Rig, token: &str) -> Option<Answer> {
    call(rig, "/auth/refresh", None, json!({"refresh_token": token})).await
}

/// One account's life, as far as it gets. What was told of it.
async fn live(rig: &Rig, number: u32) -> Option<Told> {
    let first = format!("first password of {number}");
    let account = json!({"email": format!("{}@shop.example", name(number)), "username": name(number), "password": first});
    let registered = call(rig, "/auth/register", None, account).await?;
    assert_eq!(registered.status, 201, "{}", registered.body);
    let passwords = vec![first];
    let mut told = Told { number, passwords, goes_on: None, ended: Vec::new(), guessed: false, locked: false };
    // Whatever isn't answered from here on leaves what was told as it is.
    let _: Option<()> = go_on(rig, &mut told).await;
    Some(told)
}

async fn go_on(rig: &Rig, told: &mut Told) -> Option<()> {
    let number = told.number;
    let first = told.passwords[0].clone();
    let login = log_in(rig, number, &first).await?;
    assert_eq!(login.status, 200, "{}", login.body);
    let access = login.text("access_token");
    let mut token = login.text("refresh_token");
    for _ in 0..3 {
        told.goes_on = Some((token.clone(), true));
        let renewed = refresh(rig, &token).await?;
        assert_eq!(renewed.status, 200, "{}", renewed.body);
        token = renewed.text("refresh_token");
        told.goes_on = Some((token.clone(), false));
    }
    let next = format!("next password of {number}");
    told.passwords.push(next.clone());
    let change = json!({"current_password": first, "new_password": next, "confirm_password": next});
    let changed = call(rig, "/auth/change-password", Some(&access), change).await?;
    assert_eq!(changed.status, 200, "{}", changed.body);
    told.passwords.remove(0);
    if number.is_multiple_of(2) {
        told.goes_on = None;
        let out = call(rig, "/auth/logout", Some(&access), json!({})).await?;
        // 202: ended, and the feed hears of it later.
        assert!(matches!(out.status.as_u16(), 200 | 202), "{}", out.body);
        told.ended.push((access, token));
    }
    if number.is_multiple_of(3) {
        told.guessed = true;
        for _ in 0..3 {
            log_in(rig, number, "wrong").await?;
        }
        told.locked = true;
    }
    Some(())
}

async fn check(rig: &Rig, told: &Told) {
    let number = told.number;
    for (access, token) in &told.ended {
        assert!(!rig.is_good(access).await, "{number}: its session had ended");
        assert_eq!(refresh(rig, token).await.unwrap().refusal(), (401, "invalid_refresh_token"), "{number}");
    }
    if let Some((token, unknown)) = &told.goes_on {
        let answer = refresh(rig, token).await.unwrap();
        // A use that was not answered may have been one, and longer ago than the grace.
        assert!(answer.status == 200 || (*unknown && answer.status == 401), "{number}: {}", answer.body);
    }
    if told.locked {
        let refused = log_in(rig, number, &told.passwords[0]).await.unwrap();
        assert_eq!(refused.refusal(), (423, "account_locked"), "{number}");
        return;
    }
    // The later password first: a wrong guess of ours is a failure that counts.
    let mut statuses = Vec::new();
    for password in told.passwords.iter().rev() {
        statuses.push(log_in(rig, number, password).await.unwrap().status.as_u16());
    }
    if told.guessed {
        // The failure that locks may have been committed and not answered.
        assert!(matches!(statuses[..], [200 | 423]), "{number}: {statuses:?}");
    } else {
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{number}: {statuses:?}");
    }
}

/// Waits until so many accounts have lived.
async fn lived(told: &Mutex<Vec<Told>>, wanted: usize) {
    let enough = async {
        while told.lock().len() < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, enough).await.expect("accounts live");
}

/// Families of which more than one token could be used: a successor has one that isn't used yet.
const TWO_BRANCHES: &str = "DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM refresh_tokens WHERE rotated IS NULL GROUP BY policy, family_id HAVING count(*) > 1) THEN
        RAISE EXCEPTION 'a family has two living branches';
    END IF;
END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
async fn what_was_answered_holds_though_the_database_is_killed_again_and_again() {
    let server = Postgres::start(&["fsync=off"]).unwrap();
    let login = format!(
        "{QUICK}    registration: {{emailVerification: Disabled, defaultRoles: [user]}}\n    lockout: {{maxFailures: 3}}\n"
    );
    let rig = Arc::new(Rig::at(Home::on(&server).await, &login).await);
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let (number, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (rig, told, number, over) = (rig.clone(), told.clone(), number.clone(), over.clone());
        clients.spawn(async move {
            while !over.load(SeqCst) {
                if let Some(one) = live(&rig, number.fetch_add(1, SeqCst)).await {
                    told.lock().push(one);
                }
            }
        });
    }
    for kill in 0..KILLS {
        // Some lives have come to their end, others are in the middle of theirs.
        let wanted = told.lock().len() + 3 + 2 * kill as usize;
        lived(&told, wanted).await;
        tokio::task::block_in_place(|| {
            server.kill().unwrap();
            server.restart().unwrap();
        });
        rig.store.seal_audit(rig.name(), 50).await.unwrap();
    }
    let wanted = told.lock().len() + CLIENTS;
    lived(&told, wanted).await;
    over.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let told = std::mem::take(&mut *told.lock());
    assert!(told.iter().any(|one| one.locked) && told.iter().any(|one| !one.ended.is_empty()));
    server.run("own", TWO_BRANCHES).unwrap();
    for one in &told {
        check(&rig, one).await;
    }
    while rig.store.seal_audit(rig.name(), 1000).await.unwrap().is_some() {}
    let whole = rig.store.verify_audit(rig.name(), &[]).await.unwrap().unwrap();
    assert!(usize::try_from(whole.place).unwrap() >= 2 * told.len(), "{} events of {} accounts", whole.place, told.len());
}
