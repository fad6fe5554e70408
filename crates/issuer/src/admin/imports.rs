//! `imports`: accounts from another schema, row by row. The command line reads the rows and maps them; what is taken over is
//! decided here, where passwords, names, roles and sealing keys are known, and in transactions that hold beside everything else
//! that issuers do meanwhile.
//!
//! An import has a name. What it made of each row is remembered under it, so that the same rows may come again, after a crash or
//! a correction, and none is brought twice.

mod comparing;
mod judging;
pub(super) mod undoing;

use axum::{Json, extract::Path};
use countersign_core::time::UnixMillis;
use countersign_store::{Failure as _, Import, StoreError, Tx, transact};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use self::judging::{Arrival, Row, check_key, judge};
use super::{Content, administered::Administered, body_of};
use crate::{
    audit::EventKind,
    call::Call,
    openapi::shapes,
    problem::{Failed, Problem},
    second_factor,
};

/// The most rows of one call: so many are brought in one transaction.
const MAX_ROWS: usize = 100;
/// The longest name of an import, and of where it reads from, bytes.
const MAX_NAME: usize = 63;
const MAX_SOURCE: usize = 256;
/// How often rows are judged anew when somebody took a name of theirs meanwhile.
const ATTEMPTS: usize = 3;

/// The import that a path names.
#[derive(Deserialize)]
pub(super) struct OfImport {
    import: String,
}

impl OfImport {
    fn name(&self) -> Result<&str, Problem> {
        let name = self.import.as_str();
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(good) {
            let detail = format!("an import's name has 1 to {MAX_NAME} lower-case letters, digits and hyphens");
            return Err(Problem::validation(detail));
        }
        Ok(name)
    }
}

/// What is to be done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ImportMode)]
enum Mode {
    /// Nothing: what would be?
    Plan,
    /// Bring them.
    Run,
    /// Nothing: are they here as they are there?
    Verify,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportRequest)]
struct Batch {
    mode: Mode,
    source: String,
    rows: Vec<Row>,
    /// With `run`: these were the last.
    #[serde(default)]
    finished: bool,
}

/// What became of a row, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum Outcome {
    /// It would be brought.
    New,
    /// It was, now.
    Imported { id: String },
    /// It was before.
    Present { id: String },
    /// It was before, and its account was erased since.
    Erased { id: String },
    /// It can't be.
    Rejected { reason: String },
    /// It is here as it is there.
    Same { id: String },
    /// It is not, and its account was used or changed here.
    Changed { id: String, fields: Vec<&'static str> },
    /// It is not, though nobody touched its account here.
    Differs { id: String, fields: Vec<&'static str> },
    /// It was never brought.
    Missing,
}

#[utoipa::path(
    get,
    path = "/imports/{import}",
    tag = "administration",
    summary = "Show an import",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The import", body = shapes::administration::Import),
        (status = 422, description = "No import is called so"),
    )
)]
pub(super) async fn show(asking: Administered, Path(of): Path<OfImport>) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let name = of.name()?;
    let import = call.store().import(&call.policy.name, name).await?;
    let import = import.ok_or_else(|| Problem::not_found("there is no such import"))?;
    let brought = call.store().count_imported(&call.policy.name, name).await?;
    Ok(Json(json!({
        "name": import.name,
        "source": import.source,
        "begun_at": import.begun.as_secs(),
        "finished_at": import.finished.map(UnixMillis::as_secs),
        "rows": brought,
    })))
}

#[utoipa::path(
    post,
    path = "/imports/{import}/rows",
    tag = "administration",
    summary = "Bring accounts from another schema",
    description = "At most 100 rows, all of them in one transaction or none. The same rows may come again: none is brought \
        twice. `plan` and `verify` change nothing.",
    request_body = Batch,
    security(("bearer" = [])),
    responses((status = 200, description = "What became of each row", body = shapes::administration::Imported))
)]
pub(super) async fn rows(
    asking: Administered,
    Path(of): Path<OfImport>,
    Content(bytes): Content,
) -> Result<Json<Value>, Failed> {
    let name = of.name()?;
    let batch: Batch = body_of(&bytes)?;
    if batch.rows.len() > MAX_ROWS {
        return Err(Problem::validation(format!("rows: at most {MAX_ROWS} at once")).into());
    }
    if batch.source.len() > MAX_SOURCE || batch.source.chars().any(char::is_control) {
        let detail = format!("source has at most {MAX_SOURCE} bytes and no control characters");
        return Err(Problem::validation(detail).into());
    }
    batch.rows.iter().try_for_each(check_key)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match settle(&asking, name, &batch).await {
            // Somebody registered with that name in this moment: now it is seen.
            Err(failed) if attempts < ATTEMPTS && matches!(failed.of_store(), Some(StoreError::Taken(_))) => {}
            settled => return settled.map(Json),
        }
    }
}

