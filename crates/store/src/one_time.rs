//! Tokens that are used once: the links in mails, set-up tokens, invitations.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx};

/// A one-time token as it is made.
#[derive(Clone, Debug)]
pub struct NewOneTimeToken<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Its hash.
    pub hash: SecretHash,
    /// What it is for: it is taken for nothing else.
    pub purpose: &'a str,
    /// The account it was made for.
    pub user: &'a str,
    /// What its use needs to know, as its maker wrote it.
    pub content: &'a str,
    /// When it was made.
    pub created: UnixMillis,
    /// Until when it is good.
    pub expires: UnixMillis,
}

/// A one-time token that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenToken {
    /// The account it was made for.
    pub user: String,
    /// What its maker wrote.
    pub content: String,
}

impl Store {
    /// A one-time token that [`Tx::take_one_time_token`] would take, without taking it: what costs much is done for one that
    /// is good, and only then is it used up.
    pub async fn one_time_token(
        &self,
        policy: &PolicyName,
        purpose: &str,
        hash: &SecretHash,
        now: UnixMillis,
    ) -> Result<Option<TakenToken>, StoreError> {
        let held = sqlx::query(
            "SELECT user_id, content FROM one_time_tokens
             WHERE policy = $1 AND hash = $2 AND purpose = $3 AND expires > $4",
        );
        let held = held.bind(policy.as_str()).bind(hash.bytes()).bind(purpose).bind(now.0);
        held.fetch_optional(&self.readers).await?.as_ref().map(token).transpose()
    }
}

impl Tx {
    /// Keeps a one-time token. Earlier ones of that account and purpose stay good: see [`Tx::withdraw_one_time_tokens`]. One of
    /// an account that there isn't is not kept.
    pub async fn insert_one_time_token(&mut self, new: &NewOneTimeToken<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO one_time_tokens (policy, hash, purpose, user_id, content, created, expires)
             SELECT policy, $2, $3, id, $5, $6, $7 FROM users WHERE policy = $1 AND id = $4",
        )
        .bind(new.policy.as_str())
        .bind(new.hash.bytes())
        .bind(new.purpose)
        .bind(new.user)
        .bind(new.content)
        .bind(new.created.0)
        .bind(new.expires.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes a one-time token, if it is there for that purpose and in force; it is no more. Of several who take it at once one
    /// gets it.
    pub async fn take_one_time_token(
        &mut self,
        policy: &PolicyName,
        purpose: &str,
        hash: &SecretHash,
        now: UnixMillis,
    ) -> Result<Option<TakenToken>, StoreError> {
        let taken = sqlx::query(
            "DELETE FROM one_time_tokens WHERE policy = $1 AND hash = $2 AND purpose = $3 AND expires > $4
             RETURNING user_id, content",
        );
        let taken = taken.bind(policy.as_str()).bind(hash.bytes()).bind(purpose).bind(now.0);
        let taken = taken.fetch_all(self.connection()).await?;
        taken.first().map(token).transpose()
    }

    /// Withdraws an account's tokens of a purpose whose maker wrote anything but `content`. How many there were.
    pub async fn withdraw_other_one_time_tokens(
        &mut self,
        policy: &PolicyName,
        user: &str,
        purpose: &str,
        content: &str,
    ) -> Result<u64, StoreError> {
        let gone = sqlx::query(
            "DELETE FROM one_time_tokens WHERE policy = $1 AND user_id = $2 AND purpose = $3 AND content <> $4",
        );
        let gone = gone.bind(policy.as_str()).bind(user).bind(purpose).bind(content);
        Ok(gone.execute(self.connection()).await?.rows_affected())
    }

    /// Withdraws an account's tokens of a purpose. How many there were.
    pub async fn withdraw_one_time_tokens(
        &mut self,
        policy: &PolicyName,
        user: &str,
        purpose: &str,
    ) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM one_time_tokens WHERE policy = $1 AND user_id = $2 AND purpose = $3");
        Ok(gone.bind(policy.as_str()).bind(user).bind(purpose).execute(self.connection()).await?.rows_affected())
    }
}

fn token(row: &AnyRow) -> Result<TakenToken, StoreError> {
    Ok(TakenToken { user: row.try_get("user_id")?, content: row.try_get("content")? })
}
