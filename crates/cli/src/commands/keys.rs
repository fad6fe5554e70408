//! `keys`.

mod rotate;

use serde_json::Value;

use super::{instant, now, relative, text, texts};
pub(crate) use rotate::rotate;

use crate::{
    Session,
    args::KeyRevoke,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::rough,
    target::{self, Intent},
};

/// `countersign keys list`
pub(crate) async fn list(session: &Session) -> Result<Exit, Failure> {
    let target = target::find(session, Intent::Look).await?;
    let policy = target.policy(session).await?;
    let body = target.keys(&policy).await?;
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
    if human.len() == 1 && !text(&body, "detail").is_empty() {
        human.push(Block::Text(printable(text(&body, "detail"))));
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
        Some(texts(acks, "lagging").join(",")).filter(|names| !names.is_empty()).unwrap_or_else(|| "-".into()).into(),
    ]
}

pub(super) fn ring_name(ring: &str) -> &'static str {
    if ring == "access" { "access" } else { "api-key" }
}

/// `countersign keys revoke`
pub(crate) async fn revoke(session: &Session, args: &KeyRevoke) -> Result<Exit, Failure> {
    super::revoke::revoke_key(session, args).await
}
