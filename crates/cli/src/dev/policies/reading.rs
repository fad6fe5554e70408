//! What the files say, before it is decided what serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use countersign_api::{
    LoginReferences, Problem,
    bundle::Resolved,
    load::{Diagnostic, Place, Severity},
    policy::{AuthPolicy, EffectivePolicy},
};
use countersign_core::names::PolicyName;

use super::Made;
use crate::dev::environment::Filled;

/// What a reading found, before it is decided what serves.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) good: BTreeMap<PolicyName, Good>,
    /// By file.
    pub(super) mistakes: BTreeMap<PathBuf, Mistakes>,
    /// The policy that answers where none is named, which the environment's settings are for.
    pub(super) default: Option<PolicyName>,
}

/// A policy without a mistake.
pub(super) struct Good {
    pub(super) file: PathBuf,
    pub(super) made: Made,
    pub(super) accepted: Accepted,
}

/// What a policy turned out to say.
pub(super) struct Accepted {
    pub(super) effective: EffectivePolicy,
    pub(super) resolved: Resolved,
    pub(super) login: LoginReferences,
    /// The trusted issuer whose tokens may carry any `iss`.
    pub(super) any_issuer: Option<String>,
    /// The fields that the environment filled in.
    pub(super) environment: Vec<Filled>,
    /// What is likely not meant.
    pub(super) warnings: Vec<Problem>,
}

/// What is wrong with a file.
#[derive(Default)]
pub(super) struct Mistakes {
    pub(super) lines: Vec<String>,
    /// The policies that it speaks of, as far as that can be told.
    pub(super) policies: BTreeSet<PolicyName>,
}

/// A policy as it was read.
pub(super) struct Read {
    pub(super) name: PolicyName,
    pub(super) object: AuthPolicy,
    pub(super) file: PathBuf,
    /// Absent for the built-in one.
    pub(super) place: Option<Place>,
}

impl Reading {
    pub(super) fn note(&mut self, diagnostic: &Diagnostic) {
        if diagnostic.severity == Severity::Warning {
            tracing::warn!("{diagnostic}");
            return;
        }
        let mistakes = self.mistakes.entry(diagnostic.file.clone().into()).or_default();
        mistakes.lines.push(diagnostic.to_string());
        mistakes.policies.extend(diagnostic.policy.clone());
    }

    pub(super) fn note_problem(&mut self, read: &Read, problem: &Problem) {
        if let Some(place) = &read.place {
            self.note(&place.diagnostic(Severity::Error, problem));
        } else {
            let mistakes = self.mistakes.entry(read.file.clone()).or_default();
            mistakes.lines.push(format!("{}: {problem}", read.file.display()));
            mistakes.policies.insert(read.name.clone());
        }
    }
}
