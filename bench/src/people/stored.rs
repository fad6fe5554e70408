//! Calls that look at sessions, first where there are only those that are alive, then with a million of old ones beside them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use super::{ACCOUNTS, Bench, CHEAP, LoggedIn, login_request};
use crate::{
    http1,
    report::{Bar, Figure},
    speed::median,
};

const PART: &str = "people: calls with many sessions stored, against the same with those alone that are alive";
/// Sessions of each account that are alive: as many as the policy allows, so that each login ends one.
pub(super) const LIVE_OF_EACH: usize = 104;
/// Some are there already, from logins.
const FILLED_OF_EACH: usize = LIVE_OF_EACH - 4;
const DAY_MS: i64 = 86_400_000;

/// A session, its family and its token for each number. What differs between the two databases is filled in by [`fill`].
const FILL: [&str; 3] = [
    "INSERT INTO sessions (policy, id, subject, created, auth_time, last_seen, idle_ms, absolute_end, ends, ip, user_agent,
       remember_me, amr, ended, ended_because)
     NUMBERS SELECT 'bench/POLICY', 'PREFIX-' || i, 'SUBJECT', NOW + i, NOW, NOW, DAY, NOW + DAY, NOW + DAY, '192.0.2.7',
       'a measurement', 0, '[\"pwd\"]', ENDED FROM k",
    "INSERT INTO refresh_families (policy, id, session_id, rotates, created, expires, ended)
     NUMBERS SELECT 'bench/POLICY', 'PREFIX-' || i, 'PREFIX-' || i, 1, NOW, NOW + DAY, WHEN FROM k",
    "INSERT INTO refresh_tokens (policy, hash, family_id)
     NUMBERS SELECT 'bench/POLICY', CAST('PREFIX-' || i AS BYTES), 'PREFIX-' || i FROM k",
];

pub(super) fn measure(bench: &Bench<'_>, people: &[LoggedIn], figures: &mut Vec<Figure>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    eprintln!("filling {}", bench.kind);
    runtime.block_on(fill(bench, people, "live", FILLED_OF_EACH, false))?;
    let few = costs(bench)?;
    runtime.block_on(fill(bench, people, "old", bench.effort.sessions / ACCOUNTS, true))?;
    let many = costs(bench)?;
    for ((name, few), (_, many)) in few.into_iter().zip(many) {
        let name = format!("{name}, {}, {} sessions stored", bench.kind, bench.effort.sessions);
        eprintln!("{name}: {:.2}", many / few);
        figures.push(Figure::new(PART, name, many, "answers").against(few, many / few).bar(Bar::AtLeast(0.8)));
    }
    Ok(())
}

/// Answers for each second of processor time, the database's included.
fn costs(bench: &Bench<'_>) -> Result<[(&'static str, f64); 2]> {
    // The sessions of before may have been ended by later logins.
    let list: Vec<_> = bench
        .log_in(CHEAP)?
        .iter()
        .map(|person| {
            let bearer = format!("Bearer {}", person.access);
            http1::request("GET", &format!("/bench/{CHEAP}/auth/sessions"), &[("authorization", &bearer)], None)
        })
        .collect();
    let login: Vec<_> = (0..ACCOUNTS).map(|number| login_request(CHEAP, number)).collect();
    let cost = |requests: &[Vec<u8>]| -> Result<f64> {
        let rounds = (0..bench.effort.rounds)
            .map(|_| bench.load(requests, None, bench.effort.millis).map(|measured| measured.per_cpu_second_of_all()));
        Ok(median(rounds.collect::<Result<Vec<_>>>()?))
    };
    Ok([("a person's sessions listed", cost(&list)?), ("logins of which each ends the oldest session", cost(&login)?)])
}

async fn fill(bench: &Bench<'_>, people: &[LoggedIn], prefix: &str, of_each: usize, ended: bool) -> Result<()> {
    sqlx::any::install_default_drivers();
    let (url, bytes) = match bench.url {
        Some(url) => (url.to_owned(), "BYTEA"),
        None => (format!("sqlite://{}", bench.dev.database().display()), "BLOB"),
    };
    let mut connection = AnyConnection::connect(&url).await?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis()).context("a time")?;
    let when = if ended { now.to_string() } else { "CAST(NULL AS BIGINT)".to_owned() };
    let why = if ended { "'a measurement'" } else { "CAST(NULL AS TEXT)" };
    let numbers = format!("WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {of_each})");
    for (number, person) in people.iter().enumerate() {
        for insert in FILL {
            let sql = insert
                .replace("NUMBERS", &numbers)
                .replace("ENDED", &format!("{when}, {why}"))
                .replace("WHEN", &when)
                .replace("POLICY", CHEAP)
                .replace("PREFIX", &format!("{prefix}-{number}"))
                .replace("SUBJECT", &person.id)
                .replace("BYTES", bytes)
                .replace("NOW", &format!("CAST({now} AS BIGINT)"))
                .replace("DAY", &DAY_MS.to_string());
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        }
    }
    Ok(connection.close().await?)
}
