//! What the issuer tells of its own calls: an OpenAPI document, made from the routes and the types that they read, and a page
//! for people made from the document.
//!
//! Each handler says beside itself what it takes and gives (`#[utoipa::path]`); [`Described`] takes no route without that. What
//! every call may be answered with besides is added here, once.

mod completed;
mod page;
pub(crate) mod shapes;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::LazyLock;

use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use countersign_core::names::PolicyName;
use serde_json::json;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::{admin, problem::Problem, public, serving::Issuer};

/// Routes, none of which can be added without its description.
pub(crate) struct Described(OpenApiRouter<Issuer>);

impl Described {
    pub(crate) fn new() -> Self {
        Self(OpenApiRouter::new())
    }

    /// Adds what [`utoipa_axum::routes!`] makes of handlers of one path.
    pub(crate) fn routes(self, routes: UtoipaMethodRouter<Issuer>) -> Self {
        Self(self.0.routes(routes))
    }

    /// Adds other routes below a path.
    pub(crate) fn nest(self, path: &str, other: Self) -> Self {
        Self(self.0.nest(path, other.0))
    }

    /// Adds other routes.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self(self.0.merge(other.0))
    }

    /// The routes, to be served.
    pub(crate) fn into_router(self) -> Router<Issuer> {
        self.0.into()
    }

    fn into_document(self) -> OpenApi {
        self.0.into_openapi()
    }
}

/// What is told of an API.
pub(crate) struct Reference {
    /// The document without its server, in one line.
    text: String,
    page: String,
}

/// Of a policy's own calls.
pub(crate) static PUBLIC: LazyLock<Reference> =
    LazyLock::new(|| Reference::new(public::described(), "Countersign issuer", PUBLIC_DESCRIPTION));

/// Of the admin API.
pub(crate) static ADMIN: LazyLock<Reference> =
    LazyLock::new(|| Reference::new(admin::described(), "Countersign admin API", ADMIN_DESCRIPTION));

const PUBLIC_DESCRIPTION: &str = "People and programs get their tokens here. Bodies are JSON whatever their Content-Type says, and \
    unknown members are ignored. Every policy answers under its own `issuer` and under `/NAMESPACE/NAME`, the default policy \
    under `/api` as well. Times are seconds since 1970 unless a name ends in `_ms`. A policy without `spec.login` has \
    keys and metadata alone: everything else is 404.";
const ADMIN_DESCRIPTION: &str = "Tokens, revocations, accounts and keys of every policy. Over TCP a Bearer token of the policy \
    with the permission `countersign:admin` is needed; over `admin.sock` none is, because the file's mode is the guard. Calls \
    below `process` concern the whole process and are answered on the socket alone.";

impl Reference {
    fn new(described: Described, title: &str, description: &str) -> Self {
        let mut document = completed::completed(described.into_document());
        document["info"] = json!({
            "title": title,
            "description": description,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        });
        Self { text: document.to_string(), page: page::of(&document) }
    }

    /// The document, with the one server that its reader means.
    pub(crate) fn document(&self, server: &str) -> String {
        let servers = json!([{"url": server}]);
        let rest = self.text.strip_prefix('{').unwrap_or(&self.text);
        format!("{{\"servers\":{servers},{rest}")
    }

    /// The document, as an answer.
    pub(crate) fn json(&self, server: &str) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.document(server)).into_response()
    }

    /// The page. Nothing runs on it, and nothing else is loaded.
    pub(crate) fn html(&self) -> Response {
        let Some(policy) = page::POLICY.clone() else {
            return Problem::internal(&"the page's policy is no header").into_response();
        };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, policy),
        ];
        (headers, self.page.clone()).into_response()
    }
}

/// Where a policy's calls are, on the host that was asked.
pub(crate) fn server_of(policy: &PolicyName, default: Option<&PolicyName>) -> String {
    if default == Some(policy) { "/".to_owned() } else { format!("/{policy}") }
}
