//! What the users of Redis that the chart ships may do: their work, and nothing else.

use std::{sync::Arc, time::Duration};

use countersign_core::{revocation::Position, time::UnixMillis};
use countersign_feed::{
    CounterWindow, FeedError, FeedServer as _, Follower, LeaseWrite, RedisCounters, RedisFeed, SeenSession,
};

use crate::{
    redis_server::{RedisServer, feed_at},
    scene::{Scene, fresh, quick, session, until},
};

const USERS: &str = include_str!("../../../../charts/countersign/files/redis-users.acl");
const VERIFIER: &str = "countersign-verifier";
const OPERATOR: &str = "countersign-operator";
const ISSUER: &str = "countersign-issuer";

fn with_users() -> RedisServer {
    let redis = RedisServer::start();
    for line in USERS.lines() {
        redis.run(&format!("ACL SETUSER {} on >s3cret", line.strip_prefix("user ").unwrap()));
    }
    redis
}

fn url(redis: &RedisServer, user: &str) -> String {
    format!("redis://{user}:s3cret@127.0.0.1:{}", redis.port())
}

fn feed(redis: &RedisServer, user: &str) -> RedisFeed {
    feed_at(&url(redis, user))
}

fn lease(name: &str, position: Option<Position>) -> LeaseWrite {
    LeaseWrite { name: name.into(), ttl: Duration::from_secs(5), position, ack: None }
}

