//! `cargo xtask chart`: what the Helm chart makes, refuses and documents.
//!
//! What it makes is compared with `tests/golden/chart`, once for each file in `charts/countersign/ci`; definitions are left out
//! there, because they are copied from `crds/` and compared as a whole.

mod dashboard;
mod reference;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cluster, parts, run};

const CHART: &str = "charts/countersign";
/// The version of Kubernetes that the chart is rendered for: a Helm built from source doesn't know one.
const KUBERNETES: &str = "1.35.0";

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Write what is generated instead of comparing.
    #[arg(long)]
    pub(crate) write: bool,
}

/// Values that are refused, and words of the message.
const REFUSED: &[(&str, &str)] = &[
    ("issuer.enabled=true,redis.url=redis://r", "issuer.database.existingSecret is missing"),
    ("issuer.enabled=true,issuer.database.existingSecret=d,redis.url=redis://r", "issuer.existingSecret is missing"),
    ("demo.enabled=true,issuer.database.existingSecret=d", "brings an issuer on SQLite"),
    ("demo.enabled=true,issuer.replicas=2", "which one replica alone can use"),
    ("demo.enabled=true,issuer.autoscaling.enabled=true", "which one replica alone can use"),
    ("issuer.ingress.enabled=true,issuer.ingress.host=h,redis.url=redis://r", "but no issuer"),
    ("demo.enabled=true,issuer.ingress.enabled=true", "issuer.ingress.host is missing"),
    ("demo.enabled=true,issuer.auditLog=/audit.jsonl", "lies in no volume that can be written"),
    ("redis.url=redis://r,issuer.auditLog=audit.jsonl", "/issuer/auditLog"),
    ("redis.url=redis://r,issuer.auditRetention=400d", "/issuer/auditRetention"),
    ("redis.url=redis://r,issuer.trustedProxies={socket}", "/issuer/trustedProxies/0"),
    ("redis.replicas=1", "redis.url or redis.existingSecret is missing"),
    ("redis.url=redis://r,redis.existingSecret=s", "exclude each other"),
    ("redis.url=redis://r,demo.enabled=true", "brings a Redis of its own"),
    ("redis.url=redis://r,redis.acl.enabled=true", "operator-url and verifier-url"),
    ("redis.url=redis://r,redis.tls.caSecret=ca", "write rediss://"),
    ("redis.existingSecret=s,redis.tls.caSecret=ca,redis.tls.caConfigMap=ca", "exclude each other"),
    ("redis.url=redis://r,bundlesNamespace.name=countersign-system", "key rings are in the other"),
    ("redis.url=http://r", "/redis/url"),
    ("redis.url=redis://r,verifier.updateStrategy.maxSurge=0", "/verifier/updateStrategy/maxSurge"),
    ("redis.url=redis://r,operator.replica=2", "'replica' not allowed"),
    ("redis.url=redis://r,image.digest=latest", "/image/digest"),
    ("redis.url=redis://r,networkPolicy.apiServerPorts=null", "takes that for every port"),
    (r"redis.url=redis://r,verifier.podLabels.app\.kubernetes\.io/name=x", "verifier.podLabels: the label"),
    (r"redis.url=redis://r,metrics.serviceMonitor.labels.helm\.sh/chart=x", "metrics.serviceMonitor.labels: the label"),
    ("redis.url=redis://r,operator.podAnnotations.checksum/redis=x", "operator.podAnnotations: the annotation"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    parts::debian_packages()?;
    let helm = cluster::helm()?;
    let root = run::root();
    let chart = root.join(CHART);

    let definitions = std::fs::read_to_string(root.join("crds/countersign.dev.yaml")).context("crds/")?;
    same(&chart.join("files/crds.yaml"), &definitions, options.write)?;
    let page = reference::page(&helm, &chart)?;
    same(&root.join("docs/reference/chart.md"), &page, options.write)?;

    for values in values_files(&chart)? {
        let name = values.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.trim_end_matches("-values.yaml");
        run::run(
            Command::new(&helm)
                .args(["lint", "--strict", "--quiet", "--kube-version", KUBERNETES, "--values"])
                .arg(&values)
                .arg(&chart),
        )?;
        let made = run::output(template(&helm, &chart).arg("--values").arg(&values))?;
        let expected = without_random_key(&without_definitions(&made))?;
        same(&root.join(format!("tests/golden/chart/{name}.yaml")), &expected, options.write)?;
    }
    for (values, words) in REFUSED {
        let output = template(&helm, &chart).args(["--set", values]).output().context("could not start helm")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !said.contains(words) {
            bail!("{CHART}: --set {values} should be refused with {words:?}; helm said: {said}");
        }
    }

    agrees_with_the_code(&root, &chart)?;
    dashboard::check(&chart)?;
    run::run(Command::new("promtool").args(["check", "rules"]).arg(chart.join("files/rules.yaml")))?;
    run::run(Command::new("promtool").args(["test", "rules"]).arg(root.join("tests/chart/rules_test.yaml")))
}

fn template(helm: &Path, chart: &Path) -> Command {
    let mut command = Command::new(helm);
    command.args(["template", "countersign"]).arg(chart);
    command.args(["--namespace", "countersign-system", "--kube-version", KUBERNETES]);
    command
}

fn values_files(chart: &Path) -> Result<Vec<PathBuf>> {
    let directory = chart.join("ci");
    let entries = std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Everything but what stands below `spec:` in a definition.
fn without_definitions(made: &str) -> String {
    let documents = made.split("\n---\n").map(|document| {
        if document.contains("\nkind: CustomResourceDefinition\n") {
            document.split_inclusive("\nspec:\n").next().unwrap_or(document).to_owned()
        } else {
            document.trim_end().to_owned()
        }
    });
    documents.collect::<Vec<_>>().join("\n---\n").trim_end().to_owned() + "\n"
}

/// The same whatever key was made: 48 random characters, Base64.
fn without_random_key(made: &str) -> Result<String> {
    const BEFORE: &str = "  TOKEN_ENCRYPTION_KEY: \"";
    const LENGTH: usize = 64;

    let Some((head, rest)) = made.split_once(BEFORE) else { return Ok(made.to_owned()) };
    let Some((key, tail)) = rest.split_once('"') else { bail!("{CHART}: a key that doesn't end") };
    if key.len() != LENGTH || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) || tail.contains(BEFORE) {
        bail!("{CHART}: one TOKEN_ENCRYPTION_KEY of 48 letters and digits should be made");
    }
    Ok(format!("{head}{BEFORE}RANDOM\"{tail}"))
}

fn same(file: &Path, expected: &str, write: bool) -> Result<()> {
    let shown = file.strip_prefix(run::root()).unwrap_or(file).display();
    if write {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
        }
        return std::fs::write(file, expected).with_context(|| format!("could not write {shown}"));
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    let first = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = first.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
    bail!(
        "{shown} is out of date from line {}: {:?}, expected {:?}; run: cargo xtask chart --write",
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        expected.lines().nth(line).unwrap_or_default(),
    )
}

/// Ports, names and metrics that the chart repeats have to be those of the programs.
fn agrees_with_the_code(root: &Path, chart: &Path) -> Result<()> {
    let names = std::fs::read_to_string(root.join("crates/api/src/cluster.rs")).context("crates/api/src/cluster.rs")?;
    let templates = text_below(&chart.join("templates"))?;
    for (constant, within) in [
        ("VERIFIER: u16", "containerPort: {}"),
        ("VERIFIER_HEALTH: u16", "containerPort: {}"),
        ("OPERATOR: u16", "containerPort: {}"),
        ("OPERATOR_HEALTH: u16", "containerPort: {}"),
        ("ISSUER: u16", "containerPort: {}"),
        ("ISSUER_HEALTH: u16", "containerPort: {}"),
        ("ISSUER_CLUSTER_ADMIN: u16", "containerPort: {}"),
        ("ISSUER: &str", "\"component\" \"{}\""),
        ("ISSUER_SERVICE: &str", "name: {}\n"),
        ("OPERATOR_SERVICE: &str", "name: {}"),
        ("LEASE: &str", "resourceNames: [{}"),
        ("BUNDLE_TRUST: &str", "configMap: {name: {}}"),
        ("OWNER_UID_LABEL: &str", "'{}' in object.metadata.labels"),
    ] {
        let after = names
            .split_once(&format!("pub const {constant} = "))
            .with_context(|| format!("cluster.rs has no {constant}"))?
            .1;
        let value = after.split(';').next().unwrap_or_default().trim_matches('"');
        let expected = within.replace("{}", value).replace("{name: {", "{name: ");
        if !templates.contains(&expected) {
            bail!("{CHART}/templates: {expected:?} should be there: cluster.rs says {constant} = {value}");
        }
    }

    each_setting_is_known(root, chart)?;
    each_program_is_in_the_image(root, &templates)?;

    let mut sources = String::new();
    for part in ["verifier", "operator", "issuer"] {
        sources += &text_below(&root.join("crates").join(part).join("src"))?;
    }
    for file in ["files/rules.yaml", "files/dashboard.json"] {
        let text = std::fs::read_to_string(chart.join(file)).context(file)?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for metric in words.filter(|word| word.starts_with("countersign_")) {
            // Those of a histogram.
            let name = ["_bucket", "_count"].iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(metric);
            if !sources.contains(&format!("{name}\"")) && !sources.contains(&format!("{name}{{")) {
                bail!("{CHART}/{file}: no program has the metric {metric}");
            }
        }
    }
    each_alert_has_its_runbook(root, chart)
}

/// Flags that the chart gives, and variables of ours, are the programs' own.
fn each_setting_is_known(root: &Path, chart: &Path) -> Result<()> {
    for (part, crate_name) in [("operator", "operator"), ("verifier", "verifier"), ("issuer", "issuer-daemon")] {
        let template = format!("templates/{part}.yaml");
        let text = std::fs::read_to_string(chart.join(&template)).with_context(|| template.clone())?;
        let settings = root.join("crates").join(crate_name).join("src/config");
        let file = settings.with_extension("rs");
        let mut config = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        // Its parts, where it has some, and what every program's flags have in common.
        for below in [settings, root.join("crates/process/src")].iter().filter(|directory| directory.is_dir()) {
            config += &text_below(below)?;
        }
        let flags = text.split(" --").skip(1).chain(text.split("\"--").skip(1));
        for flag in flags.filter_map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next()) {
            let field = format!("pub {}: ", flag.replace('-', "_"));
            // What follows `kubectl exec … --` in a comment is no flag.
            if !flag.is_empty() && !config.contains(&field) {
                bail!("{CHART}/{template}: the {part} has no flag --{flag}");
            }
        }
    }
    Ok(())
}

