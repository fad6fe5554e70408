//! What a policy is to the operator: decided from what is declared and what is kept.

use countersign_api::key_ring::{Record, Untrusted};
use countersign_core::time::UnixMillis;

/// What is declared, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) uid: &'a str,
    pub(crate) namespace_uid: &'a str,
    pub(crate) issuer: Option<&'a str>,
    /// The object is being deleted.
    pub(crate) deleting: bool,
    /// An administrator's word on the ring's Secret says that this policy may take over what it holds now.
    pub(crate) vouched: bool,
}

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held<'a> {
    /// Nothing.
    Nothing,
    /// This.
    Record(&'a Record),
    /// Something that isn't trusted.
    Untrusted(&'a Untrusted),
}

/// What a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Neither declared nor kept.
    Gone,
    /// In force.
    Live {
        /// It takes over what an earlier object of its name left.
        adopts: bool,
    },
    /// To be withdrawn now.
    Withdraw,
    /// Withdrawn, and kept until then.
    Withdrawn {
        /// When it may be erased.
        until: UnixMillis,
    },
    /// Withdrawn long enough.
    Erase,
    /// Declared, but what is kept under its name isn't its own.
    Refused(Refused),
}

/// Why what is kept isn't used for what is declared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It was another namespace's.
    #[error("keys of an earlier policy of this name are kept, from another namespace object of this name")]
    Namespace,
    /// It was another issuer's.
    #[error("keys of an earlier policy of this name are kept, whose issuer was {}", .0.as_deref().unwrap_or("none"))]
    Issuer(Option<String>),
    /// Nobody knows whose it is.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
}

/// What a policy is. `server_now`: the feed server's clock, if it is in reach; nothing is erased while it isn't.
pub(crate) fn standing(
    wanted: Option<&Wanted<'_>>,
    held: Held<'_>,
    now: UnixMillis,
    server_now: Option<UnixMillis>,
) -> Standing {
    let live = wanted.filter(|wanted| !wanted.deleting);
    match (live, held) {
        (Some(_), Held::Nothing) => Standing::Live { adopts: false },
        (Some(wanted), Held::Untrusted(why)) => {
            if wanted.vouched {
                Standing::Live { adopts: true }
            } else {
                Standing::Refused(Refused::Untrusted(why.clone()))
            }
        }
        (Some(wanted), Held::Record(record)) => adoption(wanted, record),
        // What isn't trusted is replaced, not read: a tombstone is, and says since when.
        (None, Held::Untrusted(_)) => Standing::Withdraw,
        (None, Held::Nothing) => {
            if wanted.is_some() {
                Standing::Withdraw
            } else {
                Standing::Gone
            }
        }
        (None, Held::Record(record)) => match record.withdrawn_time {
            None => Standing::Withdraw,
            Some(withdrawn) => {
                let until = withdrawn.plus(record.retain_ms);
                let over = now >= until && server_now.is_some_and(|server_now| server_now >= until);
                if over && wanted.is_none() { Standing::Erase } else { Standing::Withdrawn { until } }
            }
        },
    }
}

