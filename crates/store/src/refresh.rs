//! Refresh tokens, in families. Of a token only SHA-256 is kept.
//!
//! At its rotation a token gets 256 random bits; its successor is HMAC-SHA-256(bits, token). So whoever shows the token again
//! within the grace gets the same successor, and a race makes no second branch; once the successor was used, or the bits are
//! erased, showing it again ends the family and its session: one of two who hold it is a thief.

use std::fmt;

use aws_lc_rs::hmac;
use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{Ended, Ending, SecretHash, Session, Store, StoreError, Tx, columns, sessions};

/// A refresh token: 256 bits. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken(pub [u8; 32]);

impl RefreshToken {
    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }

    fn successor(&self, bits: &[u8]) -> Self {
        let mut successor = [0; 32];
        successor.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bits), &self.0).as_ref());
        Self(successor)
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

/// A family as it begins, with its first token.
#[derive(Clone, Debug)]
pub struct NewFamily<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Its id.
    pub id: &'a str,
    /// The session that it renews.
    pub session: &'a str,
    /// Its first token.
    pub token: &'a RefreshToken,
    /// Whether each use gives another token.
    pub rotates: bool,
    /// When it began.
    pub created: UnixMillis,
    /// Until when it may be used next.
    pub expires: UnixMillis,
}

/// A use of a refresh token.
#[derive(Clone)]
pub struct Use<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Whose session it renews, as [`Store::refresh_standing`] says.
    pub subject: &'a str,
    /// The token that was shown.
    pub token: &'a RefreshToken,
    /// Fresh random bits, for its successor.
    pub bits: &'a [u8; 32],
    /// For how long a token that was used may be shown again.
    pub grace_ms: i64,
    /// For how long the next token may stay unused.
    pub lifetime_ms: i64,
    /// How the session ends if the token was shown too late; its `now` is the time of this use.
    pub ending: &'a Ending,
}

impl fmt::Debug for Use<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Use").field("policy", &self.policy).field("ending", &self.ending).finish_non_exhaustive()
    }
}

/// Where a refresh token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshStanding {
    /// The session that it renews, or did.
    pub session: Session,
    /// Whether its family was ended: with the session, or because another family took its place.
    pub ended: bool,
    /// Until when its family may be used next.
    pub expires: UnixMillis,
}

impl RefreshStanding {
    /// Whether its family and session go on.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        !self.ended && self.expires > now && self.session.is_live(now)
    }
}

/// What came of a use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Used {
    /// No such token, or nothing is left of its session.
    Unknown,
    /// Its family or session was ended, or is over.
    Over,
    /// The session goes on, with this token from now on.
    Renewed {
        /// The session.
        session: Box<Session>,
        /// The token: in a family that doesn't rotate the same.
        token: RefreshToken,
        /// Whether the same was answered before.
        again: bool,
    },
    /// It was used before, and its successor too, or too long ago: family and session have ended now.
    Reused {
        /// The session, as it was.
        session: Box<Session>,
        /// What has ended.
        ended: Ended,
    },
}

struct Held {
    family: String,
    rotates: bool,
    family_expires: UnixMillis,
    family_ended: bool,
    predecessor: Option<Vec<u8>>,
    rotated: bool,
    bits: Option<Vec<u8>>,
    bits_until: Option<UnixMillis>,
    /// Whether the session could still be given a second time.
    retry_is_open: bool,
    session: Session,
}

impl Held {
    /// Whether its family and session go on.
    fn is_live(&self, now: UnixMillis) -> bool {
        !self.family_ended && self.family_expires > now && self.session.is_live(now)
    }

    /// What made its successor, while that may be answered again.
    fn made_successor(&self, now: UnixMillis) -> Option<&[u8]> {
        self.bits.as_deref().filter(|_| self.bits_until.is_some_and(|until| now < until))
    }
}

