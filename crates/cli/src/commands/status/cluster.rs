//! `status` of a cluster: the operator, the feed, the fleet, the policies.

use serde_json::{Value, json};

use crate::{
    Session,
    cluster::{
        Cluster,
        overview::{Leader, Overview, PolicyState},
    },
    commands::{instant, now, relative, text},
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::rough,
};

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Good,
    /// It could not be looked at.
    Unknown,
    Bad,
}

/// A part in a line.
struct Part {
    health: Health,
    line: String,
}

/// `countersign status` on a cluster
pub(super) async fn status(session: &Session, cluster: &Cluster) -> Result<Exit, Failure> {
    let overview = Box::pin(cluster.overview(session.common.namespace.as_deref())).await?;
    let parts = [("operator", leader(&overview)), ("feed", feed(&overview)), ("fleet", fleet(&overview))];
    let mut human = vec![Block::Text(format!("countersign on {cluster}"))];
    for (name, part) in &parts {
        let tone = match part.health {
            Health::Good => Tone::Good,
            Health::Unknown => Tone::Warn,
            Health::Bad => Tone::Bad,
        };
        let (word, rest) = part.line.split_once(' ').unwrap_or((&part.line, ""));
        let word = session.printer.paint(word, tone);
        human.push(Block::Text(format!("{name:<9} {word} {}", printable(rest)).trim_end().to_owned()));
    }
    let of = |policy: &PolicyState| policy.problems.iter().map(|p| format!("{}: {p}", policy.name)).collect::<Vec<_>>();
    let problems: Vec<String> = overview.policies.iter().flat_map(of).collect();
    human.push(Block::Text(String::new()));
    match (overview.policies.is_empty(), &overview.namespace) {
        (true, None) => human.push(Block::Text("no AuthPolicy".into())),
        (true, Some(namespace)) => human.push(Block::Text(format!("no AuthPolicy in namespace {namespace}"))),
        (false, _) => human.push(Block::Table(table(&overview.policies))),
    }
    for problem in &problems {
        human.push(Block::Text(format!("{} {}", session.printer.paint("!", Tone::Warn), printable(problem))));
    }
    let of_policies = if overview.policies.iter().all(PolicyState::healthy) { Health::Good } else { Health::Bad };
    let health = parts.iter().map(|(_, part)| part.health).max().unwrap_or(Health::Good).max(of_policies);
    let document = json!({
        "cluster": cluster.to_string(),
        "healthy": match health { Health::Good => json!(true), Health::Bad => json!(false), Health::Unknown => Value::Null },
        "leader": overview.leader.as_ref().ok().and_then(Option::as_ref).map(leader_document),
        "operator": overview.operator.as_ref().ok(),
        "policies": overview.policies.iter().map(PolicyState::document).collect::<Vec<_>>(),
        "problems": problems,
    });
    let names = overview.policies.iter().map(|policy| policy.name.clone()).collect();
    session.printer.report(&Report { document, human, names })?;
    Ok(match health {
        Health::Good => Exit::Done,
        Health::Bad => Exit::No,
        Health::Unknown => Exit::Unable,
    })
}

fn leader_document(leader: &Leader) -> Value {
    json!({"name": leader.name, "leads": leader.leads(), "leads_ms": leader.leads_ms, "renewed_ms": leader.renewed_ms})
}

fn unknown(failure: &Failure) -> Part {
    let fix = failure.fix.as_ref().map_or_else(String::new, |fix| format!("; {fix}"));
    Part { health: Health::Unknown, line: format!("unknown: {}{fix}", failure.message) }
}

fn leader(overview: &Overview) -> Part {
    match &overview.leader {
        // Who may not look at the Lease still hears who leads from the operator that answers.
        Err(failure) => match overview.operator.as_ref().map(|said| text(said, "leader")) {
            Ok(name) if !name.is_empty() => Part { health: Health::Good, line: format!("leads: {name}, by its own word") },
            _ => unknown(failure),
        },
        Ok(Some(leader)) if leader.leads() => {
            let (leads, renewed) = (rough(leader.leads_ms), rough(leader.renewed_ms));
            Part { health: Health::Good, line: format!("leads: {} for {leads}, renewed {renewed} ago", leader.name) }
        }
        Ok(Some(leader)) if !leader.name.is_empty() => {
            let line = format!("GONE: {} led, and was last heard of {} ago", leader.name, rough(leader.renewed_ms));
            Part { health: Health::Bad, line }
        }
        Ok(_) => Part { health: Health::Bad, line: "NONE: no operator leads".into() },
    }
}

fn feed(overview: &Overview) -> Part {
    let feed = match &overview.operator {
        Err(failure) => return unknown(failure),
        Ok(said) => &said["feed"],
    };
    let fresh = feed["fresh"] == Value::Bool(true);
    let mut line = String::from(if fresh { "fresh" } else { "NOT-FRESH" });
    if let Some(epoch) = feed["epoch"].as_u64() {
        line.extend([", epoch ", &epoch.to_string()]);
        if feed["seeded"] == Value::Bool(false) {
            line.push_str(", being seeded");
        }
    }
    if !text(feed, "problem").is_empty() {
        line.extend([", ", text(feed, "problem")]);
    }
    Part { health: if fresh { Health::Good } else { Health::Bad }, line }
}

fn fleet(overview: &Overview) -> Part {
    let fleet = match &overview.operator {
        Err(_) => return Part { health: Health::Unknown, line: "unknown: the operator tells who verifies".into() },
        Ok(said) => &said["verifiers"],
    };
    let number = |name: &str| fleet[name].as_u64().unwrap_or(0);
    match (number("known"), number("alive")) {
        (0, _) => Part { health: Health::Bad, line: "none: no verifier runs".into() },
        (known, alive) => {
            let health = if alive >= known { Health::Good } else { Health::Bad };
            Part { health, line: format!("{alive} of {known} verifiers are alive") }
        }
    }
}

fn table(policies: &[PolicyState]) -> Table {
    let columns = ["POLICY", "READY", "ENFORCED", "VERIFIERS", "ACCESS-KEY", "NEXT-ROTATION"];
    let mut table = Table::new(&columns).wide(&["GENERATION", "ISSUER"]);
    let status = |status: &str| {
        let tone = match status {
            "True" => Tone::Good,
            "False" => Tone::Bad,
            _ => Tone::Warn,
        };
        Cell::toned(status, tone)
    };
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for policy in policies {
        let access = &policy.keys["access"];
        let next = instant(access, "next_rotation_at").map_or_else(|| "-".to_owned(), |at| relative(at, now()));
        let held = match (policy.verifiers["confirmed"].as_u64(), policy.verifiers["total"].as_u64()) {
            (Some(confirmed), Some(total)) if total > 0 => format!("{confirmed}/{total}"),
            _ => "-".to_owned(),
        };
        table.row(vec![
            policy.name.clone().into(),
            status(&policy.ready),
            status(&policy.enforced),
            held.into(),
            or_none(text(access, "active_kid")).into(),
            next.into(),
            policy.generation.to_string().into(),
            or_none(&policy.issuer).into(),
        ]);
    }
    table
}
