//! Others' clients at two issuers, each of whose calls goes to the other than the one before.

use serde_json::{Value, json};

use super::served::{DEFAULT, Served};
use crate::{
    clients::{JWT_SECRET_KEY, in_the_guide, node_frontend, python_frontend},
    cluster::accepted::secret,
    http::Target,
    rig::Balancer,
};

/// What a policy says itself where no `JWT_SECRET_KEY` says it: who signed before, with and without a name.
const FROM_BEFORE: &str = r#"
  trustedIssuers:
  - {name: before, algorithms: [HS256], secretKeyRef: {name: old-jwt, key: secret}, notAfter: "2099-01-01T00:00:00Z", audiences: ["*"]}
  - {name: old-shop, issuer: old-shop, algorithms: [HS256], secretKeyRef: {name: old-jwt, key: secret}, notAfter: "2099-01-01T00:00:00Z", audiences: ["*"]}
"#;

/// The guide's policy at issuers: what stands in front of them, and what clients are told of it.
fn deployment(served: &Served) -> (Balancer, Value) {
    let (api, cluster) = (served.world.api(), &served.world.installation.cluster);
    let (namespace, name) = DEFAULT.split_once('/').unwrap();
    api.namespace(namespace);
    api.apply(&secret(namespace, "old-jwt", "secret", JWT_SECRET_KEY.as_bytes()));
    let policy = format!("{}{FROM_BEFORE}", in_the_guide("yaml").trim_end());
    let applied = cluster.kubectl_with(&["apply", "-f", "-"], &policy);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let policy = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"namespace": namespace, "name": name}});
    served.serve(&served.world.in_force(&policy));
    let balancer = Balancer::over(served.issuers.iter().map(|issuer| issuer.address().to_owned()).collect());
    let Target::Tcp(verifier) = served.world.verifiers[0].tcp() else { panic!("an address") };
    let told = json!({
        "issuer": balancer.address(), "verifier": verifier, "policy": DEFAULT,
        "outbox": served.mail.mails().directory(), "jwt_secret_key": JWT_SECRET_KEY,
    });
    (balancer, told)
}

#[test]
#[ignore = "needs the test cluster, and Python's requests, PyJWT and pyotp: run `cargo xtask test`"]
fn a_python_client_sees_no_difference_between_two_issuers_and_one() {
    let served = Served::shared();
    let (_balancer, told) = deployment(&served);
    python_frontend(&told);
}

#[test]
#[ignore = "needs the test cluster, and Node's jose: run `cargo xtask test`"]
fn a_node_client_sees_no_difference_between_two_issuers_and_one() {
    // Both register the same people.
    let served = Served::start(2);
    let (_balancer, told) = deployment(&served);
    node_frontend(&told);
}
