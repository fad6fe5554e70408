//! Counters that processes share on a Redis.

use std::time::{Duration, Instant};

use countersign_feed::{CounterWindow, FeedError, RedisCounters};
use rustix::process::Signal;

use crate::{redis_server::RedisServer, scene::until};

fn counters(url: &str) -> RedisCounters {
    RedisCounters::new(url.parse().unwrap(), None).unwrap()
}

const fn window(key: &str, limit: u32) -> CounterWindow<'_> {
    CounterWindow { key, limit, length_ms: 60_000 }
}

/// A busy machine may take longer than the budget, once.
async fn counted(counters: &RedisCounters, windows: &[CounterWindow<'_>]) -> (bool, Vec<u32>) {
    for _ in 0..100 {
        if let Ok(answer) = counters.hit(windows).await {
            assert!(answer.windows.iter().all(|w| (0..=60_000).contains(&w.ends_in_ms)), "{answer:?}");
            return (answer.counted, answer.windows.iter().map(|w| w.hits).collect());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the Redis is never reached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_counts_the_other_sees() {
    let redis = RedisServer::start();
    let (one, other) = (counters(&redis.url()), counters(&redis.url()));
    assert_eq!(counted(&one, &[window("a", 2)]).await, (true, vec![1]));
    assert_eq!(counted(&other, &[window("a", 2)]).await, (true, vec![2]));
    assert_eq!(counted(&one, &[window("a", 2)]).await, (false, vec![2]), "what is refused isn't counted");
    assert_eq!(counted(&one, &[window("b", 2)]).await, (true, vec![1]));
    assert!(one.clear("a").await.unwrap());
    assert!(!one.clear("a").await.unwrap());
    assert_eq!(one.peek(&[window("a", 2)]).await.unwrap()[0].hits, 0);
    assert_eq!(counted(&other, &[window("a", 2)]).await, (true, vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_window_refuses_uses_up_no_other() {
    let redis = RedisServer::start();
    let counters = counters(&redis.url());
    assert_eq!(counted(&counters, &[window("narrow", 1), window("wide", 9)]).await, (true, vec![1, 1]));
    assert_eq!(counted(&counters, &[window("narrow", 1), window("wide", 9)]).await, (false, vec![1, 1]));
    assert_eq!(counted(&counters, &[window("none", 0), window("wide", 9)]).await, (false, vec![0, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_was_never_counted_and_lengthens_no_window() {
    let redis = RedisServer::start();
    let counters = counters(&redis.url());
    let (a, b) = (window("a", 2), window("b", 9));
    let take_back = async || {
        let keys = ["a".to_owned(), "b".to_owned()];
        until("it is taken back", || async { counters.take_back(&keys).await.is_ok() }).await;
    };
    assert_eq!(counted(&counters, &[a, b]).await, (true, vec![1, 1]));
    assert_eq!(counted(&counters, &[a, b]).await, (true, vec![2, 2]));
    take_back().await;
    let rest: i64 = match redis.run("PTTL {cs}:limit:a") {
        redis::Value::Int(rest) => rest,
        other => panic!("{other:?}"),
    };
    assert!((1..=60_000).contains(&rest), "it still ends: {rest}");
    assert_eq!(counted(&counters, &[a, b]).await, (true, vec![2, 2]));
    take_back().await;
    take_back().await;
    take_back().await;
    assert_eq!(redis.run("DBSIZE"), redis::Value::Int(0), "nothing is counted below nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_ends_by_itself_and_leaves_nothing() {
    let redis = RedisServer::start();
    let counters = counters(&redis.url());
    let short = CounterWindow { key: "short", limit: 1, length_ms: 100 };
    assert!(counted(&counters, &[short]).await.0);
    until("the window is over", || async { counters.peek(&[short]).await.is_ok_and(|w| w[0].hits == 0) }).await;
    assert_eq!(redis.run("DBSIZE"), redis::Value::Int(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_redis_that_is_away() {
    let mut redis = RedisServer::start();
    let counters = counters(&redis.url());
    assert!(counted(&counters, &[window("a", 9)]).await.0);
    redis.signal(Signal::STOP);
    let error = counters.hit(&[window("a", 9)]).await.unwrap_err();
    assert!(matches!(error, FeedError::Unreachable(_)), "{error}");
    let started = Instant::now();
    for _ in 0..1000 {
        counters.hit(&[window("a", 9)]).await.unwrap_err();
    }
    assert!(started.elapsed() < Duration::from_millis(900), "each call after a failure waited: {:?}", started.elapsed());
    redis.signal(Signal::CONT);
    until("it is used again", || async { counters.hit(&[window("a", 9)]).await.is_ok() }).await;
    redis.kill();
    until("it is missed", || async { counters.hit(&[window("a", 9)]).await.is_err() }).await;
    redis.launch();
    until("it is used again", || async { counters.hit(&[window("a", 9)]).await.is_ok() }).await;
}

#[tokio::test]
async fn a_key_that_something_else_wrote_is_an_error_and_counts_nothing() {
    let redis = RedisServer::start();
    redis.run("SET {cs}:limit:a junk");
    let counters = counters(&redis.url());
    until("it is reached", || async { counters.peek(&[window("b", 9)]).await.is_ok() }).await;
    assert!(matches!(counters.hit(&[window("b", 9), window("a", 9)]).await, Err(FeedError::Protocol(_))));
}