/// Settles a batch in one transaction: all of it, or nothing.
async fn settle(asking: &Administered, name: &str, batch: &Batch) -> Result<Value, Failed> {
    let call = &asking.0;
    let run = batch.mode == Mode::Run;
    let results = transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        if run {
            let import = Import {
                policy: call.policy.name.clone(),
                name: name.to_owned(),
                source: batch.source.clone(),
                begun: now,
                finished: None,
            };
            if tx.begin_import(&import).await? {
                let event = asking.action("begin import").detail("import", name);
                event.detail("source", batch.source.as_str()).write(tx, now).await?;
            }
        }
        let mut results = Vec::new();
        for row in &batch.rows {
            let outcome = outcome(tx, call, name, batch.mode, row, now).await?;
            let mut told = serde_json::to_value(&outcome).map_err(|error| Problem::internal(&error))?;
            told["key"] = json!(row.key);
            results.push(told);
        }
        if run && batch.finished && tx.finish_import(&call.policy.name, name, now).await? {
            asking.action("finish import").detail("import", name).write(tx, now).await?;
        }
        Ok(results)
    })?;
    Ok(json!({"results": results}))
}

async fn outcome(
    tx: &mut Tx,
    call: &Call,
    import: &str,
    mode: Mode,
    row: &Row,
    now: UnixMillis,
) -> Result<Outcome, Failed> {
    let policy = &call.policy.name;
    let judged = judge(call, import, row, now)?;
    if let Some(brought) = tx.imported_user(policy, import, &row.key).await? {
        return match (tx.user(policy, &brought.user).await?, mode, judged) {
            (None, ..) => Ok(Outcome::Erased { id: brought.user }),
            (Some(_), Mode::Plan | Mode::Run, _) => Ok(Outcome::Present { id: brought.user }),
            (Some(_), Mode::Verify, Err(reason)) => Ok(Outcome::Rejected { reason }),
            (Some(user), Mode::Verify, Ok(arrival)) => comparing::compare(tx, call, &brought, user, arrival).await,
        };
    }
    let arrival = match judged {
        Ok(arrival) => arrival,
        Err(reason) => return Ok(Outcome::Rejected { reason }),
    };
    if mode == Mode::Verify {
        return Ok(Outcome::Missing);
    }
    tx.lock_subject(policy, &arrival.user.id).await?;
    if let Some(reason) = taken(tx, &arrival).await? {
        return Ok(Outcome::Rejected { reason });
    }
    if mode == Mode::Plan {
        return Ok(Outcome::New);
    }
    bring(tx, call, import, &row.key, &arrival, now).await?;
    Ok(Outcome::Imported { id: arrival.user.id })
}

/// What of a row is another account's already.
async fn taken(tx: &mut Tx, arrival: &Arrival) -> Result<Option<String>, StoreError> {
    let user = &arrival.user;
    if tx.user(&user.policy, &user.id).await?.is_some() {
        return Ok(Some("id: there is an account of that id, which this import did not bring".into()));
    }
    let username = user.username.as_ref().map(|name| name.folded.as_str());
    let email = user.email.as_ref().map(|email| email.folded.as_str());
    let (name_taken, address_taken) = tx.names_taken(&user.policy, &user.id, username, email).await?;
    if name_taken {
        return Ok(Some("username: another account has it".into()));
    }
    if address_taken {
        return Ok(Some("email: another account has it".into()));
    }
    for key in &arrival.api_keys {
        if tx.api_key(&user.policy, &key.id).await?.is_some() {
            return Ok(Some(format!("api_keys: the one of {} is there already", key.hint)));
        }
    }
    Ok(None)
}

async fn bring(
    tx: &mut Tx,
    call: &Call,
    import: &str,
    row_key: &str,
    arrival: &Arrival,
    now: UnixMillis,
) -> Result<(), Failed> {
    let Arrival { user, password, totp, api_keys } = arrival;
    tx.insert_user(user).await?;
    if let Some(hash) = password {
        tx.set_password(&user.policy, &user.id, hash, None, 0, now).await?;
    }
    if let Some(secret) = totp {
        second_factor::bring(tx, call, &user.id, secret, now).await?;
    }
    for key in api_keys {
        tx.insert_api_key(key).await?;
    }
    tx.record_imported_user(&user.policy, import, row_key, &user.id).await?;
    let event = call.event(EventKind::UserCreated).subject(&user.id).detail("by", "administrator");
    event.detail("import", import).write(tx, now).await?;
    Ok(())
}
