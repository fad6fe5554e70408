//! `fleet`.

use serde_json::Value;

use super::{text, texts};
use crate::{
    Session,
    client::Client,
    cluster::{Cluster, operator::forgetting},
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::rough,
    target::{self, Intent, Target},
};

/// `countersign fleet`
pub(crate) async fn list(session: &Session) -> Result<Exit, Failure> {
    match target::find(session, Intent::Look).await? {
        Target::Server(client) => of_server(session, &client).await,
        Target::Cluster(cluster) => of_cluster(session, &cluster).await,
    }
}

/// `countersign fleet forget`
pub(crate) async fn forget(session: &Session, name: &str) -> Result<Exit, Failure> {
    let cluster = match target::find(session, Intent::Change).await? {
        Target::Server(client) => {
            return Err(Failure::usage(format!("{} waits only for verifiers that are alive", client.address()))
                .fix("only a cluster's operator remembers absent ones; name it with --context"));
        }
        Target::Cluster(cluster) => cluster,
    };
    let shown = printable(name);
    session.printer.remark(&format!("{cluster}, verifier {shown}"));
    if session.common.dry_run {
        return session.printer.dry_run(&format!("no longer wait for {shown}"));
    }
    let answer = cluster.operator_post("/operator/v1/fleet/forget", &forgetting(name)).await?;
    let human = vec![Block::Text(format!("no longer waits for {shown}"))];
    session.printer.report(&Report { document: answer, human, names: vec![name.to_owned()] })?;
    Ok(Exit::Done)
}

async fn of_server(session: &Session, client: &Client) -> Result<Exit, Failure> {
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

async fn of_cluster(session: &Session, cluster: &Cluster) -> Result<Exit, Failure> {
    let body = cluster.operator_get("/operator/v1/fleet").await?;
    let columns = ["VERIFIER", "STATE", "REVISION", "FRESH", "REFUSED", "LAST-ACK"];
    let mut table = Table::new(&columns).wide(&["POSITION", "SCHEMAS", "START"]);
    let mut names = Vec::new();
    for verifier in body["verifiers"].as_array().into_iter().flatten() {
        table.row(row(verifier));
        names.push(text(verifier, "name").to_owned());
    }
    let mut human = vec![Block::Table(table)];
    if names.is_empty() {
        human = vec![Block::Text("no verifier".into())];
    }
    session.printer.report(&Report { document: body, human, names })?;
    Ok(Exit::Done)
}

fn row(verifier: &Value) -> Vec<Cell> {
    let flag = |name: &str| verifier[name] == Value::Bool(true);
    let ago = |name: &str| verifier[name].as_i64().map(|ms| format!("{} ago", rough(ms)));
    let state = match (flag("alive"), text(verifier, "ended")) {
        (true, _) => Cell::toned("alive", Tone::Good),
        (false, "") => {
            Cell::toned(ago("absent_ms").map_or("absent".to_owned(), |ago| format!("absent since {ago}")), Tone::Bad)
        }
        (false, ended) => Cell::toned(ended, Tone::Faint),
    };
    let refused = verifier["refused"].as_array().into_iter().flatten();
    let refused: Vec<String> = refused.map(|r| format!("{} ({})", text(r, "policy"), text(r, "reason"))).collect();
    let fresh = match &verifier["fresh"] {
        Value::Bool(true) => Cell::toned("yes", Tone::Good),
        Value::Bool(false) => Cell::toned("no", Tone::Bad),
        _ => "-".into(),
    };
    let schemas: Vec<String> = verifier["schemas"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let or_none = |name: &str| match &verifier[name] {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "-".to_owned(),
    };
    vec![
        text(verifier, "name").into(),
        state,
        or_none("revision").into(),
        fresh,
        if refused.is_empty() { "-".into() } else { Cell::toned(refused.join(", "), Tone::Bad) },
        ago("acknowledged_ms").map_or_else(|| Cell::toned("never", Tone::Warn), Cell::from),
        or_none("position").into(),
        schemas.join(",").into(),
        or_none("start_id").into(),
    ]
}
