//! Rules of sessions.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use super::{Validation, validations, when};
use crate::session::EffectiveSession;

/// Names of labels and annotations, as Kubernetes has them.
static QUALIFIED_NAME: LazyLock<Regex> = LazyLock::new(|| {
    let name = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
    Regex::new(name).expect("a regular expression")
});

const NAMES_CEL: &str = "self.all(k, size(k) <= 316 && k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))";
const RESERVED_CEL: &str = "self.all(k, !k.startsWith('countersign.dev/') && !k.contains('.countersign.dev/'))";
const RESERVED: &str = "names under countersign.dev are ours: the operator knows its Secrets by them; choose another";

pub(super) const RULES: &[Validation<EffectiveSession>] = validations! {
    "spec" ".policyRef": "self.policyRef == oldSelf.policyRef",
        "policyRef can't be changed; make another Session", |_| Vec::new();
    "spec" ".subject": "self.subject == oldSelf.subject",
        "subject can't be changed; make another Session", |_| Vec::new();
    "spec" ".renewBefore": "duration($(self.renewBefore)) < duration($(self.tokenTTL))",
        "renewBefore must be less than tokenTTL: lower it, or raise tokenTTL",
        |s| when(s.renew_before >= s.token_ttl, "spec.renewBefore");
    "spec.secret.labels" "": NAMES_CEL, "labels must have names as Kubernetes takes them, such as app or example.com/team",
        |s| named(&s.secret.labels, "labels", |name| !is_qualified(name));
    "spec.secret.annotations" "": NAMES_CEL,
        "annotations must have names as Kubernetes takes them, such as note or example.com/note",
        |s| named(&s.secret.annotations, "annotations", |name| !is_qualified(name));
    "spec.secret.labels" "": RESERVED_CEL, RESERVED, |s| named(&s.secret.labels, "labels", is_reserved);
    "spec.secret.annotations" "": RESERVED_CEL, RESERVED, |s| named(&s.secret.annotations, "annotations", is_reserved);
};

fn named(given: &BTreeMap<String, String>, group: &str, is_broken: impl Fn(&str) -> bool) -> Vec<String> {
    given.keys().filter(|name| is_broken(name)).map(|name| format!("spec.secret.{group}.{name}")).collect()
}

fn is_qualified(name: &str) -> bool {
    name.chars().count() <= 316 && QUALIFIED_NAME.is_match(name)
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("countersign.dev/") || name.contains(".countersign.dev/")
}
