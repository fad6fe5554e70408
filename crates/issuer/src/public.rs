//! The issuer's own routes.
//!
//! A request whose host and path prefix are a policy's `issuer` goes to that policy, the prefix removed; `/{ns}/{name}/…`
//! always works; a host that no policy names gets the default policy, which also answers under `/api`.

mod api_keys;
pub(crate) mod audit;
mod browser;
pub(crate) mod diagnosis;
mod discovery;
pub(crate) mod door;
mod login;
mod mailed;
mod oauth;
mod operations;
mod owner;
mod profile;
pub(crate) mod rate_limits;
mod reference;
mod refresh;
mod register;
mod second_factor;
mod sessions;
mod stats;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, uri::PathAndQuery},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use countersign_core::{addresses::AddressVerdict, names::PolicyName};
use countersign_store::Appended;
use countersign_telemetry::traces::TARGET;
use serde_json::json;
use tower_service::Service as _;
use tracing::{Instrument as _, Span, field::Empty};
use utoipa_axum::routes;

use crate::{
    IssuerPolicy,
    body::MAX_BODY,
    call::{Call, Published, Routed},
    client::{self, Client},
    guard::{self, Keeping},
    limits::CountedBy,
    openapi::Described,
    policies::Held,
    problem::{Failed, Problem},
    serving::Issuer,
};

/// Every request: finds the policy that it is for, and hands it to the routes of [`of_policy`].
pub(crate) fn routes(issuer: Issuer) -> Router {
    let inner = of_policy(issuer.clone());
    Router::new().fallback(answer).with_state(Front { issuer, inner })
}

#[derive(Clone)]
struct Front {
    issuer: Issuer,
    inner: Router,
}

/// The routes of one policy, which the request names.
fn of_policy(issuer: Issuer) -> Router {
    described()
        .into_router()
        // As existing clients call them under `/api`, whether or not that was the default policy's prefix.
        .nest("/v1/auth", operations().into_router())
        .fallback(async || Problem::not_found("no such call"))
        .method_not_allowed_fallback(async |uri: Uri| oauth::no_such_method(uri.path()))
        .route_layer(middleware::from_fn(let_in))
        .route_layer(middleware::from_fn(named))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(issuer)
}

/// Says in a request's span which call it is: never the path as it was sent, which may hold anything.
async fn named(call: MatchedPath, request: Request, next: Next) -> Response {
    let span = Span::current();
    span.record("route", call.as_str());
    span.record("method", request.method().as_str());
    next.run(request).await
}

/// Turns away who comes from where `spec.clientAddresses` lets nobody come from, before anything is looked up: what makes or
/// keeps an account, and what gives tokens. Calls with a token are judged with it, and a service that asks about one is nobody's
/// client.
async fn let_in(
    call: MatchedPath,
    Extension(Routed(policy)): Extension<Routed>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    let listed = policy.login.is_some() && (call.as_str().starts_with("/auth/") || call.as_str() == oauth::TOKEN);
    if listed && policy.compiled.addresses.judge(Some(client.ip)) != AddressVerdict::Allowed {
        return oauth::turned_away(call.as_str(), Problem::not_from_there());
    }
    next.run(request).await
}

/// A policy's routes, with what there is to say of each.
pub(crate) fn described() -> Described {
    Described::new()
        .routes(routes!(discovery::jwks))
        .routes(routes!(discovery::discovery))
        .routes(routes!(discovery::openid))
        .routes(routes!(reference::document))
        .routes(routes!(reference::page))
        .routes(routes!(login::login))
        .routes(routes!(refresh::refresh))
        .routes(routes!(refresh::logout))
        .routes(routes!(second_factor::state))
        .routes(routes!(second_factor::verify))
        .routes(routes!(second_factor::send))
        .routes(routes!(second_factor::set_up))
        .routes(routes!(second_factor::confirm))
        .routes(routes!(second_factor::new_backup_codes))
        .routes(routes!(second_factor::turn_off))
        .routes(routes!(second_factor::phone::set_up))
        .routes(routes!(second_factor::phone::confirm))
        .routes(routes!(second_factor::phone::remove))
        .routes(routes!(browser::csrf))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end_one))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(audit::suspicious))
        .routes(routes!(stats::active_users))
        .routes(routes!(stats::login_attempts))
        .routes(routes!(stats::locked_accounts))
        .routes(routes!(stats::sessions))
        .routes(routes!(oauth::token))
        .routes(routes!(oauth::introspect))
        .routes(routes!(oauth::revoke))
        .routes(routes!(oauth::userinfo))
        .nest("/api/v1/auth", operations())
        .routes(routes!(register::register))
        .routes(routes!(mailed::verification_page, mailed::verify))
        .routes(routes!(mailed::resend))
        .routes(routes!(mailed::forgot))
        .routes(routes!(mailed::reset_page, mailed::reset))
        .routes(routes!(profile::change_password))
        .routes(routes!(profile::me_for_clients))
        .routes(routes!(profile::me, profile::change, profile::erase))
}

