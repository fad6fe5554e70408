//! What the operator is asked, through the API server's service proxy.

use countersign_api::cluster::OPERATOR_SERVICE;
use http::{Method, Request};
use kube::{client::Body, core::Status};
use serde_json::{Value, json};

use super::{
    Cluster,
    identity::TOKEN_HEADER,
    refusal::{self, Need},
};
use crate::{client::Answer, commands::text, failure::Failure, output::printable};

/// The Service's port, by name.
const PORT: &str = "api";

impl Cluster {
    /// `GET path` of the operator's API.
    pub(crate) async fn operator_get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// `POST path` of the operator's API.
    pub(crate) async fn operator_post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let service = format!("https:{OPERATOR_SERVICE}:{PORT}");
        let url = format!("/api/v1/namespaces/{}/services/{service}/proxy{path}", self.system_namespace);
        let verb = if method == Method::GET { "get" } else { "create" };
        let need = Need { verb, resource: "services/proxy", name: Some(&service), namespace: Some(&self.system_namespace) };
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(TOKEN_HEADER, self.identity().await?)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string().into_bytes())))
            .map_err(|e| Failure::usage(format!("--system-namespace: {e}")))?;
        let exchange = async {
            let response = self.client.send(request).await?;
            let status = response.status().as_u16();
            Ok((status, response.into_body().collect_bytes().await?))
        };
        let (status, bytes) = self.call(need, exchange).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if (200..300).contains(&status) { Ok(body) } else { Err(self.refused_by(need, &Answer { status, body })) }
    }

    /// Who refused: the API server on the way, or the operator.
    fn refused_by(&self, need: Need<'_>, answer: &Answer) -> Failure {
        let body = &answer.body;
        let by_api_server = text(body, "kind") == "Status" && text(body, "apiVersion") == "v1";
        let namespace = &self.system_namespace;
        match answer.status {
            404 if by_api_server => Failure::unable(format!("{self} has no operator in namespace {namespace}"))
                .fix("install the chart, or say where it is with --system-namespace"),
            502..=504 if by_api_server || body.is_null() => {
                let said = printable(text(body, "message"));
                Failure::unable(format!("{self}: no operator answers in namespace {namespace}: {said}"))
                    .fix(format!("kubectl -n {namespace} get pods -l app.kubernetes.io/component=operator"))
            }
            _ if by_api_server => {
                let mut status: Status = serde_json::from_value(body.clone()).unwrap_or_default();
                status.code = answer.status;
                refusal::refused(self, need, &status)
            }
            401 => Failure::unable(format!("the operator of {self} does not accept this identity: {}", detail(answer)))
                .fix("log in again, or ask with --as-service-account NAMESPACE/NAME"),
            403 => with_fix(Failure::unable(format!("the operator of {self} refuses: {}", detail(answer))), body),
            400 | 422 => with_fix(Failure::usage(format!("the operator of {self}: {}", detail(answer))), body),
            _ => with_fix(Failure::unable(format!("the operator of {self}: {}", detail(answer))), body),
        }
    }
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