fn adoption(wanted: &Wanted<'_>, record: &Record) -> Standing {
    if record.uid == wanted.uid && record.withdrawn_time.is_none() {
        return Standing::Live { adopts: false };
    }
    if wanted.vouched {
        Standing::Live { adopts: true }
    } else if record.namespace_uid != wanted.namespace_uid {
        Standing::Refused(Refused::Namespace)
    } else if record.issuer.as_deref() != wanted.issuer {
        Standing::Refused(Refused::Issuer(record.issuer.clone()))
    } else {
        Standing::Live { adopts: true }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::names::PolicyName;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn record() -> Record {
        Record {
            policy: PolicyName::try_new("shop", "shop").unwrap(),
            uid: "u1".into(),
            origin: None,
            namespace_uid: "n1".into(),
            issuer: Some("https://a.example".into()),
            generation: 1,
            withdrawn_time: None,
            retain_ms: 500,
            issued_until: None,
            key_sources: std::collections::BTreeMap::new(),
            revoked: Vec::new(),
            spec: None,
        }
    }

    fn wanted() -> Wanted<'static> {
        Wanted { uid: "u1", namespace_uid: "n1", issuer: Some("https://a.example"), deleting: false, vouched: false }
    }

    #[test]
    fn a_policy_takes_over_what_is_kept_only_in_its_own_namespace_and_under_its_own_issuer() {
        let withdrawn = Record { withdrawn_time: Some(UnixMillis(1)), ..record() };
        let again = Wanted { uid: "u2", ..wanted() };
        let adopts = Standing::Live { adopts: true };
        for (wanted, record, expected, why) in [
            (wanted(), record(), Standing::Live { adopts: false }, "its own"),
            (again, withdrawn.clone(), adopts.clone(), "created again"),
            (again, record(), adopts.clone(), "created again before anyone saw it go"),
            (
                Wanted { namespace_uid: "n2", ..again },
                withdrawn.clone(),
                Standing::Refused(Refused::Namespace),
                "another namespace",
            ),
            (
                Wanted { issuer: Some("https://b.example"), ..again },
                withdrawn.clone(),
                Standing::Refused(Refused::Issuer(Some("https://a.example".into()))),
                "another issuer",
            ),
            (
                Wanted { issuer: None, ..again },
                withdrawn.clone(),
                Standing::Refused(Refused::Issuer(Some("https://a.example".into()))),
                "no issuer",
            ),
            (Wanted { namespace_uid: "n2", vouched: true, ..again }, withdrawn, adopts, "an administrator says so"),
        ] {
            assert_eq!(standing(Some(&wanted), Held::Record(&record), NOW, Some(NOW)), expected, "{why}");
        }
    }

    #[test]
    fn what_is_not_trusted_is_used_only_on_an_administrator_s_word_and_goes_when_the_policy_goes() {
        let held = Held::Untrusted(&Untrusted::Seal);
        let refused = Standing::Refused(Refused::Untrusted(Untrusted::Seal));
        assert_eq!(standing(Some(&wanted()), held, NOW, None), refused);
        let vouched = Wanted { vouched: true, ..wanted() };
        assert_eq!(standing(Some(&vouched), held, NOW, None), Standing::Live { adopts: true });
        assert_eq!(standing(Some(&Wanted { deleting: true, ..wanted() }), held, NOW, None), Standing::Withdraw);
        assert_eq!(standing(None, held, NOW, None), Standing::Withdraw, "its object went with nobody there to see");
    }

    #[test]
    fn a_deleted_policy_is_kept_for_its_time_by_both_clocks() {
        let deleting = Wanted { deleting: true, ..wanted() };
        assert_eq!(standing(Some(&deleting), Held::Record(&record()), NOW, None), Standing::Withdraw);
        assert_eq!(standing(None, Held::Record(&record()), NOW, None), Standing::Withdraw, "its finalizer was taken off");
        assert_eq!(standing(None, Held::Nothing, NOW, None), Standing::Gone);
        let withdrawn = Record { withdrawn_time: Some(UnixMillis(0)), ..record() };
        let until = UnixMillis(500);
        for (now, server_now, expected) in [
            (499, Some(1000), Standing::Withdrawn { until }),
            (1000, Some(499), Standing::Withdrawn { until }),
            (1000, None, Standing::Withdrawn { until }),
            (500, Some(500), Standing::Erase),
        ] {
            let found = standing(None, Held::Record(&withdrawn), UnixMillis(now), server_now.map(UnixMillis));
            assert_eq!(found, expected, "{now} {server_now:?}");
        }
        let found = standing(Some(&deleting), Held::Record(&withdrawn), NOW, Some(NOW));
        assert_eq!(found, Standing::Withdrawn { until }, "while its object is still there");
    }
}
