//! Rows that have had their time leave in bounded batches.

use countersign_core::{names::PolicyName, revocation::PURGE_AFTER_MS, time::UnixMillis};

use crate::{Store, StoreError, Tx};

/// What of each table goes, in an order in which nothing refers to what is gone. `$1` is the time before which it had
/// expired, `$2` how many rows at most.
pub(crate) const EXPIRED: [&str; 10] = [
    "DELETE FROM refresh_tokens WHERE (policy, hash) IN
       (SELECT t.policy, t.hash FROM refresh_families f JOIN refresh_tokens t ON t.policy = f.policy AND t.family_id = f.id
        WHERE f.expires < $1 LIMIT $2)",
    "DELETE FROM refresh_families WHERE (policy, id) IN
       (SELECT f.policy, f.id FROM refresh_families f WHERE f.expires < $1 AND NOT EXISTS
          (SELECT 1 FROM refresh_tokens t WHERE t.policy = f.policy AND t.family_id = f.id) LIMIT $2)",
    "DELETE FROM sessions WHERE (policy, id) IN (SELECT policy, id FROM sessions WHERE ends < $1 LIMIT $2)",
    "DELETE FROM challenges WHERE (policy, id) IN (SELECT policy, id FROM challenges WHERE expires < $1 LIMIT $2)",
    "DELETE FROM api_keys WHERE (policy, id) IN (SELECT policy, id FROM api_keys WHERE expires < $1 LIMIT $2)",
    "DELETE FROM lockouts WHERE (policy, kind, name) IN
       (SELECT policy, kind, name FROM lockouts WHERE expires < $1 LIMIT $2)",
    "DELETE FROM one_time_tokens WHERE (policy, hash) IN
       (SELECT policy, hash FROM one_time_tokens WHERE expires < $1 LIMIT $2)",
    "DELETE FROM rate_buckets WHERE (policy, name) IN (SELECT policy, name FROM rate_buckets WHERE expires < $1 LIMIT $2)",
    "DELETE FROM address_blocks WHERE (policy, network) IN
       (SELECT policy, network FROM address_blocks WHERE expires < $1 LIMIT $2)",
    "DELETE FROM notices WHERE id IN (SELECT id FROM notices WHERE expires < $1 LIMIT $2)",
];

/// A batch of what makes successors of refresh tokens whose grace is over. Time, limit.
pub(crate) const REFRESH_BITS: &str = "UPDATE refresh_tokens SET bits = NULL, bits_until = NULL WHERE (policy, hash) IN
   (SELECT policy, hash FROM refresh_tokens WHERE bits IS NOT NULL AND bits_until <= $1 LIMIT $2)";

