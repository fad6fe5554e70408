//! What is written to the API server, counted by the kind of object and by what came of it.

use http::{Method, Response, StatusCode};

use crate::registry::Tally;

/// Writes by kind of object and outcome.
pub(crate) type Writes = Tally<(&'static str, Outcome)>;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Done,
    /// What it was decided on isn't there any more.
    Overtaken,
    Refused,
    /// The API server can't, or doesn't say.
    Failed,
    /// Held back here: another operator may lead.
    NotLeading,
}

impl Outcome {
    pub(crate) const ALL: [Self; 5] = [Self::Done, Self::Overtaken, Self::Refused, Self::Failed, Self::NotLeading];

    /// The label's value.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Overtaken => "overtaken",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NotLeading => "not_leading",
        }
    }

    pub(super) fn of<B, E>(answer: &Result<Response<B>, E>) -> Self {
        let Ok(answer) = answer else { return Self::Failed };
        match answer.status() {
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Self::Overtaken,
            StatusCode::TOO_MANY_REQUESTS => Self::Failed,
            status if status.is_client_error() => Self::Refused,
            status if status.is_server_error() => Self::Failed,
            _ => Self::Done,
        }
    }
}

/// The kinds that are told apart: by the words of the path.
const KINDS: [(&str, Option<&str>, &str); 9] = [
    ("authpolicies", None, "authpolicies"),
    ("authpolicies", Some("status"), "authpolicies/status"),
    ("sessions", None, "sessions"),
    ("sessions", Some("status"), "sessions/status"),
    ("secrets", None, "secrets"),
    ("configmaps", None, "configmaps"),
    ("leases", None, "leases"),
    ("events", None, "events"),
    ("nodes", None, "nodes"),
];

/// The kind of object that a request writes. `None`: it only asks, as for whom a token is and what they may.
pub(super) fn written(method: &Method, path: &str) -> Option<&'static str> {
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let group = match words.next() {
        Some("apis") => words.next().unwrap_or_default(),
        _ => "",
    };
    if *method == Method::GET || ["authentication.k8s.io", "authorization.k8s.io"].contains(&group) {
        return None;
    }
    // Its version.
    words.next();
    let rest: Vec<&str> = words.collect();
    let of = match rest.as_slice() {
        ["namespaces", _, of @ ..] if !of.is_empty() => of,
        of => of,
    };
    let (resource, part) = (of.first().copied().unwrap_or_default(), of.get(2).copied());
    let known = KINDS.iter().find(|(name, sub, _)| *name == resource && *sub == part);
    Some(known.map_or("other", |(.., kind)| kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_s_kind_is_in_its_path() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/secrets", "secrets"),
            ("/api/v1/namespaces/shop/secrets/token", "secrets"),
            ("/api/v1/namespaces/countersign-bundles/configmaps/b-1", "configmaps"),
            ("/apis/countersign.dev/v1alpha1/namespaces/shop/authpolicies/shop", "authpolicies"),
            ("/apis/countersign.dev/v1alpha1/namespaces/shop/authpolicies/shop/status", "authpolicies/status"),
            ("/apis/countersign.dev/v1alpha1/namespaces/shop/sessions/worker/status", "sessions/status"),
            ("/apis/coordination.k8s.io/v1/namespaces/countersign-system/leases/countersign-operator", "leases"),
            ("/apis/events.k8s.io/v1/namespaces/shop/events", "events"),
            ("/api/v1/nodes/a", "nodes"),
            ("/api/v1/namespaces/shop", "other"),
            ("/api/v1/namespaces/secrets", "other"),
            ("/api/v1/namespaces/shop/secrets/token/status", "other"),
        ] {
            assert_eq!(written(&Method::PATCH, path), Some(expected), "{path}");
            assert_eq!(written(&Method::GET, path), None, "{path}");
        }
        for path in ["/apis/authentication.k8s.io/v1/tokenreviews", "/apis/authorization.k8s.io/v1/subjectaccessreviews"] {
            assert_eq!(written(&Method::POST, path), None, "{path}");
        }
    }

    #[test]
    fn an_outcome_says_whose_matter_it_is() {
        for (status, expected) in [
            (200, Outcome::Done),
            (201, Outcome::Done),
            (403, Outcome::Refused),
            (404, Outcome::Overtaken),
            (409, Outcome::Overtaken),
            (422, Outcome::Refused),
            (429, Outcome::Failed),
            (500, Outcome::Failed),
            (503, Outcome::Failed),
        ] {
            let answer = Response::builder().status(status).body(());
            assert_eq!(Outcome::of(&answer), expected, "{status}");
        }
        assert_eq!(Outcome::of(&Err::<Response<()>, _>("no answer")), Outcome::Failed);
    }
}
