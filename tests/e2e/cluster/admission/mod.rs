//! The API server refuses what `countersign policy check` refuses, and both name the field.

mod corpus;
mod names;
mod policies;
mod sessions;
mod words;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::rig::{Cluster, binary, report};

/// A specification: what is special about it, that as a JSON merge patch, and the field that is to blame when it is bad.
type Case = (&'static str, Value, Expected);
type Expected = Option<&'static str>;

const GOOD: Expected = None;

/// A bad one, and the field that says so.
#[expect(clippy::unnecessary_wraps, reason = "tables read better by a word")]
const fn blames(field: &'static str) -> Expected {
    Some(field)
}

/// What one side says: the complaints, none when it accepts.
type Verdict = Result<(), String>;

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn admission_and_policy_check_agree_on_every_specification() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("admission");
    let api = cluster.api();
    let mut failures = Vec::new();
    let mut counted = [0, 0];
    for (kind, minimal, cases) in
        [("AuthPolicy", policies::minimal(), policies::cases()), ("Session", sessions::minimal(), sessions::cases())]
    {
        for (what, patch, expected) in cases {
            let mut object = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "tried", "namespace": namespace}, "spec": minimal});
            merge(&mut object["spec"], &patch);
            let answer = api.try_create(&object);
            let admission = match answer.status {
                201 => Ok(()),
                400 | 422 => Err(answer.json()["message"].as_str().unwrap().to_owned()),
                status => panic!("{what}: {status} {}", answer.json()),
            };
            counted[usize::from(expected.is_some())] += 1;
            for (who, verdict) in [("the API server", admission), ("policy check", check(&object))] {
                if let Some(failure) = judge(expected, &verdict).or_else(|| unhelpful(&verdict)) {
                    failures.push(format!("{kind}, {what}: {who} {failure}"));
                }
            }
        }
    }
    report(&format!("admission: {} good and {} bad specifications", counted[0], counted[1]));
    assert!(failures.is_empty(), "{} disagreements:\n{}", failures.len(), failures.join("\n"));
}

/// The API server drops a null before any rule sees it, so that admission can't refuse one. Nothing of ours has a null that
/// means something: dropped is what its author is told to do.
#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_null_is_dropped_by_the_api_server_and_told_by_policy_check() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("nulls");
    for patch in [json!({"tokens": {"accessTTL": null}}), json!({"login": null}), json!({"roles": null})] {
        let mut object = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"name": "tried", "namespace": namespace}, "spec": policies::minimal()});
        merge(&mut object["spec"], &patch);
        assert!(check(&object).is_err_and(|told| told.contains("null means nothing here")), "{patch}");
        let answer = cluster.api().try_create(&object);
        assert_eq!(answer.status, 201, "{patch}: {}", answer.json());
        assert!(!answer.json()["spec"].to_string().contains("null"), "{}", answer.json());
    }
}

/// What is wrong with a verdict.
fn judge(expected: Option<&str>, verdict: &Verdict) -> Option<String> {
    match (expected, verdict) {
        (None, Ok(())) => None,
        (None, Err(complaint)) => Some(format!("refuses a good one: {complaint}")),
        (Some(field), Ok(())) => Some(format!("accepts it, which {field} should prevent")),
        (Some(field), Err(complaint)) if complaint.contains(field) => None,
        (Some(field), Err(complaint)) => Some(format!("doesn't blame {field}: {complaint}")),
    }
}

/// A pattern alone helps nobody: each is told in words too.
fn unhelpful(verdict: &Verdict) -> Option<String> {
    let complaint = verdict.as_ref().err()?;
    let said = |words: &str| complaint.matches(words).count();
    // Where something is of the wrong type, too long or missing, the API server says so and looks no further.
    let goes_on = !complaint.contains("some validation rules were not checked");
    (goes_on && said("should match '") > said("must be ")).then(|| format!("repeats a pattern: {complaint}"))
}

/// `countersign policy check` on standard input.
fn check(object: &Value) -> Verdict {
    let mut child = Command::new(binary("countersign"))
        .args(["policy", "check", "-o", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let complaints: Vec<String> = said["diagnostics"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|found| found["severity"] == "error")
        .map(|found| {
            format!("{}: {}", found["field"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!complaints.is_empty())), "{said}");
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

/// JSON merge patch (RFC 7396), except that null is a value: a specification may hold one.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value == REMOVED {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// In a patch: the field is left out.
const REMOVED: &str = "(removed)";
