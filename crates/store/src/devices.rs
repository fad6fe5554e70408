//! Devices that an account knows: those that show the secret they were given at a completed login.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// A known device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The account that knows it.
    pub user: String,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// What it is called.
    pub label: Option<String>,
    /// Since when it is known.
    pub created: UnixMillis,
    /// When it last showed its secret.
    pub last_used: UnixMillis,
}

impl Store {
    /// The device of that secret.
    pub async fn device(&self, policy: &PolicyName, secret: &SecretHash) -> Result<Option<Device>, StoreError> {
        let row = sqlx::query("SELECT * FROM known_devices WHERE policy = $1 AND hash = $2");
        let row = row.bind(policy.as_str()).bind(secret.bytes());
        row.fetch_optional(&self.readers).await?.as_ref().map(device).transpose()
    }

    /// An account's devices, that used last first.
    pub async fn devices(&self, policy: &PolicyName, user: &str) -> Result<Vec<Device>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM known_devices WHERE policy = $1 AND user_id = $2 ORDER BY last_used DESC, hash");
        rows.bind(policy.as_str()).bind(user).fetch_all(&self.readers).await?.iter().map(device).collect()
    }
}

/// Puts a device in the place of the one after those that were used last.
pub(crate) const REPLACE: &str = "UPDATE known_devices SET hash = $3, label = $4, created = $5, last_used = $5
     WHERE policy = $1 AND hash = (SELECT hash FROM known_devices WHERE policy = $1 AND user_id = $2
         ORDER BY last_used DESC, hash LIMIT 1 OFFSET $6)
       AND NOT EXISTS (SELECT 1 FROM known_devices WHERE policy = $1 AND hash = $3)";

impl Tx {
    /// Writes that a device showed its secret again. Whether the account knows it.
    pub async fn device_used(
        &mut self,
        policy: &PolicyName,
        user: &str,
        secret: &SecretHash,
        at: UnixMillis,
    ) -> Result<bool, StoreError> {
        let again = sqlx::query("UPDATE known_devices SET last_used = $4 WHERE policy = $1 AND hash = $2 AND user_id = $3");
        let again = again.bind(policy.as_str()).bind(secret.bytes()).bind(user).bind(at.0);
        Ok(again.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Remembers a new device of an account, under whose [`Tx::lock_subject`] at most `at_most` are known: in the place of the
    /// one that was used least recently, where there are so many. Whether it is remembered: not when anybody has that secret.
    pub async fn remember_device(
        &mut self,
        policy: &PolicyName,
        device: &Device,
        at_most: u32,
    ) -> Result<bool, StoreError> {
        self.lock_subject(policy, &device.user).await?;
        // Most have as many as they may have: each login without a known one brings another.
        let replaced = sqlx::query(REPLACE)
            .bind(policy.as_str())
            .bind(&device.user)
            .bind(device.secret.bytes())
            .bind(device.label.as_deref())
            .bind(device.created.0)
            .bind(i64::from(at_most.saturating_sub(1)))
            .execute(self.connection())
            .await?;
        if replaced.rows_affected() == 1 {
            return Ok(true);
        }
        let new = sqlx::query(
            "INSERT INTO known_devices (policy, hash, user_id, label, created, last_used) VALUES ($1, $2, $3, $4, $5, $5)
             ON CONFLICT (policy, hash) DO NOTHING",
        )
        .bind(policy.as_str())
        .bind(device.secret.bytes())
        .bind(&device.user)
        .bind(device.label.as_deref())
        .bind(device.created.0)
        .execute(self.connection())
        .await?;
        Ok(new.rows_affected() == 1)
    }

    /// Forgets the devices of an account, all but the one of that secret. How many there were.
    pub async fn forget_devices(
        &mut self,
        policy: &PolicyName,
        user: &str,
        but: Option<&SecretHash>,
    ) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM known_devices WHERE policy = $1 AND user_id = $2 AND hash <> $3");
        // No hash is empty.
        let gone = gone.bind(policy.as_str()).bind(user).bind(but.map_or(&[][..], SecretHash::bytes));
        Ok(gone.execute(self.connection()).await?.rows_affected())
    }
}

fn device(row: &AnyRow) -> Result<Device, StoreError> {
    Ok(Device {
        user: row.try_get("user_id")?,
        secret: SecretHash(columns::hash(row, "hash")?),
        label: row.try_get("label")?,
        created: columns::time(row, "created")?,
        last_used: columns::time(row, "last_used")?,
    })
}