/// A token with its family and session.
pub(crate) const BY_HASH: &str =
    "SELECT s.*, f.id AS family_id, f.rotates, f.expires AS family_expires, f.ended AS family_ended, t.predecessor, t.rotated,
       t.bits, t.bits_until,
       (SELECT count(*) FROM challenges c WHERE c.policy = t.policy AND c.session_id = f.session_id AND c.retry_closed IS NULL)
         AS open_retries
     FROM refresh_tokens t JOIN refresh_families f ON f.policy = t.policy AND f.id = t.family_id
     JOIN sessions s ON s.policy = f.policy AND s.id = f.session_id
     WHERE t.policy = $1 AND t.hash = $2";

impl Store {
    /// Where a refresh token stands, whatever became of it. To be read again under its subject's lock.
    pub async fn refresh_standing(
        &self,
        policy: &PolicyName,
        token: &RefreshToken,
    ) -> Result<Option<RefreshStanding>, StoreError> {
        Ok(self.held_token(policy, token).await?.map(|held| RefreshStanding {
            session: held.session,
            ended: held.family_ended,
            expires: held.family_expires,
        }))
    }

    /// The session that a refresh token renews, whatever became of both.
    pub async fn session_of_refresh_token(
        &self,
        policy: &PolicyName,
        token: &RefreshToken,
    ) -> Result<Option<Session>, StoreError> {
        Ok(self.refresh_standing(policy, token).await?.map(|standing| standing.session))
    }

    /// The session that a refresh token would renew now, and until when it may be used; absent where it would not. For who
    /// asks about it: a use of it decides anew.
    pub async fn usable_refresh_token(
        &self,
        policy: &PolicyName,
        token: &RefreshToken,
        now: UnixMillis,
    ) -> Result<Option<(Session, UnixMillis)>, StoreError> {
        let Some(held) = self.held_token(policy, token).await? else { return Ok(None) };
        let good = held.is_live(now) && (!held.rotated || held.made_successor(now).is_some());
        let ends = held.family_expires.min(held.session.ends());
        Ok(good.then_some((held.session, ends)))
    }

    async fn held_token(&self, policy: &PolicyName, token: &RefreshToken) -> Result<Option<Held>, StoreError> {
        let row = sqlx::query(BY_HASH).bind(policy.as_str()).bind(token.hash().bytes().to_vec());
        row.fetch_optional(&self.readers).await?.as_ref().map(held).transpose()
    }
}

impl Tx {
    /// Begins a family.
    pub async fn insert_family(&mut self, new: &NewFamily<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO refresh_families (policy, id, session_id, rotates, created, expires) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(new.policy.as_str())
        .bind(new.id)
        .bind(new.session)
        .bind(i64::from(new.rotates))
        .bind(new.created.0)
        .bind(new.expires.0)
        .execute(self.connection())
        .await?;
        self.insert_token(new.policy, new.id, &new.token.hash(), None).await
    }

