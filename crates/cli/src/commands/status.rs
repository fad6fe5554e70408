//! `status`.

mod cluster;

use countersign_core::names::PolicyName;
use serde_json::Value;

use super::{text, texts};
use crate::{
    Session,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    target::{self, Intent, Target},
};

/// `countersign status`
pub(crate) async fn status(session: &Session) -> Result<Exit, Failure> {
    let client = match target::find(session, Intent::Look).await? {
        Target::Server(client) => client,
        Target::Cluster(cluster) => return cluster::status(session, &cluster).await,
    };
    let mut body = client.get("/admin/v1/status").await?.success()?;
    if let Some(policy) = target::named_policy(&session.common)? {
        only_of(&mut body, &policy)?;
    }
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

/// Leaves of a status what concerns one policy: it alone decides, with the feed, whether all is well.
fn only_of(body: &mut Value, policy: &PolicyName) -> Result<(), Failure> {
    let names = target::policies_of(body);
    let Some(all) = body["policies"].as_array_mut() else { return Ok(()) };
    all.retain(|shown| text(shown, "policy") == policy.as_str());
    let Some(shown) = all.first() else { return Err(target::unknown_policy(policy, &names)) };
    let well = shown["ready"] == Value::Bool(true) && shown["problem"] != Value::Bool(true);
    body["healthy"] = Value::Bool(well && body["feed"]["fresh"] == Value::Bool(true));
    Ok(())
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
