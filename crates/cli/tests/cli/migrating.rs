//! Accounts from another schema, brought by the command line.

use std::{path::PathBuf, process::Stdio};

use serde_json::{Value, json};
use sqlx::{AnyPool, Row as _};

use crate::{
    admin::over_socket,
    first_login::post,
    rig::{Dev, Said, alone, countersign, eventually, run_with},
};

/// Of "U*U", from `crypt_blowfish`'s own tests.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const OLD_PASSWORD: &str = "U*U";

const MAPPING: &str = "name: old-shop
users:
  table: users
  key: id
  columns:
    id: id
    username: login
    email: email
    emailVerified: {value: \"true\"}
    active: is_active
    password: hash
    roles: {column: role, map: {superuser: [admin]}, default: [user]}
    createdAt: joined
apiKeys:
  table: api_keys
  columns: {user: user_id, plaintext: text, name: name, scopes: {column: scopes, separator: ' '}, expiresAt: ends}
";

/// A database of another application, in a directory.
fn old_database(directory: &std::path::Path, statements: &[&str]) -> PathBuf {
    let path = directory.join("old.db");
    std::fs::File::create(&path).unwrap();
    in_database(&path, async |pool| {
        for sql in statements {
            sqlx::raw_sql(sqlx::AssertSqlSafe((*sql).to_owned())).execute(&pool).await.unwrap();
        }
    });
    path
}

fn in_database<T>(path: &std::path::Path, work: impl AsyncFnOnce(AnyPool) -> T) -> T {
    at_url(&format!("sqlite://{}", path.display()), work)
}

fn at_url<T>(url: &str, work: impl AsyncFnOnce(AnyPool) -> T) -> T {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = AnyPool::connect(url).await.unwrap();
        let found = work(pool.clone()).await;
        pool.close().await;
        found
    })
}

const USERS: &str =
    "CREATE TABLE users (id INTEGER, login TEXT, email TEXT, is_active BOOLEAN, hash TEXT, role TEXT, joined TEXT)";
const KEYS: &str = "CREATE TABLE api_keys (user_id INTEGER, text TEXT, name TEXT, scopes TEXT, ends TEXT)";

/// A running `dev` beside an old shop's database, with its mapping.
fn beside_an_old_shop(users: &[&str]) -> Dev {
    let dev = Dev::start();
    let rows: Vec<String> = users.iter().map(|values| format!("INSERT INTO users VALUES ({values})")).collect();
    let keys = "INSERT INTO api_keys VALUES (1, 'old-key-of-ann', 'ci', 'orders:read', '2099-01-01 00:00:00')";
    let all: Vec<&str> = [USERS, KEYS, keys].into_iter().chain(rows.iter().map(String::as_str)).collect();
    old_database(dev.path(), &all);
    std::fs::write(dev.path().join("mapping.yaml"), MAPPING).unwrap();
    dev
}

fn migrate(dev: &Dev, action: &str, more: &[&str]) -> Said {
    let mut arguments = vec!["migrate", action, "--from", "sqlite+aiosqlite:///old.db", "--mapping", "mapping.yaml"];
    arguments.extend(more);
    dev.run(&arguments)
}

fn outcomes(said: &Said) -> Value {
    said.json()["outcomes"].clone()
}

/// How many accounts there are beside the one that `dev` makes for itself in its own time.
fn accounts(dev: &Dev) -> usize {
    let listed = dev.run(&["users", "list", "--limit", "100000", "-o", "json"]).json();
    listed["users"].as_array().unwrap().iter().filter(|user| user["username"] != "demo").count()
}

