//! `status` and `fleet`.

use serde_json::Value;

use super::{text, texts};
use crate::{
    Session,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::rough,
    target,
};

/// `countersign status`
pub(crate) async fn status(session: &Session) -> Result<Exit, Failure> {
    let client = target::admin(session)?;
    let body = client.get("/admin/v1/status").await?.success()?;
    let mut human = Vec::new();
    let paint = |ok: bool, good: &str, bad: &str| {
        if ok { session.printer.paint(good, Tone::Good) } else { session.printer.paint(bad, Tone::Bad) }
    };
    let feed = &body["feed"];
    let fresh = feed["fresh"] == Value::Bool(true);
    human.push(Block::Text(format!("countersign {} at {}", text(&body, "version"), client.address())));
    let mut feed_line = format!("feed     {}, {}", paint(fresh, "fresh", "NOT FRESH"), printable(text(feed, "server")));
    if !text(feed, "position").is_empty() {
        feed_line.extend([", position ", text(feed, "position")]);
    }
    if let Some(pending) = feed["outbox_pending"].as_u64().filter(|n| *n > 0) {
        feed_line.extend([", ", &pending.to_string(), " revocations not yet published"]);
    }
    if !text(feed, "problem").is_empty() {
        feed_line.extend(["\n         ", &printable(text(feed, "problem"))]);
    }
    human.push(Block::Text(feed_line));
    let fleet = match body["verifiers"].as_array().map(Vec::len) {
        Some(1) => "1 verifier".to_owned(),
        Some(number) => format!("{number} verifiers"),
        None => paint(false, "", "unknown") + ": the feed server tells who verifies",
    };
    human.push(Block::Text(format!("fleet    {fleet}")));
    let mut table = Table::new(&["POLICY", "READY", "ENFORCED", "ACCESS-KEY", "API-KEY", "REVOCATIONS", "NOTE"])
        .wide(&["GENERATION", "ISSUER"]);
    let mut names = Vec::new();
    for policy in body["policies"].as_array().into_iter().flatten() {
        names.push(text(policy, "policy").to_owned());
        table.row(policy_row(policy));
    }
    human.push(Block::Text(String::new()));
    human.push(Block::Table(table));
    let problems = texts(&body, "problems");
    for problem in &problems {
        human.push(Block::Text(format!(
            "{} {}",
            session.printer.paint("!", Tone::Warn),
            printable(problem).replace("\\u{a}", "\n  ")
        )));
    }
    let healthy = body["healthy"] == Value::Bool(true);
    session.printer.report(&Report { document: body, human, names })?;
    Ok(if healthy { Exit::Done } else { Exit::No })
}

fn policy_row(policy: &Value) -> Vec<Cell> {
    let ready = policy["ready"] == Value::Bool(true);
    let key = |ring: &str| match text(&policy["keys"][ring], "phase") {
        "" => "-".to_owned(),
        phase => phase.to_owned(),
    };
    let verifiers = &policy["verifiers"];
    let enforced = match (verifiers["confirmed"].as_u64(), verifiers["total"].as_u64()) {
        (Some(confirmed), Some(total)) => format!("{confirmed}/{total}"),
        _ => "-".into(),
    };
    let note = match policy["default"] == Value::Bool(true) {
        _ if policy["problem"] == Value::Bool(true) => "last good version serves; see below",
        true => "default",
        false => "",
    };
    vec![
        text(policy, "policy").into(),
        if ready { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) },
        enforced.into(),
        key("access").into(),
        key("api_key").into(),
        policy["revocations"].as_u64().map_or_else(String::new, |n| n.to_string()).into(),
        note.into(),
        policy["generation"].as_u64().map_or_else(String::new, |n| n.to_string()).into(),
        text(policy, "issuer").into(),
    ]
}

/// `countersign fleet`
pub(crate) async fn fleet(session: &Session) -> Result<Exit, Failure> {
    let client = target::admin(session)?;
    let body = client.get("/admin/v1/fleet").await?.success()?;
    let mut table = Table::new(&["VERIFIER", "POSITION", "POLICIES", "BEHIND", "REFUSED"]).wide(&["SCHEMAS", "START"]);
    let mut names = Vec::new();
    for verifier in body["verifiers"].as_array().into_iter().flatten() {
        let refused = verifier["refused"].as_array().into_iter().flatten();
        let refused: Vec<String> = refused.map(|r| format!("{} ({})", text(r, "policy"), text(r, "reason"))).collect();
        let behind = texts(verifier, "behind");
        let held = verifier["generations"].as_object().map_or(0, serde_json::Map::len);
        let acked = verifier["acknowledged"] == Value::Bool(true);
        let schemas: Vec<String> = verifier["schemas"].as_array().into_iter().flatten().map(Value::to_string).collect();
        table.row(vec![
            text(verifier, "name").into(),
            text(verifier, "position").into(),
            if acked { held.to_string().into() } else { Cell::toned("no acknowledgement yet", Tone::Warn) },
            if behind.is_empty() { "-".into() } else { Cell::toned(behind.join(","), Tone::Warn) },
            if refused.is_empty() { "-".into() } else { Cell::toned(refused.join(","), Tone::Bad) },
            schemas.join(",").into(),
            text(verifier, "start_id").into(),
        ]);
        names.push(text(verifier, "name").to_owned());
    }
    let mut human = vec![Block::Table(table)];
    if let Some(ms) = body["feed_age_ms"].as_i64().filter(|ms| *ms > 5000) {
        human.push(Block::Text(format!("the feed was last reached {} ago", rough(ms))));
    }
    session.printer.report(&Report { document: body, human, names })?;
    Ok(Exit::Done)
}
