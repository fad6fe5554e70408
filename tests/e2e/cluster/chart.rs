//! The chart's releases: installed, upgraded, rolled back, uninstalled; and what its admission policies allow the operator.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use super::world::policy;
use crate::rig::{BUNDLES, Cluster, PATIENCE, SYSTEM, binary, eventually};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/countersign");
const REDIS: &str = "redis.url=redis://redis.example";
const OPERATOR: &str = "--as=system:serviceaccount:countersign-system:countersign-operator";

fn crd(cluster: &Cluster, path: &str) -> String {
    cluster.kubectl_ok(&["get", "crd", "authpolicies.countersign.dev", "-o", &format!("jsonpath={{{path}}}")])
}

fn version_of_crds(cluster: &Cluster) -> String {
    crd(cluster, r".metadata.annotations.countersign\.dev/crds-version")
}

fn replicas(cluster: &Cluster) -> String {
    cluster.kubectl_ok(&["-n", SYSTEM, "get", "deployment", "countersign-operator", "-o", "jsonpath={.spec.replicas}"])
}

/// What must not succeed: its standard error.
fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.kubectl(arguments);
    assert!(!output.status.success(), "kubectl {arguments:?} should be refused");
    String::from_utf8(output.stderr).unwrap()
}

/// The chart as a later version, whose definition of AuthPolicy has one more field.
fn later_chart(at: &Path) {
    let copied = Command::new("cp").arg("-r").arg(CHART).arg(at).status().unwrap();
    assert!(copied.success());
    let edit = |file: &str, from: &str, to: &str| {
        let path = at.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    edit("Chart.yaml", "\nappVersion: ", "\nappVersion: 9");
    let audiences = "              audiences:\n";
    edit("files/crds.yaml", audiences, &format!("              later:\n                type: string\n{audiences}"));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_release_comes_goes_back_and_goes_and_never_takes_a_policy_or_a_newer_definition_with_it() {
    let cluster = Cluster::start(2);
    let on_two_nodes = cluster.helm_refused(&["install", "countersign", CHART, "-n", SYSTEM, "--set", "demo.enabled=true"]);
    assert!(on_two_nodes.contains("this cluster has 2 nodes"), "{on_two_nodes}");
    cluster.helm(&["install", "countersign", CHART, "-n", SYSTEM, "--create-namespace", "--set", REDIS]);
    let first = version_of_crds(&cluster);

    cluster.helm(&["upgrade", "countersign", CHART, "-n", SYSTEM, "--set", REDIS, "--set", "operator.replicas=3"]);
    assert_eq!(replicas(&cluster), "3");
    cluster.helm(&["rollback", "countersign", "1", "-n", SYSTEM]);
    assert_eq!(replicas(&cluster), "2");

    let directory = tempfile::tempdir().unwrap();
    let later = directory.path().join("later");
    later_chart(&later);
    cluster.helm(&["upgrade", "countersign", later.to_str().unwrap(), "-n", SYSTEM, "--set", REDIS]);
    let second = version_of_crds(&cluster);
    assert_ne!(second, first);
    eventually("the API server heeds the admission policies", PATIENCE, || {
        let older = r#"{"metadata":{"annotations":{"countersign.dev/crds-version":"1"}},"spec":{"names":{"shortNames":["older"]}}}"#;
        let patch = ["patch", "crd", "authpolicies.countersign.dev", "--type=merge", "--dry-run=server", "--patch", older];
        (!cluster.kubectl(&patch).status.success()).then_some(())
    });
    let back = cluster.helm_refused(&["rollback", "countersign", "-n", SYSTEM]);
    assert!(back.contains("use helm upgrade with --version"), "{back}");
    let later_field = ".spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.later.type";
    assert_eq!((version_of_crds(&cluster), crd(&cluster, later_field)), (second.clone(), "string".to_owned()));
    // The way that the refusal names.
    cluster.helm(&["upgrade", "countersign", CHART, "-n", SYSTEM, "--set", REDIS]);
    assert_eq!((version_of_crds(&cluster), crd(&cluster, later_field)), (second, "string".to_owned()));

    let namespace = cluster.namespace("shop");
    let mut shop = policy(&namespace, "shop");
    shop["metadata"]["finalizers"] = json!(["countersign.dev/operator", "example.com/another"]);
    assert!(cluster.kubectl_with(&["apply", "-f", "-"], &shop.to_string()).status.success());
    let ended =
        Command::new(binary("countersign-uninstall")).arg("--kubeconfig").arg(cluster.kubeconfig()).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout),
        "took the finalizer off 1 AuthPolicies and 0 Sessions\n",
        "{ended:?}"
    );
    assert_eq!(replicas(&cluster), "0");
    let finalizers =
        ["-n", &namespace, "get", "authpolicies.countersign.dev", "shop", "-o", "jsonpath={.metadata.finalizers}"];
    assert_eq!(cluster.kubectl_ok(&finalizers), r#"["example.com/another"]"#);
    cluster.helm(&["uninstall", "countersign", "-n", SYSTEM]);
    cluster.kubectl_ok(&finalizers);
    cluster.kubectl_ok(&["get", "namespace", BUNDLES]);
    let left = cluster.kubectl_ok(&["get", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name"]);
    assert!(!left.contains("countersign"), "{left}");
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_operator_changes_of_others_objects_only_what_its_admission_policies_name() {
    let cluster = Cluster::start(1);
    let startup = "verifier.startupTaint=true";
    cluster.helm(&["install", "countersign", CHART, "-n", SYSTEM, "--create-namespace", "--set", REDIS, "--set", startup]);
    let namespace = cluster.namespace("shop");
    let shop = policy(&namespace, "shop");
    assert!(cluster.kubectl_with(&["apply", "-f", "-"], &shop.to_string()).status.success());
    cluster.kubectl_ok(&["-n", &namespace, "create", "secret", "generic", "theirs", "--from-literal=a=b"]);
    let secret_of = |kind: &str, namespace: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
            "metadata": {"name": "ours", "namespace": namespace, "labels": {"countersign.dev/owner-uid": "uid"},
                "annotations": {"kubernetes.io/service-account.name": "default"}}})
    };
    let ours = secret_of("countersign.dev/session-token", &namespace);
    let node = cluster.kubectl_ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl_ok(&["taint", "node", &node, "countersign.dev/not-ready=:NoSchedule", "theirs=:PreferNoSchedule"]);
    let spec = ["-n", &namespace, "patch", "authpolicies.countersign.dev", "shop", "--type=merge", OPERATOR];
    let secret = |name: &'static str| ["-n", &namespace, "patch", "secret", name, "--type=merge", OPERATOR];
    let patch =
        |of: &[&str], what: &str| [of, &["--patch", what]].concat().iter().map(|&s| s.to_owned()).collect::<Vec<_>>();

    eventually("the API server heeds the admission policies", PATIENCE, || {
        let audiences = patch(&spec, r#"{"spec":{"audiences":["evil"]}}"#);
        let words: Vec<&str> = audiences.iter().map(String::as_str).chain(["--dry-run=server"]).collect();
        (!cluster.kubectl(&words).status.success()).then_some(())
    });
    for (what, arguments, words) in [
        ("a spec", patch(&spec, r#"{"spec":{"audiences":["evil"]}}"#), "the operator changes no spec"),
        ("an annotation", patch(&spec, r#"{"metadata":{"annotations":{"a":"b"}}}"#), "no labels and no annotations"),
        ("a Secret of theirs", patch(&secret("theirs"), r#"{"data":{"a":"Yw=="}}"#), "the operator"),
        (
            "a Secret of theirs, labelled",
            patch(&secret("theirs"), r#"{"metadata":{"labels":{"countersign.dev/owner-uid":"uid"}}}"#),
            "makes here no Secret but of the type countersign.dev/session-token",
        ),
        (
            "their deletion",
            ["-n", &namespace, "delete", "secret", "theirs", OPERATOR].map(str::to_owned).to_vec(),
            "has not made",
        ),
        (
            "a node's label",
            ["label", "node", &node, "a=b", OPERATOR].map(str::to_owned).to_vec(),
            "countersign-operator-nodes",
        ),
        (
            "their taint",
            ["taint", "node", &node, "theirs-", OPERATOR].map(str::to_owned).to_vec(),
            "countersign-operator-nodes",
        ),
        (
            "a new taint",
            ["taint", "node", &node, "new=:NoExecute", OPERATOR].map(str::to_owned).to_vec(),
            "countersign-operator-nodes",
        ),
        (
            "a cordon",
            patch(&["patch", "node", &node, "--type=merge", OPERATOR], r#"{"spec":{"unschedulable":true}}"#),
            "countersign-operator-nodes",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = refused(&cluster, &arguments);
        assert!(said.contains(words), "{what}: {said}");
    }

    // Each of these would hold what its maker may then read: an account's token, or what a release consists of.
    for (kind, namespace) in [
        ("kubernetes.io/service-account-token", namespace.as_str()),
        ("kubernetes.io/service-account-token", SYSTEM),
        ("kubernetes.io/service-account-token", BUNDLES),
        ("kubernetes.io/service-account-token", "kube-system"),
        ("bootstrap.kubernetes.io/token", "kube-system"),
        ("Opaque", &namespace),
        ("countersign.dev/session-token", SYSTEM),
        ("helm.sh/release.v1", SYSTEM),
    ] {
        let output = cluster.kubectl_with(&["create", "-f", "-", OPERATOR], &secret_of(kind, namespace).to_string());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused = !output.status.success() && said.contains("the operator makes here no Secret but of the type");
        assert!(refused, "{kind} in {namespace}: {said}");
    }
    let release = ["-n", SYSTEM, "delete", "secret", "sh.helm.release.v1.countersign.v1", OPERATOR];
    assert!(refused(&cluster, &release).contains("writes no Secret that it has not made"));
    let plain = secret_of("Opaque", SYSTEM).to_string();
    assert!(cluster.kubectl_with(&["create", "-f", "-", OPERATOR], &plain).status.success());
    cluster.kubectl_ok(&["-n", SYSTEM, "delete", "secret", "ours", OPERATOR]);

    let finalizer = patch(&spec, r#"{"metadata":{"finalizers":["countersign.dev/operator"]}}"#);
    cluster.kubectl_ok(&finalizer.iter().map(String::as_str).collect::<Vec<_>>());
    let made = cluster.kubectl_with(&["apply", "-f", "-", OPERATOR], &ours.to_string());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    cluster.kubectl_ok(&["-n", &namespace, "delete", "secret", "ours", OPERATOR]);
    cluster.kubectl_ok(&["taint", "node", &node, "countersign.dev/not-ready-", OPERATOR]);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn no_policy_and_no_session_can_be_where_references_would_reach_private_keys() {
    let cluster = Cluster::start(1);
    cluster.helm(&["install", "countersign", CHART, "-n", SYSTEM, "--create-namespace", "--set", REDIS]);
    let session = |namespace: &str| {
        json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session", "metadata": {"name": "billing", "namespace": namespace},
            "spec": {"policyRef": {"name": "shop"}, "subject": "svc-billing", "secret": {"name": "billing-token"}}})
    };
    let create = |object: &Value| {
        let output = cluster.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &object.to_string());
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    };
    eventually("the API server heeds the admission policies", PATIENCE, || create(&policy(SYSTEM, "shop")).err());
    for namespace in [SYSTEM, BUNDLES] {
        for object in [policy(namespace, "shop"), session(namespace)] {
            let said = create(&object).unwrap_err();
            assert!(said.contains(&format!("metadata.namespace: {namespace} holds private keys")), "{said}");
        }
    }
    let elsewhere = cluster.namespace("shop");
    assert_eq!((create(&policy(&elsewhere, "shop")), create(&session(&elsewhere))), (Ok(()), Ok(())));
}

const ISSUER: &str = "issuer.enabled=true,issuer.database.existingSecret=database";

/// A part's Deployment.
fn deployment(part: &str) -> String {
    format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/countersign-{part}")
}

/// A field of an object; null when there is no such object.
fn field(cluster: &Cluster, object: &str, pointer: &str) -> Value {
    cluster.api().object(object).and_then(|object| object.pointer(pointer).cloned()).unwrap_or_default()
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn what_issuers_derive_their_keys_from_is_made_once_and_outlives_upgrades_rollbacks_and_the_release() {
    let cluster = Cluster::start(1);
    let release = |action: &[&'static str], values: &[&'static str]| -> Vec<&'static str> {
        let sets = values.iter().flat_map(|values| ["--set", *values]);
        action.iter().copied().chain(["countersign", CHART, "-n", SYSTEM, "--set", REDIS]).chain(sets).collect()
    };
    let secret = |name: &str| format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}");
    let key = || field(&cluster, &secret("countersign-issuer-key"), "/data/TOKEN_ENCRYPTION_KEY");
    let issuers = || field(&cluster, &deployment("issuer"), "/spec/replicas");
    let operator = || field(&cluster, &deployment("operator"), "/spec/template/spec/containers/0/args").to_string();

    cluster.api().namespace(SYSTEM);
    for (key, value, words) in [
        ("uri", "postgresql://db.example/shop", "the Secret database has no key url"),
        ("url", "sqlite:/store.db", "names an SQLite file, which one replica alone can use"),
    ] {
        cluster.api().apply(&json!({"apiVersion": "v1", "kind": "Secret", "stringData": {key: value},
            "metadata": {"name": "database", "namespace": SYSTEM}}));
        let said = cluster.helm_refused(&release(&["install"], &[ISSUER]));
        assert!(said.contains(words), "{said}");
        cluster.api().delete(&secret("database"));
    }

    cluster.helm(&release(&["install"], &[ISSUER, "issuer.replicas=3"]));
    let made = key();
    assert_eq!((made.as_str().unwrap().len(), issuers()), (64, json!(3)));
    assert!(!operator().contains("--no-issuer"), "{}", operator());
    // The autoscaler takes over as many as there are.
    cluster.helm(&release(&["upgrade"], &[ISSUER, "issuer.autoscaling.enabled=true"]));
    assert_eq!((key(), issuers()), (made.clone(), json!(3)));
    cluster.helm(&release(&["upgrade"], &[]));
    assert_eq!((key(), issuers()), (made.clone(), Value::Null));
    assert!(operator().contains("--no-issuer"), "{}", operator());
    // To the revision that made it.
    cluster.helm(&["rollback", "countersign", "1", "-n", SYSTEM]);
    assert_eq!((key(), issuers()), (made.clone(), json!(3)));
    cluster.helm(&["uninstall", "countersign", "-n", SYSTEM, "--no-hooks"]);
    assert_eq!((key(), issuers()), (made, Value::Null));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_demo_s_issuer_reads_rings_and_bundles_asks_who_calls_and_writes_nothing() {
    const NONE: &[&str] = &[];

    let cluster = Cluster::start(1);
    cluster.helm(&["install", "countersign", CHART, "-n", SYSTEM, "--create-namespace", "--set", "demo.enabled=true"]);
    assert_eq!(field(&cluster, &deployment("issuer"), "/spec/replicas"), json!(1));

    let issuer = cluster.api().as_service_account(SYSTEM, "countersign-issuer");
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let reading = ["get", "list", "watch"].as_slice();
    for (group, resource, namespace, allowed) in [
        ("", "secrets", SYSTEM, reading),
        ("", "secrets", BUNDLES, reading),
        ("", "configmaps", BUNDLES, reading),
        ("", "configmaps", SYSTEM, NONE),
        ("", "secrets", "default", NONE),
        ("", "secrets", "kube-system", NONE),
        ("", "configmaps", "default", NONE),
        ("", "pods", SYSTEM, NONE),
        ("", "pods/exec", SYSTEM, NONE),
        ("", "serviceaccounts/token", SYSTEM, NONE),
        ("", "events", SYSTEM, NONE),
        ("", "nodes", "", NONE),
        ("coordination.k8s.io", "leases", SYSTEM, NONE),
        ("countersign.dev", "authpolicies", "default", NONE),
        ("countersign.dev", "authpolicies/token", "default", NONE),
        ("countersign.dev", "sessions", "default", NONE),
        ("authentication.k8s.io", "tokenreviews", "", &["create"]),
        ("authorization.k8s.io", "subjectaccessreviews", "", &["create"]),
    ] {
        for verb in all {
            let may = issuer.may(verb, group, resource, namespace);
            assert_eq!(may, allowed.contains(&verb), "{verb} {resource} in {namespace:?}");
        }
    }
}
