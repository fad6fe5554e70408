//! Sealing events into their policy's chain, following it, and letting go of its beginning.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use super::{Break, Chain, KeptEvent, Link, kept, sealed_after};
use crate::{Store, StoreError, Tx, columns, transact};

/// A policy's chain as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// Where it ends.
    head: Link,
    /// What the first event that is left follows.
    from: Link,
    /// The last place that is in the audit log.
    logged: i64,
}

/// How far a chain was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Up to here all is as it was sealed.
    pub head: Link,
    /// Whether that is the chain's end.
    pub whole: bool,
}

impl Store {
    /// The policies with events that are not sealed yet.
    pub async fn unsealed_policies(&self) -> Result<Vec<PolicyName>, StoreError> {
        let rows = sqlx::query("SELECT DISTINCT policy FROM audit_events WHERE place IS NULL ORDER BY policy");
        rows.fetch_all(&self.readers).await?.iter().map(columns::policy).collect()
    }

    /// The policies that ever had an event sealed.
    pub async fn audited_policies(&self) -> Result<Vec<PolicyName>, StoreError> {
        let rows = sqlx::query("SELECT policy FROM audit_chains ORDER BY policy");
        rows.fetch_all(&self.readers).await?.iter().map(columns::policy).collect()
    }

    /// Seals a policy's oldest unsealed events, at most so many. Where the chain ends then, when any were sealed: to be logged
    /// where this database's owner can't change it. Several sealers at once wait for each other.
    pub async fn seal_audit(&self, policy: &PolicyName, at_most: u32) -> Result<Option<Link>, StoreError> {
        transact!(self, |tx| {
            tx.lock_row("audit_chains", policy, "").await?;
            let held = tx.chain(policy).await?;
            let mut chain = Chain::from(held.head);
            let rows = sqlx::query("SELECT * FROM audit_events WHERE policy = $1 AND place IS NULL ORDER BY id LIMIT $2")
                .bind(policy.as_str())
                .bind(columns::page(at_most))
                .fetch_all(tx.connection())
                .await?;
            for row in &rows {
                let event = kept(row)?;
                let link = chain.push(&event.event);
                sqlx::query("UPDATE audit_events SET place = $2, hash = $3 WHERE id = $1")
                    .bind(event.id)
                    .bind(link.place)
                    .bind(link.hash.as_slice())
                    .execute(tx.connection())
                    .await?;
            }
            if rows.is_empty() {
                return Ok(None);
            }
            tx.save_chain(policy, Kept { head: chain.head(), ..held }).await?;
            Ok(Some(chain.head()))
        })
    }

    /// Follows a policy's chain from the first event that is left to its end. Where it ends, or the first place where it is
    /// broken. `known` are ends of the chain as they were logged elsewhere: whoever changed events and sealed all anew can't have
    /// changed those. Events not sealed yet are no part of it.
    pub async fn verify_audit(&self, policy: &PolicyName, known: &[Link]) -> Result<Result<Link, Break>, StoreError> {
        Ok(self.verify_audit_part(policy, known, None, u64::MAX).await?.map(|followed| followed.head))
    }

