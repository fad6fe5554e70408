//! For which policies nothing is signed, because the API server has not confirmed for too long what is held.

use std::collections::BTreeSet;

use countersign_core::names::PolicyName;
use countersign_issuer::SignsWhile;

use super::World;
use crate::watching::{Source, WITHIN_MS};

impl World {
    /// When everything that is held was what there was: as long ago as the watch says that says least.
    pub(super) fn confirmed(&self) -> Option<i64> {
        self.confirmed.values().min().copied().filter(|_| self.confirmed.len() == Source::ALL.len())
    }

    /// Within how long everything has to be confirmed, milliseconds.
    pub(super) fn within_ms(&self) -> i64 {
        self.signs_while().map(|(_, signs)| signs.within_ms).min().unwrap_or(WITHIN_MS).min(WITHIN_MS)
    }

    /// Those for which nothing is signed.
    pub(super) fn lapsed(&self) -> BTreeSet<PolicyName> {
        self.signs_while().filter(|(_, signs)| !signs.holds()).map(|(name, _)| name.clone()).collect()
    }

    fn signs_while(&self) -> impl Iterator<Item = (&PolicyName, &SignsWhile)> {
        self.held.iter().filter_map(|(name, held)| Some((name, held.policy.signs_while.as_ref()?)))
    }
}

/// What to say of them, where there are any.
pub(super) fn told(lapsed: &BTreeSet<PolicyName>, age_ms: Option<i64>) -> Option<String> {
    let first = lapsed.first()?;
    let others = match lapsed.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let since = age_ms.map_or_else(|| "never".to_owned(), |age| format!("not for {} s", age / 1000));
    Some(format!(
        "nothing is signed for {first}{others}: the API server has {since} confirmed what is held; it is signed again as soon as it does"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watching::Change;

    #[test]
    fn what_is_held_is_confirmed_once_every_watch_says_so_and_as_of_the_one_that_says_least() {
        let mut world = World::default();
        for (number, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(world.confirmed(), None, "{number}");
            world.take(Change::Confirmed { source, at: 100 });
        }
        assert_eq!(world.confirmed(), Some(100));
        world.take(Change::Confirmed { source: Source::Rings, at: 200 });
        assert_eq!(world.confirmed(), Some(100), "the others may have stopped");
        assert_eq!(world.within_ms(), WITHIN_MS, "where no policy says");
    }

    #[test]
    fn it_is_said_for_whom_nothing_is_signed_and_since_when() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<PolicyName>>();
        assert_eq!(told(&names(&[]), None), None);
        let one = told(&names(&["shop/a"]), Some(301_000)).unwrap();
        assert!(one.starts_with("nothing is signed for shop/a: the API server has not for 301 s confirmed"), "{one}");
        let more = told(&names(&["shop/a", "shop/b", "shop/c"]), None).unwrap();
        assert!(more.starts_with("nothing is signed for shop/a and 2 more: the API server has never confirmed"), "{more}");
    }
}
