//! How both databases would run what must not become slower as they grow.

use std::{fs, path::Path};

use countersign_store::statements;
use sqlx::{AnyPool, AssertSqlSafe, Row as _};

use crate::rig::Database;

conformance! {
    no_hot_statement_reads_a_whole_table,
    every_statement_reads_what_it_is_about,
}

const ROWS: u32 = 100_000;

/// Many rows of one policy, ten sessions for each subject.
const FILL: [&str; 7] = [
    "INSERT INTO sessions (policy, id, subject, created, auth_time, last_seen, idle_ms, absolute_end, ends, remember_me, amr)
     SELECT 'shop/shop', 's' || i, 'u' || (i % (rows / 10)), i, i, i, 1, i + 1, i + 1, 0, '[]' FROM n",
    "INSERT INTO refresh_families (policy, id, session_id, rotates, created, expires)
     SELECT 'shop/shop', 'f' || i, 's' || i, 1, i, i FROM n",
    "INSERT INTO refresh_tokens (policy, hash, family_id) SELECT 'shop/shop', blob, 'f' || i FROM n",
    "INSERT INTO audit_events (policy, time, type, severity, subject, ip, details)
     SELECT 'shop/shop', i, 'T' || (i % 20), CASE WHEN i % 50 = 0 THEN 1 ELSE 0 END, 'u' || (i % (rows / 10)),
       '192.0.2.' || (i % 250), '{}' FROM n",
    "INSERT INTO lockouts (policy, kind, name, failures, window_start, updated, expires)
     SELECT 'shop/shop', CASE WHEN i % 2 = 0 THEN 'account' ELSE 'name' END, 'n' || i, 1, i, i, i FROM n",
    "INSERT INTO revocations (key, policy, kind, name, cutoff, expires, version, reason, source, created)
     SELECT 'k' || i, 'shop/' || (i % 100), 'session', 's' || i, i, i, 1, '', '', i FROM n",
    "INSERT INTO revocation_room (policy, bound, room) SELECT 'shop/' || i, 1, i FROM n",
];

/// The same of the other tables that have a person's rows.
const FILL_OTHERS: [&str; 15] = [
    "INSERT INTO users (policy, id, username_folded, email_folded, status, roles, email_verified, created)
     SELECT 'shop/shop', 'u' || i, 'n' || i, 'e' || i, 'active', '[]', 1, i FROM n",
    "INSERT INTO passwords (policy, user_id, hash, changed) SELECT 'shop/shop', 'u' || i, '', i FROM n",
    "INSERT INTO old_passwords (policy, user_id, hash) SELECT 'shop/shop', 'u' || i, '' FROM n",
    "INSERT INTO totp (policy, user_id, secret, key_id, created) SELECT 'shop/shop', 'u' || i, blob, 'k', i FROM n",
    "INSERT INTO backup_codes (policy, user_id, hash) SELECT 'shop/shop', 'u' || i, blob FROM n",
    "INSERT INTO phones (policy, user_id) SELECT 'shop/shop', 'u' || i FROM n",
    "INSERT INTO challenges (policy, id, user_id, created, expires, request, session_id)
     SELECT 'shop/shop', 'c' || i, 'u' || i, i, i, '{}', 's' || i FROM n",
    "INSERT INTO sent_codes (policy, challenge_id, channel, hash, expires) SELECT 'shop/shop', 'c' || i, 'sms', blob, i FROM n",
    "INSERT INTO api_keys (policy, id, owner, name, hint, hash, scopes, roles, created, expires)
     SELECT 'shop/shop', 'k' || i, 'u' || i, '', '', blob, '[]', '[]', i, i FROM n",
    "INSERT INTO known_devices (policy, hash, user_id, created, last_used) SELECT 'shop/shop', blob, 'u' || i, i, i FROM n",
    "INSERT INTO one_time_tokens (policy, hash, purpose, user_id, content, created, expires)
     SELECT 'shop/shop', blob, 'p', 'u' || i, '', i, i FROM n",
    "INSERT INTO notices (policy, user_id, kind, content, expires) SELECT 'shop/shop', 'u' || i, '', '', i FROM n",
    "INSERT INTO rate_buckets (policy, name, hits, expires) SELECT 'shop/shop', 'b' || i, 1, i FROM n",
    "INSERT INTO address_blocks (policy, network, reason, source, created, expires)
     SELECT 'shop/shop', 'a' || i, '', '', i, i FROM n",
    "INSERT INTO imported_users (policy, import, row_key, user_id, state) SELECT 'shop/shop', 'i', 'r' || i, 'u' || i, blob FROM n",
];

