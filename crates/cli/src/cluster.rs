//! A Kubernetes cluster as the command line sees it: AuthPolicies through the API server, under the caller's own rights, and
//! the operator behind it.
//!
//! [`connect`] settles which cluster is called and as whom, [`operator`] asks the operator, [`rings`], [`change`] and
//! [`following`] read, patch and watch AuthPolicies, [`overview`] looks at every part. What `dev`'s admin API answers too is
//! answered in the same document. [`refusal`] puts each of the API server's errors into one line with its remedy.

pub(crate) mod account;
pub(crate) mod change;
pub(crate) mod connect;
pub(crate) mod following;
mod identity;
pub(crate) mod operator;
pub(crate) mod overview;
mod refusal;
pub(crate) mod rings;

use std::{fmt, time::Duration};

use countersign_api::policy::AuthPolicy;
use countersign_core::names::PolicyName;
use kube::{
    Api,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};

use self::{account::AccountName, refusal::Need};
use crate::failure::Failure;

/// Who is named as the manager of the fields that the command line changes.
pub(crate) const FIELD_MANAGER: &str = "countersign-cli";

/// The resource as RBAC names it.
const AUTH_POLICIES: &str = "authpolicies.countersign.dev";

/// How many policies are read at a time.
const PAGE: u32 = 500;

/// One cluster, and the caller's way into it.
pub(crate) struct Cluster {
    /// What it is called: the context's name.
    name: String,
    /// The namespace that is meant where none is named.
    namespace: String,
    /// Where the operator is.
    system_namespace: String,
    client: kube::Client,
    config: kube::Config,
    /// How long one call may take.
    timeout: Duration,
    /// As whom the operator is asked; absent: as the caller.
    account: Option<AccountName>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {}", self.name)
    }
}

impl Cluster {
    /// The namespace that is meant where none is named.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The AuthPolicies of a namespace. Untyped: a newer cluster may have fields that this build doesn't know.
    fn policies(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<AuthPolicy>(&()))
    }

    /// One call to the API server, within the time that calls are given.
    async fn call<T>(&self, need: Need<'_>, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        self.call_within(self.timeout, need, call).await
    }

    /// The same, within another time.
    async fn call_within<T>(
        &self,
        within: Duration,
        need: Need<'_>,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(within, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(refusal::failure(self, need, error)),
            Err(_) => Err(refusal::too_slow(self)),
        }
    }

    /// The AuthPolicy as it stands.
    pub(crate) async fn policy(&self, policy: &PolicyName) -> Result<DynamicObject, Failure> {
        let api = self.policies(policy.namespace());
        self.call(Need::policy("get", policy), api.get(policy.name())).await
    }

    /// The AuthPolicies of a namespace, or of all.
    pub(crate) async fn list(&self, namespace: Option<&str>) -> Result<Vec<DynamicObject>, Failure> {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => self.policies(namespace),
            None => Api::all_with(self.client.clone(), &ApiResource::erase::<AuthPolicy>(&())),
        };
        let need = Need { verb: "list", resource: AUTH_POLICIES, name: None, namespace };
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let found = self.call(need, api.list(&page)).await?;
            all.extend(found.items);
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}

/// An AuthPolicy's name. What the API server stores always has one.
pub(crate) fn name_of(object: &DynamicObject) -> Option<PolicyName> {
    PolicyName::try_new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?).ok()
}
