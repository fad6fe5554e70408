//! The corpus of `tests/e2e/corpus-specs`, as a real API server judges it.

use std::{fs, path::Path};

use crate::{
    http::{Answer, Request},
    rig::{Api, Cluster, report},
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus-specs");

/// An object of the corpus, and what is expected of it.
struct Case {
    text: String,
    kind: String,
    name: String,
    verdict: String,
    field: Option<String>,
    says: Option<String>,
}

impl Case {
    /// The files are written so that each of these stands on a line of its own.
    fn parse(text: &str) -> Self {
        let line = |name: &str| {
            let of = |line: &str| line.trim_start().strip_prefix(name)?.strip_prefix(": ").map(unquoted);
            text.lines().find_map(of)
        };
        let annotation = |name: &str| line(&format!("corpus.countersign.dev/{name}"));
        Self {
            kind: line("kind").unwrap(),
            name: line("name").unwrap(),
            verdict: annotation("verdict").unwrap(),
            field: annotation("field"),
            says: annotation("says"),
            text: text.to_owned(),
        }
    }

    fn collection(&self, namespace: &str) -> String {
        let resource = if self.kind == "Session" { "sessions" } else { "authpolicies" };
        format!("/apis/countersign.dev/v1alpha1/namespaces/{namespace}/{resource}")
    }

    /// Whether the API server would take it.
    fn try_create(&self, api: &Api, namespace: &str) -> Answer {
        let path = format!("{}?dryRun=All&fieldValidation=Strict", self.collection(namespace));
        api.send(Request::new("POST", &path).header("content-type", "application/yaml").body(self.text.clone()))
    }

    /// Makes it, or the object of its name into it.
    fn apply(&self, api: &Api, namespace: &str) -> Answer {
        let path = format!("{}/{}?fieldManager=corpus&fieldValidation=Strict", self.collection(namespace), self.name);
        let request = Request::new("PATCH", &path).header("content-type", "application/apply-patch+yaml");
        api.send(request.body(self.text.clone()))
    }

    /// What is wrong with the answer.
    fn judge(&self, answer: &Answer) -> Option<String> {
        let said = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        let is_refused = match answer.status {
            200 | 201 => false,
            400 | 422 => true,
            _ => return Some(format!("{}: {said}", answer.status)),
        };
        let must_refuse = matches!(self.verdict.as_str(), "Bad" | "BadAsEdit");
        if is_refused != must_refuse {
            return Some(if is_refused { format!("is refused: {said}") } else { "is accepted".to_owned() });
        }
        let expected = [&self.field, &self.says].into_iter().flatten().filter(|_| must_refuse);
        let missing: Vec<&str> = expected.filter(|words| !said.contains(*words)).map(String::as_str).collect();
        (!missing.is_empty()).then(|| format!("says nothing of {missing:?}: {said}"))
    }
}

/// A YAML scalar of one line, as the corpus has them.
fn unquoted(text: &str) -> String {
    match text.as_bytes() {
        [b'\'', .., b'\''] => text[1..text.len() - 1].replace("''", "'"),
        [b'"', .., b'"'] => text[1..text.len() - 1].to_owned(),
        _ => text.to_owned(),
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_api_server_says_of_each_spec_what_the_corpus_expects() {
    let cluster = Cluster::shared();
    let api = cluster.api();
    let mut files: Vec<_> = fs::read_dir(DIRECTORY).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let (mut failures, mut counted) = (Vec::new(), [0, 0, 0]);
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let namespace = cluster.namespace("corpus");
        // Versions of one object have to be there for the next one to be an edit.
        let are_versions = name == "edits.yaml";
        for case in cases(&file) {
            let answer = if are_versions { case.apply(&api, &namespace) } else { case.try_create(&api, &namespace) };
            counted[if are_versions { 2 } else { usize::from(case.verdict == "Bad") }] += 1;
            failures.extend(case.judge(&answer).map(|failure| format!("{name}: {} {} {failure}", case.kind, case.name)));
        }
    }
    report(&format!("corpus: {} good and {} bad specifications, {} versions", counted[0], counted[1], counted[2]));
    assert!(counted[0] > 30 && counted[1] > 100 && counted[2] > 10, "the corpus was found: {counted:?}");
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
}

fn cases(file: &Path) -> Vec<Case> {
    let text = fs::read_to_string(file).unwrap();
    text.split("---\n").skip(1).map(Case::parse).collect()
}
