//! Past a policy's bound, one cut-off stands for many entries; on every reader alike.

use std::time::Duration;

use countersign_core::{
    revocation::{ACCESS_RING_ONLY, Entry, Kind, Position},
    time::UnixMillis,
};

use crate::scene::{Scene, fresh, is_revoked_at, session, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_cut_off_takes_the_place_of_entries_on_the_server_and_on_readers() {
    for scene in [Scene::in_memory(), Scene::on_redis()] {
        let publisher = scene.publisher();
        let follower = scene.follower("reader");
        let mut ids = Vec::new();
        for n in 0..10 {
            let entry = Entry { version: 100 + n, ..session(&format!("s{n}")) };
            scene.revoke(&publisher, entry.clone()).await;
            ids.push(scene.truth.commit(entry));
        }
        let cutoff = Entry { kind: Kind::Policy, cutoff: UnixMillis(109), ..session(ACCESS_RING_ONLY) };
        let into = scene.truth.commit(cutoff.clone());
        scene.truth.merge(&ids, into);
        let position = scene.revoke(&publisher, cutoff).await;
        assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
        assert_eq!(follower.state().stats().entries, 1);
        until("out of the server", || async { scene.server.page(Position::ZERO, 100).await.unwrap().entries.len() == 1 })
            .await;
        let late = scene.follower("late");
        fresh(&late).await;
        for state in [follower.state(), late.state()] {
            assert!(is_revoked_at(state, "s3", 103) && is_revoked_at(state, "anyone", 109));
            assert!(!is_revoked_at(state, "s3", 110), "a refreshed token is good");
        }
    }
}
