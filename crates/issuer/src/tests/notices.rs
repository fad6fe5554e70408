//! What people are told by mail whatever becomes of the process.

use super::rig::{QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";

async fn lock(rig: &Rig, name: &str) {
    for _ in 0..5 {
        assert_eq!(rig.login(name, "wrong").await.status, 401);
    }
}

#[tokio::test]
async fn a_lock_is_told_by_whoever_comes_after_a_process_that_was_killed() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    lock(&rig, "alice").await;
    // Nobody has sent it yet; another process on the same store finds it.
    let other = rig.beside(&super::rig::policy_yaml(QUICK)).await;
    let mails = other.mails().await;
    assert_eq!(mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(), ["alice@shop.example"]);
    assert_eq!(rig.mails().await, [], "once");
}

#[tokio::test]
async fn a_process_that_has_not_read_its_policies_loses_no_notice() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    lock(&rig, "alice").await;
    let other = rig.beside(&super::rig::policy_yaml(QUICK)).await;
    other.issuer.parts.policies.store(std::collections::BTreeMap::new(), None);
    crate::notices::send_all(&other.issuer).await.unwrap();
    assert_eq!(rig.mails().await.len(), 1);
}

#[tokio::test]
async fn a_lock_of_a_name_that_no_account_has_is_written_alike_and_told_to_nobody() {
    let rig = Rig::new(QUICK).await;
    let waiting = async || {
        let now = rig.store.database_now().await.unwrap();
        rig.store.take_notices(now, 0, 100, &[]).await.unwrap().len()
    };
    lock(&rig, "nobody").await;
    assert_eq!(waiting().await, 1);
    assert_eq!(rig.mails().await, []);
    assert_eq!(waiting().await, 0);
}
