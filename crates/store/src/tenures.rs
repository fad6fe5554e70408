//! Whose people are kept under a policy's name, and their end.
//!
//! A policy that is deleted and made again under its name is another one, unless it took over what the one before left. So
//! people belong to the first object of such a line. What erases them is one row, written when the policy was withdrawn, and
//! nothing that is merely absent: whoever takes the name over clears it, until erasing has begun. From then on it goes on to
//! its end, whoever is killed on the way, and nobody takes over what is left.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _, any::AnyRow};

use crate::{Store, StoreError, Tx, columns, transact};

/// A policy object, as far as it matters to whose people are kept under its name.
#[derive(Clone, Copy, Debug)]
pub struct Tenure<'a> {
    /// The policy's name.
    pub policy: &'a PolicyName,
    /// The object's uid.
    pub uid: &'a str,
    /// The uid of the first object of those that took over from one another. Absent: nobody knows of another than this one, and
    /// it is taken to go on with whatever is kept.
    pub origin: Option<&'a str>,
    /// The generation of its bundle.
    pub generation: u64,
}

/// Whether a policy may have the people that are kept under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// They are its own.
    Own,
    /// They are an earlier policy's, whose time is over: they are being erased.
    Erasing,
    /// They are an earlier policy's.
    Anothers {
        /// Until when they are kept. Absent: nobody has seen that policy go.
        until: Option<UnixMillis>,
    },
}

/// What a step of erasing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// So many rows went; there may be more.
    Rows(u64),
    /// Nothing is left.
    Done,
    /// It is not to be done now: the time isn't over, or somebody took over what was kept.
    NotDue,
}

/// A policy whose people's time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuePeople {
    /// Its name.
    pub policy: PolicyName,
    /// Whether erasing has begun.
    pub begun: bool,
}

struct Row {
    origin: String,
    uid: String,
    generation: i64,
    erase_after: Option<UnixMillis>,
    erasing: bool,
}

impl Row {
    fn is_of(&self, tenure: &Tenure<'_>) -> bool {
        tenure.origin.is_none_or(|origin| origin == self.origin) || tenure.uid == self.uid
    }

    /// Whether nothing would change.
    fn says(&self, tenure: &Tenure<'_>, erase_after: Option<UnixMillis>) -> bool {
        !self.erasing
            && self.origin == tenure.origin()
            && self.uid == tenure.uid
            && self.erase_after == erase_after
            && self.generation >= tenure.generation()
    }
}

impl Tenure<'_> {
    fn origin(&self) -> &str {
        self.origin.unwrap_or(self.uid)
    }

    fn generation(&self) -> i64 {
        i64::try_from(self.generation).unwrap_or(i64::MAX)
    }
}

impl Store {
    /// Asks for the people under a policy's name, for the policy that is in force there; what was to be erased is kept then.
    /// `vouched`: an administrator hands an earlier policy's people to this one.
    pub async fn claim_people(&self, tenure: &Tenure<'_>, vouched: bool) -> Result<Claim, StoreError> {
        if by_policy(&self.readers, tenure.policy).await?.is_some_and(|row| row.says(tenure, None)) {
            return Ok(Claim::Own);
        }
        transact!(self, |tx| {
            let Some(row) = tx.tenure(tenure.policy).await? else {
                tx.save_tenure(tenure, 0, None).await?;
                return Ok(Claim::Own);
            };
            if row.erasing {
                return Ok(Claim::Erasing);
            }
            if !row.is_of(tenure) {
                let now = tx.database_now().await?;
                if row.erase_after.is_some_and(|at| at <= now) {
                    tx.begin_erasing(tenure.policy).await?;
                    return Ok(Claim::Erasing);
                }
                if !vouched {
                    return Ok(Claim::Anothers { until: row.erase_after });
                }
            }
            tx.save_tenure(tenure, row.generation, None).await?;
            Ok(Claim::Own)
        })
    }

