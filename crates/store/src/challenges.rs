//! A login between its password and its second factor.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// A challenge: the password was right, a code is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Its policy.
    pub policy: PolicyName,
    /// Its id.
    pub id: String,
    /// Whose login it is.
    pub user: String,
    /// When it was made.
    pub created: UnixMillis,
    /// Until when a code is taken.
    pub expires: UnixMillis,
    /// Codes that were tried.
    pub attempts: u32,
    /// Where the login came from.
    pub ip: Option<String>,
    /// With which agent.
    pub user_agent: Option<String>,
    /// What the login asked for, as its handler wrote it.
    pub request: String,
    /// When a code was taken.
    pub completed: Option<UnixMillis>,
    /// The session that it led to.
    pub session: Option<String>,
}

/// A login that comes again with the code that has completed a challenge.
#[derive(Clone, Copy, Debug)]
pub struct Retry<'a> {
    /// Whose it is.
    pub user: &'a str,
    /// The code.
    pub code: &'a SecretHash,
    /// Where it comes from.
    pub ip: Option<&'a str>,
    /// With which agent.
    pub user_agent: Option<&'a str>,
}

impl Store {
    /// A challenge, if it is known. Whether it has expired is to be seen.
    pub async fn challenge(&self, policy: &PolicyName, id: &str) -> Result<Option<Challenge>, StoreError> {
        let row = sqlx::query("SELECT * FROM challenges WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
        row.fetch_optional(&self.readers).await?.as_ref().map(challenge).transpose()
    }

    /// Whether [`Tx::take_retry`] would find a session now: such a login is the one that was made already.
    pub async fn is_retry(&self, policy: &PolicyName, retry: &Retry<'_>, now: UnixMillis) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM challenges
             WHERE policy = $1 AND user_id = $2 AND code_hash = $3 AND completed IS NOT NULL AND retry_closed IS NULL
               AND expires > $6 AND ip IS NOT DISTINCT FROM $4 AND user_agent IS NOT DISTINCT FROM $5",
        )
        .bind(policy.as_str())
        .bind(retry.user)
        .bind(retry.code.bytes())
        .bind(retry.ip)
        .bind(retry.user_agent)
        .bind(now.0);
        Ok(found.fetch_one(&self.readers).await? > 0)
    }

    /// Whether a session could still be given a second time: see [`Tx::take_retry`]. Whoever uses something of it closes that
    /// first, by [`Tx::close_retry`].
    pub async fn retry_is_open(&self, policy: &PolicyName, session: &str) -> Result<bool, StoreError> {
        let open = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM challenges WHERE policy = $1 AND session_id = $2 AND retry_closed IS NULL",
        );
        Ok(open.bind(policy.as_str()).bind(session).fetch_one(&self.readers).await? > 0)
    }
}

