//! `policy check`, `policy show`, `policy test`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use countersign_api::{
    check::{self, Outcome, RuleTrial, Trial},
    crds::to_yaml,
    load::{Diagnostic, Loaded, LoadedPolicy, Severity, load_directory, load_files, load_text},
    policy::{GROUP, VERSION},
    references::{DirectoryReferences, References},
};
use countersign_core::{
    names::PolicyName,
    rules::{Client, Request},
};
use serde_json::{Value, json};

use super::now;
use crate::{
    Session,
    args::{Format, PolicyCheck, PolicyShow, PolicyTest},
    cluster::Cluster,
    credential,
    dev::FROM_ENVIRONMENT,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    target::{self, Intent, Target},
};

/// What standard input is called in messages.
const STDIN: &str = "(standard input)";

/// Files of one directory, with what they may refer to.
struct Batch {
    loaded: Loaded,
    references: Option<DirectoryReferences>,
}

/// `countersign policy check`
pub(crate) fn check(session: &Session, args: &PolicyCheck) -> Result<Exit, Failure> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut policies: Vec<String> = Vec::new();
    for batch in batches(&args.files)? {
        let references = batch.references.as_ref().map(|r| r as &dyn References);
        found.extend(check::check(&batch.loaded, references, now()));
        policies.extend(batch.loaded.policies.iter().map(|p| p.name.to_string()));
    }
    let errors = found.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = found.len() - errors;
    let shown: Vec<Value> = found.iter().map(diagnostic).collect();
    let mut human: Vec<Block> = found.iter().map(|d| Block::Text(printable(&d.to_string()))).collect();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let verdict = if errors == 0 {
        session.printer.paint("in order", Tone::Good)
    } else {
        session.printer.paint("refused", Tone::Bad)
    };
    human.push(Block::Text(format!("{verdict}: {}, {}", count(errors, "error"), count(warnings, "warning"))));
    let document = json!({"ok": errors == 0, "policies": policies, "diagnostics": shown});
    if errors > 0 && session.printer.format() == Format::Name {
        // Names alone would say nothing of what is wrong.
        for found in found.iter().filter(|d| d.severity == Severity::Error) {
            session.printer.error(&Failure::no(printable(&found.to_string())));
        }
    }
    session.printer.report(&Report { document, human, names: policies })?;
    Ok(if errors == 0 { Exit::Done } else { Exit::No })
}

fn diagnostic(found: &Diagnostic) -> Value {
    json!({
        "severity": match found.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "file": found.file,
        "line": found.line,
        "policy": found.policy,
        "field": found.field,
        "message": found.message,
    })
}

/// The files by their directories: references are looked up beside each.
fn batches(files: &[PathBuf]) -> Result<Vec<Batch>, Failure> {
    let mut batches = Vec::new();
    let mut by_directory: BTreeMap<PathBuf, Vec<&Path>> = BTreeMap::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| Failure::usage(format!("can't read standard input: {e}")))?;
            batches.push(Batch { loaded: load_text(STDIN, &text), references: None });
        } else if file.is_dir() {
            let loaded = load_directory(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
            if loaded.policies.is_empty() && loaded.sessions.is_empty() && loaded.diagnostics.is_empty() {
                return Err(Failure::usage(format!("{} holds no .yaml, .yml or .json file", file.display())));
            }
            batches.push(Batch { loaded, references: Some(DirectoryReferences::new(file)) });
        } else if !file.exists() && file.to_str().is_some_and(|name| name.parse::<PolicyName>().is_ok()) {
            return Err(Failure::usage(format!("there is no file {}", file.display()))
                .fix(format!("if the policy of that name is meant: --policy {}", file.display())));
        } else {
            let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            by_directory.entry(parent.to_owned()).or_default().push(file);
        }
    }
    for (directory, files) in by_directory {
        let has = |folder: &str| directory.join(folder).is_dir();
        let references = (has("secrets") || has("configmaps")).then(|| DirectoryReferences::new(&directory));
        batches.push(Batch { loaded: load_files(files), references });
    }
    Ok(batches)
}

