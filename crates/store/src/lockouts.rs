//! Failures to prove who one is, counted. They survive a restart, saturate, expire, and are bounded in number: by accounts, and
//! by housekeeping where nobody has the name.

use std::borrow::Cow;

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// What failures are counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockoutKey<'a> {
    /// An account, by its id.
    Account(&'a str),
    /// A name that no account has, by a keyed hash of it.
    UnknownName(&'a SecretHash),
    /// A device that an account knows.
    Device(&'a SecretHash),
}

impl<'a> LockoutKey<'a> {
    pub(crate) fn parts(self) -> (&'static str, Cow<'a, str>) {
        match self {
            Self::Account(id) => ("account", id.into()),
            Self::UnknownName(hash) => ("name", hex::encode(hash.bytes()).into()),
            Self::Device(secret) => (DEVICE, hex::encode(secret.bytes()).into()),
        }
    }
}

const DEVICE: &str = "device";
/// Rows of this kind count nothing: they say since when an account's tries count.
const TRIES: &str = "tries";

/// A counter as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lockout {
    /// Failures in the present window.
    pub failures: u32,
    /// How often it has locked since it was last cleared.
    pub locks: u32,
    /// Until when it locks; in the past when it does not.
    pub locked_until: Option<UnixMillis>,
}

/// How a failure is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counting {
    /// Failures longer ago than this are forgotten.
    pub window_ms: i64,
    /// When the counter itself is forgotten, unless it is touched again.
    pub expires: UnixMillis,
}

/// Of the counters of names that no account has, a batch beyond those that were touched last. Policy, limit, how many stay.
pub(crate) const UNKNOWN_BEYOND: &str = "DELETE FROM lockouts WHERE policy = $1 AND kind = 'name' AND name IN
   (SELECT name FROM lockouts WHERE policy = $1 AND kind = 'name' ORDER BY updated DESC, name DESC LIMIT $2 OFFSET $3)";

impl Store {
    /// A counter; all zero when there is none.
    pub async fn lockout(&self, policy: &PolicyName, key: LockoutKey<'_>) -> Result<Lockout, StoreError> {
        by_key(&self.readers, policy, key).await
    }

    /// Since when an account's tries to log in count, where those before were forgotten.
    pub async fn tries_since(&self, policy: &PolicyName, user: &str) -> Result<Option<UnixMillis>, StoreError> {
        let since =
            sqlx::query_scalar::<_, i64>("SELECT updated FROM lockouts WHERE policy = $1 AND kind = $2 AND name = $3");
        let since = since.bind(policy.as_str()).bind(TRIES).bind(user).fetch_optional(&self.readers).await?;
        Ok(since.map(UnixMillis))
    }

    /// Forgets counters of names that no account has, at most `batch`, where a policy keeps more than `at_most`: those that were
    /// touched least recently. How many. Counters of accounts and devices are as many as there are accounts.
    pub async fn trim_unknown_names(&self, policy: &PolicyName, at_most: u32, batch: u32) -> Result<u64, StoreError> {
        let gone = sqlx::query(UNKNOWN_BEYOND).bind(policy.as_str()).bind(i64::from(batch)).bind(i64::from(at_most));
        Ok(gone.execute(&self.writer).await?.rows_affected())
    }

    /// The ids of accounts that are locked at `now`, page by page.
    pub async fn locked_accounts(
        &self,
        policy: &PolicyName,
        after: &str,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<String>, StoreError> {
        // The first bound on the time is the index's.
        let rows = sqlx::query_scalar(
            "SELECT name FROM lockouts
             WHERE policy = $1 AND kind = 'account' AND locked_until > 0 AND locked_until > $2 AND name > $3
             ORDER BY name LIMIT $4",
        );
        let rows = rows.bind(policy.as_str()).bind(now.0).bind(after).bind(columns::page(limit));
        Ok(rows.fetch_all(&self.readers).await?)
    }
}

impl Tx {
    /// Counts a failure, and says how the counter stands with it. From here to the end of the transaction nobody else counts
    /// on it, so of parallel failures exactly one reaches the number that locks.
    pub async fn count_failure(
        &mut self,
        policy: &PolicyName,
        key: LockoutKey<'_>,
        counting: Counting,
        now: UnixMillis,
    ) -> Result<Lockout, StoreError> {
        let (kind, name) = key.parts();
        let row = sqlx::query(
            "INSERT INTO lockouts (policy, kind, name, failures, window_start, updated, expires)
             VALUES ($1, $2, $3, 1, $4, $4, $5)
             ON CONFLICT (policy, kind, name) DO UPDATE SET
               failures = CASE WHEN lockouts.window_start <= $6 THEN 1 WHEN lockouts.failures < $7 THEN lockouts.failures + 1
                 ELSE lockouts.failures END,
               window_start = CASE WHEN lockouts.window_start <= $6 THEN $4 ELSE lockouts.window_start END,
               updated = $4,
               expires = CASE WHEN lockouts.expires > $5 THEN lockouts.expires ELSE $5 END
             RETURNING failures, locks, locked_until",
        )
        .bind(policy.as_str())
        .bind(kind)
        .bind(name.as_ref())
        .bind(now.0)
        .bind(counting.expires.0)
        .bind(now.minus(counting.window_ms).0)
        .bind(i64::from(u32::MAX))
        .fetch_one(self.connection())
        .await?;
        lockout(&row)
    }