#[test]
fn accounts_are_planned_brought_verified_and_taken_back() {
    let ann = format!("1, 'ann', 'ann@old.example', TRUE, '{BCRYPT}', 'superuser', '2017-07-14 02:40:00'");
    let dev = beside_an_old_shop(&[
        &ann,
        &format!("2, 'bob', 'bob@old.example', FALSE, '{BCRYPT}', NULL, NULL"),
        "3, 'eve', 'eve@old.example', TRUE, '!unusable', 'user', NULL",
        "4, 'md5', 'md5@old.example', TRUE, '5f4dcc3b5aa765d61d8327deb882cf99', 'user', NULL",
        "5, 'again', 'ANN@old.example', TRUE, NULL, 'user', NULL",
        "6, 'odd', 'odd@old.example', TRUE, NULL, 'emperor', NULL",
    ]);
    assert_eq!(accounts(&dev), 0);
    let plan = migrate(&dev, "plan", &["-o", "json"]);
    assert_eq!(plan.status, 1, "rows are rejected: {plan:?}");
    assert_eq!(outcomes(&plan), json!({"new": 3, "rejected": 3}));
    let rejected: Vec<(u64, &str)> = plan.json()["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["row"].as_u64().unwrap(), one["reason"].as_str().unwrap()))
        .map(|(row, reason)| (row, if reason.contains("no known format") { "format" } else { "" }))
        .collect();
    assert_eq!(rejected, [(4, "format"), (5, ""), (6, "")]);
    let shown = migrate(&dev, "run", &["--dry-run"]);
    for expected in ["plan: 6 rows: 3 new, 3 rejected", "email: is that of an earlier row", "no role emperor"] {
        assert!(shown.out.contains(expected), "{expected}: {}", shown.out);
    }
    assert!(!shown.out.contains("5f4dcc") && !shown.err.contains("5f4dcc"), "no hash is shown: {shown:?}");
    assert_eq!(accounts(&dev), 0, "a plan writes nothing");

    let run = migrate(&dev, "run", &["-o", "json"]);
    assert_eq!((run.status, outcomes(&run)), (1, json!({"imported": 3, "rejected": 3})), "{run:?}");
    assert_eq!((&run.json()["without_password"], &run.json()["api_keys"]), (&json!(1), &json!(1)));
    assert!(run.err.contains("policy default/dev"), "the target is said first: {}", run.err);
    let again = migrate(&dev, "run", &["-o", "json"]);
    assert_eq!(outcomes(&again), json!({"present": 3, "rejected": 3}));
    let verify = migrate(&dev, "verify", &["-o", "json"]);
    assert_eq!(outcomes(&verify), json!({"rejected": 3, "same": 3}));

    let login = post(&dev, "/auth/login", &json!({"username": "ann", "password": OLD_PASSWORD}));
    assert_eq!((login.0, &login.1["user"]["id"]), (200, &json!("1")), "{}", login.1);
    assert_eq!(
        post(&dev, "/auth/login", &json!({"username": "bob", "password": OLD_PASSWORD})).1["error"],
        "account_disabled"
    );
    assert_eq!(post(&dev, "/auth/login", &json!({"username": "eve", "password": "!unusable"})).0, 401);

    let refused = dev.run(&["migrate", "rollback", "--mapping", "mapping.yaml"]);
    assert_eq!(refused.status, 2, "there is nobody to ask: {refused:?}");
    let back = dev.run(&["migrate", "rollback", "--mapping", "mapping.yaml", "--yes"]);
    assert_eq!(back.status, 0, "{back:?}");
    assert!(back.out.contains("1 accounts removed, 2 kept"), "{}", back.out);
    assert!(
        back.out.contains("logged in") && back.out.contains("it was changed"),
        "who showed a password had it hashed anew"
    );
    assert_eq!(accounts(&dev), 2);
    let forced = dev.run(&["migrate", "rollback", "--mapping", "mapping.yaml", "--force", "--yes", "-o", "json"]);
    assert_eq!(forced.json()["removed"], json!(2), "{forced:?}");
    assert_eq!(accounts(&dev), 0);
    let nothing = dev.run(&["migrate", "rollback", "--mapping", "mapping.yaml", "--yes"]);
    assert_eq!(nothing.status, 3, "{nothing:?}");
    assert!(nothing.err.contains("no such import"), "{}", nothing.err);
}

#[test]
fn a_run_that_was_killed_goes_on_and_loses_and_doubles_nobody() {
    const ROWS: usize = 2_000;
    let mut dev = beside_an_old_shop(&[]);
    in_database(&dev.path().join("old.db"), async |pool| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
            INSERT INTO users SELECT i, 'user' || i, 'user' || i || '@old.example', TRUE, NULL, 'user', NULL FROM n";
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    });
    let mut child = countersign()
        .args(["migrate", "run", "--from", "sqlite:old.db", "--mapping", "mapping.yaml"])
        .current_dir(dev.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("some rows are brought", || {
        let (status, import) = over_socket(&dev, "GET", "/policies/default/dev/imports/old-shop", "");
        (status == 200 && import["rows"].as_u64().is_some_and(|rows| rows > 0)).then_some(())
    });
    // Both at once: the reader, and the issuer in the middle of whatever it writes.
    dev.kill();
    child.kill().unwrap();
    child.wait().unwrap();
    dev.restart();
    let brought = accounts(&dev);
    assert!(brought > 0 && brought <= ROWS, "{brought}");
    let run = migrate(&dev, "run", &["-o", "json"]);
    assert_eq!(run.status, 0, "{run:?}");
    let found = outcomes(&run);
    let count = |name: &str| found[name].as_u64().unwrap_or(0);
    assert_eq!(count("present") + count("imported"), ROWS as u64, "{found}");
    assert_eq!(count("present"), brought as u64);
    assert_eq!(accounts(&dev), ROWS);
    assert_eq!(outcomes(&migrate(&dev, "verify", &["-o", "json"])), json!({"same": ROWS}));
    let database = dev.data().join("countersign.db");
    dev.kill();
    let doubled: i64 = in_database(&database, async |pool| {
        let sql = "SELECT count(*) - count(DISTINCT user_id) FROM imported_users";
        sqlx::query(sql).fetch_one(&pool).await.unwrap().get(0)
    });
    assert_eq!(doubled, 0);
}

#[test]
fn old_api_keys_keep_working_by_their_hashes() {
    let ann = format!("1, 'ann', 'ann@old.example', TRUE, '{BCRYPT}', 'superuser', NULL");
    let bob = format!("2, 'bob', 'bob@old.example', TRUE, '{BCRYPT}', 'superuser', NULL");
    let nobody = format!("3, 'nobody', 'nobody@old.example', NULL, '{BCRYPT}', 'superuser', NULL");
    let shop = beside_an_old_shop(&[&ann, &bob, &nobody]);
    in_database(&shop.path().join("old.db"), async |pool| {
        let sql =
            "INSERT INTO api_keys VALUES (2, 'old-key-of-bob', 'ci', 'orders:read', NULL), (3, 'k', 'ci', NULL, NULL)";
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    });
    let early = migrate(&shop, "keys", &[]);
    assert!(early.out.trim() == "[]" && early.err.contains("account 1 are left out: was not brought"), "{early:?}");
    assert_eq!(outcomes(&migrate(&shop, "run", &["-o", "json"])), json!({"imported": 2, "rejected": 1}));
    assert_eq!(shop.run(&["users", "disable", "bob", "--yes"]).status, 0);
    let keys = migrate(&shop, "keys", &[]);
    assert_eq!(keys.status, 0, "{keys:?}");
    for why in ["account 2 are left out: used or changed here since: status", "account 3 are left out: active: is empty"] {
        assert!(keys.err.contains(why), "{why}: {}", keys.err);
    }
    assert_eq!(keys.out.matches("sha256").count(), 1, "{}", keys.out);
    assert!(!keys.out.contains("old-key-of-ann"), "only the hash is printed");
    assert!(keys.err.contains("spec.opaqueKeys"), "{}", keys.err);
    let secrets = migrate(&shop, "keys", &["--secret", "old-api-keys", "-n", "default"]);
    for expected in ["kind: Secret", "name: old-api-keys", "namespace: default", "keys.json:"] {
        assert!(secrets.out.contains(expected), "{expected}: {}", secrets.out);
    }
    let named = "  opaqueKeys: {secretKeyRefs: [{name: old-api-keys, key: keys.json}]}\n";
    let policy = crate::rig::policy("shop", named);
    let dev = Dev::on_policies(&[("shop.yaml", &policy), ("secrets/old-api-keys/keys.json", &keys.out)]);
    let found = dev.run_with(&["verify", "-", "-o", "json"], "old-key-of-ann");
    assert_eq!((found.status, &found.json()["subject"]), (0, &json!("1")), "{found:?}");
    assert_eq!(found.json()["scopes"], json!(["orders:read"]));
}

#[test]
fn what_is_wrong_with_source_or_mapping_is_said_before_anything_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let mapping = directory.path().join("mapping.yaml");
    std::fs::write(&mapping, MAPPING.replace("email: email", "emial: email")).unwrap();
    let mapping = mapping.to_str().unwrap();
    let misspelt = alone(&["migrate", "plan", "--from", "sqlite:old.db", "--mapping", mapping]);
    assert_eq!(misspelt.status, 2, "{misspelt:?}");
    assert!(misspelt.err.contains("unknown field `emial`"), "{}", misspelt.err);
    let none = alone(&["migrate", "plan", "--from", "sqlite:old.db", "--mapping", "/nonexistent.yaml"]);
    assert!(none.status == 2 && none.err.contains("migrate example"), "{none:?}");
    for schema in ["fastapi-users", "supabase", "django", "home-grown"] {
        assert!(alone(&["migrate", "example", schema]).line().contains("users:"), "{schema}");
    }
    let dev = beside_an_old_shop(&[]);
    for (from, status, said) in [
        ("sqlite:nowhere.db", 3, "nowhere.db"),
        ("mysql://db.example/shop", 2, "--from"),
        ("sqlite:mapping.yaml", 3, "mapping.yaml"),
    ] {
        let mut command = countersign();
        command
            .args(["migrate", "plan", "--mapping", "mapping.yaml"])
            .current_dir(dev.path())
            .env("COUNTERSIGN_FROM", from);
        let refused = run_with(command, "");
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.err.contains(said), "{}", refused.err);
    }
    std::fs::write(dev.path().join("mapping.yaml"), MAPPING.replace("password: hash", "password: hsah")).unwrap();
    let column = migrate(&dev, "plan", &[]);
    assert_eq!(column.status, 3, "{column:?}");
    assert!(column.err.contains("hsah"), "{}", column.err);
}

