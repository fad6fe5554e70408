//! What a login is decided on, each time in one question: each is a wait for the database.

use std::borrow::Cow;

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_feed::Clock;
use sqlx::{Row as _, any::AnyRow};

use crate::{
    Lockout, LockoutKey, Password, PasswordHash, SecretHash, Store, StoreError, Tx, User, columns, lockouts, users,
};

/// Who wants to log in.
#[derive(Clone, Copy, Debug)]
pub struct AtDoor<'a> {
    /// The policy.
    pub policy: &'a PolicyName,
    /// What was typed.
    pub name: LoginName<'a>,
    /// The device that showed its secret.
    pub device: Option<&'a SecretHash>,
    /// What failures are counted on if no account has the name.
    pub unknown: &'a SecretHash,
    /// The networks around the address.
    pub networks: &'a [String],
}

/// What an account is looked up by, folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginName<'a> {
    /// Its name.
    Name(&'a str),
    /// Its e-mail address. A pending one doesn't count.
    Email(&'a str),
}

/// An account that somebody wants to log in to, with what else decides on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The account, if there is one.
    pub user: Option<User>,
    /// Its password, if it has one.
    pub password: Option<Password>,
    /// Whether it has a second factor that was confirmed.
    pub second_factor: bool,
    /// Whether it knows the device.
    pub knows_device: bool,
    /// What failures are counted on, as it stands; absent where none is counted.
    pub counter: Option<Lockout>,
}

/// What is found before a login is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAtDoor {
    /// The database's clock.
    pub now: UnixMillis,
    /// Until when the address, or a network around it, is blocked, if it was.
    pub blocked_until: Option<UnixMillis>,
    /// Since when the account's tries count, where those before were forgotten.
    pub tries_since: Option<UnixMillis>,
    /// Who is there. Failures are counted on the device that the account knows, else on the account, else on the name.
    pub candidate: Candidate,
}

/// A row whether or not there is an account, so that as much is done for both. Networks, policy, folded name or address, the
/// device's hash, the name's hash and the device's in hex.
const AT_DOOR: &str =
    "SELECT u.*, p.hash AS password_hash, p.changed AS password_set, t.confirmed AS second_factor, d.user_id AS known_device,
       c.failures, c.locks, c.locked_until, s.updated AS tries_since, clock() AS now,
       (SELECT max(b.expires) FROM address_blocks b WHERE b.policy = $2 AND b.network IN (SELECT value FROM elements($1)))
         AS blocked_until
     FROM (SELECT CAST($2 AS TEXT) AS policy) AS asked
     LEFT JOIN users u ON u.policy = asked.policy AND u.id = coalesce(
       (SELECT n.id FROM users n WHERE n.policy = $2 AND n.username_folded = $3),
       (SELECT e.id FROM users e WHERE e.policy = $2 AND e.email_folded = $4))
     LEFT JOIN passwords p ON p.policy = asked.policy AND p.user_id = u.id
     LEFT JOIN totp t ON t.policy = asked.policy AND t.user_id = u.id
     LEFT JOIN known_devices d ON d.policy = asked.policy AND d.hash = $5 AND d.user_id = u.id
     LEFT JOIN lockouts c ON c.policy = asked.policy
       AND c.kind = CASE WHEN u.id IS NULL THEN 'name' WHEN d.hash IS NULL THEN 'account' ELSE 'device' END
       AND c.name = CASE WHEN u.id IS NULL THEN $6 WHEN d.hash IS NULL THEN u.id ELSE $7 END
     LEFT JOIN lockouts s ON s.policy = asked.policy AND s.kind = 'tries' AND s.name = u.id";

impl Store {
    /// Who is at the door. What a login rests on is read again under the account's lock, by [`Tx::candidate`].
    pub async fn at_door(&self, asked: &AtDoor<'_>) -> Result<FoundAtDoor, StoreError> {
        let (name, email) = match asked.name {
            LoginName::Name(folded) => (Some(folded), None),
            LoginName::Email(folded) => (None, Some(folded)),
        };
        // SQLite's is this machine's clock.
        let own_clock = Clock::wall();
        let row = sqlx::query(self.dialect.with_clock(AT_DOOR))
            .bind(columns::list(asked.networks)?)
            .bind(asked.policy.as_str())
            .bind(name)
            .bind(email)
            .bind(asked.device.map(SecretHash::bytes))
            .bind(hex::encode(asked.unknown.bytes()))
            .bind(asked.device.map(|device| hex::encode(device.bytes())))
            .fetch_one(&self.readers)
            .await?;
        Ok(FoundAtDoor {
            now: columns::time_if_any(&row, "now")?.unwrap_or(own_clock),
            blocked_until: columns::time_if_any(&row, "blocked_until")?,
            tries_since: columns::time_if_any(&row, "tries_since")?,
            candidate: candidate(&row)?,
        })
    }
}

impl Tx {
    /// An account with what decides on a login to it, failures being counted on `counter`. It holds only under
    /// [`Tx::lock_subject`], taken before.
    pub async fn candidate(
        &mut self,
        policy: &PolicyName,
        user: &str,
        counter: LockoutKey<'_>,
        device: Option<&SecretHash>,
    ) -> Result<Candidate, StoreError> {
        let (kind, name): (_, Cow<'_, str>) = counter.parts();
        let row = sqlx::query(
            "SELECT u.*, p.hash AS password_hash, p.changed AS password_set, t.confirmed AS second_factor,
               d.user_id AS known_device, c.failures, c.locks, c.locked_until
             FROM users u
             LEFT JOIN passwords p ON p.policy = u.policy AND p.user_id = u.id
             LEFT JOIN totp t ON t.policy = u.policy AND t.user_id = u.id
             LEFT JOIN known_devices d ON d.policy = u.policy AND d.hash = $5 AND d.user_id = u.id
             LEFT JOIN lockouts c ON c.policy = u.policy AND c.kind = $3 AND c.name = $4
             WHERE u.policy = $1 AND u.id = $2",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(kind)
        .bind(name.as_ref())
        .bind(device.map(SecretHash::bytes))
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(candidate).transpose()?.unwrap_or_default())
    }

    /// Writes that somebody has logged in to an account.
    pub async fn logged_in(&mut self, policy: &PolicyName, user: &str, at: UnixMillis) -> Result<(), StoreError> {
        let seen = sqlx::query("UPDATE users SET last_login = $3 WHERE policy = $1 AND id = $2");
        seen.bind(policy.as_str()).bind(user).bind(at.0).execute(self.connection()).await?;
        Ok(())
    }
}

fn candidate(row: &AnyRow) -> Result<Candidate, StoreError> {
    let is_there = |column: &str| Ok::<_, StoreError>(row.try_get::<Option<&str>, _>(column)?.is_some());
    let hash: Option<String> = row.try_get("password_hash")?;
    let set = columns::time_if_any(row, "password_set")?;
    let counted = row.try_get::<Option<i64>, _>("failures")?.is_some();
    Ok(Candidate {
        user: if is_there("id")? { Some(users::user(row)?) } else { None },
        password: hash.zip(set).map(|(hash, changed)| Password { hash: PasswordHash::new(hash), changed }),
        second_factor: columns::time_if_any(row, "second_factor")?.is_some(),
        knows_device: is_there("known_device")?,
        counter: if counted { Some(lockouts::lockout(row)?) } else { None },
    })
}
