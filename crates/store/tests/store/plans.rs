//! How both databases would run what must not become slower as they grow.

use countersign_store::statements;
use sqlx::AssertSqlSafe;

use crate::rig::Database;

conformance! {
    no_hot_statement_reads_a_whole_table,
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

async fn no_hot_statement_reads_a_whole_table(db: Database) {
    db.open().await.close().await;
    let raw = db.raw().await;
    let (hash, number) = match db {
        Database::File(_) => ("CAST(CAST(i AS TEXT) AS BLOB)", "i"),
        Database::Server(..) => ("CAST(CAST(i AS TEXT) AS BYTEA)", "CAST(i AS BIGINT)"),
    };
    for fill in FILL {
        let (into, select) = fill.split_once("SELECT").unwrap();
        let numbers = format!(
            "WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {ROWS}),
             n AS (SELECT {number} AS i, {ROWS} AS rows, {hash} AS blob FROM k)"
        );
        sqlx::raw_sql(AssertSqlSafe(format!("{into} {numbers} SELECT {select}"))).execute(&raw).await.unwrap();
    }
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
        ("limit", statements::SESSIONS_IN_LIMIT, vec!["'shop/shop'", "'u7'", "5"]),
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
        matches!(db, Database::File(_)).then(|| ("devices", statements::DEVICES_BEYOND, vec!["'shop/shop'", "'u7'", "10"])),
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
            Database::Server(..) => plan.contains("Seq Scan") && !empty,
        };
        assert!(!whole, "{name}:\n{plan}");
        if ["page", "subject", "kind", "concern", "ip", "all"].contains(&name) {
            let sorts = plan.contains("TEMP B-TREE") || (plan.contains("Sort") && name != "page" && name != "subject");
            assert!(!sorts, "{name}:\n{plan}");
        }
    }
}
