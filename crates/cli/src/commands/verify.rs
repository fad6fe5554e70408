//! `verify` and `validate-token`: the verifier's verdict, and why.

mod explain;

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{instant, now, relative, text, texts};
use crate::{
    Session,
    args::Demands,
    client::{Answer, Client},
    credential,
    failure::{Exit, Failure},
    output::{Block, Report, Tone, printable},
    target,
};

/// `countersign verify`
pub(crate) async fn verify(
    session: &Session,
    token: Option<&str>,
    demands: &Demands,
    explain: bool,
) -> Result<Exit, Failure> {
    let token = credential::read(session, token)?;
    let client = target::verifier(session)?;
    let policy = target::policy(session, &client, target::VERIFIER_POLICIES).await?;
    let answer = client.post(&format!("/v1/policies/{policy}/verify"), &request(&token, demands), Duration::ZERO).await?;
    let verdict = text(&answer.body, "verdict").to_owned();
    if verdict.is_empty() {
        return Err(no_verdict(&client, &answer));
    }
    let exit = match answer.status {
        200 => Exit::Done,
        401 | 403 => Exit::No,
        _ => Exit::Unable,
    };
    let mut document = answer.body.clone();
    let mut human = vec![Block::Text(sentence(session, &answer))];
    if explain {
        let steps = explain::steps(&token, &answer, &explain::facts(&client, policy.as_str()).await);
        human.insert(0, Block::Table(explain::table(&steps)));
        document["policy"] = json!(policy);
        document["steps"] = json!(steps);
    }
    session.printer.report(&Report { document, human, names: vec![verdict] })?;
    Ok(exit)
}

fn request(token: &str, demands: &Demands) -> Value {
    let mut request = json!({"token": token});
    let mut require = Map::new();
    for (name, wanted) in [("permissions", &demands.permissions), ("roles", &demands.roles), ("scopes", &demands.scopes)] {
        if !wanted.is_empty() {
            require.insert(name.into(), json!(wanted));
        }
    }
    if let Some(audience) = &demands.audience {
        require.insert("audience".into(), json!(audience));
    }
    let pick = |pairs: &[(&str, &Option<String>)]| {
        let there = pairs.iter().filter_map(|(name, value)| value.as_ref().map(|v| ((*name).to_owned(), json!(v))));
        there.collect::<Map<_, _>>()
    };
    let about = pick(&[("method", &demands.method), ("path", &demands.path), ("host", &demands.host)]);
    let who = pick(&[("ip", &demands.ip)]);
    for (name, part) in [("require", require), ("request", about), ("client", who)] {
        if !part.is_empty() {
            request[name] = Value::Object(part);
        }
    }
    if let Some(position) = &demands.min_position {
        request["min_position"] = json!(position);
    }
    request
}

fn no_verdict(client: &Client, answer: &Answer) -> Failure {
    let failure = answer.failure();
    if answer.status == 404 && answer.body.get("error").is_none() {
        return Failure::unable(format!("{} is no verifier", client.address()))
            .fix("name a verifier's socket or URL with --server, for example http://127.0.0.1:7480");
    }
    failure
}

/// The verdict in one line, or a few.
fn sentence(session: &Session, answer: &Answer) -> String {
    let body = &answer.body;
    let verdict = text(body, "verdict");
    let paint = |word: &str, tone| session.printer.paint(word, tone);
    if answer.status != 200 {
        let tone = if answer.status == 403 { Tone::Warn } else { Tone::Bad };
        let mut line = format!("{}: {}", paint(verdict, tone), printable(text(body, "detail")));
        for name in ["reason", "rule"] {
            if !text(body, name).is_empty() {
                line.extend([" (", name, " ", &printable(text(body, name)), ")"]);
            }
        }
        return line;
    }
    let mut line = format!("{}: ", paint(verdict, Tone::Good));
    line.extend([text(body, "kind"), " for ", &printable(text(body, "subject"))]);
    if let Some(expires) = instant(body, "expires_at") {
        line.extend([", expires ", &relative(expires, now())]);
    }
    for (name, label) in [("roles", "roles"), ("permissions", "permissions"), ("scopes", "scopes")] {
        let held = texts(body, name);
        if !held.is_empty() {
            line.extend(["\n  ", label, ": ", &printable(&held.join(" "))]);
        }
    }
    if body.get("stale") == Some(&Value::Bool(true)) {
        let remark = paint("revocations are older than the policy's bound; it allows that", Tone::Warn);
        line.extend(["\n  ", &remark]);
    }
    line
}
