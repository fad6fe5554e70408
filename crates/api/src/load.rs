//! From files to policies, with every mistake at its place.
//!
//! What the API server would refuse is refused here too, by the same schema; what only code can tell (roles that inherit in
//! circles, expressions, weak keys) is told along with it. A file's mistakes are reported all at once.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use countersign_core::names::PolicyName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::{
    effective::check_everything,
    policy::{AuthPolicy, EffectivePolicy, GROUP, VERSION, policy_name},
    schema::{Problem, wrong_type},
    session::{EffectiveSession, Session},
    settings::Resolve as _,
    yaml::{self, Document},
};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Likely not meant.
    Warning,
    /// Refused.
    Error,
}

/// Something to tell about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The policy it is about, when the file says so.
    pub policy: Option<PolicyName>,
    /// The field; empty for the file as a whole.
    pub field: String,
    /// What is wrong, and how to mend it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// A policy from a file.
#[derive(Clone, Debug)]
pub struct LoadedPolicy {
    /// Its name.
    pub name: PolicyName,
    /// As it was written.
    pub object: AuthPolicy,
    /// With every default filled in.
    pub effective: EffectivePolicy,
    /// Where it stands.
    pub place: Place,
}

/// A session from a file.
#[derive(Clone, Debug)]
pub struct LoadedSession {
    /// Its namespace and name.
    pub name: String,
    /// The policy that it refers to.
    pub policy: PolicyName,
    /// As it was written.
    pub object: Session,
    /// With every default filled in.
    pub effective: EffectiveSession,
    /// Where it stands.
    pub place: Place,
}

/// A policy that is wrong, with its wrong parts left out.
#[derive(Clone, Debug)]
pub(crate) struct BrokenPolicy {
    pub(crate) effective: EffectivePolicy,
    pub(crate) place: Place,
    /// The fields that are wrong.
    pub(crate) fields: Vec<String>,
}

/// Where an object stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    document: Document,
    policy: Option<PolicyName>,
}

impl Place {
    /// A problem with this object, at its line.
    pub fn diagnostic(&self, severity: Severity, problem: &Problem) -> Diagnostic {
        Diagnostic {
            severity,
            file: self.file.clone(),
            line: self.document.line_of(&problem.field),
            policy: self.policy.clone(),
            field: problem.field.clone(),
            message: problem.message.clone(),
        }
    }
}

/// What was found in files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Good policies, in the order of the files.
    pub policies: Vec<LoadedPolicy>,
    /// Good sessions.
    pub sessions: Vec<LoadedSession>,
    /// Policies that are wrong, as far as they make sense: what they refer to is looked at all the same.
    pub(crate) broken: Vec<BrokenPolicy>,
    /// What is wrong with the others, by file and line.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Whether anything is refused.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    fn join(&mut self, other: Self) {
        self.policies.extend(other.policies);
        self.sessions.extend(other.sessions);
        self.broken.extend(other.broken);
        self.diagnostics.extend(other.diagnostics);
    }

    /// Of two sessions of one name, or that write one Secret, neither is used.
    fn refuse_twin_sessions(&mut self) {
        type Identity = fn(&LoadedSession) -> String;
        let identities: [(&str, Identity, &str); 2] = [
            ("metadata.name", |s| s.name.clone(), "stands twice; keep one"),
            (
                "spec.secret.name",
                |s| format!("{}/{}", s.policy.namespace(), s.effective.secret.name),
                "is written by two sessions; name another Secret",
            ),
        ];
        let mut refused = Vec::new();
        for (field, identity, message) in identities {
            let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (index, session) in self.sessions.iter().enumerate() {
                places.entry(identity(session)).or_default().push(index);
            }
            for (what, twins) in places.into_iter().filter(|(_, places)| places.len() > 1) {
                for index in twins.iter().filter(|index| !refused.contains(*index)) {
                    let problem = Problem::new(field, format!("{what} {message}"));
                    self.diagnostics.push(self.sessions[*index].place.diagnostic(Severity::Error, &problem));
                }
                refused.extend(twins);
            }
        }
        let mut index = 0..;
        self.sessions.retain(|_| index.next().is_none_or(|index| !refused.contains(&index)));
    }

    /// Of two policies of one name neither is used: which one would depend on the files' names.
    fn refuse_twins(&mut self) {
        let mut places: BTreeMap<PolicyName, Vec<usize>> = BTreeMap::new();
        for (index, policy) in self.policies.iter().enumerate() {
            places.entry(policy.name.clone()).or_default().push(index);
        }
        places.retain(|_, places| places.len() > 1);
        for twins in places.values() {
            // Each tells of the next, however many there are.
            for (nth, index) in twins.iter().enumerate() {
                let (policy, twin) = (&self.policies[*index], &self.policies[twins[(nth + 1) % twins.len()]]);
                let at = format!("{}:{}", twin.place.file, twin.place.document.line_of("metadata.name"));
                let problem = Problem::new("metadata.name", format!("policy {} is also at {at}; keep one", policy.name));
                self.diagnostics.push(policy.place.diagnostic(Severity::Error, &problem));
            }
        }
        self.policies.retain(|policy| !places.contains_key(&policy.name));
        self.refuse_twin_sessions();
        self.diagnostics.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    }
}

