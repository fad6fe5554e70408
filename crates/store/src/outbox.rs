//! The store as the feed sees it: an outbox to sweep, and the live set of the in-process feed.

use countersign_core::{
    revocation::{Entry, PURGE_AFTER_MS, Position},
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, LiveStore, Mark, Outbox, OutboxError, OutboxRow, Removal};
use sqlx::{Row as _, any::AnyRow};

use crate::{Store, StoreError, row};

fn failed(error: impl Into<StoreError>) -> OutboxError {
    OutboxError(Box::new(error.into()))
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn outbox_row(row: &AnyRow, epoch: u64) -> Result<OutboxRow, StoreError> {
    let revision: i64 = row.try_get("revision")?;
    let unchanged = row.try_get::<Option<i64>, _>("position_revision")? == Some(revision);
    Ok(OutboxRow {
        id: row.try_get("id")?,
        revision,
        entry: row::entry(row)?,
        recorded: row::position(row.try_get("position")?).filter(|_| unchanged),
        published: row.try_get::<i64, _>("mark")? == number(epoch),
    })
}

impl Store {
    async fn marked(&self, epoch: u64, marks: &[Mark]) -> Result<(), StoreError> {
        crate::transact!(self, |tx| {
            tx.lock_epoch().await?;
            for mark in marks {
                sqlx::query(
                    "UPDATE revocations SET mark = $1, position = $2, position_revision = revision
                     WHERE id = $3 AND revision = $4 AND merged_into IS NULL AND (mark <> $1 OR position IS DISTINCT FROM $2)
                     AND (SELECT epoch FROM feed) = $1",
                )
                .bind(number(epoch))
                .bind(row::score(mark.position))
                .bind(mark.id)
                .bind(mark.revision)
                .execute(tx.connection())
                .await?;
            }
            Ok(())
        })
    }

    async fn advanced(&self, from: u64, to: u64, keep_positions: bool) -> Result<bool, StoreError> {
        crate::transact!(self, |tx| {
            tx.lock_epoch_alone().await?;
            let advanced = sqlx::query("UPDATE feed SET epoch = $2 WHERE epoch = $1 AND $2 > $1")
                .bind(number(from))
                .bind(number(to))
                .execute(tx.connection())
                .await?;
            let advanced = advanced.rows_affected() == 1;
            if advanced && !keep_positions {
                // The position stays, so that the floor does; what is forgotten is that this revision stands there.
                sqlx::query("UPDATE revocations SET position_revision = NULL").execute(tx.connection()).await?;
            }
            Ok(advanced)
        })
    }

    async fn recorded(&self, epoch: u64, entries: &[(Entry, Position)]) -> Result<(), StoreError> {
        crate::transact!(self, |tx| {
            tx.lock_epoch().await?;
            let held: i64 = sqlx::query_scalar("SELECT epoch FROM feed").fetch_one(tx.connection()).await?;
            if held != number(epoch) {
                return Err(StoreError::Conflict("the feed's epoch"));
            }
            for (entry, position) in entries {
                sqlx::query(
                    "UPDATE revocations SET position = $2, position_revision =
                       CASE WHEN cutoff = $3 AND expires = $4 AND version = $5 THEN revision ELSE position_revision END,
                       mark = CASE WHEN cutoff = $3 AND expires = $4 AND version = $5 THEN $6 ELSE mark END
                     WHERE key = $1",
                )
                .bind(entry.key().as_str())
                .bind(row::score(*position))
                .bind(entry.cutoff.0)
                .bind(entry.expires.0)
                .bind(row::version(entry.version))
                .bind(number(epoch))
                .execute(tx.connection())
                .await?;
            }
            Ok(())
        })
    }
}

impl Outbox for Store {
    fn epoch(&self) -> BoxFuture<'_, Result<u64, OutboxError>> {
        Box::pin(async {
            let epoch = sqlx::query_scalar::<_, i64>("SELECT epoch FROM feed").fetch_one(&self.readers).await;
            epoch.map(i64::unsigned_abs).map_err(failed)
        })
    }

    fn advance_epoch(&self, from: u64, to: u64, keep_positions: bool) -> BoxFuture<'_, Result<bool, OutboxError>> {
        Box::pin(async move { self.advanced(from, to, keep_positions).await.map_err(failed) })
    }

    fn unpublished(&self, epoch: u64, at_most: usize) -> BoxFuture<'_, Result<Vec<OutboxRow>, OutboxError>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source,
                   revision, position, position_revision, mark
                 FROM revocations WHERE mark < $1 AND merged_into IS NULL ORDER BY mark, id LIMIT $2",
            )
            .bind(number(epoch))
            .bind(limit(at_most))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
            rows.iter().map(|row| outbox_row(row, epoch).map_err(failed)).collect()
        })
    }

    fn rows<'a>(&'a self, epoch: u64, ids: &'a [i64]) -> BoxFuture<'a, Result<Vec<OutboxRow>, OutboxError>> {
        Box::pin(async move {
            let ids = serde_json::to_string(ids).map_err(|_| failed(StoreError::Corrupt("row numbers")))?;
            // A row that was merged meanwhile is published by the cut-off in its place.
            let rows = sqlx::query(self.dialect.with_elements(
                "SELECT asked.id, said.policy, said.kind, said.issuer, said.name, said.cutoff, said.expires, said.version,
                   said.reason, said.source, said.revision, said.position, said.position_revision, said.mark
                 FROM revocations asked JOIN revocations said ON said.id = coalesce(asked.merged_into, asked.id)
                 WHERE asked.id IN (SELECT CAST(value AS BIGINT) FROM elements($1)) ORDER BY asked.id",
            ))
            .bind(ids)
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
            rows.iter().map(|row| outbox_row(row, epoch).map_err(failed)).collect()
        })
    }

    fn mark<'a>(&'a self, epoch: u64, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move { if marks.is_empty() { Ok(()) } else { self.marked(epoch, marks).await.map_err(failed) } })
    }

    fn highest_position(&self) -> BoxFuture<'_, Result<Position, OutboxError>> {
        Box::pin(async {
            let highest =
                sqlx::query_scalar::<_, Option<i64>>("SELECT max(position) FROM revocations WHERE position IS NOT NULL");
            let highest = highest.fetch_one(&self.readers).await.map_err(failed)?;
            Ok(row::position(highest).unwrap_or(Position::ZERO))
        })
    }

    fn pending(&self, epoch: u64) -> BoxFuture<'_, Result<u64, OutboxError>> {
        Box::pin(async move {
            let count =
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM revocations WHERE mark < $1 AND merged_into IS NULL");
            count.bind(number(epoch)).fetch_one(&self.readers).await.map(i64::unsigned_abs).map_err(failed)
        })
    }

    fn merged(&self, at_most: usize) -> BoxFuture<'_, Result<Vec<(i64, Removal)>, OutboxError>> {
        Box::pin(async move {
            // Only once the cut-off in their place is in the feed.
            let rows = sqlx::query(
                "SELECT gone.id, gone.policy, gone.kind, gone.issuer, gone.name, gone.cutoff, gone.expires, gone.version,
                   gone.reason, gone.source, gone.position
                 FROM revocations gone JOIN revocations said ON said.id = gone.merged_into
                 WHERE gone.merged_into IS NOT NULL AND gone.removed = 0 AND said.mark = (SELECT epoch FROM feed) LIMIT $1",
            )
            .bind(limit(at_most))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
            let parsed = rows.iter().map(|row| {
                let stood = row::position(row.try_get("position")?).unwrap_or(Position::ZERO);
                Ok((row.try_get("id")?, (row::entry(row)?.key(), stood)))
            });
            parsed.collect::<Result<_, StoreError>>().map_err(failed)
        })
    }

    fn forget_merged<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move {
            let ids = serde_json::to_string(ids).map_err(|_| failed(StoreError::Corrupt("row numbers")))?;
            let forgotten = sqlx::query(self.dialect.with_elements(
                "UPDATE revocations SET removed = 1
                 WHERE id IN (SELECT CAST(value AS BIGINT) FROM elements($1)) AND merged_into IS NOT NULL",
            ));
            forgotten.bind(ids).execute(&self.writer).await.map(|_| ()).map_err(failed)
        })
    }

    fn purge(&self, server_now: UnixMillis, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, OutboxError>> {
        Box::pin(async move {
            let before = server_now.min(own_now).minus(PURGE_AFTER_MS);
            let purged = sqlx::query("DELETE FROM revocations WHERE expires < $1 AND kind <> 'key'").bind(before.0);
            purged.execute(&self.writer).await.map(|done| done.rows_affected()).map_err(failed)
        })
    }
}

impl LiveStore for Store {
    fn live_after(&self, after: Position, at_most: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT policy, kind, issuer, name, cutoff, expires, version, reason, source, position
                 FROM revocations WHERE position > $1 AND removed = 0 ORDER BY position LIMIT $2",
            )
            .bind(row::score(after))
            .bind(limit(at_most))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
            let parsed = rows.iter().map(|row| {
                let position = row::position(row.try_get("position")?).ok_or(StoreError::Corrupt("a position"))?;
                Ok((position, row::entry(row)?))
            });
            parsed.collect::<Result<_, StoreError>>().map_err(failed)
        })
    }

    fn record<'a>(&'a self, epoch: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move { self.recorded(epoch, entries).await.map_err(failed) })
    }
}