/// Makes tables, and brings what is in them by a mapping that is shipped.
fn brought(dev: &Dev, schema: &str, url: &str, statements: &[String]) -> Value {
    at_url(url, async |pool| {
        for sql in statements {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&pool).await.unwrap();
        }
    });
    let mapping = dev.path().join(format!("{schema}.yaml"));
    std::fs::write(&mapping, alone(&["migrate", "example", schema]).out).unwrap();
    // With two slashes more, as SQLAlchemy has it, the path would be a relative one.
    let from = url.replacen("sqlite://", "sqlite:", 1);
    let run = dev.run(&["migrate", "run", "--from", &from, "--mapping", mapping.to_str().unwrap(), "-o", "json"]);
    assert_eq!(run.status, 0, "{schema}: {run:?}");
    outcomes(&run)
}

fn logs_in(dev: &Dev, name: &str, id: &str, roles: &Value) {
    let (status, body) = post(dev, "/auth/login", &json!({"username": name, "password": OLD_PASSWORD}));
    assert_eq!((status, &body["user"]["id"], &body["user"]["roles"]), (200, &json!(id), roles), "{body}");
}

#[test]
fn the_mappings_that_are_shipped_fit_the_schemas_that_they_name() {
    let dev = Dev::start();
    let url = |name: &str| {
        let path = dev.path().join(name);
        std::fs::File::create(&path).unwrap();
        format!("sqlite://{}", path.display())
    };
    // As FastAPI Users makes it on SQLite.
    let fastapi = [
        "CREATE TABLE user (email VARCHAR(320) NOT NULL, hashed_password VARCHAR(1024) NOT NULL, is_active BOOLEAN NOT NULL, \
         is_superuser BOOLEAN NOT NULL, is_verified BOOLEAN NOT NULL, id CHAR(36) NOT NULL, PRIMARY KEY (id))"
            .to_owned(),
        format!("INSERT INTO user VALUES ('fay@old.example', '{BCRYPT}', 1, 1, 1, '3fa85f64-5717-4562-b3fc-2c963f66afa6')"),
    ];
    assert_eq!(brought(&dev, "fastapi-users", &url("fastapi.db"), &fastapi), json!({"imported": 1}));
    logs_in(&dev, "fay@old.example", "3fa85f64-5717-4562-b3fc-2c963f66afa6", &json!(["admin"]));
    // As Django makes it.
    let django = [
        "CREATE TABLE auth_user (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, password varchar(128) NOT NULL, \
         last_login datetime NULL, is_superuser bool NOT NULL, username varchar(150) NOT NULL UNIQUE, \
         last_name varchar(150) NOT NULL, email varchar(254) NOT NULL, is_staff bool NOT NULL, is_active bool NOT NULL, \
         date_joined datetime NOT NULL, first_name varchar(150) NOT NULL)"
            .to_owned(),
        format!(
            "INSERT INTO auth_user VALUES (7, 'bcrypt${BCRYPT}', NULL, 0, 'dan', 'Doe', 'dan@old.example', 0, 1, \
             '2020-02-29 12:00:00.123456', 'Dan'), \
             (8, '!', NULL, 0, 'dora', '', 'dora@old.example', 0, 1, '2020-02-29 12:00:00', '')"
        ),
    ];
    assert_eq!(brought(&dev, "django", &url("django.db"), &django), json!({"imported": 2}));
    logs_in(&dev, "dan", "7", &json!(["user"]));
    // As the example itself says.
    let home_grown = [
        "CREATE TABLE users (id TEXT, username TEXT, email TEXT, email_verified INT, is_active INT, password_hash TEXT, \
         roles TEXT, totp_secret TEXT, created_at TEXT)"
            .to_owned(),
        "CREATE TABLE api_keys (user_id TEXT, key_hash TEXT, name TEXT, scopes TEXT, expires_at TEXT, is_active INT)"
            .to_owned(),
        format!(
            "INSERT INTO users VALUES ('u-1', 'hal', 'hal@old.example', 1, 1, '{BCRYPT}', 'superuser,member', NULL, '2020-01-01')"
        ),
        format!("INSERT INTO api_keys VALUES ('u-1', '{}', 'ci', 'orders:read', NULL, 1)", "ab".repeat(32)),
    ];
    assert_eq!(brought(&dev, "home-grown", &url("home.db"), &home_grown), json!({"imported": 1}));
    logs_in(&dev, "hal", "u-1", &json!(["admin", "user"]));
}

