//! Making a session's token, and keeping the Secret that it is delivered in.

use std::sync::Arc;

use countersign_api::{bundle::RingName, cluster::FIELD_MANAGER, session::EffectiveSession};
use countersign_core::{
    revocation::{Kind, Revocable},
    time::UnixMillis,
};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use super::{
    apply::{ApplyError, Applying, StepError, failed},
    plan::audiences,
    secret::{self, Content, Surroundings},
    times::Ends,
};
use crate::{
    feed::Cutoffs,
    mint::{Mint, Minted, TokenOrder},
    registry::{OwnKeys, PolicyView},
};

/// The Secret may not be written: a person has to look at it.
pub(super) struct SecretRefused(pub(super) String);

impl SecretRefused {
    fn conflict(name: &str) -> Self {
        Self(format!("Secret {name} exists and was not made for this Session; delete it or name another"))
    }
}

impl Applying<'_> {
    /// A token by the policy, the cut-offs and the clocks of this moment: since the plan was made, minutes may have passed.
    pub(super) async fn mint(
        &self,
        spec: &EffectiveSession,
        session_id: &str,
        ends: Ends,
    ) -> Result<(Arc<PolicyView>, Minted), ApplyError> {
        let policy = self.policy.ok_or(ApplyError::Inconsistent("a policy to make a token of"))?;
        let planned = self.view.ok_or(ApplyError::Inconsistent("a policy to make a token of"))?;
        let order = |view: &PolicyView| {
            let permitted = view.effective.as_ref().is_some_and(|policy| spec.not_permitted_by(policy).is_empty());
            if view.uid != planned.uid || view.withdrawn || !permitted {
                return Err(ApplyError::Changed("what the policy grants"));
            }
            if is_ended(self.cutoffs, view, session_id) {
                return Err(ApplyError::Changed("the session's end"));
            }
            Ok(TokenOrder {
                subject: spec.subject.clone(),
                roles: spec.roles.clone(),
                scopes: Vec::new(),
                audiences: audiences(spec, view),
                session_id: session_id.to_owned(),
                ttl_ms: spec.token_ttl.as_millis(),
                not_after: ends.instant(),
                emergency: None,
            })
        };
        Mint::new(self.context, self.cutoffs).issue(policy, RingName::Access, order).await
    }

    /// Over the Secret that was seen, if it still is the one; else a new one, if there is none.
    pub(super) async fn write_secret(&self, own: &OwnKeys, ends: Ends, content: &Content<'_>) -> Result<(), StepError> {
        let spec = self.spec.ok_or(ApplyError::Inconsistent("a spec to write a Secret of"))?;
        let jwks = secret::jwks(own);
        let around = Surroundings { session: self.session, spec, jwks: &jwks, ends };
        match self.secret {
            Some(held) => self.replace_secret(&around, content, held).await,
            None => self.create_secret(&around, content).await,
        }
    }

    /// Only creating tells whether there was nothing: an apply would be merged into whatever is there.
    async fn create_secret(&self, around: &Surroundings<'_>, content: &Content<'_>) -> Result<(), StepError> {
        let name = &around.spec.secret.name;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.secrets().create(&parameters, &around.first(content)).await {
            // What is applied can be taken away again: so is what the spec may cease to ask for.
            Ok(made) if around.asks_for_more() => self.replace_secret(around, content, &made).await,
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let found = self.secrets().get_opt(name).await.map_err(|error| failed("the Secret", error))?;
                match found {
                    // Ours, and not yet shown by the watch, or out of its sight because somebody took a label off.
                    Some(found) if secret::is_ours(&found, self.uid()) => {
                        self.replace_secret(around, content, &found).await
                    }
                    Some(_) => Err(StepError::Secret(SecretRefused::conflict(name))),
                    None => Err(ApplyError::Changed("the Secret").into()),
                }
            }
            Err(kube::Error::Api(status)) if status.code == 422 => {
                Err(StepError::Secret(SecretRefused(format!("Secret {name} is refused: {}", status.message))))
            }
            Err(error) => Err(failed("the Secret", error).into()),
        }
    }

    /// Over a Secret of ours that somebody edited, we win; not over one that changed since it was looked at.
    async fn replace_secret(
        &self,
        around: &Surroundings<'_>,
        content: &Content<'_>,
        held: &Secret,
    ) -> Result<(), StepError> {
        let name = &around.spec.secret.name;
        let applied = around.with(content, Some(held));
        match self.secrets().patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&applied)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 422 => {
                Err(StepError::Secret(SecretRefused(format!("Secret {name} is refused: {}", status.message))))
            }
            Err(error) => Err(failed("the Secret", error).into()),
        }
    }

    pub(super) async fn discard(&self, name: &str) -> Result<(), ApplyError> {
        let secret = match self.secrets().get_opt(name).await.map_err(|error| failed("the Secret", error))? {
            Some(secret) if secret::is_ours(&secret, self.uid()) => secret,
            _ => return Ok(()),
        };
        // Somebody may just be making it their own.
        let Secret { metadata: ObjectMeta { uid, resource_version, .. }, .. } = secret;
        let preconditions = Preconditions { uid, resource_version };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.secrets().delete(name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(failed("the Secret", error)),
        }
    }
}

/// Whether a session id, or all of its policy, has ended for good.
fn is_ended(cutoffs: &Cutoffs, view: &PolicyView, session_id: &str) -> bool {
    let credential = Revocable {
        policy: &view.name,
        issuer: view.own.as_ref().map(|own| own.issuer.as_str()),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: None,
        session_id: Some(session_id),
        subject: None,
        kid: None,
    };
    cutoffs.hit(&credential, UnixMillis::FOREVER).is_some()
}