fn operations() -> Described {
    Described::new()
        .routes(routes!(operations::health))
        .routes(routes!(operations::metrics))
        .routes(routes!(operations::session_status))
        .routes(routes!(rate_limits::status))
        .routes(routes!(operations::security_dashboard))
        .routes(routes!(operations::debug_report))
        .routes(routes!(operations::validate_token))
        .routes(routes!(operations::diagnose))
}

async fn answer(State(Front { issuer, mut inner }): State<Front>, mut request: Request) -> Response {
    let counted_by = CountedBy::default();
    request.extensions_mut().insert(counted_by.clone());
    let (routed, request_id) = find(&issuer, &mut request);
    let policy = routed.as_ref().ok().cloned();
    let policy = policy.as_ref();
    let https = policy.and_then(|policy| policy.own.as_ref()).is_some_and(|own| own.issuer.starts_with("https://"));
    let cors = policy.and_then(|policy| policy.login.as_ref()).and_then(|login| login.settings.cors.clone());
    let keeping = if request.uri().path().starts_with("/.well-known/") { Keeping::AsItSays } else { Keeping::Never };
    let asked = if cors.is_some() { request.headers().clone() } else { HeaderMap::new() };
    let preflight = guard::preflight(cors.as_ref(), request.method(), request.headers());
    let is_preflight = preflight.is_some();
    let mut answer = match (routed, preflight) {
        (Err(problem), _) => problem.into_response(),
        (Ok(_), Some(preflight)) => preflight,
        (Ok(policy), None) => {
            let span = tracing::info_span!(
                target: TARGET, parent: None, "request", policy = %policy.name, method = Empty, route = Empty, status = Empty
            );
            let answered = inner.call(request).instrument(span.clone()).await;
            let answer = answered.unwrap_or_else(|never| match never {});
            span.record("status", answer.status().as_u16());
            answer
        }
    };
    let headers = answer.headers_mut();
    counted_by.tell(headers);
    if !is_preflight {
        guard::allow_origin(cors.as_ref(), &asked, headers);
    }
    guard::protect(headers, https, keeping);
    if let Some(Ok(id)) = request_id.map(HeaderValue::try_from) {
        headers.insert(client::REQUEST_ID, id);
    }
    answer
}

/// The policy that a request is for, which it then says itself, with who calls; and the request's own name.
fn find(issuer: &Issuer, request: &mut Request) -> (Result<Arc<IssuerPolicy>, Problem>, Option<String>) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map_or(Ipv4Addr::LOCALHOST.into(), |peer| peer.0.ip());
    let trusted = &issuer.parts.trusted_proxies;
    let client = match Client::of(request.headers(), peer, trusted) {
        Ok(client) => client,
        Err(error) => return (Err(Problem::invalid_request(error.to_string())), None),
    };
    let id = client.request_id.clone();
    let routed = client::host(request.headers(), request.uri(), peer, trusted)
        .map_err(|error| Problem::invalid_request(error.to_string()))
        .and_then(|host| {
            if !guard::host_allowed(host.as_deref().unwrap_or_default(), &issuer.parts.trusted_hosts) {
                return Err(Problem::invalid_request("nobody answers by this name here"));
            }
            let held = issuer.parts.policies.load();
            let (policy, path) = route(&held, host.as_deref().unwrap_or_default(), request.uri().path())
                .ok_or_else(|| Problem::not_found("no policy answers here"))?;
            let uri = within(request.uri(), &path);
            *request.uri_mut() = uri.map_err(|_| Problem::invalid_request("the path can't be read"))?;
            request.extensions_mut().insert(Routed(policy.clone()));
            request.extensions_mut().insert(client);
            Ok(policy)
        });
    (routed, Some(id))
}

/// The request's target with another path.
fn within(uri: &Uri, path: &str) -> Result<Uri, axum::http::Error> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Uri::builder().path_and_query(PathAndQuery::try_from(target)?).build()
}

pub(crate) use self::{
    api_keys::{make as make_api_key, shown as api_key_shown},
    door::{forget_address, forget_tries},
    login::account,
    operations::debug_report_of,
    owner::{each_once, person, shut_out},
    register::create as create_account,
    sessions::shown as session_shown,
};

/// An answer that tells more than what ended: with the position of that in the feed, and 202 while the feed is out of reach.
pub(crate) async fn told(call: &Call, status: StatusCode, mut body: serde_json::Value, ended: Appended) -> Response {
    let status = place(&mut body, call.publish(ended).await, status);
    (status, Json(body)).into_response()
}

/// Says in an answer where what has ended stands in the feed. Its status: 202 while the feed is out of reach.
pub(crate) fn place(body: &mut serde_json::Value, published: Published, status: StatusCode) -> StatusCode {
    body["position"] = match published {
        Published::At(position) => json!(position),
        Published::Nothing | Published::Later => serde_json::Value::Null,
    };
    if published != Published::Later {
        return status;
    }
    body["pending"] = json!(true);
    StatusCode::ACCEPTED
}

