//! What the operator and the issuer are asked, through the API server's service proxy.

use std::time::Duration;

use countersign_api::cluster::{ISSUER, ISSUER_SERVICE, OPERATOR, OPERATOR_SERVICE};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Method, Request};
use kube::{client::Body, core::Status};
use serde_json::{Value, json};

use super::{
    Cluster,
    identity::TOKEN_HEADER,
    refusal::{self, Need},
};
use crate::{client::Answer, commands::text, failure::Failure, output::printable};

/// A Service behind the API server.
#[derive(Clone, Copy)]
struct Backend {
    service: &'static str,
    /// Its port, by name.
    port: &'static str,
    /// The part that it is, as pods are labelled.
    component: &'static str,
    /// What installs it.
    remedy: &'static str,
}

const THE_OPERATOR: Backend = Backend {
    service: OPERATOR_SERVICE,
    port: "api",
    component: OPERATOR,
    remedy: "install the chart, or say where it is with --system-namespace",
};
const THE_ISSUER: Backend = Backend {
    service: ISSUER_SERVICE,
    port: "admin",
    component: ISSUER,
    remedy: "install it with issuer.enabled=true, or name an issuer's admin API with --server",
};

impl Cluster {
    /// `GET path` of the operator's API.
    pub(crate) async fn operator_get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// `POST path` of the operator's API.
    pub(crate) async fn operator_post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// A call of the issuer's admin API.
    pub(crate) fn issuer<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Option<&Value>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        let body = body.map(ToString::to_string);
        self.send(THE_ISSUER, method, path, body, within).boxed()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        Ok(self.send(THE_OPERATOR, method, path, body.map(ToString::to_string), self.timeout).await?.body)
    }

    async fn send(
        &self,
        backend: Backend,
        method: Method,
        path: &str,
        body: Option<String>,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let service = format!("https:{}:{}", backend.service, backend.port);
        let url = format!("/api/v1/namespaces/{}/services/{service}/proxy{path}", self.system_namespace);
        let verb = match method {
            Method::GET => "get",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "create",
        };
        let named = (service.as_str(), self.system_namespace.as_str());
        let need = Need { verb, resource: "services/proxy", name: Some(named.0), namespace: Some(named.1) };
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(TOKEN_HEADER, self.identity().await?)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.into_bytes())))
            .map_err(|e| Failure::usage(format!("--system-namespace: {e}")))?;
        let exchange = exchange(self.client.clone(), request);
        let answer = self.call_within(within, need, exchange).await?;
        // What a part itself says of a call is for who made it to tell; the rest is told here.
        let by_api_server = text(&answer.body, "kind") == "Status" && text(&answer.body, "apiVersion") == "v1";
        if by_api_server || answer.body.is_null() && !answer.ok() || backend.component == OPERATOR && !answer.ok() {
            Err(self.refused_by(backend, need, &answer))
        } else {
            Ok(answer)
        }
    }

    /// Who refused: the API server on the way, or the part.
    fn refused_by(&self, backend: Backend, need: Need<'_>, answer: &Answer) -> Failure {
        let Backend { component, remedy, .. } = backend;
        let body = &answer.body;
        let by_api_server = text(body, "kind") == "Status" && text(body, "apiVersion") == "v1";
        let namespace = &self.system_namespace;
        match answer.status {
            404 if by_api_server => {
                Failure::unable(format!("{self} has no {component} in namespace {namespace}")).fix(remedy)
            }
            502..=504 if by_api_server || body.is_null() => {
                let said = printable(text(body, "message"));
                Failure::unable(format!("{self}: no {component} answers in namespace {namespace}: {said}"))
                    .fix(format!("kubectl -n {namespace} get pods -l app.kubernetes.io/component={component}"))
            }
            _ if by_api_server => {
                let mut status: Status = serde_json::from_value(body.clone()).unwrap_or_default();
                status.code = answer.status;
                refusal::refused(self, need, &status)
            }
            401 => Failure::unable(format!("the {component} of {self} does not accept this identity: {}", detail(answer)))
                .fix("log in again, or ask with --as-service-account NAMESPACE/NAME"),
            403 => with_fix(Failure::unable(format!("the {component} of {self} refuses: {}", detail(answer))), body),
            400 | 422 => with_fix(Failure::usage(format!("the {component} of {self}: {}", detail(answer))), body),
            _ => with_fix(Failure::unable(format!("the {component} of {self}: {}", detail(answer))), body),
        }
    }
}

/// Boxed: what it is made of can't be shown to be `Send` from outside.
fn exchange(client: kube::Client, request: Request<Body>) -> BoxFuture<'static, kube::Result<Answer>> {
    async move {
        let response = client.send(request).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }
    .boxed()
}

fn detail(answer: &Answer) -> String {
    let said = ["detail", "title", "error"].into_iter().map(|name| text(&answer.body, name)).find(|s| !s.is_empty());
    said.map_or_else(|| format!("it answered {}", answer.status), printable)
}

fn with_fix(failure: Failure, body: &Value) -> Failure {
    match text(body, "fix") {
        "" => failure,
        fix => failure.fix(printable(fix)),
    }
}

/// The operator's path for one policy.
pub(crate) fn of_policy(policy: &countersign_core::names::PolicyName, what: &str) -> String {
    format!("/operator/v1/policies/{policy}/{what}")
}

/// The body that names a verifier to forget.
pub(crate) fn forgetting(name: &str) -> Value {
    json!({"name": name})
}
