//! The finalizer on an AuthPolicy.

use countersign_api::{
    cluster::{FIELD_MANAGER, FINALIZER},
    policy::AuthPolicy,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Reconciler, caches::Declared, reconcile::ReconcileError};

impl Reconciler {
    /// The finalizer keeps an object from going before its policy is withdrawn.
    pub(super) async fn ensure_finalizer(&self, declared: &Declared) -> Result<(), ReconcileError> {
        let has = declared.policy.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == FINALIZER));
        if has { Ok(()) } else { self.patch_finalizers(declared, &[FINALIZER]).await }
    }

    pub(super) async fn remove_finalizer(&self, declared: &Declared) -> Result<(), ReconcileError> {
        let has = declared.policy.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == FINALIZER));
        if !has {
            return Ok(());
        }
        match self.patch_finalizers(declared, &[]).await {
            // It is gone already.
            Err(ReconcileError::Conflict) => Ok(()),
            other => other,
        }
    }

    async fn patch_finalizers(&self, declared: &Declared, finalizers: &[&str]) -> Result<(), ReconcileError> {
        let metadata = &declared.policy.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<AuthPolicy> = Api::namespaced(self.context.client.clone(), namespace);
        let patch = json!({
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "AuthPolicy",
            // With the uid, or applying would create one that is gone.
            "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid, "finalizers": finalizers},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_metadata(name, &params, &Patch::Apply(&patch)).await?;
        Ok(())
    }
}
