//! Who the caller is, proven to the operator.
//!
//! The API server strips `Authorization` from what it passes on to a service, so the proof travels in a header of its own: a
//! Kubernetes token, which the operator has the API server review. A client certificate proves nothing to anyone but the API
//! server, so its bearer borrows a service account's token, made for this purpose alone.

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api,
    api::PostParams,
    client::{Body, ConfigExt as _},
};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::{Cluster, account::AccountName, refusal::Need};
use crate::{failure::Failure, output::printable};

/// The header that carries the token.
pub(super) const TOKEN_HEADER: &str = "x-countersign-token";

/// Whom a borrowed token is for: it opens nothing but the operator.
const AUDIENCE: &str = "countersign";

/// How long a borrowed token lives: the shortest that the API server makes.
const BORROWED_FOR_S: i64 = 600;

impl Cluster {
    /// The header's value.
    pub(super) async fn identity(&self) -> Result<HeaderValue, Failure> {
        let token = match &self.account {
            Some(account) => self.borrow(account).await?,
            None => self.own_token().await?,
        };
        let mut value = HeaderValue::from_str(&token)
            .map_err(|_| Failure::unable(format!("the token for {self} holds characters that no token has")))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn borrow(&self, account: &AccountName) -> Result<String, Failure> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &account.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![AUDIENCE.to_owned()],
                expiration_seconds: Some(BORROWED_FOR_S),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let need = Need {
            verb: "create",
            resource: "serviceaccounts/token",
            name: Some(&account.name),
            namespace: Some(&account.namespace),
        };
        let made = self.call(need, api.create_token_request(&account.name, &PostParams::default(), &request)).await?;
        let status = made.status.ok_or_else(|| Failure::unable(format!("{self} made no token for {account}")))?;
        Ok(status.token)
    }

    /// The bearer token that the client library would log in with, whatever it comes from: text, file or plugin.
    async fn own_token(&self) -> Result<String, Failure> {
        if let Some(another) = &self.config.auth_info.impersonate {
            let another = printable(another);
            return Err(Failure::usage(format!(
                "the kubeconfig acts as {another}, whom the operator can't tell from its token"
            ))
            .fix("add --as-service-account NAMESPACE/NAME, or use a context that acts as nobody else"));
        }
        let no_token = || {
            Failure::usage(format!("the credentials for {self} are no token, and the operator can't check any others"))
                .fix("add --as-service-account NAMESPACE/NAME: one that may do it, and whose tokens you may create")
        };
        let cannot = |error: &dyn std::fmt::Display| Failure::unable(format!("can't log in to {self}: {error}"));
        let layer = self.config.auth_layer().map_err(|e| cannot(&e))?.ok_or_else(no_token)?;
        let answer = layer.layer(service_fn(echo)).oneshot(Request::new(Body::empty())).await.map_err(|e| cannot(&e))?;
        let header = answer.into_body();
        let token = header.as_ref().and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        token.map(str::to_owned).ok_or_else(no_token)
    }
}

/// Answers with the credential that the request came to have.
async fn echo(request: Request<Body>) -> Result<Response<Option<HeaderValue>>, BoxError> {
    Ok(Response::new(request.headers().get(AUTHORIZATION).cloned()))
}