async fn fill(db: &Database, raw: &AnyPool, rows: u32, tables: &[&str]) {
    let (hash, number) = match db {
        Database::File(_) => ("CAST(CAST(i AS TEXT) AS BLOB)", "i"),
        Database::Server(..) => ("CAST(CAST(i AS TEXT) AS BYTEA)", "CAST(i AS BIGINT)"),
    };
    for table in tables {
        let (into, select) = table.split_once("SELECT").unwrap();
        let numbers = format!(
            "WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {rows}),
             n AS (SELECT {number} AS i, {rows} AS rows, {hash} AS blob FROM k)"
        );
        sqlx::raw_sql(AssertSqlSafe(format!("{into} {numbers} SELECT {select}"))).execute(raw).await.unwrap();
    }
}

async fn no_hot_statement_reads_a_whole_table(db: Database) {
    db.open().await.close().await;
    let raw = db.raw().await;
    fill(&db, &raw, ROWS, &FILL).await;
    // SQLite goes without: nothing analyses its tables in an installation.
    if let Database::Server(..) = db {
        sqlx::raw_sql("ANALYZE").execute(&raw).await.unwrap();
    }
    let hash = match db {
        Database::File(_) => "X'31'",
        Database::Server(..) => "CAST('1' AS BYTEA)",
    };
    let page = ["'shop/shop'", "'u7'", "50000", "'s50000'", "5", "50"];
    let none = "CAST(NULL AS TEXT)";
    let audit = |subject, kind, severity| ["'shop/shop'", subject, "90000", "90000", "5", kind, severity, "50", none];
    let from = ["'shop/shop'", none, "90000", "90000", "5", none, "0", "50", "'192.0.2.7'"];
    let cases: Vec<(&str, &str, Vec<&str>)> = [
        ("page", statements::SESSIONS_OF_SUBJECT, page.to_vec()),
        ("limit", statements::SESSIONS_BEYOND_LIMIT, vec!["'shop/shop'", "'u7'", "5", "4", "10"]),
        ("idle", statements::SESSIONS_BEYOND_LIMIT_IDLE, vec!["'shop/shop'", "'u7'", "5", "4", "10"]),
        ("open", statements::SESSIONS_OPEN, vec!["'shop/shop'", "'u7'"]),
        ("end", statements::SESSION_ENDS, vec!["'shop/shop'", "'s7'", "70000", "'evicted'"]),
        ("families", statements::FAMILIES_END, vec!["'shop/shop'", "'s7'", "70000"]),
        ("bits", statements::REFRESH_BITS, vec!["70000", "50"]),
        ("seen", statements::SESSION_SEEN, vec!["'shop/shop'", "'s7'", "70000", "10000"]),
        ("refresh", statements::REFRESH_TOKEN, vec!["'shop/shop'", hash]),
        ("subject", statements::AUDIT_OF_SUBJECT, audit("'u7'", none, "0").to_vec()),
        ("kind", statements::AUDIT_OF_KIND, audit(none, "'T7'", "0").to_vec()),
        ("concern", statements::AUDIT_OF_CONCERN, audit(none, none, "1").to_vec()),
        ("ip", statements::AUDIT_OF_IP, from.to_vec()),
        ("all", statements::AUDIT, audit(none, none, "0").to_vec()),
        ("unknown", statements::UNKNOWN_BEYOND, vec!["'shop/shop'", "50", "10000"]),
        ("mergeable", statements::REVOCATIONS_MERGEABLE, vec!["'shop/7'", "9", "70000"]),
        ("room", statements::REVOCATION_ROOM, vec!["'shop/7'", "1", "1"]),
    ]
    .into_iter()
    // PostgreSQL reads a table that is empty here.
    .chain(
        matches!(db, Database::File(_))
            .then(|| ("devices", statements::DEVICE_REPLACED, vec!["'shop/shop'", "'u7'", hash, "''", "5", "9"])),
    )
    .chain(statements::EXPIRED.into_iter().map(|sql| ("expired", sql, vec!["100", "50"])))
    .collect();
    for (name, sql, values) in cases {
        let sql = values
            .iter()
            .enumerate()
            .rev()
            .fold(sql.to_owned(), |sql, (n, value)| sql.replace(&format!("${}", n + 1), value));
        let plan = db.plan(&raw, &sql).await;
        // Tables that this test leaves empty fit one page, and PostgreSQL reads that.
        let empty = name == "expired" && !["sessions", "refresh"].iter().any(|filled| sql.contains(filled));
        let whole = match db {
            // All rows of a policy are no fewer, unless there is one of each.
            Database::File(_) => plan.lines().any(|line| {
                let of_policy = line.ends_with("PRIMARY KEY (policy=?)") && !line.contains("revocation_room");
                line.starts_with("SCAN ") || of_policy
            }),
            Database::Server(..) => plan.replace("Seq Scan on challenges", "").contains("Seq Scan") && !empty,
        };
        assert!(!whole, "{name}:\n{plan}");
        if ["page", "limit", "subject", "kind", "concern", "ip", "all"].contains(&name) {
            let sorts =
                plan.contains("TEMP B-TREE") || (plan.contains("Sort") && !["page", "limit", "subject"].contains(&name));
            assert!(!sorts, "{name}:\n{plan}");
        }
    }
}

