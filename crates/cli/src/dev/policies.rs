//! From files to what is declared.
//!
//! A file that is wrong never takes anything away: the last good version of its policies stays, also after a restart, for it
//! is kept in the store with what its references gave. At the first start there is no such version, so a wrong file ends the
//! process before anything binds.

mod files;
mod reading;
mod records;
mod references;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_api::{
    Problem, check,
    load::load_directory,
    policy::{AuthPolicy, EffectivePolicy, ROTATE_ANNOTATION, ROTATE_API_KEY_ANNOTATION},
    references::References,
    resolve, resolve_login,
};
use countersign_core::names::PolicyName;
use countersign_feed::Clock;
use countersign_issuer::OpaqueEnd;
use countersign_store::Store;

use self::{
    files::Fingerprint,
    reading::{Accepted, Good, Mistakes, Read, Reading},
    records::{Record, Records},
    references::{Recorded, Recording},
};
use super::{
    builtin,
    bundles::fresh_id,
    declared::{Declaration, Declared, FileProblem, Withdrawn},
    environment::Filled,
    legacy::LegacyEnv,
    settings::Settings,
};
use crate::failure::{Failure, chain};

/// How long after a policy's erasure its record is forgotten.
const FORGET_AFTER_MS: i64 = 60_000;

/// Where policies come from.
pub(crate) struct PolicySource {
    dir: Option<PathBuf>,
    asked_default: Option<PolicyName>,
    builtin: builtin::Builtin,
    legacy: LegacyEnv,
    allow_private_issuers: bool,
    store: Arc<Store>,
    records: Records,
    seen: Option<Fingerprint>,
    /// What is in force, and what it was made of.
    held: BTreeMap<PolicyName, (Made, Arc<Declared>)>,
}

/// Everything that a [`Declared`] is made of: equal ones make equal ones.
#[derive(Clone, Debug, PartialEq)]
struct Made {
    policy: AuthPolicy,
    references: Recorded,
    is_default: bool,
}

impl PolicySource {
    /// The source that the settings name, with what earlier runs recorded.
    pub(crate) async fn open(settings: &Settings, store: Arc<Store>) -> Result<Self, Failure> {
        let failed = |e: &dyn std::error::Error| Failure::unable(chain(e));
        let records = Records::load(&store).await.map_err(|e| failed(&e))?;
        let builtin =
            builtin::Builtin::open(&store, settings.listen.issuer, &settings.legacy).await.map_err(|e| failed(&e))?;
        Ok(Self {
            dir: settings.policies.clone(),
            asked_default: settings.default_policy.clone(),
            builtin,
            legacy: settings.legacy.clone(),
            allow_private_issuers: settings.allow_private_issuers,
            store,
            records,
            seen: None,
            held: BTreeMap::new(),
        })
    }

