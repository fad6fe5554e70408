//! Figures that anybody may ask for: counted once in a while, however often that is.

use std::{collections::HashMap, sync::Arc};

use countersign_core::{names::PolicyName, time::UnixMillis};
use parking_lot::Mutex;
use serde_json::{Map, Value};

/// How old they may be, milliseconds.
const AGE_MS: i64 = 5000;

/// Figures, with when they were counted.
type Counted = (UnixMillis, Map<String, Value>);

/// One policy's figures, held by whoever counts them.
type OfPolicy = Arc<tokio::sync::Mutex<Option<Counted>>>;

/// Each policy's figures. Whoever asks for one policy's waits for nobody who counts another's.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<HashMap<PolicyName, OfPolicy>>);

impl Recent {
    /// A policy's figures as of a few seconds ago at most. Of several who find them too old one counts and the others wait.
    pub(crate) async fn figures<E>(
        &self,
        policy: &PolicyName,
        now: UnixMillis,
        count: impl Future<Output = Result<Map<String, Value>, E>>,
    ) -> Result<Map<String, Value>, E> {
        let of_policy = self.of(policy);
        let mut held = of_policy.lock().await;
        if let Some((at, figures)) = &*held
            && (0..AGE_MS).contains(&now.since(*at))
        {
            return Ok(figures.clone());
        }
        let figures = count.await?;
        *held = Some((now, figures.clone()));
        Ok(figures)
    }

    fn of(&self, policy: &PolicyName) -> OfPolicy {
        let mut all = self.0.lock();
        match all.get(policy) {
            Some(held) => held.clone(),
            None => all.entry(policy.clone()).or_default().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn figures_are_counted_once_in_a_few_seconds_for_each_policy() {
        let recent = Recent::default();
        let counted = AtomicU32::new(0);
        let ask = async |policy: &str, at: i64| {
            let count = async { Ok::<_, ()>(Map::from_iter([("n".to_owned(), json!(counted.fetch_add(1, Relaxed)))])) };
            recent.figures(&policy.parse().unwrap(), UnixMillis(at), count).await.unwrap()["n"].as_u64().unwrap()
        };
        for (policy, at, expected) in [
            ("shop/shop", 10_000, 0),
            ("shop/shop", 14_999, 0),
            ("shop/other", 14_999, 1),
            ("shop/shop", 15_000, 2),
            // The clock went back.
            ("shop/shop", 9_000, 3),
        ] {
            assert_eq!(ask(policy, at).await, expected, "{policy} {at}");
        }
        let failing = async { Err::<Map<String, Value>, _>("away") };
        assert_eq!(recent.figures(&"shop/new".parse().unwrap(), UnixMillis(0), failing).await, Err("away"));
    }

    #[tokio::test]
    async fn whoever_asks_for_one_policys_figures_waits_for_nobody_who_counts_anothers() {
        let recent = Recent::default();
        let (shop, other) = ("shop/shop".parse().unwrap(), "shop/other".parse().unwrap());
        let mut slow = std::pin::pin!(recent.figures(&shop, UnixMillis(0), std::future::pending::<Result<_, ()>>()));
        assert!(futures_util::poll!(&mut slow).is_pending());
        let quick = async { Ok::<_, ()>(Map::new()) };
        assert!(futures_util::poll!(std::pin::pin!(recent.figures(&other, UnixMillis(0), quick))).is_ready());
        let waits = recent.figures(&shop, UnixMillis(0), async { Ok::<_, ()>(Map::new()) });
        assert!(futures_util::poll!(std::pin::pin!(waits)).is_pending(), "one counts and the others wait");
    }
}
