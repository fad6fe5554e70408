use proptest::prelude::*;

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn window(what: &'static str, key: &str, limit: u32) -> Window {
    Window { what, key: key.to_owned(), limit, window_ms: 60_000 }
}

fn shop() -> PolicyName {
    "shop/shop".parse().unwrap()
}

async fn limits() -> (tempfile::TempDir, Limits) {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&directory.path().join("store.db")).await.unwrap());
    (directory, Limits::new(store, None, b"a key of the installation"))
}

#[tokio::test]
async fn a_limit_lets_through_as_many_as_it_says_and_then_tells_when_to_come_back() {
    let (_directory, limits) = limits().await;
    let windows = [window("login", "ann", 2)];
    for (at, allowed, remaining, reset_ms) in [
        (0, true, 1, 60_000),
        (1_000, true, 0, 59_000),
        (2_000, false, 0, 58_000),
        (59_999, false, 0, 1),
        (60_000, true, 1, 60_000),
    ] {
        let standing = limits.hit(&shop(), &windows, NOW.plus(at)).await.unwrap().unwrap();
        assert_eq!(standing, Standing { allowed, limit: 2, remaining, reset_ms }, "after {at} ms");
    }
    let other: PolicyName = "shop/other".parse().unwrap();
    assert!(limits.hit(&other, &windows, NOW.plus(60_000)).await.unwrap().unwrap().remaining == 1, "a policy of its own");
    assert_eq!(limits.hit(&shop(), &[], NOW).await.unwrap(), None, "no limit, nothing to tell");
}

#[tokio::test]
async fn the_tightest_of_several_limits_answers_and_uses_up_no_other() {
    let (_directory, limits) = limits().await;
    let windows = [window("account", "ann", 1), window("address", "203.0.113.7", 10)];
    assert_eq!(limits.hit(&shop(), &windows, NOW).await.unwrap().unwrap().limit, 1);
    for _ in 0..5 {
        let refused = limits.hit(&shop(), &windows, NOW).await.unwrap().unwrap();
        assert_eq!((refused.allowed, refused.limit), (false, 1));
    }
    let address = limits.peek(&shop(), &windows[1..], NOW).await.unwrap().unwrap();
    assert_eq!((address.allowed, address.remaining), (true, 9), "what the account's limit refused isn't the address's try");
}