    /// Locks a counter until then, begins its failures anew, and counts the lock. Whether it was not locked before, so that
    /// one of several tells of it.
    pub async fn lock_out(
        &mut self,
        policy: &PolicyName,
        key: LockoutKey<'_>,
        until: UnixMillis,
        expires: UnixMillis,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let (kind, name) = key.parts();
        let locked = sqlx::query(
            "UPDATE lockouts SET locked_until = $4, failures = 0, window_start = $6, updated = $6,
               locks = CASE WHEN locks < $7 THEN locks + 1 ELSE locks END,
               expires = CASE WHEN expires > $5 THEN expires ELSE $5 END
             WHERE policy = $1 AND kind = $2 AND name = $3 AND locked_until <= $6",
        )
        .bind(policy.as_str())
        .bind(kind)
        .bind(name.as_ref())
        .bind(until.0)
        .bind(expires.max(until).0)
        .bind(now.0)
        .bind(i64::from(u32::MAX))
        .execute(self.connection())
        .await?;
        Ok(locked.rows_affected() == 1)
    }

    /// Lets an account's tries to log in count from `now`, wherever those before were made and counted. That is to be
    /// remembered until no window of then is open.
    pub async fn forget_tries(
        &mut self,
        policy: &PolicyName,
        user: &str,
        expires: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO lockouts (policy, kind, name, failures, window_start, updated, expires)
             VALUES ($1, $2, $3, 0, $4, $4, $5)
             ON CONFLICT (policy, kind, name) DO UPDATE SET window_start = $4, updated = $4, expires = $5",
        )
        .bind(policy.as_str())
        .bind(TRIES)
        .bind(user)
        .bind(now.0)
        .bind(expires.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// A counter as this transaction sees it.
    pub async fn lockout(&mut self, policy: &PolicyName, key: LockoutKey<'_>) -> Result<Lockout, StoreError> {
        by_key(self.connection(), policy, key).await
    }

    /// Forgets a counter. Whether it locked at `now`.
    pub async fn clear_lockout(
        &mut self,
        policy: &PolicyName,
        key: LockoutKey<'_>,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let (kind, name) = key.parts();
        let cleared = sqlx::query_scalar::<_, i64>(
            "DELETE FROM lockouts WHERE policy = $1 AND kind = $2 AND name = $3 RETURNING locked_until",
        );
        let cleared = cleared.bind(policy.as_str()).bind(kind).bind(name.as_ref()).fetch_all(self.connection()).await?;
        Ok(cleared.iter().any(|until| *until > now.0))
    }

    /// Forgets the counters of an account and of every device it knows. Whether the account's locked at `now`.
    pub async fn clear_lockouts(&mut self, policy: &PolicyName, user: &str, now: UnixMillis) -> Result<bool, StoreError> {
        let devices = sqlx::query("SELECT hash FROM known_devices WHERE policy = $1 AND user_id = $2");
        let devices = devices.bind(policy.as_str()).bind(user).fetch_all(self.connection()).await?;
        let devices = devices.iter().map(|row| Ok::<_, StoreError>(hex::encode(columns::hash(row, "hash")?)));
        let sql = self.dialect.with_elements(
            "DELETE FROM lockouts WHERE policy = $2 AND kind = $3 AND name IN (SELECT value FROM elements($1))",
        );
        sqlx::query(sql)
            .bind(columns::list(&devices.collect::<Result<Vec<_>, _>>()?)?)
            .bind(policy.as_str())
            .bind(DEVICE)
            .execute(self.connection())
            .await?;
        self.clear_lockout(policy, LockoutKey::Account(user), now).await
    }
}

async fn by_key<'c>(
    executor: impl AnyExecutor<'c>,
    policy: &PolicyName,
    key: LockoutKey<'_>,
) -> Result<Lockout, StoreError> {
    let (kind, name) = key.parts();
    let row =
        sqlx::query("SELECT failures, locks, locked_until FROM lockouts WHERE policy = $1 AND kind = $2 AND name = $3");
    let row = row.bind(policy.as_str()).bind(kind).bind(name.as_ref()).fetch_optional(executor).await?;
    Ok(row.as_ref().map(lockout).transpose()?.unwrap_or_default())
}

pub(crate) fn lockout(row: &AnyRow) -> Result<Lockout, StoreError> {
    let until: i64 = row.try_get("locked_until")?;
    Ok(Lockout {
        failures: columns::count(row.try_get("failures")?),
        locks: columns::count(row.try_get("locks")?),
        locked_until: (until > 0).then_some(UnixMillis(until)),
    })
}