/// Good policies of files. One that is wrong is an error.
fn good_policies(files: &[PathBuf], named: Option<&PolicyName>) -> Result<Vec<LoadedPolicy>, Failure> {
    let mut policies = Vec::new();
    for batch in batches(files)? {
        let errors: Vec<String> =
            batch.loaded.diagnostics.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(Failure::no(errors.join("\n")).fix("mend it first"));
        }
        policies.extend(batch.loaded.policies);
    }
    if let Some(name) = named {
        policies.retain(|p| p.name == *name);
    }
    match (policies.is_empty(), named) {
        (true, Some(name)) => Err(Failure::usage(format!("there is no policy {name} in the files"))),
        (true, None) => Err(Failure::usage("there is no AuthPolicy in the files")),
        (false, _) => Ok(policies),
    }
}

/// `countersign policy show`
pub(crate) async fn show(session: &Session, args: &PolicyShow) -> Result<Exit, Failure> {
    let documents: Vec<Value> = if args.files.is_empty() {
        let target = target::find(session, Intent::Look).await?;
        let policy = target.policy(session).await?;
        let spec = match &target {
            Target::Server(_) if !args.effective => {
                return Err(Failure::usage("the server tells policies with every default filled in")
                    .fix("add --effective, or name a file"));
            }
            Target::Server(client) => {
                let answer = client.get(&format!("/admin/v1/policies/{policy}/effective")).await?;
                target::of_policy(client, &policy, answer).await?
            }
            Target::Cluster(cluster) => of_cluster(cluster, &policy, args.effective).await?,
        };
        let mut spec = spec;
        say_what_the_environment_fills_in(session, &mut spec);
        vec![object(&policy, &spec)]
    } else {
        let named = target::named_policy(&session.common)?;
        let policies = good_policies(&args.files, named.as_ref())?;
        let shown = |policy: &LoadedPolicy| {
            let spec = if args.effective {
                serde_json::to_value(&policy.effective)
            } else {
                serde_json::to_value(&policy.object.spec)
            };
            spec.map(|spec| object(&policy.name, &spec)).map_err(|e| Failure::unable(e.to_string()))
        };
        policies.iter().map(shown).collect::<Result<_, _>>()?
    };
    let names = documents
        .iter()
        .map(|d| format!("{}/{}", super::text(&d["metadata"], "namespace"), super::text(&d["metadata"], "name")));
    let names: Vec<String> = names.collect();
    let yaml: Vec<String> = documents.iter().map(to_yaml).collect();
    let human = vec![Block::Text(yaml.join("---\n").trim_end().to_owned())];
    let document = match <[Value; 1]>::try_from(documents) {
        Ok([one]) => one,
        Err(several) => Value::Array(several),
    };
    session.printer.report(&Report { document, human, names })?;
    Ok(Exit::Done)
}

/// Takes out of a spec what is told of it beside its fields.
fn say_what_the_environment_fills_in(session: &Session, spec: &mut Value) {
    let told = spec.as_object_mut().and_then(|spec| spec.remove(FROM_ENVIRONMENT));
    for (field, variable) in told.iter().filter_map(Value::as_object).flatten() {
        let variable = printable(variable.as_str().unwrap_or_default());
        session.printer.remark(&format!("{}: from {variable} in the server's environment", printable(field)));
    }
}

/// The spec as it is stored, or with every default filled in as this build does.
async fn of_cluster(cluster: &Cluster, policy: &PolicyName, effective: bool) -> Result<Value, Failure> {
    let spec = cluster.policy(policy).await?.data["spec"].clone();
    if !effective {
        return Ok(spec);
    }
    let loaded = load_text(&cluster.to_string(), &object(policy, &spec).to_string());
    if let Some(loaded) = loaded.policies.first() {
        return serde_json::to_value(&loaded.effective).map_err(|e| Failure::unable(e.to_string()));
    }
    let wrong: Vec<String> = loaded.diagnostics.iter().map(|d| printable(&d.to_string())).collect();
    Err(Failure::no(wrong.join("\n")))
}

