//! A spec that these types can't read, such as one that a later definition let in.

use super::*;

/// Status, reason and message of a condition.
fn condition(server: &ApiServer, kind: &str) -> (String, String, String) {
    let policy = server.object(POLICY).unwrap();
    let conditions = policy["status"]["conditions"].as_array().unwrap().clone();
    let condition = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap();
    let text = |field: &str| condition[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test]
async fn a_spec_that_cannot_be_read_is_told_as_invalid_and_ends_nothing_that_was_in_force() {
    let (server, mut leader) = in_force().await;
    let (signed, bundle) = (leader.signs(), server.object(&bundle_path()));
    declares(&server, |policy| policy["spec"]["tokens"] = json!({"accessTTL": ["of", "a", "later", "version"]}));
    leader.settles().await;
    let mut next = Leader::leads(&server).await;
    next.settles().await;
    for leader in [&leader, &next] {
        assert_eq!((leader.signs(), server.object(&bundle_path())), (signed.clone(), bundle.clone()));
    }
    let (status, reason, message) = condition(&server, "Accepted");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Invalid"));
    assert!(message.starts_with("spec: can't be read by this version of the operator: "), "{message}");

    declares(&server, |policy| policy["spec"]["tokens"] = json!({"accessTTL": "10m"}));
    next.settles().await;
    assert_eq!(condition(&server, "Accepted").0, "True");
    assert_eq!(next.signs(), signed);
}

#[tokio::test]
async fn a_policy_that_was_never_read_gets_a_condition_and_goes_when_it_is_deleted() {
    let server = ApiServer::default();
    declares(&server, |policy| policy["spec"]["roles"] = json!("admin"));
    let mut leader = Leader::leads(&server).await;
    leader.settles().await;
    assert_eq!(condition(&server, "Accepted").1, "Invalid");
    assert_eq!((leader.signs(), server.object(&bundle_path())), (None, None));
    declares(&server, |policy| policy["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    leader.settles().await;
    assert_eq!(server.object(POLICY).unwrap()["metadata"]["finalizers"], json!([]));
}
