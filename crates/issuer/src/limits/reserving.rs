//! Tries that are counted before it is known whether they were any: so of many at once none is made beyond a limit. What was
//! none is taken back.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::StoreError;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::{Count, Limits, Standing, Window, asked, standing, tightest};

/// How many turns may be held before those that nobody waits for are looked for.
const TURNS: usize = 1024;

/// A try that is counted, if its standing allows it.
#[derive(Debug)]
pub(crate) struct Reserved {
    /// How the tightest limit stands with it; absent: there is none.
    pub(crate) standing: Option<Standing>,
    names: Vec<String>,
    on_redis: bool,
}

impl Reserved {
    /// Whether it may be made.
    pub(crate) fn is_allowed(&self) -> bool {
        self.standing.is_none_or(|standing| standing.allowed)
    }
}

/// Whose turn it is, by what they go by.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, name: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock();
        if let Some(turn) = all.get(&name).and_then(Weak::upgrade) {
            return turn;
        }
        if all.len() >= TURNS {
            all.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        all.insert(name, Arc::downgrade(&turn));
        turn
    }
}

impl Limits {
    /// Waits until nobody else in this process has the turn of a key. Whoever holds it while what was reserved is undecided
    /// has others not refused by that.
    pub(crate) async fn turn(&self, policy: &PolicyName, what: &'static str, key: &str) -> OwnedMutexGuard<()> {
        self.turns.of(self.name(policy, what, key)).lock_owned().await
    }

    /// Counts a try by every limit, or by none when one of them refuses.
    pub(crate) async fn reserve(
        &self,
        policy: &PolicyName,
        windows: &[Window],
        now: UnixMillis,
    ) -> Result<Reserved, StoreError> {
        let names: Vec<String> = windows.iter().map(|w| self.name(policy, w.what, &w.key)).collect();
        if windows.is_empty() {
            return Ok(Reserved { standing: None, names, on_redis: false });
        }
        let (counted, on_redis) = match self.on_redis(async |redis| redis.hit(&asked(windows, &names)).await).await {
            Some(counted) => (counted, true),
            None => (self.hit_in_store(policy, windows, &names, now).await?, false),
        };
        let stands = |(window, count): (&Window, &Count)| {
            let refuses = !counted.counted && count.hits >= window.limit;
            standing(window, count, !refuses)
        };
        Ok(Reserved { standing: windows.iter().zip(&counted.windows).map(stands).reduce(tightest), names, on_redis })
    }

    /// Takes back a try that was none. Where it was counted on Redis and that is away it stays counted.
    pub(crate) async fn take_back(&self, policy: &PolicyName, reserved: Reserved) -> Result<(), StoreError> {
        if !reserved.is_allowed() || reserved.names.is_empty() {
            return Ok(());
        }
        if reserved.on_redis {
            self.on_redis(async |redis| redis.take_back(&reserved.names).await).await;
            return Ok(());
        }
        for name in &reserved.names {
            self.store.take_back_hit(policy, name).await?;
        }
        Ok(())
    }
}
