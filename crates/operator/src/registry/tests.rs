use super::*;

fn name() -> PolicyName {
    PolicyName::try_new("shop", "shop").unwrap()
}

#[tokio::test]
async fn a_revoked_kid_is_told_once_and_stays() {
    let (registry, mut inbox) = Registry::new();
    registry.keys_revoked(&name(), ["a".to_owned()]).await.unwrap();
    registry.keys_revoked(&name(), ["a".to_owned()]).await.unwrap();
    assert!(matches!(inbox.try_recv(), Ok(Request::Look(policy)) if policy == name()));
    assert!(inbox.try_recv().is_err());
    assert!(registry.revoked_keys(&name()).contains("a"));
}

#[tokio::test]
async fn ending_a_session_waits_until_it_is_written() {
    let (registry, mut inbox) = Registry::new();
    let asked = tokio::spawn({
        let registry = registry.clone();
        async move { registry.end(&name(), Vec::new()).await }
    });
    let Some(Request::End { done, .. }) = inbox.recv().await else { panic!("nothing was asked") };
    assert!(!asked.is_finished());
    done.send(()).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(()));
    drop(inbox);
    assert_eq!(registry.end(&name(), Vec::new()).await, Err(Ending));
}
