//! Accounts.

use std::collections::BTreeMap;

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _, any::AnyRow};

use crate::{Lockout, Store, StoreError, Tx, columns, lockouts};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its policy.
    pub policy: PolicyName,
    /// Its id, a UUID of version 7: the subject of its tokens.
    pub id: String,
    /// Its name, if it has one.
    pub username: Option<Folded>,
    /// Its e-mail address, if it has one.
    pub email: Option<Folded>,
    /// The address that takes the place of `email` once its link is used.
    pub pending_email: Option<Folded>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// What it may do now.
    pub status: UserStatus,
    /// Why its status is what it is.
    pub status_reason: Option<String>,
    /// When a lock ends by itself.
    pub status_until: Option<UnixMillis>,
    /// Its roles' names.
    pub roles: Vec<String>,
    /// Whether its owner has shown to receive mail at `email`.
    pub email_verified: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// When somebody last logged in to it.
    pub last_login: Option<UnixMillis>,
    /// When its password was last set by its owner. Absent: never.
    pub password_changed: Option<UnixMillis>,
    /// The import that brought it.
    pub import_batch: Option<String>,
}

/// A name as it was written, and as it compares: among the accounts of a policy no two have the same `folded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// As it was written.
    pub written: String,
    /// As it compares.
    pub folded: String,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserStatus {
    /// Log in.
    Active,
    /// Nothing before its address is verified.
    Pending,
    /// Nothing.
    Disabled,
    /// Nothing, by an administrator's word, until that ends.
    Locked,
}

impl UserStatus {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Pending, Self::Disabled, Self::Locked];

    /// Its word, in SQL and on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Disabled => "disabled",
            Self::Locked => "locked",
        }
    }
}

/// What else there is to say of an account where several are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether a second factor was confirmed.
    pub second_factor: bool,
    /// How its counter of failures stands.
    pub lockout: Lockout,
}

/// Which accounts of a policy are asked for, in the order of their ids: the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Only those of this status.
    pub status: Option<UserStatus>,
    /// Only those after this id.
    pub after: Option<String>,
    /// At most so many; at most 1,000 anyway.
    pub limit: u32,
}

impl Store {
    /// The account of that id.
    pub async fn user(&self, policy: &PolicyName, id: &str) -> Result<Option<User>, StoreError> {
        by_id(&self.readers, policy, id).await
    }

    /// The account of that name, as names compare.
    pub async fn user_by_name(&self, policy: &PolicyName, folded: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE policy = $1 AND username_folded = $2");
        row.bind(policy.as_str()).bind(folded).fetch_optional(&self.readers).await?.as_ref().map(user).transpose()
    }

    /// The account of that e-mail address, as addresses compare. A pending one doesn't count.
    pub async fn user_by_email(&self, policy: &PolicyName, folded: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE policy = $1 AND email_folded = $2");
        row.bind(policy.as_str()).bind(folded).fetch_optional(&self.readers).await?.as_ref().map(user).transpose()
    }

    /// How accounts stand, by their ids, in one question for all of them.
    pub async fn standings(&self, policy: &PolicyName, ids: &[String]) -> Result<BTreeMap<String, Standing>, StoreError> {
        let rows = sqlx::query(self.dialect.with_elements(
            "SELECT u.id, t.confirmed, l.failures, l.locks, l.locked_until FROM users u
             LEFT JOIN totp t ON t.policy = u.policy AND t.user_id = u.id
             LEFT JOIN lockouts l ON l.policy = u.policy AND l.kind = 'account' AND l.name = u.id
             WHERE u.policy = $2 AND u.id IN (SELECT value FROM elements($1))",
        ));
        let rows = rows.bind(columns::list(ids)?).bind(policy.as_str()).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let counted = row.try_get::<Option<i64>, _>("failures")?.is_some();
                let lockout = if counted { lockouts::lockout(row)? } else { Lockout::default() };
                let second_factor = columns::time_if_any(row, "confirmed")?.is_some();
                Ok((row.try_get("id")?, Standing { second_factor, lockout }))
            })
            .collect()
    }

    /// Accounts, page by page.
    pub async fn users(&self, policy: &PolicyName, filter: &UserFilter) -> Result<Vec<User>, StoreError> {
        let after = filter.after.as_deref().unwrap_or("");
        let limit = columns::page(filter.limit);
        let rows = match filter.status {
            None => sqlx::query("SELECT * FROM users WHERE policy = $1 AND id > $2 ORDER BY id LIMIT $3")
                .bind(policy.as_str())
                .bind(after)
                .bind(limit),
            Some(status) => {
                sqlx::query("SELECT * FROM users WHERE policy = $1 AND status = $2 AND id > $3 ORDER BY id LIMIT $4")
                    .bind(policy.as_str())
                    .bind(status.word())
                    .bind(after)
                    .bind(limit)
            }
        };
        rows.fetch_all(&self.readers).await?.iter().map(user).collect()
    }

    /// How many accounts of each status there are, for a policy's figures.
    pub async fn user_counts(&self, policy: &PolicyName) -> Result<Vec<(UserStatus, u64)>, StoreError> {
        let rows = sqlx::query("SELECT status, count(*) AS counted FROM users WHERE policy = $1 GROUP BY status");
        let rows = rows.bind(policy.as_str()).fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((status(row)?, row.try_get::<i64, _>("counted")?.unsigned_abs()))).collect()
    }

    /// The ids of accounts that an import brought, page by page.
    pub async fn users_of_batch(
        &self,
        policy: &PolicyName,
        batch: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query_scalar(
            "SELECT id FROM users WHERE policy = $1 AND import_batch = $2 AND id > $3 ORDER BY id LIMIT $4",
        );
        let rows = rows.bind(policy.as_str()).bind(batch).bind(after).bind(columns::page(limit));
        Ok(rows.fetch_all(&self.readers).await?)
    }
}

