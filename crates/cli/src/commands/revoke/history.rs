//! `revoke list`: what was revoked.

use serde_json::{Value, json};

use super::{
    super::{instant, now, people::Asking, relative, text},
    word,
};
use crate::{
    Session,
    args::RevokeList,
    failure::{Exit, Failure},
    output::{Block, Report, Table, printable},
    target::Intent,
};

/// Rows of one call.
const PAGE: usize = 1000;

pub(super) async fn list(session: &Session, asked: &RevokeList) -> Result<Exit, Failure> {
    let asking = Asking::of(session, Intent::Look).await?;
    let (mut rows, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
    while rows.len() < asked.limit {
        let page = asking
            .get(
                "revocations",
                &[
                    ("subject", asked.subject.clone()),
                    ("kind", asked.kind.map(|kind| word(kind).to_owned())),
                    ("limit", Some((asked.limit - rows.len()).min(PAGE).to_string())),
                    ("cursor", cursor.take()),
                ],
            )
            .await?;
        rows.extend(page["revocations"].as_array().into_iter().flatten().cloned());
        match page["next_cursor"].as_i64() {
            Some(next) => cursor = Some(next.to_string()),
            None => break,
        }
    }
    let now = now();
    let when = |row: &Value, name: &str| instant(row, name).map_or_else(|| "-".to_owned(), |at| relative(at, now));
    let mut table =
        Table::new(&["AT", "KIND", "ID", "SUBJECT", "BY", "REASON"]).wide(&["BEFORE", "KEPT-UNTIL", "ISSUER", "POSITION"]);
    for row in &rows {
        table.row(vec![
            when(row, "at").into(),
            text(row, "kind").into(),
            printable(text(row, "id")).into(),
            printable(text(row, "subject")).into(),
            text(row, "source").into(),
            printable(text(row, "reason")).into(),
            when(row, "before").into(),
            when(row, "expires_at").into(),
            printable(text(row, "issuer")).into(),
            text(row, "position").into(),
        ]);
    }
    let names = rows.iter().map(|row| text(row, "id").to_owned()).collect();
    let human = if rows.is_empty() { vec![Block::Text("nothing was revoked".into())] } else { vec![Block::Table(table)] };
    session.printer.report(&Report { document: json!({"revocations": rows}), human, names })?;
    Ok(Exit::Done)
}
