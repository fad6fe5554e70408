//! What only the process as a whole knows.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use countersign_core::names::PolicyName;
use countersign_issuer::StatusSource;
use countersign_verifier::{KeySetProblem, RunningVerifier};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::declared::{Declaration, FileProblem};

/// The word for a policy whose file is wrong, in the verifier's `/readyz` and metrics.
const INVALID_FILE: &str = "invalid_file";

/// The member beside a policy's own that names fields which the environment filled in, each with its variable.
pub(crate) const FROM_ENVIRONMENT: &str = "from_environment";

/// For the admin API.
pub(crate) struct DevStatus {
    declarations: watch::Receiver<Arc<Declaration>>,
    data_dir: PathBuf,
    verifier: Weak<RunningVerifier>,
}

impl DevStatus {
    /// The verifier isn't kept from ending by who looks at it.
    pub(crate) fn new(
        declarations: watch::Receiver<Arc<Declaration>>,
        data_dir: &Path,
        verifier: &Arc<RunningVerifier>,
    ) -> Self {
        Self { declarations, data_dir: data_dir.to_owned(), verifier: Arc::downgrade(verifier) }
    }
}

impl StatusSource for DevStatus {
    fn status(&self) -> Value {
        let declaration = self.declarations.borrow();
        let key_sets = self.verifier.upgrade().map(|verifier| verifier.key_set_problems()).unwrap_or_default();
        let files = declaration.problems.iter().map(sentence);
        let problems: Vec<String> = files.chain(key_sets.iter().map(of_key_set)).collect();
        let broken: Vec<&PolicyName> = declaration.problems.iter().flat_map(|p| &p.policies).collect();
        json!({"data_dir": self.data_dir, "problems": problems, "broken_policies": broken, "key_set_problems": key_sets})
    }

    fn effective(&self, policy: &PolicyName) -> Option<Value> {
        let declaration = self.declarations.borrow();
        let declared = declaration.policies.get(policy)?;
        let mut spec = serde_json::to_value(&declared.effective).ok()?;
        if !declared.environment.is_empty() {
            let variables = declared.environment.iter().map(|one| (one.field.to_owned(), json!(one.variable)));
            spec[FROM_ENVIRONMENT] = Value::Object(variables.collect());
        }
        Some(spec)
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

fn of_key_set(problem: &KeySetProblem) -> String {
    let KeySetProblem { policy, issuer, from, last_good_kept, problem } = problem;
    let meanwhile = if *last_good_kept {
        "the set that was fetched before stays in use"
    } else {
        "its tokens are answered 503 not_ready until there is one"
    };
    format!("{policy}: the keys of trusted issuer {issuer} were not fetched from {from}: {problem}; {meanwhile}")
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
