//! What people are to be told by mail, as long as nobody has told them.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{Store, StoreError, Tx, columns, transact};

/// A notice as it is written.
#[derive(Clone, Debug)]
pub struct NewNotice<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Whom it is for. Absent: nobody; the same is written for names that no account has.
    pub user: Option<&'a str>,
    /// What kind of notice it is.
    pub kind: &'a str,
    /// What it is about, as its writer keeps it. Nothing secret.
    pub content: &'a str,
    /// Until when it is worth sending.
    pub expires: UnixMillis,
}

/// A notice that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its number.
    pub id: i64,
    /// Its policy.
    pub policy: PolicyName,
    /// Whom it is for.
    pub user: Option<String>,
    /// What kind of notice it is.
    pub kind: String,
    /// What it is about.
    pub content: String,
}

impl Tx {
    /// Keeps a notice until it is sent: it stands if what it tells of does.
    pub async fn put_notice(&mut self, new: &NewNotice<'_>) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO notices (policy, user_id, kind, content, expires) VALUES ($1, $2, $3, $4, $5)")
            .bind(new.policy.as_str())
            .bind(new.user)
            .bind(new.kind)
            .bind(new.content)
            .bind(new.expires.0)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Store {
    /// Takes notices that nobody is sending, at most so many, for as long as `lease_ms`: what isn't done by then, by
    /// [`Self::drop_notice`], is given to whoever asks next. Of several at once each gets others. None of the policies `except`.
    pub async fn take_notices(
        &self,
        now: UnixMillis,
        lease_ms: i64,
        limit: u32,
        except: &[PolicyName],
    ) -> Result<Vec<Notice>, StoreError> {
        let except: Vec<String> = except.iter().map(ToString::to_string).collect();
        transact!(self, |tx| {
            let sql = tx.dialect.with_elements(
                "UPDATE notices SET taken_until = $3 WHERE taken_until <= $2 AND id IN
                   (SELECT id FROM notices WHERE taken_until <= $2 AND expires > $2
                      AND policy NOT IN (SELECT value FROM elements($1)) ORDER BY taken_until, id LIMIT $4)
                 RETURNING id, policy, user_id, kind, content",
            );
            let rows = sqlx::query(sql).bind(columns::list(&except)?);
            let rows = rows.bind(now.0).bind(now.plus(lease_ms).0).bind(columns::page(limit));
            rows.fetch_all(tx.connection()).await?.iter().map(notice).collect()
        })
    }

    /// Lets go of a notice that was sent, or can't be.
    pub async fn drop_notice(&self, id: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM notices WHERE id = $1").bind(id).execute(&self.writer).await?;
        Ok(())
    }
}

fn notice(row: &AnyRow) -> Result<Notice, StoreError> {
    Ok(Notice {
        id: row.try_get("id")?,
        policy: columns::policy(row)?,
        user: row.try_get("user_id")?,
        kind: row.try_get("kind")?,
        content: row.try_get("content")?,
    })
}
