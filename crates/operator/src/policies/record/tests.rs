use countersign_api::key_ring::{ACCESS_KEY, Rings};
use countersign_core::ring::Ring;

use super::*;

fn name() -> PolicyName {
    PolicyName::try_new("shop", "shop").unwrap()
}

fn kept(keys: &BundleKeys) -> (Kept, RingSecret) {
    let record = Record {
        policy: PolicyName::try_new("shop", "shop").unwrap(),
        uid: "u".into(),
        origin: None,
        namespace_uid: "n".into(),
        issuer: Some("https://auth.example".into()),
        generation: 7,
        withdrawn_time: None,
        retain_ms: 1,
        issued_until: None,
        key_sources: BTreeMap::new(),
        revoked: Vec::new(),
        spec: None,
    };
    let kept = Kept { record, rings: Rings::from([(RingName::Access, Arc::default())]) };
    let mut secret = kept.to_secret(keys, Some(3)).unwrap();
    assert_eq!(secret.metadata.resource_version.as_deref(), Some("3"));
    secret.metadata.resource_version = Some("4".into());
    (kept, RingSecret::of(secret))
}

fn edited(secret: &RingSecret, key: &str, edit: impl FnOnce(&mut Vec<u8>)) -> RingSecret {
    let mut data = (*secret.data).clone();
    edit(data.get_mut(key).unwrap());
    RingSecret { data: Arc::new(data), ..secret.clone() }
}

#[test]
fn what_was_kept_is_read_back() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (kept, secret) = kept(&keys);
    assert_eq!(secret.open(&name(), &keys, false), Ok(kept));
    assert_eq!((secret.version, secret.owner.as_deref()), (4, Some("u")));
}

#[test]
fn a_ring_that_somebody_edited_is_not_trusted_unless_an_administrator_vouches_for_it() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (_, secret) = kept(&keys);
    let with_another_version = edited(&secret, ACCESS_KEY, |bytes| *bytes = br#"{"version":9,"keys":[]}"#.to_vec());
    assert_eq!(with_another_version.open(&name(), &keys, false), Err(Untrusted::Seal));
    assert_eq!(with_another_version.open(&name(), &keys, true).unwrap().rings[&RingName::Access].version, 9);
    for (key, bytes) in [(RECORD_KEY, "{}"), (SEAL_KEY, "{}"), (SEAL_KEY, r#"{"key":"x","value":""}"#)] {
        let changed = edited(&secret, key, |held| *held = bytes.as_bytes().to_vec());
        assert_eq!(changed.open(&name(), &keys, false), Err(Untrusted::Seal), "{key} {bytes}");
    }
    let mut without_a_ring = (*secret.data).clone();
    without_a_ring.remove(ACCESS_KEY);
    let without_a_ring = RingSecret { data: Arc::new(without_a_ring), ..secret.clone() };
    assert_eq!(without_a_ring.open(&name(), &keys, false), Err(Untrusted::Seal));
    let other_keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    assert_eq!(secret.open(&name(), &other_keys, false), Err(Untrusted::Seal));
}

#[test]
fn another_policy_s_secret_under_this_policy_s_name_is_not_ours() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (kept, _) = kept(&keys);
    let mut secret = kept.to_secret(&keys, None).unwrap();
    let other = PolicyName::try_new("shop", "other").unwrap();
    secret.metadata.name = Some(ring_name(&other));
    let found = RingSecret::of(secret);
    assert_eq!((found.policy.as_ref(), found.open(&other, &keys, false)), (None, Err(Untrusted::Seal)));
    assert_eq!(found.open(&other, &keys, true), Err(Untrusted::Other), "whoever vouches for it");
}

#[test]
fn a_secret_of_ours_is_known_by_its_seal_though_everything_around_was_taken_off() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (kept, _) = kept(&keys);
    let mut secret = kept.to_secret(&keys, None).unwrap();
    (secret.metadata.annotations, secret.metadata.labels) = (None, None);
    let found = RingSecret::of(secret);
    assert_eq!(found.open(&name(), &keys, false), Ok(kept));
    assert!(!found.is_marked(&name(), "u"), "so that it is marked anew");
}