impl Tx {
    /// The account of that id. What is decided on it holds only under [`Tx::lock_subject`], taken before.
    pub async fn user(&mut self, policy: &PolicyName, id: &str) -> Result<Option<User>, StoreError> {
        by_id(self.connection(), policy, id).await
    }

    /// Makes an account. [`StoreError::Taken`] when another has its name or address.
    pub async fn insert_user(&mut self, user: &User) -> Result<(), StoreError> {
        let sql = "INSERT INTO users (policy, id, username, username_folded, email, email_folded, pending_email,
               pending_email_folded, first_name, last_name, status, status_reason, status_until, roles, email_verified,
               last_login, password_changed, created, import_batch)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
        let query = bind(sql, user)?.bind(user.created.0).bind(user.import_batch.as_deref());
        query.execute(self.connection()).await.map_err(taken)?;
        Ok(())
    }

    /// Writes an account that was read under its lock; when it was made, and by which import, stays. Whether it was there.
    pub async fn save_user(&mut self, user: &User) -> Result<bool, StoreError> {
        let sql = "UPDATE users SET username = $3, username_folded = $4, email = $5, email_folded = $6, pending_email = $7,
               pending_email_folded = $8, first_name = $9, last_name = $10, status = $11, status_reason = $12,
               status_until = $13, roles = $14, email_verified = $15, last_login = $16, password_changed = $17
             WHERE policy = $1 AND id = $2";
        let written = bind(sql, user)?.execute(self.connection()).await.map_err(taken)?;
        Ok(written.rows_affected() == 1)
    }

    /// Erases an account with its password, factors, devices and one-time tokens. Its sessions are to be ended before; audit
    /// events stay. Whether it was there.
    pub async fn delete_user(&mut self, policy: &PolicyName, id: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM users WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
        Ok(gone.execute(self.connection()).await?.rows_affected() == 1)
    }
}

type Query = sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments>;

/// The columns that both writers write.
fn bind(sql: &'static str, user: &User) -> Result<Query, StoreError> {
    let written = |name: &Option<Folded>| name.as_ref().map(|name| name.written.clone());
    let folded = |name: &Option<Folded>| name.as_ref().map(|name| name.folded.clone());
    Ok(sqlx::query(sql)
        .bind(user.policy.as_str().to_owned())
        .bind(user.id.clone())
        .bind(written(&user.username))
        .bind(folded(&user.username))
        .bind(written(&user.email))
        .bind(folded(&user.email))
        .bind(written(&user.pending_email))
        .bind(folded(&user.pending_email))
        .bind(user.first_name.clone())
        .bind(user.last_name.clone())
        .bind(user.status.word())
        .bind(user.status_reason.clone())
        .bind(columns::ms(user.status_until))
        .bind(columns::list(&user.roles)?)
        .bind(i64::from(user.email_verified))
        .bind(columns::ms(user.last_login))
        .bind(columns::ms(user.password_changed)))
}

fn taken(error: sqlx::Error) -> StoreError {
    // Both databases name the column or the index in their message.
    let text = error.to_string();
    let what = ["email", "username"].into_iter().find(|what| text.contains(what));
    StoreError::taken(
        error,
        match what {
            Some("email") => "the e-mail address",
            Some(_) => "the name",
            None => "the id",
        },
    )
}

async fn by_id<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName, id: &str) -> Result<Option<User>, StoreError> {
    let row = sqlx::query("SELECT * FROM users WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
    row.fetch_optional(executor).await?.as_ref().map(user).transpose()
}

fn status(row: &AnyRow) -> Result<UserStatus, StoreError> {
    let word: &str = row.try_get("status")?;
    UserStatus::ALL.into_iter().find(|status| status.word() == word).ok_or(StoreError::Corrupt("an account's status"))
}

fn folded(row: &AnyRow, written: &str, folded: &str) -> Result<Option<Folded>, StoreError> {
    let (written, folded): (Option<String>, Option<String>) = (row.try_get(written)?, row.try_get(folded)?);
    Ok(written.zip(folded).map(|(written, folded)| Folded { written, folded }))
}

pub(crate) fn user(row: &AnyRow) -> Result<User, StoreError> {
    Ok(User {
        policy: columns::policy(row)?,
        id: row.try_get("id")?,
        username: folded(row, "username", "username_folded")?,
        email: folded(row, "email", "email_folded")?,
        pending_email: folded(row, "pending_email", "pending_email_folded")?,
        first_name: row.try_get("first_name")?,
        last_name: row.try_get("last_name")?,
        status: status(row)?,
        status_reason: row.try_get("status_reason")?,
        status_until: columns::time_if_any(row, "status_until")?,
        roles: columns::strings(row, "roles")?,
        email_verified: columns::flag(row, "email_verified")?,
        created: columns::time(row, "created")?,
        last_login: columns::time_if_any(row, "last_login")?,
        password_changed: columns::time_if_any(row, "password_changed")?,
        import_batch: row.try_get("import_batch")?,
    })
}