/// Reads files that were named, in their order. One that can't be read is an error among the others.
pub fn load_files<'p>(files: impl IntoIterator<Item = &'p Path>) -> Loaded {
    let mut loaded = Loaded::default();
    for file in files {
        let name = file.display().to_string();
        match read(file) {
            Ok(text) => loaded.join(load_document(&name, &text)),
            Err(error) => loaded.diagnostics.push(whole_file(&name, 1, format!("can't be read: {error}"))),
        }
    }
    loaded.refuse_twins();
    loaded
}

/// Reads the `.yaml`, `.yml` and `.json` files of a directory, in name order; not those in its subdirectories.
pub fn load_directory(directory: &Path) -> io::Result<Loaded> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let is_ours = ["yaml", "yml", "json"].contains(&path.extension().and_then(|e| e.to_str()).unwrap_or_default());
        // Editors' and Kubernetes' own files begin with a dot.
        if is_ours && !name.starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(load_files(files.iter().map(AsRef::as_ref)))
}

/// Reads one file's text.
pub fn load_text(file: &str, text: &str) -> Loaded {
    let mut loaded = load_document(file, text);
    loaded.refuse_twins();
    loaded
}

fn read(file: &Path) -> io::Result<String> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > yaml::MAX_FILE_BYTES as u64 {
        return Err(io::Error::other("it is over 3 MiB"));
    }
    String::from_utf8(fs::read(file)?).map_err(|_| io::Error::other("it is not UTF-8"))
}

fn whole_file(file: &str, line: u32, message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Error, file: file.into(), line, policy: None, field: String::new(), message }
}

fn load_document(file: &str, text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let documents = match yaml::parse(text) {
        Ok(documents) => documents,
        Err(error) => {
            loaded.diagnostics.push(whole_file(file, error.line, error.message));
            return loaded;
        }
    };
    if documents.is_empty() {
        loaded.diagnostics.push(whole_file(file, 1, "holds no object; write an AuthPolicy or remove the file".into()));
    }
    for document in documents {
        load_object(file, document, &mut loaded);
    }
    loaded
}

fn load_object(file: &str, document: Document, loaded: &mut Loaded) {
    let mut place = Place { file: file.to_owned(), document, policy: None };
    for (line, key) in &place.document.boolean_keys {
        let message = format!("kubectl reads the key {key} as a boolean; write \"{key}\", in quotes");
        loaded.diagnostics.push(Diagnostic { severity: Severity::Warning, ..whole_file(file, *line, message) });
    }
    let value = place.document.value.clone();
    let mut problems = Vec::new();
    let kind = match kind_of(&value) {
        Ok(kind) => kind,
        Err(problem) => {
            loaded.diagnostics.push(place.diagnostic(Severity::Error, &problem));
            return;
        }
    };
    check_envelope(&value, &mut problems);
    let empty = Value::Object(Map::new());
    let spec = value.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&empty);
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    match kind {
        Kind::AuthPolicy => {
            let metadata = metadata_of(metadata, &mut problems);
            let found = check_everything(spec);
            problems.extend(found.problems);
            let mut object = AuthPolicy::new("", found.spec);
            object.metadata = metadata;
            match policy_name(&object) {
                Ok(name) => {
                    place.policy = Some(name.clone());
                    let effective = found.effective;
                    if problems.is_empty() {
                        loaded.policies.push(LoadedPolicy { name, object, effective, place: place.clone() });
                    } else {
                        let fields = problems.iter().map(|p| p.field.clone()).collect();
                        loaded.broken.push(BrokenPolicy { effective, place: place.clone(), fields });
                    }
                }
                Err(_) if object.metadata.name.is_none() => {}
                Err(error) => problems.push(Problem::new("metadata.name", error.to_string())),
            }
        }
        Kind::Session => {
            let metadata = metadata_of(metadata, &mut problems);
            let (spec, found) = crate::effective::check_session_spec(spec);
            problems.extend(found);
            let mut object = Session::new("", spec);
            object.metadata = metadata;
            let namespace = object.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
            // Names of objects obey the same rules whatever their kind.
            let named = |name: &str| PolicyName::try_new(&namespace, name);
            if let Some(given) = object.metadata.name.as_deref()
                && named(given).is_err()
            {
                let message = format!("{namespace}/{given} is not a name; use small letters, digits and dashes");
                problems.push(Problem::new("metadata.name", message));
            }
            if let (Ok(policy), true) = (named(&object.spec.policy_ref.name), problems.is_empty()) {
                let effective = object.spec.resolve();
                let name = format!("{namespace}/{}", object.metadata.name.as_deref().unwrap_or_default());
                loaded.sessions.push(LoadedSession { name, policy, object, effective, place: place.clone() });
            }
        }
    }
    loaded.diagnostics.extend(problems.iter().map(|p| place.diagnostic(Severity::Error, p)));
}