    /// The directory, if there is one.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        self.dir.clone()
    }

    /// The first reading. Wrong files of which no good version is known are an error, all of them at once.
    pub(crate) async fn first_reading(&mut self) -> Result<Declaration, Failure> {
        self.seen = self.fingerprint();
        let reading = self.read().map_err(|e| Failure::usage(e).fix("name a directory of policy files with --policies"))?;
        let lost: Vec<&Mistakes> = reading
            .mistakes
            .iter()
            .filter(|(file, m)| self.kept_of(file, m, &reading).is_empty())
            .map(|(_, m)| m)
            .collect();
        if !lost.is_empty() {
            let lines: Vec<&str> = lost.iter().flat_map(|m| &m.lines).map(String::as_str).collect();
            let files = if lost.len() == 1 { "a policy file is" } else { "policy files are" };
            return Err(Failure::usage(format!("{files} wrong:\n{}", lines.join("\n")))
                .fix("mend it; `countersign policy check` tells the same without starting anything"));
        }
        let declaration = self.decide(reading).await?;
        if let Some(asked) = &self.asked_default
            && !declaration.policies.contains_key(asked)
        {
            let names: Vec<String> = declaration.policies.keys().map(ToString::to_string).collect();
            return Err(Failure::usage(format!("--default-policy {asked}: there is no such policy"))
                .fix(format!("there are: {}", names.join(", "))));
        }
        if declaration.policies.is_empty() {
            tracing::warn!("there are no policies yet: every call will be answered 404");
        }
        Ok(declaration)
    }

    /// What is declared now, if that differs from `before`.
    pub(crate) async fn read_again(&mut self, before: &Declaration) -> Option<Declaration> {
        let fingerprint = self.fingerprint();
        let erasing = self.records.forget(Clock::wall(), FORGET_AFTER_MS);
        if fingerprint == self.seen && !erasing {
            return None;
        }
        self.seen = fingerprint;
        let declaration = match self.read() {
            Ok(reading) => match self.decide(reading).await {
                Ok(declaration) => declaration,
                Err(failure) => {
                    tracing::error!(error = %failure, "the policies stay as they are for now");
                    self.seen = None;
                    return None;
                }
            },
            Err(unreadable) => self.unreadable(before, unreadable),
        };
        let same = declaration.problems == before.problems
            && declaration.withdrawn == before.withdrawn
            && declaration.default == before.default
            && declaration.policies.len() == before.policies.len()
            && declaration.policies.iter().all(|(n, d)| before.policies.get(n).is_some_and(|held| Arc::ptr_eq(held, d)));
        (!same).then_some(declaration)
    }

    /// A directory that can't be read takes nothing away.
    fn unreadable(&self, before: &Declaration, unreadable: String) -> Declaration {
        let problem = FileProblem {
            file: self.dir.clone().unwrap_or_default(),
            policies: before.policies.keys().cloned().collect(),
            lines: vec![unreadable],
        };
        Declaration {
            policies: before.policies.clone(),
            withdrawn: before.withdrawn.clone(),
            default: before.default.clone(),
            problems: vec![problem],
        }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        self.dir.as_deref().map(Fingerprint::of)
    }

    /// Reads every file.
    fn read(&self) -> Result<Reading, String> {
        let mut reading = Reading::default();
        let mut read: Vec<Read> = Vec::new();
        match &self.dir {
            None => {
                let object = self.builtin.policy()?;
                read.push(Read { name: builtin::name(), object, file: "(built in)".into(), place: None });
            }
            Some(dir) => {
                let loaded = load_directory(dir).map_err(|e| format!("--policies {}: {e}", dir.display()))?;
                loaded.diagnostics.iter().for_each(|d| reading.note(d));
                read.extend(loaded.policies.into_iter().map(|p| Read {
                    name: p.name,
                    object: p.object,
                    file: p.place.file.clone().into(),
                    place: Some(p.place),
                }));
            }
        }
        // The last good version of a policy whose file can't be read is as much there as what can be: what the environment adds
        // to the default policy must not go to another because a file is wrong.
        let kept = reading.mistakes.iter().flat_map(|(file, mistakes)| self.kept_of(file, mistakes, &reading));
        let names: BTreeSet<PolicyName> = read.iter().map(|r| r.name.clone()).chain(kept).collect();
        let default = self.default_of(&names);
        reading.default.clone_from(&default);
        for one in read {
            match self.judge(&one, default.as_ref() == Some(&one.name)) {
                Ok(good) => {
                    reading.good.insert(one.name, good);
                }
                Err(problems) => problems.iter().for_each(|p| reading.note_problem(&one, p)),
            }
        }
        Ok(reading)
    }

    fn default_of(&self, names: &BTreeSet<PolicyName>) -> Option<PolicyName> {
        let among = |name: &PolicyName| names.contains(name).then(|| name.clone());
        match &self.asked_default {
            Some(asked) => among(asked),
            None => among(&builtin::name()).or_else(|| names.first().cloned()),
        }
    }

    /// What only the references and earlier versions tell of one policy.
    fn judge(&self, read: &Read, is_default: bool) -> Result<Good, Vec<Problem>> {
        let references = Recording::new(self.dir.as_deref(), self.legacy.jwt.as_ref());
        let accepted = self.accept(&read.object, is_default, &references)?;
        if let Some(record) = self.records.get(&read.name).filter(|r| r.issuer != accepted.effective.issuer) {
            let was = record.issuer.as_deref().unwrap_or("absent");
            let message = format!("can't be changed (it was {was}): tokens and keys belong to it; make another policy");
            return Err(vec![Problem::new("spec.issuer", message)]);
        }
        let made = Made { policy: read.object.clone(), references: references.recorded(), is_default };
        Ok(Good { file: read.file.clone(), made, accepted })
    }

    fn accept(&self, policy: &AuthPolicy, is_default: bool, references: &dyn References) -> Result<Accepted, Vec<Problem>> {
        let mut policy = policy.clone();
        let applied = if is_default {
            self.builtin.apply_environment(&mut policy, &self.legacy)
        } else {
            builtin::Applied::default()
        };
        let effective = EffectivePolicy::try_from(&policy)
            .map_err(|problems| problems.into_iter().map(|problem| whence(problem, &applied.filled)).collect::<Vec<_>>())?;
        let (resolved, mut warnings) = resolve(&effective, references)?;
        let login = resolve_login(&effective, references)?;
        warnings.extend(check::warnings(&effective, Clock::wall()));
        if !self.allow_private_issuers {
            warnings.extend(check::private_sources(&effective));
        }
        Ok(Accepted { effective, resolved, login, any_issuer: applied.any_issuer, environment: applied.filled, warnings })
    }

    /// The policies of a wrong file of which a good version is known and nothing better has been read.
    fn kept_of(&self, file: &Path, mistakes: &Mistakes, reading: &Reading) -> Vec<PolicyName> {
        let of_file = self.records.of_file(file);
        let named = mistakes.policies.iter();
        let served = |name: &&PolicyName| {
            !reading.good.contains_key(*name) && self.records.get(name).is_some_and(|r| r.withdrawn_at.is_none())
        };
        of_file.chain(named).filter(served).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What serves: the good, the last good, and what is withdrawn. Recorded before it is declared.
    async fn decide(&mut self, mut reading: Reading) -> Result<Declaration, Failure> {
        let now = Clock::wall();
        let problem = |(file, mistakes): (&PathBuf, &Mistakes)| FileProblem {
            policies: self.kept_of(file, mistakes, &reading),
            file: file.clone(),
            lines: mistakes.lines.clone(),
        };
        let problems: Vec<FileProblem> = reading.mistakes.iter().map(problem).collect();
        let kept: BTreeSet<PolicyName> = problems.iter().flat_map(|p| &p.policies).cloned().collect();
        let mut policies = BTreeMap::new();
        for (name, good) in std::mem::take(&mut reading.good) {
            let declared = self.declare(&name, good);
            policies.insert(name, declared);
        }
        for name in &kept {
            match self.restore(name, reading.default.as_ref() == Some(name)) {
                Ok(declared) => {
                    policies.insert(name.clone(), declared);
                }
                Err(why) => {
                    let message = format!("{name}: its last good version can't be made again: {why}");
                    return Err(Failure::usage(message).fix("mend the file"));
                }
            }
        }
        self.records.withdraw_others(policies.keys(), now);
        self.held.retain(|name, _| policies.contains_key(name));
        self.records.save(&self.store).await.map_err(|e| Failure::unable(chain(&e)))?;
        let default = reading.default.filter(|name| policies.contains_key(name));
        Ok(Declaration { withdrawn: self.records.withdrawn(), policies, default, problems })
    }

    fn declare(&mut self, name: &PolicyName, good: Good) -> Arc<Declared> {
        let uid = self.records.get(name).map_or_else(fresh_id, |record| record.uid.clone());
        self.records.put(
            name,
            Record {
                uid: uid.clone(),
                file: good.file,
                policy: good.made.policy.clone(),
                references: good.made.references.clone(),
                issuer: good.accepted.effective.issuer.clone(),
                retain_ms: good.accepted.effective.retain_after_delete.as_millis(),
                withdrawn_at: None,
            },
        );
        self.hold(name, uid, good.made, good.accepted)
    }

    /// The last good version, from what was recorded of it.
    fn restore(&mut self, name: &PolicyName, is_default: bool) -> Result<Arc<Declared>, String> {
        if let Some((_, declared)) = self.held.get(name).filter(|(made, _)| made.is_default == is_default) {
            return Ok(declared.clone());
        }
        let record = self.records.get(name).cloned().ok_or("nothing is recorded of it")?;
        let references = Recording::of(record.references.clone(), self.legacy.jwt.as_ref());
        let accepted = self.accept(&record.policy, is_default, &references).map_err(|problems| {
            problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect::<Vec<_>>().join("; ")
        })?;
        let made = Made { policy: record.policy, references: record.references, is_default };
        Ok(self.hold(name, record.uid, made, accepted))
    }

    fn hold(&mut self, name: &PolicyName, uid: String, made: Made, accepted: Accepted) -> Arc<Declared> {
        if let Some((held, declared)) = self.held.get(name)
            && *held == made
        {
            return declared.clone();
        }
        for warning in &accepted.warnings {
            tracing::warn!(policy = %name, field = warning.field, "{}", warning.message);
        }
        let annotation = |key: &str| made.policy.metadata.annotations.as_ref()?.get(key).cloned();
        let declared = Arc::new(Declared {
            uid,
            rotate_access: annotation(ROTATE_ANNOTATION),
            rotate_api_key: annotation(ROTATE_API_KEY_ANNOTATION),
            opaque_end: OpaqueEnd::of(accepted.resolved.opaque.iter().map(|file| file.as_str())),
            any_issuer: accepted.any_issuer,
            environment: accepted.environment,
            effective: accepted.effective,
            resolved: accepted.resolved,
            login: accepted.login,
        });
        self.held.insert(name.clone(), (made, declared.clone()));
        declared
    }
}

/// A problem with a value that stands in no file says where it stands.
fn whence(problem: Problem, filled: &[Filled]) -> Problem {
    match filled.iter().find(|filled| filled.field == problem.field) {
        Some(Filled { variable, .. }) => {
            let message = format!("{} (the value is that of {variable} in the environment)", problem.message);
            Problem::new(problem.field, message)
        }
        None => problem,
    }
}
