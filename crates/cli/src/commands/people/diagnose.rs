//! `diagnose`: what keeps somebody out. The issuer tells its gates; where a verifier is at hand, it has the last word on a token.

use std::time::Duration;

use serde_json::{Value, json};

use super::{super::text, asking::Asking};
use crate::{
    Session,
    args::Diagnose,
    client::Client,
    credential,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    target::{self, Intent},
};

/// `countersign diagnose`
pub(crate) async fn diagnose(session: &Session, args: &Diagnose) -> Result<Exit, Failure> {
    let token = match &args.token {
        Some(token) => Some(credential::read(session, Some(token))?),
        None => None,
    };
    let asking = Asking::of(session, Intent::Look).await?;
    let question = json!({"token": token, "user_id": args.user_id, "ip": args.ip});
    let mut found = asking.post("diagnose", &question).await?;
    // Of an admin URL nobody knows which verifiers belong to it.
    if let (Some(token), Ok(verifier)) = (&token, target::verifier(session))
        && asking.is_on_a_socket()
    {
        let gate = verdict(&verifier, &asking, token, args).await;
        found["open"] = json!(found["open"] == json!(true) && gate["open"] == json!(true));
        if let Some(gates) = found["gates"].as_array_mut() {
            gates.push(gate);
        }
    }
    let open = found["open"] == json!(true);
    let gates = found["gates"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new(&["", "GATE", "DETAIL"]);
    for gate in gates {
        let (mark, tone) = if gate["open"] == json!(true) { ("open", Tone::Good) } else { ("SHUT", Tone::Bad) };
        let detail = printable(text(gate, "detail"));
        table.row(vec![Cell::toned(mark, tone), text(gate, "gate").into(), detail.into()]);
    }
    let shut: Vec<&Value> = gates.iter().filter(|gate| gate["open"] != json!(true)).collect();
    let mut human = vec![Block::Table(table), Block::Text(String::new())];
    human.extend(shut.iter().map(|gate| {
        let fix = printable(text(gate, "fix"));
        Block::Text(format!("to open \"{}\": {fix}", text(gate, "gate")))
    }));
    if shut.is_empty() {
        human.push(Block::Text("every gate is open".into()));
    }
    let names = shut.iter().map(|gate| text(gate, "gate").to_owned()).collect();
    session.printer.report(&Report { document: found, human, names })?;
    Ok(if open { Exit::Done } else { Exit::No })
}

/// What a verifier says of the token, as a gate among the others.
async fn verdict(verifier: &Client, asking: &Asking, token: &str, args: &Diagnose) -> Value {
    let mut body = json!({"token": token});
    if let Some(ip) = args.ip {
        body["client"] = json!({"ip": ip});
    }
    let policy = asking.policy();
    let answer = verifier.post(&format!("/v1/policies/{policy}/verify"), &body, Duration::ZERO).await;
    let gate = |open: bool, detail: String, fix: String| json!({"gate": "verifier", "open": open, "detail": detail, "fix": (!open).then_some(fix)});
    match answer {
        Err(failure) => gate(false, failure.message, "countersign status".to_owned()),
        Ok(answer) => {
            let (word, detail) = (text(&answer.body, "verdict"), text(&answer.body, "detail"));
            // What a rule wants to see of a request isn't known here.
            let needs = answer.body["missing"].as_array().is_some_and(|missing| !missing.is_empty());
            let said = if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") };
            gate(answer.status == 200 || needs, said, format!("countersign verify --explain --policy {policy} TOKEN"))
        }
    }
}