fn object(policy: &PolicyName, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "AuthPolicy",
        "metadata": {"namespace": policy.namespace(), "name": policy.name()},
        "spec": spec,
    })
}

/// `countersign policy test`
pub(crate) fn test(session: &Session, args: &PolicyTest) -> Result<Exit, Failure> {
    let named = target::named_policy(&session.common)?;
    let found = good_policies(std::slice::from_ref(&args.file), named.as_ref())?;
    let [policy] = found.as_slice() else {
        let choice: Vec<String> = found.iter().map(|p| p.name.to_string()).collect();
        return Err(Failure::usage("which policy?").fix(format!("name it with --policy: {}", choice.join(", "))));
    };
    let token = credential::read(session, args.token.as_deref())?;
    let request = Request {
        method: args.method.as_deref(),
        path: args.path.as_deref(),
        host: args.host.as_deref(),
        query: args.query.as_deref(),
    };
    let client = Client { ip: args.ip, user_agent: args.user_agent.as_deref(), device_id: args.device_id.as_deref() };
    let trial =
        check::try_token(&policy.effective, &token, request, client, now()).map_err(|e| Failure::no(e.to_string()))?;
    let passes = trial.rules.iter().all(|rule| rule.outcome == Outcome::Passes);
    session.printer.report(&trial_report(session, policy, &trial, passes))?;
    Ok(if passes { Exit::Done } else { Exit::No })
}

fn trial_report(session: &Session, policy: &LoadedPolicy, trial: &Trial, passes: bool) -> Report {
    let mut rules = Table::new(&["RULE", "OUTCOME", "NEEDS"]);
    for rule in &trial.rules {
        let (word, missing) = outcome(rule);
        let tone = if word == "passes" { Tone::Good } else { Tone::Bad };
        rules.row(vec![rule.rule.clone().into(), Cell::toned(word, tone), missing.join(", ").into()]);
    }
    let list = |items: &[String]| if items.is_empty() { "-".to_owned() } else { printable(&items.join(" ")) };
    let mut human = vec![Block::Text(format!(
        "{} for {}: roles {}, permissions {}, scopes {}",
        trial.kind,
        printable(&trial.subject),
        list(&trial.roles),
        list(&trial.permissions),
        list(&trial.scopes)
    ))];
    if trial.rules.is_empty() {
        human.push(Block::Text(format!("{} has no rules", policy.name)));
    } else {
        human.push(Block::Table(rules));
    }
    let verdict = if passes {
        session.printer.paint("no rule denies", Tone::Good)
    } else {
        session.printer.paint("denied", Tone::Bad)
    };
    human.push(Block::Text(format!("{verdict} (the signature, times and addresses were not looked at)")));
    let shown: Vec<Value> = trial
        .rules
        .iter()
        .map(|rule| {
            let (word, missing) = outcome(rule);
            json!({"rule": rule.rule, "outcome": word, "missing": missing})
        })
        .collect();
    let document = json!({
        "policy": policy.name,
        "denied": !passes,
        "kind": trial.kind,
        "subject": trial.subject,
        "roles": trial.roles,
        "permissions": trial.permissions,
        "scopes": trial.scopes,
        "rules": shown,
    });
    let denying = trial.rules.iter().filter(|r| r.outcome != Outcome::Passes);
    Report { document, human, names: denying.map(|r| r.rule.clone()).collect() }
}

fn outcome(rule: &RuleTrial) -> (&'static str, Vec<&'static str>) {
    match &rule.outcome {
        Outcome::Passes => ("passes", Vec::new()),
        Outcome::Denies => ("denies", Vec::new()),
        Outcome::Fails { missing } => ("fails", missing.clone()),
    }
}
