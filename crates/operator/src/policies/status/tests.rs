use super::*;

const NOW: UnixMillis = UnixMillis(1_000_000);
const LATER: UnixMillis = UnixMillis(2_000_000);

fn accepted_() -> Acceptance {
    Acceptance::Accepted(Vec::new())
}

fn refused(reason: &'static str, remedy: Remedy) -> Acceptance {
    Acceptance::Refused { remark: Remark::new(reason, "why"), remedy }
}

fn count(required: usize, held: usize) -> Count {
    let lagging = (held..required).map(|i| format!("v{i}")).take(MAX_NAMED).collect();
    Count { required, held, lagging, ..Count::default() }
}

fn turned(phase: Phase) -> Turned {
    let status = RingStatus { phase, active_kid: None, last_rotation: None, next_rotation: None, waiting: None };
    Turned { ring: Arc::default(), status, lagging: vec!["v9".into()] }
}

fn rings(access: Phase, api_key: Phase) -> Keys {
    Keys::Rings(BTreeMap::from([(RingName::Access, turned(access)), (RingName::ApiKey, turned(api_key))]))
}

fn situation(before: &AuthPolicyStatus) -> Situation<'_> {
    Situation {
        generation: 3,
        before,
        acceptance: accepted_(),
        keys: rings(Phase::Ready, Phase::Ready),
        count: count(2, 2),
        issuers: None,
        bundle_generation: 77,
        feed_reached: true,
        lagging_for_long: false,
        refresh: false,
        published: true,
        unwritten: None,
        now: NOW,
    }
}

fn said(status: &AuthPolicyStatus, type_: &str) -> String {
    let condition = status.conditions.iter().find(|c| c.type_ == type_);
    condition.map_or_else(|| "-".to_owned(), |c| format!("{} {}", c.status, c.reason))
}

#[test]
fn each_state_of_a_policy_is_told_by_its_conditions() {
    let nothing = AuthPolicyStatus::default();
    let base = || situation(&nothing);
    let table = [
        ("in force", base(), ["True Accepted", "True Active", "True Enforced", "True Ready", "-"]),
        (
            "waits for some",
            Situation { count: count(2, 1), ..base() },
            ["True Accepted", "True Active", "False WaitingForVerifiers", "True Ready", "-"],
        ),
        (
            "waits for all",
            Situation { count: count(2, 0), ..base() },
            ["True Accepted", "True Active", "False WaitingForVerifiers", "False WaitingForVerifiers", "-"],
        ),
        (
            "no verifier",
            Situation { count: count(0, 0), ..base() },
            ["True Accepted", "True Active", "False NoVerifiers", "False NoVerifiers", "-"],
        ),
        (
            "refused by one",
            Situation { count: Count { refused: vec!["v1".into()], ..count(2, 1) }, ..base() },
            ["True Accepted", "True Active", "False VerifiersRefused", "False VerifiersRefused", "-"],
        ),
        (
            "a secret is missing",
            Situation {
                acceptance: refused("SecretNotFound", Remedy::Person),
                keys: Keys::NotYet,
                bundle_generation: 0,
                ..base()
            },
            [
                "False SecretNotFound",
                "False Generating",
                "False SecretNotFound",
                "False SecretNotFound",
                "True SecretNotFound",
            ],
        ),
        (
            "keys can't be fetched",
            Situation { acceptance: refused("JWKSUnavailable", Remedy::Time), ..base() },
            ["False JWKSUnavailable", "True Active", "False JWKSUnavailable", "False JWKSUnavailable", "-"],
        ),
        (
            "a warning",
            Situation { acceptance: Acceptance::Accepted(vec![Remark::new("IssuerShared", "w")]), ..base() },
            ["True IssuerShared", "True Active", "True Enforced", "True Ready", "-"],
        ),
        (
            "verifies only",
            Situation { keys: Keys::NotNeeded, ..base() },
            ["True Accepted", "True VerifyOnly", "True Enforced", "True Ready", "-"],
        ),
        (
            "not adopted",
            Situation { keys: Keys::Refused { why: "why".into(), in_force: false }, ..base() },
            [
                "True Accepted",
                "False AdoptionRefused",
                "False AdoptionRefused",
                "False AdoptionRefused",
                "True AdoptionRefused",
            ],
        ),
        (
            "not heard yet",
            Situation { keys: Keys::Unheard, published: false, feed_reached: false, count: count(0, 0), ..base() },
            ["True Accepted", "False FeedUnreachable", "False NoVerifiers", "False FeedUnreachable", "-"],
        ),
        (
            "can't be written",
            Situation { unwritten: Some("too large".into()), ..base() },
            ["True Accepted", "True Active", "False WaitingForVerifiers", "False WaitingForVerifiers", "-"],
        ),
        (
            "first key",
            Situation { keys: rings(Phase::Ready, Phase::Generating), ..base() },
            ["True Accepted", "False Generating", "True Enforced", "False Generating", "-"],
        ),
        (
            "first key, Redis away",
            Situation { keys: rings(Phase::Generating, Phase::Ready), feed_reached: false, ..base() },
            ["True Accepted", "False FeedUnreachable", "True Enforced", "False FeedUnreachable", "-"],
        ),
        (
            "no key signs, whatever waits elsewhere",
            Situation { keys: rings(Phase::RotationWaiting, Phase::NoSigningKey), ..base() },
            ["True Accepted", "False NoSigningKey", "True Enforced", "False NoSigningKey", "-"],
        ),
        (
            "a rotation waits",
            Situation { keys: rings(Phase::RotationWaiting, Phase::Ready), ..base() },
            ["True Accepted", "True RotationWaiting", "True Enforced", "True Ready", "-"],
        ),
        (
            "a rotation waits, Redis away",
            Situation { keys: rings(Phase::RotationWaiting, Phase::Ready), feed_reached: false, ..base() },
            ["True Accepted", "True FeedUnreachable", "True Enforced", "True Ready", "-"],
        ),
        (
            "signs unacknowledged",
            Situation { keys: rings(Phase::EmergencyUnacknowledged, Phase::Ready), ..base() },
            ["True Accepted", "True EmergencyUnacknowledged", "True Enforced", "True Ready", "-"],
        ),
    ];
    for (what, situation, expected) in table {
        let status = status(&situation);
        let found = [ACCEPTED, KEYS_READY, ENFORCED, READY, STALLED].map(|type_| said(&status, type_));
        assert_eq!(found, expected, "{what}");
        assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)), "{what}");
    }
}