/// Each program that a pod runs is one that the image is built with.
fn each_program_is_in_the_image(root: &Path, templates: &str) -> Result<()> {
    let image = std::fs::read_to_string(root.join("Containerfile")).context("Containerfile")?;
    for program in templates.split("command: [countersign-").skip(1).filter_map(|rest| rest.split(']').next()) {
        let mut words = image.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        if !words.any(|word| word == format!("countersign-{program}")) {
            bail!("Containerfile: countersign-{program} should be in the image: the chart runs it");
        }
    }
    Ok(())
}

const RUNBOOKS: &str = "docs/guides/alerts.md";

/// Whoever is woken finds what to do: each alert names its section of the guide, and there it is.
fn each_alert_has_its_runbook(root: &Path, chart: &Path) -> Result<()> {
    let rules = std::fs::read_to_string(chart.join("files/rules.yaml")).context("files/rules.yaml")?;
    let guide = std::fs::read_to_string(root.join(RUNBOOKS)).context(RUNBOOKS)?;
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap_or_default();
        let runbook = format!("runbook: {RUNBOOKS}#{}\n", alert.to_lowercase());
        if !rule.contains(&runbook) {
            bail!("{CHART}/files/rules.yaml: {alert} should have the annotation {}", runbook.trim());
        }
        if !guide.contains(&format!("\n## {alert}\n")) {
            bail!("{RUNBOOKS}: {alert} should have a section");
        }
    }
    Ok(())
}

fn text_below(directory: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            text += &text_below(&path)?;
        } else {
            text += &std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(text)
}