enum Kind {
    AuthPolicy,
    Session,
}

fn kind_of(value: &Value) -> Result<Kind, Problem> {
    if !value.is_object() {
        return Err(Problem::new("", "is not an object; write apiVersion, kind, metadata and spec"));
    }
    let Some(kind) = value.get("kind") else {
        return Err(Problem::new("kind", "is missing; write kind: AuthPolicy"));
    };
    match kind.as_str() {
        Some("AuthPolicy") => Ok(Kind::AuthPolicy),
        Some("Session") => Ok(Kind::Session),
        Some("Secret" | "ConfigMap") => {
            let message = "Secrets and ConfigMaps aren't read from YAML here; put their values into secrets/NAME/KEY and \
                           configmaps/NAME/KEY beside this file";
            Err(Problem::new("kind", message))
        }
        Some("List") => Err(Problem::new("kind", "lists aren't read; separate the objects by lines of ---")),
        _ => Err(Problem::new("kind", format!("{kind} is not one of AuthPolicy and Session"))),
    }
}

/// What surrounds the spec.
fn check_envelope(value: &Value, problems: &mut Vec<Problem>) {
    let wanted = format!("{GROUP}/{VERSION}");
    match value.get("apiVersion") {
        Some(given) if given.as_str() == Some(&wanted) => {}
        Some(given) => problems.push(Problem::new("apiVersion", format!("is {given}, but must be {wanted}"))),
        None => problems.push(Problem::new("apiVersion", format!("is missing; write apiVersion: {wanted}"))),
    }
    match value.get("spec") {
        Some(Value::Object(_)) => {}
        Some(_) => problems.push(Problem::new("spec", "must be a mapping")),
        None => problems.push(Problem::new("spec", "is missing; add it")),
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in value.as_object().into_iter().flat_map(Map::keys).filter(|name| !known.contains(&name.as_str())) {
        let hint = match countersign_core::rules::closest(name, known) {
            Some(close) => format!("did you mean {close}?"),
            None => "settings stand under spec".to_owned(),
        };
        problems.push(Problem::new(name, format!("there is no such field; {hint}")));
    }
}

fn metadata_of(metadata: Value, problems: &mut Vec<Problem>) -> ObjectMeta {
    let known = [
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    for name in metadata.as_object().into_iter().flat_map(Map::keys).filter(|name| !known.contains(&name.as_str())) {
        let hint = countersign_core::rules::closest(name, known).map(|close| format!("; did you mean {close}?"));
        problems
            .push(Problem::new(format!("metadata.{name}"), format!("there is no such field{}", hint.unwrap_or_default())));
    }
    if metadata.get("name").is_none_or(Value::is_null) {
        problems.push(Problem::new("metadata.name", "is missing; add it"));
    }
    let mut metadata = metadata;
    for name in ["name", "namespace"] {
        let given = metadata.get(name).filter(|given| !given.is_null());
        if let Some(message) = given.and_then(|given| wrong_type("string", "", given)) {
            problems.push(Problem::new(format!("metadata.{name}"), message));
            if let Some(members) = metadata.as_object_mut() {
                members.remove(name);
            }
        }
    }
    serde_json::from_value(metadata).unwrap_or_else(|error| {
        problems.push(Problem::new(
            "metadata",
            format!("is not that of an object: {error}; quote values that look like numbers"),
        ));
        ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests;
