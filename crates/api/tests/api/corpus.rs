//! `policy check` on the corpus of specs in `tests/e2e/corpus-specs`. What a real API server says of them is tested in
//! `tests/e2e/cluster/admission/corpus.rs`.

use std::{fs, path::PathBuf};

use countersign_api::{
    check::check,
    load::{Severity, load_text},
    yaml,
};
use countersign_core::time::UnixMillis;
use serde_json::Value;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

struct Case {
    name: String,
    kind: String,
    verdict: String,
    field: Option<String>,
    says: Option<String>,
    /// The object, and for a session that has one in its file, its policy.
    text: String,
}

fn cases() -> Vec<Case> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/corpus-specs");
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let whole = fs::read_to_string(&path).unwrap();
        let documents: Vec<&str> = whole.split("---\n").skip(1).collect();
        let policy = documents.iter().find(|d| d.contains("kind: AuthPolicy") && d.contains("\n  name: shop\n"));
        for document in &documents {
            let value = yaml::parse(document).unwrap_or_else(|e| panic!("{}: {e:?}\n{document}", path.display()));
            let value = &value[0].value;
            let annotation = |name: &str| {
                let all = &value["metadata"]["annotations"];
                all[format!("corpus.countersign.dev/{name}")].as_str().map(str::to_owned)
            };
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let kind = text(&value["kind"]);
            let beside = policy.filter(|_| kind == "Session").copied().unwrap_or_default();
            cases.push(Case {
                name: text(&value["metadata"]["name"]),
                verdict: annotation("verdict").unwrap(),
                field: annotation("field"),
                says: annotation("says"),
                text: format!("{document}---\n{beside}"),
                kind,
            });
        }
    }
    cases
}

#[test]
fn policy_check_says_of_each_spec_what_the_corpus_expects() {
    let mut counts = (0, 0);
    let mut wrong = Vec::new();
    for case in cases() {
        let told = check(&load_text("spec.yaml", &case.text), None, NOW);
        let errors: Vec<String> = told.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect();
        match case.verdict.as_str() {
            // What changed is not looked at here: one version is all there is.
            "Good" | "BadAsEdit" | "GoodAsEdit" => {
                if !errors.is_empty() {
                    wrong.push(format!("{} {}: {errors:#?}", case.kind, case.name));
                }
                counts.0 += 1;
            }
            "Bad" | "BadToCheckAlone" => {
                let (field, says) = (case.field.unwrap(), case.says.unwrap_or_default());
                // One mistake, one message.
                if errors.len() != 1 || !errors[0].contains(&field) || !errors[0].contains(&says) {
                    wrong.push(format!("{} {}: {field} {says:?}: {errors:#?}", case.kind, case.name));
                }
                counts.1 += 1;
            }
            other => panic!("{} {}: no such verdict: {other}", case.kind, case.name),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counts.0 > 30 && counts.1 > 100, "the corpus was found: {counts:?}");
}
