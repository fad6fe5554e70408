//! Where a Redis may be, and which are refused.

use std::{sync::Arc, time::Duration};

use countersign_feed::{FeedError, FeedServer, HeldBack, RedisFeed, RedisOptions};

use crate::{
    redis_server::{RedisServer, feed_at, free_port},
    scene::{Scene, fresh, not_fresh, session},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_revocations_is_refused_with_the_setting_to_change() {
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
        let redis = RedisServer::start_with(&["--maxmemory-policy", policy]);
        let error = redis.feed().state().await.unwrap_err();
        assert_eq!(error, FeedError::Refused(HeldBack::Evicts(policy.into())));
        let text = error.to_string();
        assert!(text.contains(policy) && text.contains("set maxmemory-policy to volatile-ttl"), "{text}");
    }
    for policy in ["noeviction", "volatile-ttl", "volatile-lru", "volatile-lfu", "volatile-random"] {
        let redis = RedisServer::start_with(&["--maxmemory-policy", policy]);
        assert!(redis.feed().state().await.is_ok(), "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_config_is_forbidden_the_eviction_policy_is_read_from_info() {
    let renamed = ["--rename-command", "CONFIG", ""];
    let redis = RedisServer::start_with(&renamed);
    assert!(redis.feed().state().await.is_ok());
    let redis = RedisServer::start_with(&[&renamed[..], &["--maxmemory-policy", "allkeys-lru"]].concat());
    assert_eq!(redis.feed().state().await, Err(FeedError::Refused(HeldBack::Evicts("allkeys-lru".into()))));
    let redis = RedisServer::start();
    redis.run("ACL SETUSER app on >s3cret ~{cs}:* +@all -@dangerous +info");
    works(feed_at(&format!("redis://app:s3cret@127.0.0.1:{}", redis.port()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_turns_bad_while_in_use_is_noticed() {
    let redis = RedisServer::start();
    let scene = Scene::over(Arc::new(redis.feed()));
    let _publisher = scene.publisher();
    let follower = scene.follower("reader");
    fresh(&follower).await;
    redis.run("CONFIG SET maxmemory-policy allkeys-lru");
    not_fresh(&follower).await;
    let problem = follower.state().stats().problem.unwrap();
    assert!(problem.contains("volatile-ttl"), "{problem}");
    redis.run("CONFIG SET maxmemory-policy volatile-ttl");
    fresh(&follower).await;
}

async fn works(feed: RedisFeed) {
    let scene = Scene::over(Arc::new(feed));
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    let position = scene.revoke(&publisher, session("s")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    fresh(&follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_passwords_and_databases_work() {
    let redis = RedisServer::start_with(&["--unixsocket", "redis.sock", "--requirepass", "s3cret"]);
    let socket = redis.path("redis.sock");
    works(feed_at(&format!("redis+unix://{}?pass=s3cret&db=3", socket.display()))).await;
    works(feed_at(&format!("redis://:s3cret@127.0.0.1:{}/2", redis.port()))).await;
    let wrong = feed_at(&format!("redis://:wr0ng@127.0.0.1:{}", redis.port()));
    let error = wrong.state().await.unwrap_err().to_string();
    assert!(!error.contains("wr0ng"), "{error}");
    assert!(!format!("{wrong:?}").contains("wr0ng"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_against_the_given_authority() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (cert, key, ca) = (at("cert", cert.pem()), at("key", key.serialize_pem()), ca_cert.pem());
    let port = free_port().to_string();
    let args = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no", "--tls-port", &port];
    let _redis = RedisServer::start_with(&args);
    let url = format!("rediss://localhost:{port}");
    let with = |ca: Option<String>| {
        let options = RedisOptions { ca_pem: ca.map(String::into_bytes), ..RedisOptions::default() };
        RedisFeed::new(url.parse().unwrap(), options).unwrap()
    };
    works(with(Some(ca))).await;
    assert!(matches!(with(None).state().await, Err(FeedError::Unreachable(_))), "an unknown authority");
}
