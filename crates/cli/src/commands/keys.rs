//! `keys`.

use std::time::{Duration, Instant};

use countersign_core::names::PolicyName;
use serde_json::{Value, json};

use super::{instant, now, relative, text, texts};
use crate::{
    Session,
    args::{KeyRevoke, RingChoice, Rotate},
    client::Client,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::rough,
    target,
};

/// How often a rotation is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `countersign keys list`
pub(crate) async fn list(session: &Session) -> Result<Exit, Failure> {
    let client = target::admin(session)?;
    let policy = target::policy(session, &client, target::ADMIN_POLICIES).await?;
    let body = fetch(&client, &policy).await?;
    let mut table = Table::new(&["RING", "KID", "STATE", "ALG", "AGE", "ACKNOWLEDGED", "NEXT"]).wide(&[
        "CREATED",
        "ACTIVE-SINCE",
        "LAGGING",
    ]);
    let mut names = Vec::new();
    for ring in ["access", "api_key"] {
        for key in body["rings"][ring].as_array().into_iter().flatten() {
            names.push(text(key, "kid").to_owned());
            table.row(row(ring, key, &body));
        }
    }
    let mut human = vec![Block::Table(table)];
    for ring in ["access", "api_key"] {
        let waiting = &body["status"][ring]["waiting"];
        if !text(waiting, "detail").is_empty() {
            human.push(Block::Text(format!("{}: {}", ring_name(ring), printable(text(waiting, "detail")))));
        }
    }
    session.printer.report(&Report { document: body, human, names })?;
    Ok(Exit::Done)
}

fn row(ring: &str, key: &Value, body: &Value) -> Vec<Cell> {
    let now = now();
    let state = text(key, "state");
    let tone = match state {
        "Active" => Tone::Good,
        "Pending" | "Retiring" => Tone::Plain,
        _ => Tone::Bad,
    };
    let age = instant(key, "created_at").map_or_else(String::new, |at| rough(now.since(at)));
    let next = match state {
        "Active" => instant(&body["status"][ring], "next_rotation_at").map(|at| format!("rotates {}", relative(at, now))),
        "Retiring" => instant(key, "removed_at").map(|at| format!("goes {}", relative(at, now))),
        "Pending" => instant(key, "signs_at")
            .map(|at| if at <= now { "signs when acknowledged".into() } else { format!("signs {}", relative(at, now)) }),
        _ => None,
    };
    let acks = &key["verifiers"];
    let held = match (acks["confirmed"].as_u64(), acks["total"].as_u64()) {
        (Some(confirmed), Some(total)) => format!("{confirmed}/{total}"),
        _ => "-".into(),
    };
    let at = |name: &str| instant(key, name).map_or_else(|| "-".into(), |t| t.to_string());
    vec![
        ring_name(ring).into(),
        text(key, "kid").into(),
        Cell::toned(state, tone),
        text(key, "alg").into(),
        age.into(),
        held.into(),
        next.unwrap_or_default().into(),
        at("created_at").into(),
        at("activated_at").into(),
        texts(acks, "lagging").join(",").into(),
    ]
}

fn ring_name(ring: &str) -> &'static str {
    if ring == "access" { "access" } else { "api-key" }
}

async fn fetch(client: &Client, policy: &PolicyName) -> Result<Value, Failure> {
    client.get(&format!("/admin/v1/policies/{policy}/keys")).await?.success()
}

fn active(body: &Value, ring: &str) -> Option<String> {
    let keys = body["rings"][ring].as_array()?;
    keys.iter().find(|k| text(k, "state") == "Active").map(|k| text(k, "kid").to_owned())
}

/// `countersign keys rotate`
pub(crate) async fn rotate(session: &Session, args: &Rotate) -> Result<Exit, Failure> {
    let client = target::admin(session)?;
    let policy = target::policy(session, &client, target::ADMIN_POLICIES).await?;
    target::announce(session, &client, &policy);
    let (word, rings): (_, &[&str]) = match args.ring {
        RingChoice::Access => ("access", &["access"]),
        RingChoice::ApiKey => ("api-key", &["api_key"]),
        RingChoice::All => ("all", &["access", "api_key"]),
    };
    if session.common.dry_run {
        return session.printer.dry_run(&format!("rotate {word} of {policy}"));
    }
    let before = fetch(&client, &policy).await?;
    let path = format!("/admin/v1/policies/{policy}/keys/rotate");
    client.post(&path, &json!({"ring": word}), Duration::ZERO).await?.success()?;
    let started = Instant::now();
    let wait = if args.no_wait { Duration::ZERO } else { args.wait.0 };
    let (after, signing) = loop {
        let after = fetch(&client, &policy).await?;
        let signing = rings.iter().all(|ring| active(&after, ring).is_some_and(|kid| Some(kid) != active(&before, ring)));
        if signing || started.elapsed() >= wait {
            break (after, signing);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let mut human = Vec::new();
    let mut names = Vec::new();
    for ring in rings {
        let kid = active(&after, ring).unwrap_or_default();
        if Some(&kid) == active(&before, ring).as_ref() {
            let why = text(&after["status"][*ring]["waiting"], "detail").to_owned();
            let why = if why.is_empty() { "not yet: `countersign status` says why".to_owned() } else { printable(&why) };
            human.push(Block::Text(format!("{}: {kid} still signs; {why}", ring_name(ring))));
        } else {
            human.push(Block::Text(format!("{}: {kid} signs, after {}", ring_name(ring), rough_ms(started.elapsed()))));
            names.push(kid);
        }
    }
    session.printer.report(&Report { document: after, human, names })?;
    Ok(if signing || args.no_wait { Exit::Done } else { Exit::Unable })
}

fn rough_ms(elapsed: Duration) -> String {
    rough(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// `countersign keys revoke`
pub(crate) async fn revoke(session: &Session, args: &KeyRevoke) -> Result<Exit, Failure> {
    super::revoke::revoke_key(session, args).await
}
