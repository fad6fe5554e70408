//! Forward-auth: what a proxy passes on, and what a client would like it to say.

use super::{Expected, RequestCase};
use crate::{
    http::Request,
    rig::{Dev, Policies},
};

const AUTHORIZE: &str = "/v1/policies/shop/shop/authorize";

/// What to send along, and the status and `X-Auth-Verdict`, which is told in the status alone here: the answer has no body.
pub(super) fn cases(policies: &Policies, dev: &Dev) -> Vec<RequestCase> {
    let own = dev.token("shop", "dora");
    let good = policies.partner.token("ES256");
    let bearer = format!("Bearer {good}");
    let own_bearer = format!("Bearer {own}");
    let mut cases = Vec::new();
    let mut push = |what: &str, path: &str, headers: &[(&str, &str)], status: &'static [u16]| {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        cases.push(RequestCase::new(format!("authorize: {what}"), request.bytes(), Expected::status(status)));
    };
    let at = |query: &str| format!("{AUTHORIZE}{query}");

    push("a good bearer", AUTHORIZE, &[("Authorization", &bearer)], &[200]);
    push("the scheme in small letters", AUTHORIZE, &[("Authorization", &format!("bearer {good}"))], &[200]);
    push("as an API key header", AUTHORIZE, &[("X-API-Key", &good)], &[200]);
    push("nothing", AUTHORIZE, &[], &[401]);
    push("an empty bearer", AUTHORIZE, &[("Authorization", "Bearer ")], &[401]);
    push("a bearer without a token", AUTHORIZE, &[("Authorization", "Bearer")], &[401]);
    push("another scheme", AUTHORIZE, &[("Authorization", "Basic dXNlcjpwYXNz")], &[401]);
    push("no scheme", AUTHORIZE, &[("Authorization", &good)], &[401]);
    push("two tokens in one header", AUTHORIZE, &[("Authorization", &format!("Bearer {good}, Bearer {good}"))], &[401]);
    push("two Authorization headers", AUTHORIZE, &[("Authorization", &bearer), ("Authorization", &bearer)], &[400]);
    push(
        "a bad and a good Authorization header",
        AUTHORIZE,
        &[("Authorization", "Bearer x"), ("Authorization", &bearer)],
        &[400],
    );
    push("a bad bearer beside a good key", AUTHORIZE, &[("Authorization", "Bearer x"), ("X-API-Key", &good)], &[401]);
    push("an empty API key", AUTHORIZE, &[("X-API-Key", "")], &[401]);
    push("the token in the query", &at(&format!("?access_token={good}")), &[], &[401]);

    push("a permission that is held", &at("?permission=orders:read"), &[("Authorization", &own_bearer)], &[200]);
    push("a permission that is not", &at("?permission=orders:write"), &[("Authorization", &own_bearer)], &[403]);
    push(
        "one of two that is not",
        &at("?permission=orders:read&permission=orders:write"),
        &[("Authorization", &own_bearer)],
        &[403],
    );
    push("a role that is not held", &at("?role=admin"), &[("Authorization", &own_bearer)], &[403]);
    push("a scope that is not held", &at("?scope=orders"), &[("Authorization", &own_bearer)], &[403]);
    push("an audience that is not named", &at("?audience=other"), &[("Authorization", &own_bearer)], &[403]);
    push("an empty permission", &at("?permission="), &[("Authorization", &own_bearer)], &[400]);
    push("an empty role", &at("?role="), &[("Authorization", &own_bearer)], &[400]);
    push(
        "an empty requirement header",
        AUTHORIZE,
        &[("Authorization", &own_bearer), ("X-Countersign-Require", "permission=")],
        &[400],
    );
    push(
        "a malformed requirement header",
        AUTHORIZE,
        &[("Authorization", &own_bearer), ("X-Countersign-Require", "nonsense")],
        &[400],
    );
    push(
        "the requirement header adds to the query",
        &at("?permission=orders:read"),
        &[("Authorization", &own_bearer), ("X-Countersign-Require", "role=admin")],
        &[403],
    );
    push(
        "the requirement header takes nothing away",
        &at("?role=admin"),
        &[("Authorization", &own_bearer), ("X-Countersign-Require", "role=user")],
        &[403],
    );

    for (what, headers, status) in [
        ("methods that disagree", [("X-Forwarded-Method", "GET"), ("X-Original-Method", "POST")], &[400][..]),
        ("targets that disagree", [("X-Forwarded-Uri", "/a"), ("X-Original-URI", "/b")], &[400]),
        ("an encoded slash", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a%2fb")], &[400]),
        ("a backslash", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a\\b")], &[400]),
        ("an encoded backslash", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a%5cb")], &[400]),
        ("an encoded NUL", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/a%00b")], &[400]),
        ("an address that is none", [("X-Forwarded-For", "nonsense"), ("X-Forwarded-Method", "GET")], &[400]),
        ("an ordinary request", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders?x=1")], &[200]),
    ] {
        let mut request = Request::get(AUTHORIZE).header("Authorization", &bearer);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let expected = if status == [200] { Expected::status(&[200]) } else { Expected::status(&[400]) };
        cases.push(RequestCase::new(format!("authorize: {what}"), request.bytes(), expected));
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let bytes = Request::new(method, AUTHORIZE).header("Authorization", &bearer).bytes();
        cases.push(RequestCase::new(format!("authorize: by {method}"), bytes, Expected::status(&[200])));
    }
    let unknown = Request::get("/v1/policies/shop/nobody/authorize").header("Authorization", &bearer);
    cases.push(RequestCase::new("authorize: an unknown policy", unknown.bytes(), Expected::status(&[404])));
    let nginx = Request::get("/v1/policies/shop/nobody/authorize?codes=401-403").header("Authorization", &bearer);
    cases.push(RequestCase::new("authorize: an unknown policy, for nginx", nginx.bytes(), Expected::status(&[403])));
    let envoy = Request::get("/v1/policies/shop/shop/authorize/orders?permission=*").header("Authorization", &bearer);
    cases.push(RequestCase::new(
        "authorize/…: the end user's query asks for nothing",
        envoy.bytes(),
        Expected::status(&[200]),
    ));
    cases
}