/// What is kept of people under a policy, in an order in which nothing refers to what is gone. `$1` is the policy, `$2` how many
/// rows at most.
const OF_POLICY: [&str; 20] = [
    "DELETE FROM refresh_tokens WHERE policy = $1 AND hash IN (SELECT hash FROM refresh_tokens WHERE policy = $1 LIMIT $2)",
    "DELETE FROM refresh_families WHERE policy = $1 AND id IN
       (SELECT f.id FROM refresh_families f WHERE f.policy = $1 AND NOT EXISTS
          (SELECT 1 FROM refresh_tokens t WHERE t.policy = f.policy AND t.family_id = f.id) LIMIT $2)",
    "DELETE FROM sessions WHERE policy = $1 AND id IN (SELECT id FROM sessions WHERE policy = $1 LIMIT $2)",
    "DELETE FROM sent_codes WHERE policy = $1 AND challenge_id IN
       (SELECT challenge_id FROM sent_codes WHERE policy = $1 LIMIT $2)",
    "DELETE FROM challenges WHERE policy = $1 AND id IN (SELECT id FROM challenges WHERE policy = $1 LIMIT $2)",
    "DELETE FROM api_keys WHERE policy = $1 AND id IN (SELECT id FROM api_keys WHERE policy = $1 LIMIT $2)",
    "DELETE FROM one_time_tokens WHERE policy = $1 AND hash IN (SELECT hash FROM one_time_tokens WHERE policy = $1 LIMIT $2)",
    "DELETE FROM known_devices WHERE policy = $1 AND hash IN (SELECT hash FROM known_devices WHERE policy = $1 LIMIT $2)",
    "DELETE FROM backup_codes WHERE policy = $1 AND user_id IN (SELECT user_id FROM backup_codes WHERE policy = $1 LIMIT $2)",
    "DELETE FROM totp WHERE policy = $1 AND user_id IN (SELECT user_id FROM totp WHERE policy = $1 LIMIT $2)",
    "DELETE FROM phones WHERE policy = $1 AND user_id IN (SELECT user_id FROM phones WHERE policy = $1 LIMIT $2)",
    "DELETE FROM notices WHERE id IN (SELECT id FROM notices WHERE policy = $1 LIMIT $2)",
    "DELETE FROM old_passwords WHERE id IN (SELECT id FROM old_passwords WHERE policy = $1 LIMIT $2)",
    "DELETE FROM passwords WHERE policy = $1 AND user_id IN (SELECT user_id FROM passwords WHERE policy = $1 LIMIT $2)",
    "DELETE FROM users WHERE policy = $1 AND id IN (SELECT id FROM users WHERE policy = $1 LIMIT $2)",
    "DELETE FROM imported_users WHERE policy = $1 AND (import, row_key) IN
       (SELECT import, row_key FROM imported_users WHERE policy = $1 LIMIT $2)",
    "DELETE FROM imports WHERE policy = $1 AND name IN (SELECT name FROM imports WHERE policy = $1 LIMIT $2)",
    "DELETE FROM lockouts WHERE policy = $1 AND (kind, name) IN
       (SELECT kind, name FROM lockouts WHERE policy = $1 LIMIT $2)",
    "DELETE FROM rate_buckets WHERE policy = $1 AND name IN (SELECT name FROM rate_buckets WHERE policy = $1 LIMIT $2)",
    "DELETE FROM address_blocks WHERE policy = $1 AND network IN
       (SELECT network FROM address_blocks WHERE policy = $1 LIMIT $2)",
];

impl Store {
    /// Removes rows that the database's clock and one's own both call expired over an hour ago, at most `batch` of each table.
    /// How many went: when any did, there may be more. What families were kept to see reuse leaves with their expiry.
    pub async fn remove_expired(&self, own_now: UnixMillis, batch: u32) -> Result<u64, StoreError> {
        let before = self.database_now().await?.min(own_now).minus(PURGE_AFTER_MS);
        let mut removed = 0;
        // Each in a transaction of its own: none holds the writer for long.
        for sql in EXPIRED {
            let gone = sqlx::query(sql).bind(before.0).bind(i64::from(batch)).execute(&self.writer).await?;
            removed += gone.rows_affected();
        }
        Ok(removed)
    }

    /// Erases what would make a refresh token's successor again, once the grace is over; at most `batch`. How many.
    pub async fn erase_refresh_bits(&self, own_now: UnixMillis, batch: u32) -> Result<u64, StoreError> {
        let erased = sqlx::query(REFRESH_BITS);
        Ok(erased.bind(own_now.0).bind(i64::from(batch)).execute(&self.writer).await?.rows_affected())
    }
}

impl Tx {
    /// Erases what is kept of people under a policy, at most `batch` of each table. How many rows went: when any did, there may
    /// be more. Audit events and revocations stay.
    pub(crate) async fn erase_people(&mut self, policy: &PolicyName, batch: u32) -> Result<u64, StoreError> {
        let mut erased = 0;
        for sql in OF_POLICY {
            let gone = sqlx::query(sql).bind(policy.as_str()).bind(i64::from(batch)).execute(self.connection()).await?;
            erased += gone.rows_affected();
        }
        Ok(erased)
    }
}