/// A refusal that has ended something: with where that stands in the feed.
pub(crate) fn placed(problem: Problem, published: Published) -> Problem {
    match published {
        Published::Nothing => problem,
        Published::At(position) => problem.with("position", json!(position)),
        Published::Later => problem.with("position", serde_json::Value::Null).with("pending", true),
    }
}

/// What ended, and where that stands in the feed: 202 while the feed is out of reach.
pub(crate) async fn ended(call: &Call, appended: Option<Appended>, count: usize) -> Result<Response, Failed> {
    let published = match appended {
        Some(appended) => call.publish(appended).await,
        None => Published::Nothing,
    };
    let mut body = json!({"revoked": count});
    let status = place(&mut body, published, StatusCode::OK);
    Ok((status, Json(body)).into_response())
}

/// The policy that a request is for, and the path within it.
fn route(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let (policy, path) =
        by_name(held, path).or_else(|| by_issuer(held, host, path)).or_else(|| by_default(held, host, path))?;
    // The default policy answers under `/api` as well, by whatever name it was found.
    let of_default = held.default.as_ref() == Some(&policy.name);
    let within = if of_default { path.strip_prefix("/api").filter(|rest| rest.starts_with('/')) } else { None };
    let within = within.unwrap_or(&path).to_owned();
    Some((policy, within))
}

/// Where every policy's own routes begin: no namespace of such a name may stand in their way.
const OUR_OWN: [&str; 5] = ["api", "auth", "oauth", "users", "v1"];

fn by_issuer(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let candidates = held.by_name.values().filter_map(|policy| {
        let Issued { prefix, .. } = Issued::of(&policy.own.as_ref()?.issuer).filter(|issued| issued.is_at(host))?;
        // RFC 8414 section 3.1 puts the well-known part before an issuer's path; everybody else behind it.
        let inserted =
            [discovery::OAUTH, discovery::OPENID].into_iter().find(|known| path.strip_prefix(known) == Some(prefix));
        let within = match inserted {
            Some(known) => known.to_owned(),
            None => path.strip_prefix(prefix).filter(|rest| rest.starts_with('/'))?.to_owned(),
        };
        Some((prefix.len(), policy.clone(), within))
    });
    // The longest prefix is the most particular; of two policies with one issuer the first in name order answers.
    let mut best: Option<(usize, Arc<IssuerPolicy>, String)> = None;
    for candidate in candidates {
        if best.as_ref().is_none_or(|held| candidate.0 > held.0) {
            best = Some(candidate);
        }
    }
    best.map(|(_, policy, path)| (policy, path))
}

/// An issuer's URL, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Issued<'i> {
    /// Host and port, without the port that the scheme has by itself.
    authority: &'i str,
    /// That port, as hosts are written with it.
    default_port: &'static str,
    /// The path, empty or beginning with a slash.
    prefix: &'i str,
}

impl<'i> Issued<'i> {
    fn of(issuer: &'i str) -> Option<Self> {
        let (scheme, rest) = issuer.split_once("://")?;
        let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self { authority: authority.strip_suffix(default_port).unwrap_or(authority), default_port, prefix })
    }

    /// Whether a request by this host is meant for it: with the scheme's own port or without (RFC 9110 section 4.2.3).
    fn is_at(&self, host: &str) -> bool {
        self.authority.eq_ignore_ascii_case(host.strip_suffix(self.default_port).unwrap_or(host))
    }
}

fn by_name(held: &Held, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let namespace = parts.next().filter(|namespace| !OUR_OWN.contains(namespace))?;
    let name = PolicyName::try_new(namespace, parts.next()?).ok()?;
    let rest = parts.next()?;
    Some((held.by_name.get(&name)?.clone(), format!("/{rest}")))
}

fn by_default(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let named = |policy: &Arc<IssuerPolicy>| {
        let issued = policy.own.as_ref().and_then(|own| Issued::of(&own.issuer));
        issued.is_some_and(|issued| issued.is_at(host))
    };
    let default = held.by_name.get(held.default.as_ref()?)?;
    if held.by_name.values().any(named) && !named(default) {
        return None;
    }
    Some((default.clone(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_at_its_host_with_or_without_the_port_that_its_scheme_has() {
        for (issuer, prefix, host, there) in [
            ("https://auth.shop.example", "", "auth.shop.example", true),
            ("https://auth.shop.example", "", "auth.shop.example:443", true),
            ("https://auth.shop.example:443/a", "/a", "AUTH.shop.example", true),
            ("https://auth.shop.example", "", "auth.shop.example:80", false),
            ("https://auth.shop.example", "", "auth.shop.example:8443", false),
            ("https://auth.shop.example:8443", "", "auth.shop.example", false),
            ("http://127.0.0.1:7490/a/b", "/a/b", "127.0.0.1:7490", true),
            ("http://shop.example/", "/", "shop.example:80", true),
            ("https://[2001:db8::443]", "", "[2001:db8::443]:443", true),
        ] {
            let issued = Issued::of(issuer).unwrap();
            assert_eq!((issued.prefix, issued.is_at(host)), (prefix, there), "{issuer} by {host}");
        }
        assert_eq!(Issued::of("nonsense"), None);
    }
}
