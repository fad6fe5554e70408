//! Taking an import back: the accounts that it made, and that nobody has used or changed since.

use axum::{Json, extract::Path};
use countersign_core::time::UnixMillis;
use countersign_store::{Appended, ImportedUser, Tx, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::OfImport;
use crate::{
    admin::{Content, administered::Administered, body_of},
    audit::EventKind,
    call::Call,
    closing::{both, close},
    openapi::shapes,
    problem::{Failed, Problem},
};

/// Accounts that are taken back in one call.
const PAGE: u32 = 100;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UndoImportRequest)]
struct Undo {
    /// The row's key after which to go on.
    #[serde(default)]
    after: String,
    /// Take back used and changed accounts as well, with all that was issued for them.
    #[serde(default)]
    force: bool,
    /// Change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What became of an account.
enum Undone {
    /// It is no more, or wouldn't be. With what ended with it.
    Gone(Option<Appended>),
    /// It had been erased before.
    WasGone,
    /// It stays.
    Kept(&'static str),
}

/// Takes back accounts of an import, in the order of their rows' keys: at most so many, and where to go on.
#[utoipa::path(
    post,
    path = "/imports/{import}/undo",
    tag = "administration",
    summary = "Take an import back",
    description = "The accounts that it made and that nobody has used or changed since, in the order of their rows' keys: at \
        most 100 in one call.",
    request_body = Undo,
    security(("bearer" = [])),
    responses((status = 200, description = "What became of each account", body = shapes::administration::ImportUndone))
)]
pub(in crate::admin) async fn undo(
    asking: Administered,
    Path(of): Path<OfImport>,
    Content(bytes): Content,
) -> Result<Json<Value>, Failed> {
    let name = of.name()?;
    let asked: Undo = body_of(&bytes)?;
    let call = &asking.0;
    let policy = &call.policy.name;
    if call.store().import(policy, name).await?.is_none() {
        return Err(Problem::not_found("there is no such import").into());
    }
    let page = call.store().imported_users(policy, name, &asked.after, PAGE).await?;
    let whole = page.len() >= PAGE as usize;
    let next = page.last().filter(|_| whole).map(|last| last.row_key.clone());
    let (removed, kept, ended) = transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        let (mut removed, mut kept, mut ended) = (0_u64, Vec::new(), None);
        for brought in &page {
            match undo_one(tx, call, name, brought, &asked, now).await? {
                Undone::Gone(more) => {
                    removed += 1;
                    ended = [ended, more].into_iter().flatten().reduce(both);
                }
                Undone::WasGone => {}
                Undone::Kept(reason) => {
                    kept.push(json!({"key": brought.row_key, "id": brought.user, "reason": reason}));
                }
            }
        }
        if !asked.dry_run {
            if removed > 0 {
                let event = asking.action("take import back").detail("import", name).detail("removed", removed);
                event.detail("kept", kept.len()).write(tx, now).await?;
            }
            tx.forget_import(policy, name).await?;
        }
        Ok((removed, kept, ended))
    })?;
    if let Some(ended) = ended {
        call.publish(ended).await;
    }
    Ok(Json(json!({"removed": removed, "kept": kept, "next": next})))
}

async fn undo_one(
    tx: &mut Tx,
    call: &Call,
    import: &str,
    brought: &ImportedUser,
    asked: &Undo,
    now: UnixMillis,
) -> Result<Undone, Failed> {
    let (policy, id) = (&call.policy.name, &brought.user);
    tx.lock_subject(policy, id).await?;
    let user = tx.user(policy, id).await?;
    let Some(user) = user.filter(|user| user.import_batch.as_deref() == Some(import)) else {
        if !asked.dry_run {
            tx.forget_imported_user(policy, import, &brought.row_key).await?;
        }
        return Ok(Undone::WasGone);
    };
    let touched = if user.last_login.is_some() {
        Some("somebody has logged in to it")
    } else if tx.account_state(policy, id).await? != Some(brought.state) {
        Some("it was changed")
    } else if tx.has_own_api_keys(policy, id).await? {
        Some("it has API keys that were made here")
    } else {
        None
    };
    match touched {
        Some(reason) if !asked.force => return Ok(Undone::Kept(reason)),
        _ if asked.dry_run => return Ok(Undone::Gone(None)),
        _ => {}
    }
    // What was issued for it ends with it: an administrator may have minted tokens for an account that nobody used.
    let ended = close(tx, call, id, "import taken back").await?;
    tx.forget_imported_api_keys(policy, id).await?;
    tx.delete_user(policy, id).await?;
    tx.forget_imported_user(policy, import, &brought.row_key).await?;
    let event = call.event(EventKind::UserDeleted).subject(id).detail("by", "administrator");
    event.detail("import", import).write(tx, now).await?;
    Ok(Undone::Gone(Some(ended)))
}