    /// As [`Self::verify_audit`], a part at a time: from `from`, where an earlier part ended, for at least `at_least` events
    /// and at most a page more. Whoever removes the chain's beginning meanwhile makes it go on from there.
    pub async fn verify_audit_part(
        &self,
        policy: &PolicyName,
        known: &[Link],
        from: Option<Link>,
        at_least: u64,
    ) -> Result<Result<Followed, Break>, StoreError> {
        // What is sealed or removed meanwhile is no break: the end is read first, the beginning with the first page.
        let end = transact!(self, |tx| { tx.chain(policy).await })?.head;
        match from {
            Some(from) if from.place > end.place => {
                return Ok(Err(Break::End { expected: from.place, found: end.place }));
            }
            Some(from) if from.place == end.place && from.hash != end.hash => {
                return Ok(Err(Break::Rewritten { place: from.place }));
            }
            _ => {}
        }
        let (from, first) = transact!(self, |tx| {
            tx.lock_row("audit_chains", policy, "").await?;
            let begins = tx.chain(policy).await?.from;
            let from = from.filter(|from| from.place > begins.place).unwrap_or(begins);
            Ok((from, tx.sealed_after(policy, from.place).await?))
        })?;
        let mut chain = Chain::from(from);
        let mut page = first;
        let mut followed: u64 = 0;
        while !page.is_empty() {
            if followed >= at_least {
                return Ok(Ok(Followed { head: chain.head(), whole: false }));
            }
            followed = followed.saturating_add(page.len() as u64);
            for event in &page {
                if let Err(broken) = chain.follow(event) {
                    return Ok(Err(broken));
                }
                let head = chain.head();
                if known.iter().any(|known| known.place == head.place && known.hash != head.hash) {
                    return Ok(Err(Break::Rewritten { place: head.place }));
                }
            }
            let place = chain.head().place;
            page = transact!(self, |tx| { tx.sealed_after(policy, place).await })?;
        }
        let head = chain.head();
        let end = known.iter().map(|known| known.place).fold(end.place, i64::max);
        if head.place < end {
            return Ok(Err(Break::End { expected: end, found: head.place }));
        }
        Ok(Ok(Followed { head, whole: true }))
    }

    /// Removes a policy's sealed events from before `before`, oldest first, at most so many; what is left can still be
    /// verified, from where it now begins. With `only_logged` those stay that aren't in the audit log yet. How many were
    /// removed.
    pub async fn forget_audit(
        &self,
        policy: &PolicyName,
        before: UnixMillis,
        at_most: u32,
        only_logged: bool,
    ) -> Result<u64, StoreError> {
        transact!(self, |tx| {
            tx.lock_row("audit_chains", policy, "").await?;
            let held = tx.chain(policy).await?;
            let events = tx.sealed_after(policy, held.from.place).await?;
            let limit = usize::try_from(at_most).unwrap_or(usize::MAX);
            let old = events.iter().take(limit).take_while(|kept| kept.event.time < before).filter_map(|kept| kept.link);
            let gone = old.take_while(|link| !only_logged || link.place <= held.logged);
            let Some(last) = gone.last() else { return Ok(0) };
            let removed = sqlx::query("DELETE FROM audit_events WHERE policy = $1 AND place <= $2")
                .bind(policy.as_str())
                .bind(last.place)
                .execute(tx.connection())
                .await?;
            tx.save_chain(policy, Kept { from: last, ..held }).await?;
            Ok(removed.rows_affected())
        })
    }
}

impl Tx {
    async fn chain(&mut self, policy: &PolicyName) -> Result<Kept, StoreError> {
        let row = sqlx::query("SELECT * FROM audit_chains WHERE policy = $1").bind(policy.as_str());
        let link = |row: &AnyRow, place: &str, hash: &str| {
            Ok::<_, StoreError>(Link { place: row.try_get(place)?, hash: columns::hash(row, hash)? })
        };
        match row.fetch_optional(self.connection()).await? {
            None => Ok(Kept { head: Chain::EMPTY.head(), from: Chain::EMPTY.head(), logged: 0 }),
            Some(row) => Ok(Kept {
                head: link(&row, "place", "hash")?,
                from: link(&row, "from_place", "from_hash")?,
                logged: row.try_get("logged")?,
            }),
        }
    }

    async fn save_chain(&mut self, policy: &PolicyName, chain: Kept) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO audit_chains (policy, place, hash, from_place, from_hash) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (policy) DO UPDATE SET place = $2, hash = $3, from_place = $4, from_hash = $5",
        )
        .bind(policy.as_str())
        .bind(chain.head.place)
        .bind(chain.head.hash.as_slice())
        .bind(chain.from.place)
        .bind(chain.from.hash.as_slice())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    async fn sealed_after(&mut self, policy: &PolicyName, place: i64) -> Result<Vec<KeptEvent>, StoreError> {
        sealed_after(self.connection(), policy, place, columns::PAGE).await
    }
}
