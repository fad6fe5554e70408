//! What people's calls cost an issuer: logins against bare Argon2id, refreshes, more logins than can be served, and calls where
//! a million sessions are stored. On SQLite and on PostgreSQL, as an installation has them: what was answered is on disk.

mod hashing;
mod overload;
mod stored;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use countersign_test_servers::Postgres;
use serde_json::{Value, json};

pub(crate) use self::{
    hashing::{Options as HashOptions, run as hash},
    overload::{Options as OverloadOptions, run as overload},
};
use crate::{
    http1::{self, Client},
    load::{self, Measured},
    plan::Effort,
    report::{Bar, Figure},
    rig::{Dev, DevStart},
    speed::median,
};

const PART: &str = "people: answers per server CPU second";
/// A policy whose passwords cost what they cost by default, and one whose cost next to nothing.
const DEAR: &str = "dear";
const CHEAP: &str = "cheap";
/// KiB, passes and lanes of the dear ones.
const COST: (u32, u32, u32) = (19 << 10, 2, 1);
/// Connections at once, and accounts that take turns.
const CONNECTIONS: usize = 8;
const ACCOUNTS: usize = 96;
const PASSWORD: &str = "the password of a measurement";

pub(crate) fn measure(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    for kind in ["SQLite", "PostgreSQL"] {
        let database = (kind == "PostgreSQL").then(|| Postgres::start(&[])).transpose()?;
        if let Some(server) = &database {
            server.create("bench", None)?;
        }
        let url = database.as_ref().map(|server| server.url("bench"));
        let dev = Dev::start_with(&DevStart {
            redis: None,
            policies: vec![(DEAR.to_owned(), policy(COST)), (CHEAP.to_owned(), policy((64, 1, 1)))],
            database: url.as_deref(),
            pinned: true,
        })?;
        if let Some(server) = &database {
            server.run("bench", "SELECT id FROM sessions LIMIT 1").context("dev keeps no sessions in its DATABASE_URL")?;
        }
        let scratch = tempfile::tempdir()?;
        let bench = Bench { effort, kind, dev: &dev, database: database.as_ref(), url: url.as_deref(), scratch };
        bench.register(DEAR)?;
        bench.logins(figures)?;
        if database.is_none() {
            bench.overload(figures)?;
        }
        bench.register(CHEAP)?;
        let people = bench.log_in(CHEAP)?;
        bench.refreshes(&people, figures)?;
        stored::measure(&bench, &people, figures)?;
    }
    Ok(())
}

fn policy((memory_kib, iterations, parallelism): (u32, u32, u32)) -> Value {
    json!({
        "audiences": ["bench"], "issuer": "https://people.bench.example",
        "roles": [{"name": "user", "permissions": ["orders:read", "orders:write"]}],
        "login": {
            "passwords": {
                "argon2id": {"memory": format!("{memory_kib}Ki"), "iterations": iterations, "parallelism": parallelism},
            },
            "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]},
            "sessions": {"maxConcurrent": stored::LIVE_OF_EACH},
            "rateLimits": {"login": {}, "register": {}, "passwordReset": {}, "api": {}},
        },
    })
}

/// One that logged in.
struct LoggedIn {
    id: String,
    access: String,
    refresh: String,
}

struct Bench<'a> {
    effort: &'a Effort,
    kind: &'static str,
    dev: &'a Dev,
    database: Option<&'a Postgres>,
    /// Where its database is, when it is no file.
    url: Option<&'a str>,
    scratch: tempfile::TempDir,
}

fn login_request(policy: &str, number: usize) -> Vec<u8> {
    let body = json!({"username": format!("person-{number}"), "password": PASSWORD}).to_string();
    http1::request("POST", &format!("/bench/{policy}/auth/login"), &[], Some(body.as_bytes()))
}