    /// Puts another first token in the place of a session's, which nobody has used. Whether it was so.
    pub async fn replace_first_token(
        &mut self,
        policy: &PolicyName,
        session: &str,
        token: &RefreshToken,
    ) -> Result<bool, StoreError> {
        let replaced = sqlx::query(
            "UPDATE refresh_tokens SET hash = $3 WHERE policy = $1 AND predecessor IS NULL AND rotated IS NULL
               AND family_id IN (SELECT id FROM refresh_families WHERE policy = $1 AND session_id = $2 AND ended IS NULL)",
        );
        let replaced = replaced.bind(policy.as_str()).bind(session).bind(token.hash().bytes());
        Ok(replaced.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Uses a refresh token. Of any number of uses at once one comes first and the others see what it did.
    pub async fn use_refresh_token(&mut self, using: &Use<'_>) -> Result<Used, StoreError> {
        let (policy, now) = (using.policy, using.ending.now);
        self.lock_subject(policy, using.subject).await?;
        let held = self.token(using).await?.filter(|held| held.session.subject == using.subject);
        let Some(held) = held else { return Ok(Used::Unknown) };
        if !held.is_live(now) {
            return Ok(Used::Over);
        }
        let session = held.session.clone();
        let (token, again) = if !held.rotates {
            (using.token.clone(), false)
        } else if !held.rotated {
            (self.rotate(using, &held).await?, false)
        } else if let Some(successor) = self.answered_before(using, &held).await? {
            (successor, true)
        } else {
            let ended = self.end(vec![session.clone()], using.ending).await?;
            return Ok(Used::Reused { session: Box::new(session), ended });
        };
        sqlx::query("UPDATE refresh_families SET expires = $3 WHERE policy = $1 AND id = $2")
            .bind(policy.as_str())
            .bind(&held.family)
            .bind(now.plus(using.lifetime_ms).0)
            .execute(self.connection())
            .await?;
        if now.since(session.last_seen) >= session.seen_every_ms() {
            self.session_seen(policy, &session.id, now).await?;
        }
        if held.retry_is_open {
            self.close_retry(policy, &session.id, now).await?;
        }
        Ok(Used::Renewed { session: Box::new(session), token, again })
    }

    /// The successor of a token that is used for the first time. What its predecessor was given is erased: it led to this one,
    /// which was used.
    async fn rotate(&mut self, using: &Use<'_>, held: &Held) -> Result<RefreshToken, StoreError> {
        let (successor, own) = (using.token.successor(using.bits), using.token.hash());
        sqlx::query(
            "UPDATE refresh_tokens SET rotated = CASE WHEN hash = $2 THEN $4 ELSE rotated END,
               bits = CASE WHEN hash = $2 THEN $5 WHEN hash = $3 THEN NULL ELSE bits END,
               bits_until = CASE WHEN hash = $2 THEN $6 WHEN hash = $3 THEN NULL ELSE bits_until END
             WHERE policy = $1 AND hash IN ($2, $3)",
        )
        .bind(using.policy.as_str())
        .bind(own.bytes())
        .bind(held.predecessor.as_deref().unwrap_or(own.bytes()))
        .bind(using.ending.now.0)
        .bind(using.bits.as_slice())
        .bind(using.ending.now.plus(using.grace_ms).0)
        .execute(self.connection())
        .await?;
        self.insert_token(using.policy, &held.family, &successor.hash(), Some(&own)).await?;
        Ok(successor)
    }

    /// The successor that a token was answered with before, if it is early enough to answer it again.
    async fn answered_before(&mut self, using: &Use<'_>, held: &Held) -> Result<Option<RefreshToken>, StoreError> {
        let Some(bits) = held.made_successor(using.ending.now) else { return Ok(None) };
        let successor = using.token.successor(bits);
        let used = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM refresh_tokens WHERE policy = $1 AND hash = $2 AND rotated IS NOT NULL",
        );
        let used = used.bind(using.policy.as_str()).bind(successor.hash().bytes().to_vec());
        let used = used.fetch_one(self.connection()).await? > 0;
        Ok((!used).then_some(successor))
    }

    async fn insert_token(
        &mut self,
        policy: &PolicyName,
        family: &str,
        hash: &SecretHash,
        predecessor: Option<&SecretHash>,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO refresh_tokens (policy, hash, family_id, predecessor) VALUES ($1, $2, $3, $4)")
            .bind(policy.as_str())
            .bind(hash.bytes())
            .bind(family)
            .bind(predecessor.map(SecretHash::bytes))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    async fn token(&mut self, using: &Use<'_>) -> Result<Option<Held>, StoreError> {
        let row = sqlx::query(BY_HASH);
        let row = row.bind(using.policy.as_str()).bind(using.token.hash().bytes().to_vec());
        row.fetch_optional(self.connection()).await?.as_ref().map(held).transpose()
    }
}

fn held(row: &AnyRow) -> Result<Held, StoreError> {
    Ok(Held {
        family: row.try_get("family_id")?,
        rotates: columns::flag(row, "rotates")?,
        family_expires: columns::time(row, "family_expires")?,
        family_ended: columns::time_if_any(row, "family_ended")?.is_some(),
        predecessor: row.try_get("predecessor")?,
        rotated: columns::time_if_any(row, "rotated")?.is_some(),
        bits: row.try_get("bits")?,
        bits_until: columns::time_if_any(row, "bits_until")?,
        retry_is_open: row.try_get::<i64, _>("open_retries")? > 0,
        session: sessions::session(row)?,
    })
}