    /// Notes that a policy was withdrawn, and from when on its people are to be erased. Whether it is heeded: a bundle of a later
    /// generation may be known, and then nothing changes. People of an earlier policy keep their own time.
    pub async fn withdraw_people(&self, tenure: &Tenure<'_>, erase_after: UnixMillis) -> Result<bool, StoreError> {
        let is_known = |row: Row| row.says(tenure, Some(erase_after)) && row.generation == tenure.generation();
        if by_policy(&self.readers, tenure.policy).await?.is_some_and(is_known) {
            return Ok(true);
        }
        transact!(self, |tx| {
            let Some(row) = tx.tenure(tenure.policy).await? else {
                tx.save_tenure(tenure, 0, Some(erase_after)).await?;
                return Ok(true);
            };
            if row.generation > tenure.generation() {
                return Ok(false);
            }
            if !row.erasing && row.is_of(tenure) {
                tx.save_tenure(tenure, row.generation, Some(erase_after)).await?;
            }
            Ok(true)
        })
    }

    /// Policies whose people's time is over by the database's clock, some of them.
    pub async fn due_people(&self) -> Result<Vec<DuePeople>, StoreError> {
        let now = self.database_now().await?;
        let rows = sqlx::query("SELECT policy, erasing FROM tenures WHERE erase_after <= $1 ORDER BY erase_after LIMIT $2");
        let rows = rows.bind(now.0).bind(i64::from(columns::PAGE)).fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| Ok(DuePeople { policy: columns::policy(row)?, begun: columns::flag(row, "erasing")? }))
            .collect()
    }

    /// Erases what is kept of people under a policy whose time is over by the database's clock, at most `batch` rows of each
    /// table. Of several who do so at once each waits for the other. Audit events and revocations stay.
    pub async fn erase_people(&self, policy: &PolicyName, batch: u32) -> Result<Erasure, StoreError> {
        transact!(self, |tx| {
            tx.lock_policy(policy).await?;
            let Some(row) = tx.tenure(policy).await? else { return Ok(Erasure::Done) };
            if !row.erasing {
                let now = tx.database_now().await?;
                if row.erase_after.is_none_or(|at| at > now) {
                    return Ok(Erasure::NotDue);
                }
                tx.begin_erasing(policy).await?;
            }
            let erased = tx.erase_people(policy, batch).await?;
            if erased == 0 {
                let gone = sqlx::query("DELETE FROM tenures WHERE policy = $1").bind(policy.as_str());
                gone.execute(tx.connection()).await?;
                return Ok(Erasure::Done);
            }
            Ok(Erasure::Rows(erased))
        })
    }
}

impl Tx {
    /// The row of a policy, held until the transaction ends.
    async fn tenure(&mut self, policy: &PolicyName) -> Result<Option<Row>, StoreError> {
        self.lock_row("tenures", policy, "").await?;
        by_policy(self.connection(), policy).await
    }

    async fn save_tenure(
        &mut self,
        tenure: &Tenure<'_>,
        generation: i64,
        erase_after: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tenures (policy, origin, uid, generation, erase_after) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (policy) DO UPDATE SET origin = $2, uid = $3, generation = $4, erase_after = $5",
        )
        .bind(tenure.policy.as_str())
        .bind(tenure.origin())
        .bind(tenure.uid)
        .bind(generation.max(tenure.generation()))
        .bind(columns::ms(erase_after))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    async fn begin_erasing(&mut self, policy: &PolicyName) -> Result<(), StoreError> {
        let begun = sqlx::query("UPDATE tenures SET erasing = 1 WHERE policy = $1").bind(policy.as_str());
        begun.execute(self.connection()).await?;
        Ok(())
    }
}

async fn by_policy<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName) -> Result<Option<Row>, StoreError> {
    let row = sqlx::query("SELECT * FROM tenures WHERE policy = $1").bind(policy.as_str());
    row.fetch_optional(executor).await?.as_ref().map(tenure).transpose()
}

fn tenure(row: &AnyRow) -> Result<Row, StoreError> {
    Ok(Row {
        origin: row.try_get("origin")?,
        uid: row.try_get("uid")?,
        generation: row.try_get("generation")?,
        erase_after: columns::time_if_any(row, "erase_after")?,
        erasing: columns::flag(row, "erasing")?,
    })
}
