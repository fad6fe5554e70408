//! How long what a policy issues and accepts can live, over all its versions.

use countersign_api::policy::EffectivePolicy;
use countersign_core::{names::PolicyName, opaque, time::UnixMillis};
use countersign_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use super::Lives;

/// When a policy's opaque keys end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueEnd {
    /// At least one has no end.
    Never,
    /// All of them, by then; the beginning of time when there are none.
    At(UnixMillis),
}

impl OpaqueEnd {
    /// Of the keys in these files. What doesn't parse was refused before.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        let mut end = UnixMillis(0);
        for file in files {
            for key in opaque::parse_keys(file.as_bytes()).unwrap_or_default() {
                match key.not_after {
                    None => return Self::Never,
                    Some(at) => end = end.max(at),
                }
            }
        }
        Self::At(end)
    }
}

/// What is kept of a policy from one version to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    longest_ms: Option<i64>,
    earlier_until: UnixMillis,
}

impl Lives {
    /// Of a policy, in view of what earlier versions of it allowed. Stored before they are used.
    pub async fn kept(
        store: &Store,
        name: &PolicyName,
        effective: &EffectivePolicy,
        opaque: OpaqueEnd,
        now: UnixMillis,
    ) -> Result<Self, StoreError> {
        let own = effective
            .issuer
            .is_some()
            .then(|| effective.longest_access_life_ms().max(effective.tokens.api_key_max_ttl.as_millis()));
        let trusted = effective.trusted_issuers.iter().map(|t| t.max_ttl.as_millis());
        let longest = own.into_iter().chain(trusted).max().unwrap_or(0);
        let kept = keep(store, format!("lives {name}"), longest, opaque, now).await?;
        let longest_access_ms = if effective.issuer.is_some() { effective.longest_access_life_ms() } else { 0 };
        let access =
            keep(store, format!("access-lives {name}"), longest_access_ms, OpaqueEnd::At(UnixMillis(0)), now).await?;
        Ok(Self {
            access_ttl_ms: effective.tokens.access_ttl.as_millis(),
            longest_access_ms,
            longest_ms: kept.longest_ms,
            earlier_until: kept.earlier_until,
            access_earlier_until: access.earlier_until,
        })
    }
}

/// Stores what is to be kept of a life, in view of what was kept at `place` before.
async fn keep(
    store: &Store,
    place: String,
    longest_ms: i64,
    opaque: OpaqueEnd,
    now: UnixMillis,
) -> Result<Kept, StoreError> {
    let before: Option<Kept> = store.meta(&place).await?.and_then(|text| serde_json::from_str(&text).ok());
    let kept = next(before, longest_ms, opaque, now);
    if before != Some(kept)
        && let Ok(text) = serde_json::to_string(&kept)
    {
        store.set_meta(&place, &text).await?;
    }
    Ok(kept)
}

fn next(before: Option<Kept>, longest_ms: i64, opaque: OpaqueEnd, now: UnixMillis) -> Kept {
    let (longest_ms, opaque_until) = match opaque {
        OpaqueEnd::Never => (None, UnixMillis(0)),
        OpaqueEnd::At(end) => (Some(longest_ms), end),
    };
    let earlier_until = match before {
        None => UnixMillis(0),
        Some(Kept { longest_ms: Some(before), earlier_until }) if longest_ms.is_some_and(|now| now < before) => {
            earlier_until.max(now.plus(before))
        }
        Some(kept) => kept.earlier_until,
    };
    Kept { longest_ms, earlier_until: earlier_until.max(opaque_until) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn shortening_a_policy_s_lives_remembers_until_when_the_longer_ones_last() {
        let none = OpaqueEnd::At(UnixMillis(0));
        let first = next(None, 5000, none, NOW);
        assert_eq!(first, Kept { longest_ms: Some(5000), earlier_until: UnixMillis(0) });
        assert_eq!(next(Some(first), 5000, none, NOW), first);
        let shorter = next(Some(first), 100, none, NOW);
        assert_eq!(shorter, Kept { longest_ms: Some(100), earlier_until: NOW.plus(5000) });
        let longer = next(Some(shorter), 9000, none, NOW.plus(1));
        assert_eq!(longer, Kept { longest_ms: Some(9000), earlier_until: NOW.plus(5000) });
    }

    #[test]
    fn opaque_keys_last_until_their_own_end() {
        let until = OpaqueEnd::At(NOW.plus(70));
        assert_eq!(next(None, 5, until, NOW), Kept { longest_ms: Some(5), earlier_until: NOW.plus(70) });
        assert_eq!(next(None, 5, OpaqueEnd::Never, NOW), Kept { longest_ms: None, earlier_until: UnixMillis(0) });
    }
}