/// Where statements read all rows on purpose: what a restored database or a policy that is gone is cleared of, what counts, and
/// what others keep.
const WHOLE: [&str; 3] = ["restoring.rs", "figures.rs", "foreign.rs"];
/// Beginnings of the others that do: counts for figures, a cut-off in the place of all, and an epoch in which nothing stands where
/// it stood.
const COUNTS: [&str; 7] = [
    "SELECT count(*) FROM sessions WHERE policy = $1",
    "SELECT status, count(*) AS counted FROM users",
    "SELECT count(*) FROM address_blocks",
    "SELECT max(created) FROM revocations",
    "SELECT count(*), max(CASE WHEN cutoff = $2",
    "UPDATE revocations SET merged_into",
    "UPDATE revocations SET position_revision = NULL",
];
/// What has one row, or one a policy or ring; what is asked, and the elements of an array.
const SMALL: [&str; 11] = [
    "asked",
    "feed",
    "audit_log_writer",
    "audit_chains",
    "rings",
    "bundles",
    "issued",
    "tenures",
    "revocation_room",
    "json_each",
    "json_array_elements_text",
];
/// Indexes that hold nothing but what is asked for.
const PARTIAL: [&str; 4] =
    ["revocations_unmergeable", "revocations_of_keys", "revocations_of_addresses", "audit_events_unsealed"];

/// The statements as they stand in the sources, so that one that comes is asked about too.
fn written(directory: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            written(&path, into);
            continue;
        }
        if WHOLE.iter().any(|file| path.ends_with(file)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let literals = text.split('"').skip(1).step_by(2).map(|sql| sql.split_whitespace().collect::<Vec<_>>().join(" "));
        let statements = literals.filter(|sql| ["SELECT ", "UPDATE ", "DELETE "].iter().any(|verb| sql.starts_with(verb)));
        into.extend(statements.filter(|sql| {
            let of_server = sql.contains("pg_") || sql.contains("clock_timestamp");
            let erases = sql.contains("WHERE policy = $1 LIMIT $2") || sql.contains("WHERE f.policy = $1");
            !of_server && !erases && !COUNTS.iter().any(|counts| sql.starts_with(counts))
        }));
    }
}

