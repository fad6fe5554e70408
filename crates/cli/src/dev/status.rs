//! What only the process as a whole knows.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_core::names::PolicyName;
use countersign_issuer::StatusSource;
use countersign_verifier::RunningVerifier;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::declared::{Declaration, FileProblem};

/// The word for a policy whose file is wrong, in the verifier's `/readyz` and metrics.
const INVALID_FILE: &str = "invalid_file";

/// For the admin API.
pub(crate) struct DevStatus {
    declarations: watch::Receiver<Arc<Declaration>>,
    data_dir: PathBuf,
}

impl DevStatus {
    pub(crate) fn new(declarations: watch::Receiver<Arc<Declaration>>, data_dir: &Path) -> Self {
        Self { declarations, data_dir: data_dir.to_owned() }
    }
}

impl StatusSource for DevStatus {
    fn status(&self) -> Value {
        let declaration = self.declarations.borrow();
        let problems: Vec<String> = declaration.problems.iter().map(sentence).collect();
        let broken: Vec<&PolicyName> = declaration.problems.iter().flat_map(|p| &p.policies).collect();
        json!({"data_dir": self.data_dir, "problems": problems, "broken_policies": broken})
    }

    fn effective(&self, policy: &PolicyName) -> Option<Value> {
        let declaration = self.declarations.borrow();
        serde_json::to_value(&declaration.policies.get(policy)?.effective).ok()
    }
}

fn sentence(problem: &FileProblem) -> String {
    let names: Vec<&str> = problem.policies.iter().map(PolicyName::as_str).collect();
    let meanwhile = match names.as_slice() {
        [] => "nothing of it is in force".to_owned(),
        names => format!("the last good version of {} stays in force", names.join(", ")),
    };
    format!("{} is wrong; {meanwhile}:\n{}", problem.file.display(), problem.lines.join("\n"))
}

/// Tells the verifier, whose `/readyz` and metrics are looked at, of files that are wrong. Until `stop`.
pub(crate) async fn report(
    mut declarations: watch::Receiver<Arc<Declaration>>,
    verifier: Arc<RunningVerifier>,
    stop: CancellationToken,
) {
    loop {
        let problems = unwritten(&declarations.borrow_and_update());
        verifier.set_unwritten(problems);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = declarations.changed() => if changed.is_err() { return },
        }
    }
}

fn unwritten(declaration: &Declaration) -> Vec<(String, &'static str, String)> {
    let mut unwritten = Vec::new();
    for problem in &declaration.problems {
        let detail = problem.lines.join("\n");
        for policy in &problem.policies {
            unwritten.push((policy.to_string(), INVALID_FILE, detail.clone()));
        }
        if problem.policies.is_empty() {
            unwritten.push((problem.file.display().to_string(), INVALID_FILE, detail));
        }
    }
    unwritten
}
