//! `audit`.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
};

use serde_json::{Value, json};

use super::{
    super::{instant, now, text},
    asking::Asking,
};
use crate::{
    Session,
    args::{Audit, AuditList},
    failure::{Exit, Failure},
    output::{self, Block, Cell, Report, Table, Tone, printable},
    target::Intent,
};

/// Events of one call.
const PAGE: usize = 1000;
/// How many are shown unless asked otherwise.
const SHOWN: usize = 100;

/// `countersign audit …`
pub(crate) async fn audit(session: &Session, command: Audit) -> Result<Exit, Failure> {
    match command {
        Audit::List(args) if args.jsonl => export(session, &args).await,
        Audit::List(args) => list(session, &args).await,
        Audit::Verify { heads } => verify(session, &heads).await,
    }
}

/// Pages of events, latest first, until `at_most`; each is handed to `take` as it comes.
async fn pages(
    asking: &Asking,
    args: &AuditList,
    at_most: usize,
    mut take: impl FnMut(Vec<Value>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let seconds = |moment: Option<crate::span::Moment>| moment.map(|moment| moment.resolve(now()).as_secs().to_string());
    let (mut cursor, mut left) = (None, at_most);
    while left > 0 {
        let page = asking
            .get(
                "audit",
                &[
                    ("event_type", args.event_type.clone()),
                    ("severity", args.severity.clone()),
                    ("subject", args.subject.clone()),
                    ("ip", args.ip.clone()),
                    ("since", seconds(args.since)),
                    ("until", seconds(args.until)),
                    ("limit", Some(left.min(PAGE).to_string())),
                    ("cursor", cursor.take()),
                ],
            )
            .await?;
        let events = page["events"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(events.len());
        take(events)?;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    Ok(())
}

async fn list(session: &Session, args: &AuditList) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let mut events = Vec::new();
    pages(&asking, args, args.limit.unwrap_or(SHOWN), |page| {
        events.extend(page);
        Ok(())
    })
    .await?;
    let mut table =
        Table::new(&["TIME", "EVENT", "SEVERITY", "SUBJECT", "ADDRESS", "DETAILS"]).wide(&["SESSION", "REQUEST", "AGENT"]);
    for event in &events {
        let severity = text(event, "severity");
        let tone = match severity {
            "CRITICAL" => Tone::Bad,
            "WARNING" => Tone::Warn,
            _ => Tone::Plain,
        };
        table.row(vec![
            instant(event, "at").map_or_else(String::new, |at| at.to_string()).into(),
            text(event, "event_type").into(),
            Cell::toned(severity, tone),
            printable(text(event, "subject")).into(),
            text(event, "ip").into(),
            printable(&event["details"].to_string()).into(),
            text(event, "session_id").into(),
            printable(text(event, "request_id")).into(),
            printable(text(event, "user_agent")).into(),
        ]);
    }
    let names = events.iter().map(|event| event["id"].to_string()).collect();
    let human = if events.is_empty() { vec![Block::Text("no event".into())] } else { vec![Block::Table(table)] };
    session.printer.report(&Report { document: json!({"events": events}), human, names })?;
    Ok(Exit::Done)
}

async fn export(session: &Session, args: &AuditList) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let lines = |events: Vec<Value>| {
        events.iter().fold(String::new(), |mut lines, event| {
            let _ = writeln!(lines, "{event}");
            lines
        })
    };
    let at_most = args.limit.unwrap_or(usize::MAX);
    let Some(path) = &args.to else {
        pages(&asking, args, at_most, |events| output::write_out(&lines(events))).await?;
        return Ok(Exit::Done);
    };
    let failed = |error: std::io::Error| Failure::unable(format!("{}: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut file = BufWriter::new(file);
    let mut count = 0;
    pages(&asking, args, at_most, |events| {
        count += events.len();
        file.write_all(lines(events).as_bytes()).map_err(failed)
    })
    .await?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    session.printer.remark(&format!("{count} events written to {}", path.display()));
    Ok(Exit::Done)
}

async fn verify(session: &Session, heads: &[String]) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let mut from = Value::Null;
    // A part at a time, each from where the one before ended.
    let found = loop {
        let mut found = asking.post("audit/verify", &json!({"heads": heads, "from": from})).await?;
        match found.as_object_mut().and_then(|members| members.remove("next")) {
            Some(next @ Value::String(_)) => from = next,
            _ => break found,
        }
    };
    let intact = found["intact"] == Value::Bool(true);
    let line = if intact {
        format!("the chain is whole: {} events, its end is {}:{}", found["place"], found["place"], text(&found, "hash"))
    } else {
        format!("the chain is broken: {}", printable(text(&found, "detail")))
    };
    let human = vec![Block::Text(line)];
    session.printer.report(&Report { document: found, human, names: Vec::new() })?;
    Ok(if intact { Exit::Done } else { Exit::No })
}
