//! Users of the cluster at the admin API: Kubernetes says who they are and whether they may.

use std::{future::Future, pin::Pin};

use countersign_core::names::PolicyName;
use countersign_issuer::{Authority, Caller, NotAdmitted, Right};
use countersign_reviews::{Refusal, Reviewer};

/// The API server, asked by TokenReview and SubjectAccessReview.
pub(crate) struct Users(pub(crate) Reviewer);

impl Authority for Users {
    fn admit<'a>(
        &'a self,
        caller: Caller<'a>,
        right: Right,
        policy: Option<&'a PolicyName>,
    ) -> Pin<Box<dyn Future<Output = Result<String, NotAdmitted>> + Send + 'a>> {
        Box::pin(async move {
            let person = self.0.person(caller.headers, caller.source).await.map_err(|refusal| told(&refusal))?;
            let wanted = countersign_reviews::Right {
                verb: right.verb,
                subresource: right.part,
                namespace: policy.map(PolicyName::namespace),
                name: policy.map(PolicyName::name),
            };
            self.0.may(&person, wanted).await.map_err(|refusal| told(&refusal))?;
            Ok(person.name().to_owned())
        })
    }
}

fn told(refusal: &Refusal) -> NotAdmitted {
    let text = refusal.to_string();
    match refusal {
        Refusal::Unauthenticated(_) => NotAdmitted::Unknown(text),
        Refusal::Forbidden(_) => NotAdmitted::Forbidden(text),
        Refusal::Overloaded | Refusal::Unavailable => NotAdmitted::Unavailable(text),
    }
}