/// What a database asks by itself for each row that leaves: which rows refer to it.
async fn referring(db: &Database, raw: &AnyPool) -> Vec<String> {
    let rows = sqlx::raw_sql(match db {
        Database::File(_) => {
            "SELECT m.name AS child, group_concat(f.\"from\") AS keys
             FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table' GROUP BY m.name, f.id"
        }
        Database::Server(..) => {
            "SELECT CAST(CAST(c.conrelid AS regclass) AS text) AS child, (SELECT string_agg(a.attname, ',') FROM pg_attribute a
               WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS keys FROM pg_constraint c WHERE c.contype = 'f'"
        }
    });
    let rows = rows.fetch_all(raw).await.unwrap();
    let sql = |row: &sqlx::any::AnyRow| {
        let keys = row.get::<String, _>("keys");
        let keys: Vec<_> = (1..).zip(keys.split(',')).map(|(n, key)| format!("{key} = ${n}")).collect();
        format!("SELECT 1 FROM {} WHERE {}", row.get::<String, _>("child"), keys.join(" AND "))
    };
    rows.iter().map(sql).collect()
}

/// SQLite as it plans by the figures it was given, PostgreSQL by those it takes.
async fn every_statement_reads_what_it_is_about(db: Database) {
    db.open().await.close().await;
    let raw = db.raw().await;
    if let Database::Server(..) = db {
        fill(&db, &raw, 5000, &FILL).await;
        fill(&db, &raw, 5000, &FILL_OTHERS).await;
        sqlx::raw_sql("ANALYZE").execute(&raw).await.unwrap();
    }
    let mut statements = referring(&db, &raw).await;
    assert!(statements.len() > 10, "{statements:?}");
    written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut statements);
    assert!(statements.len() > 150, "{}", statements.len());
    let mut whole = Vec::new();
    for sql in &statements {
        let sql = &sql.replace("clock()", "0");
        let plan = match db {
            Database::File(_) => {
                db.plan(&raw, &sql.replace("elements($1)", "json_each($1)").replace("clock()", "NULL")).await
            }
            Database::Server(..) => {
                let sql = sql.replace("elements($1)", "json_array_elements_text(CAST($1 AS json))");
                let sql = sql.replace("clock()", "clock_timestamp()");
                // What is compared with NULL first has no type yet.
                let typed = |sql: String, n| sql.replace(&format!("${n} IS NULL"), &format!("CAST(${n} AS text) IS NULL"));
                generic_plan(&raw, &(1..10).fold(sql, typed)).await
            }
        };
        // PostgreSQL names the table on one line, and the condition on the next.
        let lines = || plan.lines();
        let reads_much = [""].into_iter().chain(lines()).zip(lines()).any(|(above, line)| {
            let of_policy = line.ends_with("(policy=?)") || line.ends_with("Index Cond: (policy = $1)");
            let all = line.starts_with("SCAN ") && line != "SCAN CONSTANT ROW" || line.contains("Seq Scan on ");
            let named = if line.contains("Index Cond") { above } else { line };
            (of_policy || all) && !SMALL.iter().chain(&PARTIAL).any(|known| named.contains(known))
        });
        if reads_much {
            whole.push(format!("{sql}\n{plan}"));
        }
    }
    assert!(whole.is_empty(), "{}", whole.join("\n\n"));
}

/// PostgreSQL's plan for any values, where it takes an index if it can.
async fn generic_plan(raw: &AnyPool, sql: &str) -> String {
    let count = (1..100).take_while(|n| sql.contains(&format!("${n}"))).count();
    let values = if count == 0 { String::new() } else { format!("({})", vec!["NULL"; count].join(", ")) };
    let mut tx = raw.begin().await.unwrap();
    for set in ["SET LOCAL plan_cache_mode = force_generic_plan", "SET LOCAL enable_seqscan = off"] {
        sqlx::raw_sql(set).execute(&mut *tx).await.unwrap();
    }
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE asked AS {sql}"))).execute(&mut *tx).await.unwrap();
    let rows = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN EXECUTE asked{values}"))).fetch_all(&mut *tx).await.unwrap();
    sqlx::raw_sql("DEALLOCATE asked").execute(&mut *tx).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}