impl Tx {
    /// Keeps a challenge as it begins: without attempts and not completed.
    pub async fn insert_challenge(&mut self, new: &Challenge) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO challenges (policy, id, user_id, created, expires, ip, user_agent, request)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(new.policy.as_str())
        .bind(&new.id)
        .bind(&new.user)
        .bind(new.created.0)
        .bind(new.expires.0)
        .bind(new.ip.as_deref())
        .bind(new.user_agent.as_deref())
        .bind(&new.request)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// An account's challenges that a code could complete at `now`, `at_most` attempts given: the latest first, as many as one
    /// page has.
    pub async fn open_challenges(
        &mut self,
        policy: &PolicyName,
        user: &str,
        at_most: u32,
        now: UnixMillis,
    ) -> Result<Vec<Challenge>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM challenges WHERE policy = $1 AND user_id = $2 AND completed IS NULL AND expires > $3 AND attempts < $4
             ORDER BY created DESC, id DESC LIMIT $5",
        );
        let rows = rows.bind(policy.as_str()).bind(user).bind(now.0).bind(i64::from(at_most)).bind(columns::page(u32::MAX));
        rows.fetch_all(self.connection()).await?.iter().map(challenge).collect()
    }

    /// Counts an attempt before its code is looked at. How many there were with this one; absent when the challenge is
    /// unknown, over, completed, or has had `at_most` attempts.
    pub async fn count_attempt(
        &mut self,
        policy: &PolicyName,
        id: &str,
        at_most: u32,
        now: UnixMillis,
    ) -> Result<Option<u32>, StoreError> {
        let attempts = sqlx::query_scalar(
            "UPDATE challenges SET attempts = attempts + 1
             WHERE policy = $1 AND id = $2 AND attempts < $3 AND expires > $4 AND completed IS NULL RETURNING attempts",
        );
        let attempts = attempts.bind(policy.as_str()).bind(id).bind(i64::from(at_most)).bind(now.0);
        Ok(attempts.fetch_optional(self.connection()).await?.map(columns::count))
    }

    /// Completes a challenge with a code that was taken, and the session that it leads to. Whether this call did.
    pub async fn complete_challenge(
        &mut self,
        policy: &PolicyName,
        id: &str,
        session: &str,
        code: &SecretHash,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let completed = sqlx::query(
            "UPDATE challenges SET completed = $5, session_id = $3, code_hash = $4
             WHERE policy = $1 AND id = $2 AND expires > $5 AND completed IS NULL",
        );
        let completed = completed.bind(policy.as_str()).bind(id).bind(session).bind(code.bytes()).bind(now.0);
        Ok(completed.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// The session of a challenge that this very code has completed, for a login that comes again with it: once, within the
    /// challenge's life, from the same address and agent, and only while nothing of that session was used.
    pub async fn take_retry(
        &mut self,
        policy: &PolicyName,
        retry: &Retry<'_>,
        now: UnixMillis,
    ) -> Result<Option<String>, StoreError> {
        // Before the row: a use of the session holds the subject and then closes the row.
        self.lock_subject(policy, retry.user).await?;
        let session = sqlx::query_scalar(
            "UPDATE challenges SET retry_closed = $6
             WHERE policy = $1 AND user_id = $2 AND code_hash = $3 AND completed IS NOT NULL AND retry_closed IS NULL
               AND expires > $6 AND ip IS NOT DISTINCT FROM $4 AND user_agent IS NOT DISTINCT FROM $5
             RETURNING session_id",
        )
        .bind(policy.as_str())
        .bind(retry.user)
        .bind(retry.code.bytes())
        .bind(retry.ip)
        .bind(retry.user_agent)
        .bind(now.0)
        .fetch_optional(self.connection())
        .await?;
        Ok(session)
    }

    /// From now on nobody gets this session a second time: something of it was used.
    pub async fn close_retry(&mut self, policy: &PolicyName, session: &str, now: UnixMillis) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE challenges SET retry_closed = $3 WHERE policy = $1 AND session_id = $2 AND retry_closed IS NULL",
        )
        .bind(policy.as_str())
        .bind(session)
        .bind(now.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Keeps a code that is being sent, in the place of an earlier one of that channel.
    pub async fn put_sent_code(
        &mut self,
        policy: &PolicyName,
        challenge: &str,
        channel: &str,
        code: &SecretHash,
        expires: UnixMillis,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO sent_codes (policy, challenge_id, channel, hash, expires) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (policy, challenge_id, channel) DO UPDATE SET hash = $4, expires = $5",
        )
        .bind(policy.as_str())
        .bind(challenge)
        .bind(channel)
        .bind(code.bytes())
        .bind(expires.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes a code that was sent. The channel it was sent by, if it was there and is in force; it is no more.
    pub async fn take_sent_code(
        &mut self,
        policy: &PolicyName,
        challenge: &str,
        code: &SecretHash,
        now: UnixMillis,
    ) -> Result<Option<String>, StoreError> {
        let channel = sqlx::query_scalar(
            "DELETE FROM sent_codes WHERE policy = $1 AND challenge_id = $2 AND hash = $3 AND expires > $4 RETURNING channel",
        );
        let channel = channel.bind(policy.as_str()).bind(challenge).bind(code.bytes()).bind(now.0);
        Ok(channel.fetch_all(self.connection()).await?.pop())
    }
}

fn challenge(row: &AnyRow) -> Result<Challenge, StoreError> {
    Ok(Challenge {
        policy: columns::policy(row)?,
        id: row.try_get("id")?,
        user: row.try_get("user_id")?,
        created: columns::time(row, "created")?,
        expires: columns::time(row, "expires")?,
        attempts: columns::count(row.try_get("attempts")?),
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        request: row.try_get("request")?,
        completed: columns::time_if_any(row, "completed")?,
        session: row.try_get("session_id")?,
    })
}
