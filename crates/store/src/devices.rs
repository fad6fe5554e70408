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

/// The devices of an account beyond a number, those that were used last first.
pub(crate) const BEYOND: &str = "DELETE FROM known_devices WHERE policy = $1 AND user_id = $2 AND hash NOT IN
       (SELECT hash FROM known_devices WHERE policy = $1 AND user_id = $2 ORDER BY last_used DESC, hash LIMIT $3)";

impl Tx {
    /// Whether an account knows the device of that secret.
    pub async fn knows_device(&mut self, policy: &PolicyName, user: &str, secret: &SecretHash) -> Result<bool, StoreError> {
        let known = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM known_devices WHERE policy = $1 AND hash = $2 AND user_id = $3",
        );
        Ok(known.bind(policy.as_str()).bind(secret.bytes()).bind(user).fetch_one(self.connection()).await? > 0)
    }

    /// Remembers a device of an account, or that it was used again; beyond `at_most` those go that were used least recently.
    /// Whether it is new. Nothing changes when the secret is another account's.
    pub async fn remember_device(
        &mut self,
        policy: &PolicyName,
        device: &Device,
        at_most: u32,
    ) -> Result<bool, StoreError> {
        self.lock_subject(policy, &device.user).await?;
        let used = sqlx::query("UPDATE known_devices SET last_used = $4 WHERE policy = $1 AND hash = $2 AND user_id = $3");
        let used = used.bind(policy.as_str()).bind(device.secret.bytes()).bind(&device.user).bind(device.last_used.0);
        if used.execute(self.connection()).await?.rows_affected() == 1 {
            return Ok(false);
        }
        let new = sqlx::query(
            "INSERT INTO known_devices (policy, hash, user_id, label, created, last_used) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (policy, hash) DO NOTHING",
        )
        .bind(policy.as_str())
        .bind(device.secret.bytes())
        .bind(&device.user)
        .bind(device.label.as_deref())
        .bind(device.created.0)
        .bind(device.last_used.0)
        .execute(self.connection())
        .await?;
        sqlx::query(BEYOND)
            .bind(policy.as_str())
            .bind(&device.user)
            .bind(i64::from(at_most))
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