#[test]
fn a_settled_policy_s_status_doesn_t_change_because_verifiers_restart() {
    let settled = status(&situation(&AuthPolicyStatus::default()));
    for count in [count(2, 1), count(2, 0), count(0, 0), count(3, 2)] {
        let next = Situation { count: count.clone(), now: LATER, ..situation(&settled) };
        assert_eq!(status(&next), settled, "{count:?}");
    }
    let long = status(&Situation { count: count(2, 1), lagging_for_long: true, now: LATER, ..situation(&settled) });
    assert_eq!(said(&long, ENFORCED), "False WaitingForVerifiers");
    assert_eq!(long.enforcement.as_ref().unwrap().lagging, ["v1"]);
    let back = status(&Situation { now: LATER, ..situation(&long) });
    assert_eq!(said(&back, ENFORCED), "True Enforced");
    assert_eq!(back.enforcement.unwrap().summary, "2/2");
}

#[test]
fn while_a_policy_waits_each_acknowledgement_is_not_worth_a_write() {
    let nothing = AuthPolicyStatus::default();
    let first = status(&Situation { count: count(20, 1), ..situation(&nothing) });
    let second = Situation { count: count(20, 7), now: LATER, ..situation(&first) };
    assert_eq!(status(&second), first);
    let refreshed = status(&Situation { refresh: true, ..second });
    assert_eq!(refreshed.enforcement.as_ref().unwrap().summary, "7/20");
    assert_eq!(refreshed.conditions[2].last_transition_time, first.conditions[2].last_transition_time);
    let all = status(&Situation { count: count(20, 20), now: LATER, ..situation(&refreshed) });
    assert_eq!(all.enforcement.as_ref().unwrap().settled_time, Some(time(LATER)));
    assert_eq!(all.conditions[2].last_transition_time, time(LATER));
}

#[test]
fn a_new_generation_is_not_enforced_because_the_one_before_was() {
    let settled = status(&situation(&AuthPolicyStatus::default()));
    let edited = status(&Situation { generation: 4, count: count(2, 0), now: LATER, ..situation(&settled) });
    assert_eq!(said(&edited, ENFORCED), "False WaitingForVerifiers");
    assert_eq!(edited.enforcement.unwrap().generation, 4);
}

#[test]
fn while_the_last_good_bundle_is_in_force_no_verifier_is_said_to_hold_what_is_declared() {
    let settled = status(&situation(&AuthPolicyStatus::default()));
    let refused = refused("SecretNotFound", Remedy::Person);
    let edited = Situation { generation: 4, acceptance: refused, published: false, now: LATER, ..situation(&settled) };
    let told = status(&edited);
    assert_eq!(said(&told, ENFORCED), "False SecretNotFound");
    assert_eq!(told.enforcement, settled.enforcement, "what verifiers hold is generation 3");
    let unwritten = Situation { generation: 4, unwritten: Some("why".into()), now: LATER, ..situation(&settled) };
    let told = status(&unwritten);
    assert_eq!(
        (said(&told, ENFORCED), said(&told, READY)),
        ("False WaitingForVerifiers".into(), "False WaitingForVerifiers".into())
    );
    assert_eq!(told.enforcement, settled.enforcement);
}

#[test]
fn what_stays_in_force_is_told_of_a_policy_whose_ring_somebody_edited() {
    let settled = status(&situation(&AuthPolicyStatus::default()));
    for (in_force, begins) in [(true, "the last bundle stays in force"), (false, "nothing is in force")] {
        let keys = Keys::Refused { why: "why".into(), in_force };
        let told = status(&Situation { keys, published: false, ..situation(&settled) });
        let message = &told.conditions.iter().find(|c| c.type_ == ENFORCED).unwrap().message;
        assert!(message.starts_with(begins), "{message}");
    }
}