fn saw(session: &str) -> SeenSession {
    SeenSession { policy: "shop/shop".parse().unwrap(), session: session.into(), at: UnixMillis(1_800_000_000_000) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_and_an_operator_work_as_the_users_that_the_chart_ships() {
    let redis = with_users();
    let scene = Scene::over(Arc::new(feed(&redis, OPERATOR)));
    let publisher = scene.publisher();
    let follower = Follower::spawn(Arc::new(feed(&redis, VERIFIER)), quick("reader")).unwrap();
    let position = scene.revoke(&publisher, session("s")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    fresh(&follower).await;
    until("the operator sees the verifier's lease", || async {
        scene.server.leases().await.unwrap().iter().any(|lease| lease.name == "reader")
    })
    .await;

    // What they do now and then.
    let state = scene.server.state().await.unwrap();
    let epoch = state.present().unwrap().epoch;
    scene.server.purge(epoch, UnixMillis(0)).await.unwrap();
    scene.server.remove(epoch, &[(session("s").key(), position)]).await.unwrap();
    let verifier = feed(&redis, VERIFIER);
    verifier.release_lease(&lease("gone", None)).await.unwrap();
    verifier.report_uses(&[]).await.unwrap();
    verifier.report_activity(&[saw("s")]).await.unwrap();
    assert_eq!(scene.server.waiting_uses(10).await.unwrap(), []);
    scene.server.take_out_uses(&["1-1".to_owned()]).await.unwrap();
    let beyond = Position::new(epoch, position.place() + 100);
    let told = verifier.write_lease(&lease("further", beyond)).await.unwrap();
    assert_eq!(told.present().unwrap().ahead, beyond);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_publishes_and_counts_as_the_user_that_the_chart_ships() {
    let redis = with_users();
    let scene = Scene::over(Arc::new(feed(&redis, ISSUER)));
    let publisher = scene.publisher();
    let follower = Follower::spawn(Arc::new(feed(&redis, VERIFIER)), quick("reader")).unwrap();
    let position = scene.revoke(&publisher, session("s")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    let window = CounterWindow { key: "a", limit: 9, length_ms: 60_000 };
    let counters = |user: &str| RedisCounters::new(url(&redis, user).parse().unwrap(), None).unwrap();
    let issuers = counters(ISSUER);
    until("the issuer counts", || async { issuers.hit(&[window]).await.is_ok() }).await;
    until("the issuer takes it back", || async { issuers.take_back(&["a".to_owned()]).await.is_ok() }).await;
    until("the issuer counts", || async { issuers.hit(&[window]).await.is_ok() }).await;
    assert!(issuers.clear("a").await.unwrap());
    feed(&redis, VERIFIER).report_activity(&[saw("s")]).await.unwrap();
    assert_eq!(scene.server.take_activity(10).await, Ok(vec![saw("s")]));
    // What it can't write down it puts back.
    assert_eq!(scene.server.report_activity(&[saw("s")]).await, Ok(0));

    let verifiers = counters(VERIFIER);
    until("the verifier is refused", || async { matches!(verifiers.hit(&[window]).await, Err(FeedError::Protocol(_))) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_can_revoke_nothing_and_hide_nothing() {
    let redis = with_users();
    let scene = Scene::over(Arc::new(feed(&redis, OPERATOR)));
    let publisher = scene.publisher();
    let position = scene.revoke(&publisher, session("s")).await;
    drop(publisher);
    let before = scene.server.state().await.unwrap().record;

    let verifier = feed(&redis, VERIFIER);
    let epoch = position.epoch();
    let refused: Vec<(&str, FeedError)> = vec![
        ("open", verifier.open_epoch(epoch + 1).await.map(|_| ()).unwrap_err()),
        ("seal", verifier.seal(epoch).await.unwrap_err()),
        ("purge", verifier.purge(epoch, UnixMillis(i64::MAX)).await.map(|_| ()).unwrap_err()),
        ("remove", verifier.remove(epoch, &[(session("s").key(), position)]).await.unwrap_err()),
        ("writer", verifier.write_writer_lease("me").await.map(|_| ()).unwrap_err()),
        ("read uses", verifier.waiting_uses(1).await.map(|_| ()).unwrap_err()),
        ("take activity", verifier.take_activity(1).await.map(|_| ()).unwrap_err()),
        ("hide uses", verifier.take_out_uses(&["1-1".to_owned()]).await.unwrap_err()),
        ("leases", verifier.leases().await.map(|_| ()).unwrap_err()),
        ("an issuer's lease", verifier.write_lease(&lease("issuer:pod", None)).await.map(|_| ()).unwrap_err()),
        ("an issuer's end", verifier.release_lease(&lease("issuer:pod", None)).await.unwrap_err()),
    ];
    for (what, error) in refused {
        assert!(matches!(error, FeedError::Protocol(_)), "{what}: {error:?}");
    }
    assert_eq!(scene.server.state().await.unwrap().record, before);
}

/// What each may not, in the words of the protocol.
#[test]
fn none_may_do_what_its_part_does_not_do() {
    let redis = with_users();
    redis.run("SET other value");
    let all = [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "GET other",
        "SET other x",
        "DEL other",
        "CONFIG GET requirepass",
        "CONFIG SET maxmemory-policy allkeys-lru",
        "ACL LIST",
        "ACL SETUSER countersign-verifier +@all",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "REPLICAOF NO ONE",
        "SHUTDOWN NOSAVE",
        "PUBLISH a b",
        "SUBSCRIBE a",
        "EVAL return(redis.call('GET','other')) 0",
        "EVAL return(redis.call('GET',KEYS[1])) 1 other",
    ];
    let verifier = [
        "SET {cs}:epoch x",
        "GET {cs}:limit:a",
        "DEL {cs}:limit:a",
        "HSET {cs}:epoch seeded 1",
        "DEL {cs}:epoch",
        "ZADD {cs}:live 1 x",
        "ZREM {cs}:live x",
        "DEL {cs}:live",
        "HSET {cs}:entries a b",
        "XADD {cs}:tail * a b",
        "ZADD {cs}:writers 1 x",
        "DEL {cs}:leases",
        "DEL {cs}:uses",
        "XTRIM {cs}:uses MAXLEN 0",
        "XREAD STREAMS {cs}:uses 0",
        "DEL {cs}:ahead",
        "GET {cs}:expiry",
        "MGET {cs}:lease:a",
        "EVAL return(redis.call('DEL',KEYS[1])) 1 {cs}:live",
        "EVAL return(redis.call('HSET',KEYS[1],'seeded','1')) 1 {cs}:epoch",
    ];
    for (user, commands) in [(OPERATOR, &all[..]), (ISSUER, &all[..]), (VERIFIER, &all[..]), (VERIFIER, &verifier[..])] {
        let mut connection = redis::Client::open(url(&redis, user)).unwrap().get_connection().unwrap();
        for command in commands {
            let mut words = command.split(' ');
            let mut call = redis::cmd(words.next().unwrap());
            for word in words {
                call.arg(word);
            }
            let said = call.query::<redis::Value>(&mut connection).unwrap_err().to_string();
            let denied = ["No permissions", "no permissions", "NOPERM", "can't run this command", "can't access"];
            assert!(denied.iter().any(|words| said.contains(words)), "{user}: {command}: {said}");
        }
    }
}
