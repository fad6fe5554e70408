//! `sessions`, `api-keys` and `blocks`.

use serde_json::{Value, json};

use super::{
    super::{instant, now, relative, text, texts},
    asking::{Asking, segment},
    in_force, told,
};
use crate::{
    Session,
    args::{ApiKeys, Blocks, Sessions},
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    span::Span,
    target::Intent,
};

fn seconds(span: Option<Span>) -> Option<u64> {
    span.map(|span| span.0.as_secs())
}

fn when(value: &Value, name: &str) -> String {
    instant(value, name).map_or_else(|| "-".to_owned(), |at| relative(at, now()))
}

fn shown(session: &Session, document: Value, list: &str, id: &str, table: Table, none: &str) -> Result<Exit, Failure> {
    let items = document[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = items.iter().map(|item| text(item, id).to_owned()).collect::<Vec<_>>();
    let human = if names.is_empty() { vec![Block::Text(none.to_owned())] } else { vec![Block::Table(table)] };
    session.printer.report(&Report { document, human, names })?;
    Ok(Exit::Done)
}

fn ended(session: &Session, what: &str, answers: &[Value]) -> Result<Exit, Failure> {
    let count: u64 = answers.iter().filter_map(|answer| answer["revoked"].as_u64()).sum();
    let mut human = vec![Block::Text(format!("{count} {what}"))];
    let exit = in_force(answers, &mut human);
    session.printer.report(&Report {
        document: json!({"revoked": count, "answers": answers}),
        human,
        names: Vec::new(),
    })?;
    Ok(exit)
}

/// `countersign sessions …`
pub(crate) async fn sessions(session: &Session, command: Sessions) -> Result<Exit, Failure> {
    match command {
        Sessions::List(of) => {
            let asking = Asking::of(session, Intent::Look).await?;
            let found = asking.get("sessions", &[("subject", Some(of.user))]).await?;
            let mut table = Table::new(&["SESSION", "BEGAN", "LAST-SEEN", "ENDS", "ADDRESS", "DEVICE"]).wide(&["AGENT"]);
            for one in found["sessions"].as_array().into_iter().flatten() {
                table.row(vec![
                    text(one, "session_id").into(),
                    when(one, "created_at").into(),
                    when(one, "last_seen_at").into(),
                    when(one, "expires_at").into(),
                    text(one, "ip").into(),
                    printable(text(one, "device")).into(),
                    printable(text(one, "user_agent")).into(),
                ]);
            }
            shown(session, found, "sessions", "session_id", table, "no session")
        }
        Sessions::End { id, all } => {
            let asking = Asking::of(session, Intent::Change).await?;
            if session.common.dry_run {
                let what = if all { "every session of" } else { "the session" };
                return session.printer.dry_run(&format!("end {what} {}", printable(&id)));
            }
            let answer = if all {
                asking.delete("sessions", &[("subject", Some(id))]).await?
            } else {
                asking.delete(&format!("sessions/{}", segment(&id)), &[]).await?
            };
            ended(session, "sessions ended", &[answer])
        }
    }
}

/// `countersign api-keys …`
pub(crate) async fn api_keys(session: &Session, command: ApiKeys) -> Result<Exit, Failure> {
    match command {
        ApiKeys::List { user } => {
            let asking = Asking::of(session, Intent::Look).await?;
            let found = asking.get("api-keys", &[("subject", user)]).await?;
            let mut table =
                Table::new(&["ID", "NAME", "OWNER", "SCOPES", "EXPIRES", "STATE"]).wide(&["KEY", "CREATED", "LAST-USED"]);
            for key in found["api_keys"].as_array().into_iter().flatten() {
                let over = instant(key, "expires_at").is_some_and(|at| at <= now());
                let state = match (instant(key, "revoked_at"), over) {
                    (Some(_), _) => Cell::toned("revoked", Tone::Bad),
                    (None, true) => Cell::toned("expired", Tone::Warn),
                    (None, false) => Cell::toned("good", Tone::Good),
                };
                table.row(vec![
                    text(key, "id").into(),
                    printable(text(key, "name")).into(),
                    text(key, "owner").into(),
                    texts(key, "scopes").join(",").into(),
                    when(key, "expires_at").into(),
                    state,
                    text(key, "hint").into(),
                    when(key, "created_at").into(),
                    when(key, "last_used_at").into(),
                ]);
            }
            shown(session, found, "api_keys", "id", table, "no API key")
        }
        ApiKeys::Create { user, name, scopes, expires_in } => {
            let asking = Asking::of(session, Intent::Change).await?;
            if session.common.dry_run {
                return session.printer.dry_run(&format!("make an API key of {}", printable(&user)));
            }
            let body = json!({"subject": user, "name": name, "scopes": scopes, "expires_in": seconds(expires_in)});
            let made = asking.post("api-keys", &body).await?;
            session.printer.remark(&format!("id {}; the key is shown this once", text(&made, "id")));
            let human = vec![Block::Text(text(&made, "key").to_owned())];
            let names = vec![text(&made, "id").to_owned()];
            session.printer.report(&Report { document: made, human, names })?;
            Ok(Exit::Done)
        }
        ApiKeys::Revoke { ids } => {
            let asking = Asking::of(session, Intent::Change).await?;
            if session.common.dry_run {
                return session.printer.dry_run(&format!("revoke {} API keys", ids.len()));
            }
            let mut answers = Vec::new();
            for id in &ids {
                answers.push(asking.delete(&format!("api-keys/{}", segment(id)), &[]).await?);
            }
            ended(session, "API keys revoked", &answers)
        }
    }
}

/// `countersign blocks …`
pub(crate) async fn blocks(session: &Session, command: Blocks) -> Result<Exit, Failure> {
    match command {
        Blocks::List => {
            let asking = Asking::of(session, Intent::Look).await?;
            let found = asking.get("blocks", &[]).await?;
            let mut table = Table::new(&["NETWORK", "BY", "SINCE", "ENDS", "REASON"]);
            for block in found["blocks"].as_array().into_iter().flatten() {
                table.row(vec![
                    text(block, "network").into(),
                    text(block, "source").into(),
                    when(block, "created_at").into(),
                    when(block, "expires_at").into(),
                    printable(text(block, "reason")).into(),
                ]);
            }
            shown(session, found, "blocks", "network", table, "nothing is blocked")
        }
        Blocks::Add { network, reason, lasts } => {
            let asking = Asking::of(session, Intent::Change).await?;
            if session.common.dry_run {
                return session.printer.dry_run(&format!("block {}", printable(&network)));
            }
            let body = json!({"network": network, "reason": reason, "ttl_s": seconds(lasts)});
            let made = asking.post("blocks", &body).await?;
            let network = text(&made, "network").to_owned();
            let human = vec![Block::Text(format!("{network} is blocked; that ends {}", when(&made, "expires_at")))];
            told(session, made, human)
        }
        Blocks::Remove { networks } => {
            let asking = Asking::of(session, Intent::Change).await?;
            if session.common.dry_run {
                return session.printer.dry_run(&format!("lift {} blocks", networks.len()));
            }
            let mut answers = Vec::new();
            for network in networks {
                answers.push(asking.delete("blocks", &[("network", Some(network))]).await?);
            }
            ended(session, "blocks lifted", &answers)
        }
    }
}