impl Bench<'_> {
    /// Makes the accounts of a policy.
    fn register(&self, policy: &str) -> Result<()> {
        let mut client = Client::connect(&self.dev.issuer()?)?;
        for number in 0..ACCOUNTS {
            let name = format!("person-{number}");
            let account = json!({"username": name, "email": format!("{name}@bench.example"), "password": PASSWORD});
            let path = format!("/bench/{policy}/auth/register");
            answer(&mut client, &http1::request("POST", &path, &[], Some(account.to_string().as_bytes())))?;
        }
        Ok(())
    }

    /// Logs each of them in.
    fn log_in(&self, policy: &str) -> Result<Vec<LoggedIn>> {
        let mut client = Client::connect(&self.dev.issuer()?)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("an answer to a login lacks a text");
        (0..ACCOUNTS)
            .map(|number| {
                let login = answer(&mut client, &login_request(policy, number))?;
                Ok(LoggedIn {
                    id: text(&login["user"]["id"])?,
                    access: text(&login["access_token"])?,
                    refresh: text(&login["refresh_token"])?,
                })
            })
            .collect()
    }

    fn load(&self, requests: &[Vec<u8>], refresh_at: Option<&str>, millis: u64) -> Result<Measured> {
        let file = self.scratch.path().join("requests");
        load::write_requests(&file, requests)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").arg("--target").arg(self.dev.issuer()?.to_string());
        command.arg("--server-pid").arg(self.dev.pid().to_string());
        command.arg("--connections").arg(CONNECTIONS.to_string()).arg("--requests").arg(&file);
        command.arg("--millis").arg(millis.to_string());
        if let Some(path) = refresh_at {
            command.arg("--refresh-at").arg(path);
        }
        if let Some(database) = self.database {
            let pids: Vec<String> = database.processes()?.iter().map(u32::to_string).collect();
            command.arg("--beside").arg(pids.join(","));
        }
        found(&mut command)
    }

    fn logins(&self, figures: &mut Vec<Figure>) -> Result<()> {
        let requests: Vec<_> = (0..ACCOUNTS).map(|number| login_request(DEAR, number)).collect();
        // A login takes tens of milliseconds: more of them than of other calls are needed for a steady figure.
        let millis = self.effort.millis * 3;
        let (mut ours, mut bare, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.effort.rounds {
            bare.push(hashing::measure(COST, millis)?.per_cpu_second());
            let measured = self.load(&requests, None, millis)?;
            ours.push(measured.per_cpu_second());
            all.push(measured.per_cpu_second_of_all());
        }
        let (ours, bare) = (median(ours), median(bare));
        let name = format!("logins, {}, against bare Argon2id (19 MiB, 2 passes)", self.kind);
        eprintln!("{name}: {:.2}", ours / bare);
        figures.push(Figure::new(PART, name, ours, "logins").against(bare, ours / bare).bar(Bar::AtLeast(0.9)));
        self.with_database("logins", median(all), figures);
        Ok(())
    }

    fn refreshes(&self, people: &[LoggedIn], figures: &mut Vec<Figure>) -> Result<()> {
        let path = format!("/bench/{CHEAP}/auth/refresh");
        let (mut ours, mut all, mut clock) = (Vec::new(), Vec::new(), Vec::new());
        // Each round renews sessions of its own: a token is used once.
        for people in people.chunks_exact(CONNECTIONS).take(self.effort.rounds) {
            let tokens: Vec<_> = people.iter().map(|person| person.refresh.clone().into_bytes()).collect();
            let measured = self.load(&tokens, Some(&path), self.effort.millis)?;
            ours.push(measured.per_cpu_second());
            all.push(measured.per_cpu_second_of_all());
            clock.push(measured.per_second());
        }
        let mut figure = Figure::new(PART, format!("refreshes, {}", self.kind), median(ours), "refreshes");
        eprintln!("{}: {:.0}", figure.name, figure.value);
        if self.database.is_none() {
            figure = figure.bar(Bar::AtLeast(1000.0));
        }
        figures.push(figure);
        self.with_database("refreshes", median(all), figures);
        let name = format!("refreshes, {}, {CONNECTIONS} connections, by the clock", self.kind);
        figures.push(Figure::new(PART, name, median(clock), "a second"));
        Ok(())
    }

    fn overload(&self, figures: &mut Vec<Figure>) -> Result<()> {
        let requests: Vec<_> = (0..ACCOUNTS).map(|number| login_request(DEAR, number)).collect();
        let file = self.scratch.path().join("requests");
        load::write_requests(&file, &requests)?;
        overload::measure(self.effort, self.dev, &file, figures)
    }

    /// The same with the processor time of the database's own processes.
    fn with_database(&self, what: &'static str, value: f64, figures: &mut Vec<Figure>) {
        if self.database.is_some() {
            figures.push(Figure::new(PART, format!("{what}, {}, its processor time included", self.kind), value, what));
        }
    }
}

/// What is answered to a call that has to succeed.
fn answer(client: &mut Client, request: &[u8]) -> Result<Value> {
    let (status, _, body) = client.call(request)?;
    if !(200..300).contains(&status) {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(serde_json::from_slice(&body)?)
}

/// What a measuring process of this program found.
fn found<T: serde::de::DeserializeOwned>(command: &mut Command) -> Result<T> {
    let output = command.output().context("could not start a process that measures")?;
    if !output.status.success() {
        bail!("a process that measures failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