#[test]
fn an_administrator_s_word_covers_what_is_there_and_no_later_forgery() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (_, secret) = kept(&keys);
    let forged = edited(&secret, ACCESS_KEY, |bytes| *bytes = br#"{"version":9,"keys":[]}"#.to_vec());
    let word = forged.adoption(&name(), "u2");
    assert!(word.starts_with("u2:"), "{word}");
    let vouched = RingSecret { adopt: Some(word.clone()), ..forged.clone() };
    assert!(vouched.is_vouched_for(&name(), "u2") && !vouched.is_vouched_for(&name(), "u3"));
    let again = edited(&vouched, ACCESS_KEY, |bytes| *bytes = br#"{"version":10,"keys":[]}"#.to_vec());
    assert!(!again.is_vouched_for(&name(), "u2"));
    let of_old = RingSecret { adopt: Some("u2".into()), ..forged };
    assert!(!of_old.is_vouched_for(&name(), "u2"), "a uid alone vouches for nothing");
}

#[test]
fn a_secret_s_content_is_let_go_of_at_the_version_that_is_remembered_and_not_under_an_administrator_s_word() {
    let (keys, others) = (BundleKeys::generate(UnixMillis(0)).unwrap(), BundleKeys::generate(UnixMillis(0)).unwrap());
    let (_, secret) = kept(&keys);
    let vouched = RingSecret { adopt: Some(secret.adoption(&name(), "u2")), ..secret.clone() };
    for (secret, remembered, lets_go) in [(&secret, 4, true), (&secret, 3, false), (&vouched, 4, false)] {
        let mut seen = RingSeen::Whole(secret.clone());
        seen.remember(remembered);
        assert_eq!(matches!(seen, RingSeen::Remembered { .. }), lets_go, "{remembered}");
        assert_eq!((seen.version(), seen.policy()), (4, Some(&name())));
        assert!(seen.is_sealed_by(&keys) && !seen.is_sealed_by(&others));
        assert_eq!(seen, RingSeen::Whole(secret.clone()), "a watch that shows it again brings nothing back");
        assert_eq!(seen.whole().is_none(), lets_go);
    }
}

#[test]
fn any_part_that_goes_back_makes_a_state_an_older_one() {
    type Back = fn(&mut Kept);
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (mut later, _) = kept(&keys);
    later.record.issued_until = Some(UnixMillis(5));
    later.rings.insert(RingName::Access, Arc::new(Ring { version: 3, ..Ring::default() }));
    assert!(!later.is_older_than(&later));
    let parts: [Back; 4] = [
        |kept| kept.record.generation = 6,
        |kept| kept.record.issued_until = None,
        |kept| Arc::make_mut(kept.rings.get_mut(&RingName::Access).unwrap()).version = 2,
        |kept| drop(kept.rings.remove(&RingName::Access)),
    ];
    for (at, back) in parts.into_iter().enumerate() {
        let mut older = later.clone();
        back(&mut older);
        assert!(older.is_older_than(&later) && !later.is_older_than(&older), "{at}");
    }
}

#[test]
fn ended_sessions_stay_until_both_clocks_say_that_they_expired() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (Kept { mut record, .. }, _) = kept(&keys);
    let entry = |id: &str, expires: i64| Entry {
        policy: record.policy.clone(),
        kind: Kind::Session,
        issuer: None,
        id: id.into(),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis(expires),
        version: 0,
        reason: String::new(),
        source: "operator".into(),
    };
    let (b, a, longer) = (entry("b", 100), entry("a", 100), entry("a", 200));
    record.revoke([b, a]);
    record.revoke([longer]);
    let said: Vec<(&str, i64)> = record.revoked.iter().map(|e| (e.id.as_str(), e.expires.0)).collect();
    assert_eq!(said, [("a", 200), ("b", 100)]);
    let after = UnixMillis(150).plus(countersign_core::revocation::PURGE_AFTER_MS);
    record.purge(after, None);
    record.purge(after, Some(UnixMillis(0)));
    record.purge(UnixMillis(0), Some(after));
    assert_eq!(record.revoked.len(), 2);
    record.purge(after, Some(after));
    assert_eq!(record.revoked.len(), 1);
}

#[test]
fn past_a_thousand_ended_sessions_one_cut_off_of_access_tokens_takes_their_place() {
    let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
    let (Kept { mut record, .. }, _) = kept(&keys);
    let entry = |kind, id: String, expires| Entry {
        policy: name(),
        kind,
        issuer: None,
        id,
        cutoff: UnixMillis::FOREVER,
        expires,
        version: 0,
        reason: String::new(),
        source: "operator".into(),
    };
    record.revoke([entry(Kind::Key, "k".into(), UnixMillis::FOREVER)]);
    record.revoke((0..1_000).map(|i| entry(Kind::Session, i.to_string(), UnixMillis(100 + i))));
    assert_eq!((record.merge(UnixMillis(50), 10), record.revoked.len()), (0, 1_001));
    record.revoke([entry(Kind::Session, "one more".into(), UnixMillis(7))]);
    assert_eq!(record.merge(UnixMillis(50), 10), 1_001);
    let said: Vec<(Kind, &str)> = record.revoked.iter().map(|e| (e.kind, e.id.as_str())).collect();
    assert_eq!(said, [(Kind::Key, "k"), (Kind::Policy, ACCESS_RING_ONLY)]);
    assert_eq!((record.revoked[1].cutoff, record.revoked[1].expires), (UnixMillis(50), UnixMillis(1_099)));
    record.revoke((0..1_001).map(|i| entry(Kind::Session, i.to_string(), UnixMillis(100))));
    record.merge(UnixMillis(80), 5_000);
    assert_eq!(
        (record.revoked.len(), record.revoked[1].cutoff, record.revoked[1].expires),
        (2, UnixMillis(80), UnixMillis(5_080))
    );
}