#[tokio::test]
async fn a_cleared_limit_begins_anew_and_looking_is_no_try() {
    let (_directory, limits) = limits().await;
    let windows = [window("login", "ann", 1)];
    for _ in 0..3 {
        assert!(limits.peek(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
    }
    assert!(limits.hit(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
    assert!(!limits.peek(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
    assert!(limits.clear(&shop(), "login", "ann").await.unwrap());
    assert!(!limits.clear(&shop(), "login", "ann").await.unwrap());
    assert!(limits.hit(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
}

#[tokio::test]
async fn of_many_at_once_no_more_than_the_limit_are_let_through() {
    let (_directory, limits) = limits().await;
    let limits = Arc::new(limits);
    let tries: Vec<_> = (0..20)
        .map(|_| {
            let limits = limits.clone();
            tokio::spawn(async move { limits.hit(&shop(), &[window("login", "ann", 5)], NOW).await.unwrap().unwrap() })
        })
        .collect();
    let mut allowed = 0;
    for tried in tries {
        allowed += u32::from(tried.await.unwrap().allowed);
    }
    assert!((1..=5).contains(&allowed), "{allowed}");
}

#[tokio::test]
async fn a_redis_that_is_away_opens_no_door() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&directory.path().join("store.db")).await.unwrap());
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let redis = RedisCounters::new(format!("redis://{nobody}").parse().unwrap(), None).unwrap();
    let limits = Limits::new(store, Some(redis), b"a key of the installation");
    assert!(!limits.redis_away());
    let windows = [window("login", "ann", 2)];
    let mut allowed = Vec::new();
    for _ in 0..4 {
        allowed.push(limits.hit(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
    }
    assert_eq!(allowed, [true, true, false, false]);
    assert!(limits.redis_away());
    assert!(limits.fallbacks() >= 4);
}

#[tokio::test]
async fn failed_logins_are_counted_over_a_sliding_minute() {
    let (_directory, limits) = limits().await;
    for _ in 0..150 {
        limits.note_failed_login(&shop(), NOW).await.unwrap();
    }
    let minute = attack::MINUTE_MS;
    let start = NOW.0.div_euclid(minute) * minute;
    let at = |ms: i64| UnixMillis(start + ms);
    for (now, attack) in [(at(minute - 1), true), (at(minute), true), (at(minute + 30_000), false), (at(2 * minute), false)]
    {
        assert_eq!(limits.pressure(&shop(), now).await.unwrap().is_attack(5), attack, "{now}");
    }
}

#[tokio::test]
async fn nobody_s_name_or_address_is_kept() {
    let (_directory, limits) = limits().await;
    let name = limits.name(&shop(), "login", "ann@shop.example");
    assert!(name.starts_with("login:") && !name.contains("ann") && !name.contains("shop"), "{name}");
    assert_ne!(name, limits.name(&shop(), "login", "bob@shop.example"));
    assert_ne!(name, limits.name(&shop(), "reset", "ann@shop.example"));
    let keyed = Limits::new(limits.store.clone(), None, b"another installation's key");
    assert_ne!(name, keyed.name(&shop(), "login", "ann@shop.example"));
}

#[test]
fn an_ipv6_address_counts_by_its_64() {
    for (ip, key) in [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ] {
        assert_eq!(address_key(ip.parse().unwrap()), key, "{ip}");
    }
}

proptest! {
    #[test]
    fn joined_keys_differ_when_any_part_does(one: Vec<String>, other: Vec<String>) {
        let key = |parts: &[String]| joined_key(&parts.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(one == other, key(&one) == key(&other));
    }

    #[test]
    fn the_tightest_is_a_refusal_if_there_is_one(standings in prop::collection::vec(any::<(bool, u32, i64)>(), 1..6)) {
        let standings: Vec<Standing> = standings
            .into_iter()
            .map(|(allowed, remaining, reset_ms)| Standing { allowed, limit: 9, remaining, reset_ms: reset_ms.max(0) })
            .collect();
        let answer = standings.iter().copied().reduce(tightest).unwrap();
        prop_assert_eq!(answer.allowed, standings.iter().all(|s| s.allowed));
        let refused = standings.iter().filter(|s| !s.allowed);
        prop_assert!(answer.allowed || refused.map(|s| s.reset_ms).max() == Some(answer.reset_ms));
    }
}

/// A Redis of a test's own, killed with it.
struct Redis {
    process: std::process::Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let process = std::process::Command::new("redis-server")
            .args(["--port", &free.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(directory.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("redis-server can be run; `cargo xtask test` installs it");
        let redis = Self { process, url: format!("redis://{free}"), _directory: directory };
        let counters = redis.counters();
        let looked_at = countersign_feed::CounterWindow { key: "up", limit: 1, length_ms: 1000 };
        for _ in 0..2000 {
            if counters.peek(&[looked_at]).await.is_ok() {
                return redis;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("redis-server did not come up");
    }

    fn counters(&self) -> RedisCounters {
        RedisCounters::new(self.url.parse().unwrap(), None).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_issuers_count_as_one() {
    let redis = Redis::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut issuers = Vec::new();
    for name in ["one.db", "other.db"] {
        let store = Arc::new(Store::open(&directory.path().join(name)).await.unwrap());
        issuers.push(Limits::new(store, Some(redis.counters()), b"a key of the installation"));
    }
    // On a busy machine an answer may take longer than its budget, and the stores count: then it is tried again.
    for round in 0..200 {
        let windows = [window("login", &format!("ann {round}"), 2), window("address", &format!("{round}"), 9)];
        let before: Vec<u64> = issuers.iter().map(Limits::fallbacks).collect();
        let mut allowed = Vec::new();
        for issuer in issuers.iter().chain(&issuers[..1]) {
            allowed.push(issuer.hit(&shop(), &windows, NOW).await.unwrap().unwrap().allowed);
        }
        let left = issuers[1].peek(&shop(), &windows[1..], NOW).await.unwrap().unwrap().remaining;
        let cleared = issuers[1].clear(&shop(), "login", &format!("ann {round}")).await.unwrap();
        let again = issuers[0].hit(&shop(), &windows, NOW).await.unwrap().unwrap().allowed;
        if issuers.iter().map(Limits::fallbacks).eq(before) {
            assert_eq!(allowed, [true, true, false]);
            assert_eq!(left, 7, "what is refused is counted nowhere");
            assert!(cleared && again);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the Redis never answers within its budget");
}
