//! `restore --database`: a PostgreSQL that was put back by its own tools, and what then lives no more.

use countersign_test_servers::Postgres;
use serde_json::{Value, json};

use crate::{
    backing_up::{Redis, account, login, verdict},
    first_login::post,
    rig::{Dev, Said, eventually},
};

const DATABASE: &str = "put-back";

fn restore(dev: &Dev, server: &Postgres, more: &[&str]) -> Said {
    let url = server.url(DATABASE);
    let mut arguments = vec!["restore", "--database", &url];
    arguments.extend(more);
    dev.run(&arguments)
}

/// The token of the link that `dev` prints when somebody has forgotten a password.
fn reset_token(dev: &Dev, email: &str) -> String {
    assert_eq!(post(dev, "/auth/forgot-password", &json!({"email": email})).0, 202);
    eventually("the link is printed", || {
        let said = dev.said();
        let link = said.lines().find_map(|line| line.split_once("/auth/reset-password?token="));
        link.map(|(_, token)| token.trim().to_owned())
    })
}

fn refused(dev: &Dev, path: &str, body: &Value) {
    let (status, answer) = post(dev, path, body);
    assert!((400..500).contains(&status), "{path}: {status} {answer}");
}

#[test]
#[ignore = "needs PostgreSQL's programs and redis-server; `cargo xtask test` installs them"]
fn after_a_pg_restore_nothing_lives_again_that_was_used_or_revoked_since() {
    let (server, redis) = (Postgres::shared().unwrap(), Redis::start());
    server.create(DATABASE, None).unwrap();
    let feed = redis.url();
    let mut dev = Dev::with(&["--redis", &feed], &[("DATABASE_URL", &server.url(DATABASE))]);
    account(&dev, "alice");
    account(&dev, "bob");
    let (session, unused) = (login(&dev, "alice"), login(&dev, "alice"));
    let (kept, revoked) = (dev.mint(&["--subject", "dave"]), dev.mint(&["--subject", "carol"]));
    let link = reset_token(&dev, "bob@shop.example");
    let dump = server.directory().join("shop.dump");
    server.dump(DATABASE, &dump).unwrap();

    let refreshed = post(&dev, "/auth/refresh", &json!({"refresh_token": session["refresh_token"]}));
    assert_eq!(refreshed.0, 200, "{}", refreshed.1);
    let reset = json!({"token": link, "new_password": "Another-horse-8-battery"});
    assert_eq!(post(&dev, "/auth/reset-password", &reset).0, 200);
    assert_eq!(dev.run(&["revoke", "subject", "carol"]).status, 0);
    let busy = restore(&dev, &server, &["--redis", &feed, "--yes"]);
    assert!(busy.status == 3 && busy.err.contains("is in use"), "{busy:?}");

    dev.kill();
    server.put_back(DATABASE, &dump).unwrap();
    eventually("what the killed process had open is closed", || {
        (restore(&dev, &server, &["--redis", &feed, "--dry-run"]).status == 0).then_some(())
    });
    let unsure = restore(&dev, &server, &["--yes"]);
    assert!(unsure.status == 2 && unsure.err.contains("--without-feed"), "{unsure:?}");
    let asked = restore(&dev, &server, &["--redis", &feed]);
    assert_eq!(asked.status, 2, "there is nobody to ask: {asked:?}");
    let done = restore(&dev, &server, &["--redis", &feed, "--yes", "-o", "json"]);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(done.json()["cut_off"], json!(false));
    assert!(done.json()["revocations_taken_over"].as_u64().unwrap() >= 1, "{done:?}");
    dev.restart();
    assert_eq!(verdict(&dev, &kept), "valid");
    assert_eq!(verdict(&dev, &revoked), "revoked");
    for used in [&session["refresh_token"], &refreshed.1["refresh_token"], &unused["refresh_token"]] {
        refused(&dev, "/auth/refresh", &json!({"refresh_token": used}));
    }
    refused(&dev, "/auth/reset-password", &reset);
    login(&dev, "alice");
    assert!(dev.run(&["audit", "list"]).out.contains("ADMIN_ACTION"));

    // And where the Redis was lost as well.
    dev.kill();
    server.put_back(DATABASE, &dump).unwrap();
    redis.empty();
    let emptied = eventually("what the killed process had open is closed", || {
        Some(restore(&dev, &server, &["--redis", &feed, "--yes"])).filter(|said| !said.err.contains("is in use"))
    });
    assert!(emptied.status == 3 && emptied.err.contains("no whole feed"), "{emptied:?}");
    let cut_off = restore(&dev, &server, &["--without-feed", "--yes"]);
    assert!(cut_off.status == 0 && cut_off.out.contains("cut off, under default/dev"), "{cut_off:?}");
    dev.restart();
    for dead in [&kept, &revoked, session["access_token"].as_str().unwrap()] {
        assert_ne!(verdict(&dev, dead), "valid");
    }
    login(&dev, "alice");
}
