//! `fleet`.

use countersign_core::names::PolicyName;
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
    let mut body = client.get("/admin/v1/fleet").await?.success()?;
    if let Some(policy) = target::named_policy(&session.common)? {
        let names = target::policies_of(&client.get(target::ADMIN_POLICIES).await?.success()?);
        if !names.contains(&policy) {
            return Err(target::unknown_policy(&policy, &names));
        }
        only_of(&mut body, &policy);
    }
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

/// Leaves of what verifiers hold, lack and refuse what concerns one policy.
fn only_of(body: &mut Value, policy: &PolicyName) {
    for verifier in body["verifiers"].as_array_mut().into_iter().flatten() {
        if let Some(held) = verifier["generations"].as_object_mut() {
            held.retain(|name, _| name == policy.as_str());
        }
        if let Some(behind) = verifier["behind"].as_array_mut() {
            behind.retain(|name| name == policy.as_str());
        }
        if let Some(refused) = verifier["refused"].as_array_mut() {
            refused.retain(|refused| text(refused, "policy") == policy.as_str());
        }
    }
}

async fn of_cluster(session: &Session, cluster: &Cluster) -> Result<Exit, Failure> {
    let body = cluster.operator_get("/operator/v1/fleet").await?;
    let columns = ["VERIFIER", "WHERE", "STATE", "GENERATION", "ACKNOWLEDGED", "BEHIND", "FEED", "REFUSED"];
    let mut table = Table::new(&columns).wide(&["REVISION", "SCHEMAS", "START"]);
    let now = body["now"].as_i64();
    let reached = body["reached"] != Value::Bool(false);
    let mut names = Vec::new();
    for verifier in body["verifiers"].as_array().into_iter().flatten() {
        table.row(row(verifier, now, reached));
        names.push(text(verifier, "name").to_owned());
    }
    let mut human = vec![Block::Table(table)];
    if names.is_empty() {
        human = vec![Block::Text("no verifier".into())];
    }
    if let Some(ms) = body["feed"]["age_ms"].as_i64().filter(|ms| *ms > 5000) {
        human.push(Block::Text(format!("the operator last reached the feed {} ago", rough(ms))));
    }
    if !reached {
        session.printer.warn("the operator does not reach the feed: who is alive, and what they hold, isn't known");
    }
    session.printer.report(&Report { document: body, human, names })?;
    Ok(Exit::Done)
}

/// A verifier, as the operator knows of it by the API server and, as long as it is `reached`, by the feed.
fn row(verifier: &Value, now: Option<i64>, reached: bool) -> Vec<Cell> {
    let is = |name: &str| verifier[name] == Value::Bool(true);
    let state = match (is("alive"), text(verifier, "ended"), verifier["absent_ms"].as_i64()) {
        (_, "", _) if !reached => Cell::toned("unknown", Tone::Warn),
        (true, ..) => Cell::toned("alive", Tone::Good),
        (false, "", Some(ms)) => Cell::toned(format!("absent for {}", rough(ms)), Tone::Bad),
        (false, "", None) => Cell::toned("absent", Tone::Bad),
        (false, ended, _) => Cell::toned(ended, Tone::Faint),
    };
    let refused = verifier["refused"].as_array().into_iter().flatten();
    let refused: Vec<String> = refused.map(refusal).collect();
    let schemas: Vec<String> = verifier["schemas"].as_array().into_iter().flatten().map(Value::to_string).collect();
    vec![
        text(verifier, "name").into(),
        if is("pod") { "pod".into() } else { "outside".into() },
        state,
        verifier["generation"].as_u64().map_or_else(|| "-".to_owned(), |generation| generation.to_string()).into(),
        if reached { acknowledged(verifier, now) } else { "?".into() },
        match verifier["behind"].as_u64() {
            Some(0) => "-".into(),
            Some(1) => Cell::toned("1 policy", Tone::Warn),
            Some(many) => Cell::toned(format!("{many} policies"), Tone::Warn),
            None => "?".into(),
        },
        match (verifier["feed_behind"].as_u64(), text(verifier, "feed_position")) {
            (_, "") if is("alive") => Cell::toned("never", Tone::Warn),
            (_, "") => "-".into(),
            (Some(0), _) => Cell::toned("up to date", Tone::Good),
            (Some(behind), _) => Cell::toned(format!("{behind} behind"), Tone::Warn),
            (None, _) => Cell::toned("another epoch", Tone::Warn),
        },
        if refused.is_empty() { "-".into() } else { Cell::toned(refused.join(", "), Tone::Bad) },
        text(verifier, "revision").into(),
        schemas.join(",").into(),
        text(verifier, "start_id").into(),
    ]
}

/// Since when it has said what it says, as far as that counts.
fn acknowledged(verifier: &Value, now: Option<i64>) -> Cell {
    match (verifier["acknowledged_at"].as_i64().zip(now), &verifier["counts"]) {
        _ if text(verifier, "revision").is_empty() => Cell::toned("never", Tone::Warn),
        (_, Value::Bool(false)) => Cell::toned("of another history", Tone::Warn),
        (Some((at, now)), _) => format!("{} ago", rough(now.saturating_sub(at).saturating_mul(1000))).into(),
        (None, _) => "yes".into(),
    }
}

fn refusal(refused: &Value) -> String {
    let held = refused["held"].as_u64().map_or_else(|| "holds none".to_owned(), |held| format!("holds {held}"));
    format!("{} ({}, {held})", text(refused, "policy"), text(refused, "reason"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn out_of_reach_of_the_feed_nothing_is_said_of_a_verifier_that_only_the_feed_knows() {
        let verifier = json!({"name": "v", "pod": true, "alive": false, "ended": null, "absent_ms": 0});
        let (away, lost) = (row(&verifier, Some(60), false), row(&verifier, Some(60), true));
        assert_eq!((&away[2], &away[4]), (&Cell::toned("unknown", Tone::Warn), &Cell::from("?")));
        assert_eq!((&lost[2], &lost[4]), (&Cell::toned("absent for 0ms", Tone::Bad), &Cell::toned("never", Tone::Warn)));

        // Of one that has ended the API server tells.
        let ended = json!({"name": "v", "pod": true, "alive": false, "ended": "its node is deleted", "absent_ms": 0});
        assert_eq!(row(&ended, Some(60), false)[2], Cell::toned("its node is deleted", Tone::Faint));
    }
}