#[test]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
fn people_of_a_supabase_project_come_from_its_postgresql() {
    let dev = Dev::start();
    let server = countersign_test_servers::Postgres::shared().unwrap();
    server.create("supabase", None).unwrap();
    let tables = [
        "CREATE SCHEMA auth".to_owned(),
        "CREATE TABLE auth.users (instance_id uuid, id uuid PRIMARY KEY, aud varchar(255), role varchar(255), \
         email varchar(255), encrypted_password varchar(255), email_confirmed_at timestamptz, banned_until timestamptz, \
         raw_app_meta_data jsonb, raw_user_meta_data jsonb, created_at timestamptz, deleted_at timestamptz, \
         is_anonymous boolean NOT NULL DEFAULT false)"
            .to_owned(),
        format!(
            "INSERT INTO auth.users (id, email, encrypted_password, email_confirmed_at, raw_app_meta_data, created_at, deleted_at, \
             banned_until) VALUES \
             ('9b2f4c1e-0000-4000-8000-000000000001', 'sue@old.example', '{BCRYPT}', now(), '{{\"provider\": \"email\"}}', \
              now(), NULL, NULL), \
             ('9b2f4c1e-0000-4000-8000-000000000002', 'link@old.example', '', now(), '{{}}', now(), NULL, NULL), \
             ('9b2f4c1e-0000-4000-8000-000000000003', 'gone@old.example', '', now(), '{{}}', now(), now(), NULL), \
             ('9b2f4c1e-0000-4000-8000-000000000004', 'banned@old.example', '{BCRYPT}', now(), '{{}}', now(), NULL, \
              now() + interval '1 year')"
        ),
    ];
    assert_eq!(brought(&dev, "supabase", &server.url("supabase"), &tables), json!({"imported": 3}));
    logs_in(&dev, "sue@old.example", "9b2f4c1e-0000-4000-8000-000000000001", &json!(["user"]));
    let banned = post(&dev, "/auth/login", &json!({"username": "banned@old.example", "password": OLD_PASSWORD}));
    assert_eq!(banned.1["error"], "account_disabled");
}
