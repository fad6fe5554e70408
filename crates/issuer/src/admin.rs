//! The admin API, `/admin/v1/…`: over `admin.sock`, whose file mode is the guard, or over HTTP with a Bearer token of the
//! policy that carries the permission `countersign:admin`.

mod administered;
mod authority;
mod blocks;
mod grants;
mod imports;
mod keys;
mod reference;
mod revocations;
mod status;
mod support;
mod tokens;
mod trail;
mod users;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, FromRequest as _, FromRequestParts, Path, Request, State},
    http::{HeaderMap, header, request::Parts as RequestParts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use countersign_core::names::PolicyName;
use tokio::time::Instant;
use utoipa_axum::routes;

pub use self::authority::{Authority, Caller, NotAdmitted, Right};
pub(crate) use crate::body::{Content, OfQuery, body_of};
use crate::{
    Enforcement, IssuerPolicy, Verifier,
    actor::Actor,
    bearer::{self, Around},
    body::MAX_BODY,
    call::Call,
    client::Client,
    limits::CountedBy,
    openapi::Described,
    problem::{Failed, Problem},
    public::door,
    serving::Issuer,
};

/// What authorises every call of a policy.
const ADMIN_PERMISSION: &str = "countersign:admin";

/// How long a caller's judgement holds while their body comes.
const JUDGED_FOR: Duration = Duration::from_secs(1);

/// Calls that concern the whole process.
const POLICIES: &str = "/admin/v1/policies";
const POLICY_OF: &str = "/admin/v1/policy-of";
const STATUS: &str = "/admin/v1/status";
const FLEET: &str = "/admin/v1/fleet";

/// What lets callers in.
#[derive(Clone)]
pub(crate) enum Door {
    /// Whoever could open the socket.
    FileMode,
    /// A Bearer token of the policy.
    Bearer,
    /// Somebody's word for who asks and what they may.
    Authority(Arc<dyn Authority>),
}

pub(crate) fn routes(issuer: Issuer, door: Door) -> Router {
    let routes = match door {
        Door::FileMode => of_policies().merge(of_process()).into_router(),
        Door::Authority(authority) => {
            let state = (issuer.clone(), authority.clone());
            let policies =
                of_policies().into_router().route_layer(middleware::from_fn_with_state(state, authority::of_policy));
            let process = of_process().into_router();
            policies.merge(process.route_layer(middleware::from_fn_with_state(authority, authority::of_process)))
        }
        Door::Bearer => {
            let judged = of_policies().into_router().route_layer(middleware::from_fn_with_state(issuer.clone(), judged));
            [POLICIES, POLICY_OF, STATUS, FLEET]
                .into_iter()
                .fold(judged, |routes, call| routes.route(call, axum::routing::any(socket_only)))
        }
    };
    routes
        .merge(reference().into_router())
        .fallback(async || Problem::not_found("no such call"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed("no such method on this call"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(issuer)
}

/// All routes, with what there is to say of each.
pub(crate) fn described() -> Described {
    of_policies().merge(of_process()).merge(reference())
}

fn of_policies() -> Described {
    let of_policy = Described::new()
        .routes(routes!(tokens::mint))
        .routes(routes!(revocations::revoke, revocations::history))
        .routes(routes!(status::verifiers))
        .routes(routes!(keys::list))
        .routes(routes!(keys::rotate))
        .routes(routes!(status::effective))
        .routes(routes!(support::diagnose))
        .routes(routes!(support::debug_report))
        .merge(people());
    Described::new().nest(authority::OF_POLICY, of_policy)
}

fn of_process() -> Described {
    Described::new()
        .routes(routes!(status::policies))
        .routes(routes!(revocations::policy_of))
        .routes(routes!(status::status))
        .routes(routes!(status::fleet))
}

fn reference() -> Described {
    Described::new().routes(routes!(reference::document)).routes(routes!(reference::page))
}

/// Accounts and what they hold; a policy without a login has none of these.
fn people() -> Described {
    Described::new()
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::change, users::delete))
        .routes(routes!(users::lock))
        .routes(routes!(users::unlock))
        .routes(routes!(users::reset_mfa))
        .routes(routes!(grants::sessions, grants::end_sessions))
        .routes(routes!(grants::end_session))
        .routes(routes!(grants::api_keys, grants::create_api_key))
        .routes(routes!(grants::revoke_api_key))
        .routes(routes!(imports::show))
        .routes(routes!(imports::rows))
        .routes(routes!(imports::undoing::undo))
        .routes(routes!(blocks::blocks, blocks::block, blocks::unblock))
        .routes(routes!(trail::events))
        .routes(routes!(trail::verify_events))
}

/// What concerns the whole process is no policy's administrator's business.
async fn socket_only() -> Problem {
    Problem::forbidden("this call concerns the whole process: it is answered on admin.sock alone")
}

async fn judged(State(issuer): State<Issuer>, policy: Result<OfPolicy, Problem>, request: Request, next: Next) -> Response {
    match admitted(&issuer, policy, request).await {
        Ok(request) => next.run(request).await,
        Err(failed) => failed.into_response(),
    }
}

/// A request whose token permits it, with whom that names. Without a good one nobody learns which policies there are, and no
/// body is read.
async fn admitted(issuer: &Issuer, policy: Result<OfPolicy, Problem>, request: Request) -> Result<Request, Failed> {
    const ONE: &str = "send one Authorization: Bearer header with a token of this policy";
    if !request.headers().contains_key(header::AUTHORIZATION) {
        return Err(Problem::no_credential("send an Authorization: Bearer header with a token of this policy").into());
    }
    let (mut parts, body) = request.into_parts();
    let client = client_of(&parts, issuer)?;
    let token = sole_bearer(&parts.headers);
    let policy = match policy {
        Ok(OfPolicy(policy)) => policy,
        Err(unknown) => {
            let held = issuer.parts.policies.load();
            let of_any = |token| held.by_name.values().any(|policy| bearer::genuine(issuer, policy, token).is_ok());
            return Err(if token.is_some_and(of_any) { unknown } else { Problem::invalid_token(ONE) }.into());
        }
    };
    let call = Call { issuer: issuer.clone(), policy, client, actor: None, counted_by: CountedBy::default() };
    let judge = async || {
        let judged = match token {
            Some(token) => {
                let around = Around::of(&parts, &call.client);
                bearer::judge(issuer, &call.policy, token, Some(ADMIN_PERMISSION), &around).await
            }
            None => Err(Problem::invalid_token(ONE).suspicious().into()),
        };
        door::watched(&call, judged).await
    };
    let mut caller = judge().await?;
    let (bytes, late) = body_of_judged(&parts, body, issuer).await?;
    if late {
        caller = judge().await?;
    }
    parts.extensions.insert(Actor::of(&caller.credential));
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// The body of a call whose caller was judged, and whether it came so late that they are to be judged again: what they may can
/// have ended meanwhile.
async fn body_of_judged(parts: &RequestParts, body: Body, issuer: &Issuer) -> Result<(Bytes, bool), Problem> {
    let begun = Instant::now();
    let Content(bytes) = Content::from_request(Request::from_parts(parts.clone(), body), issuer).await?;
    Ok((bytes, begun.elapsed() >= JUDGED_FOR))
}

fn sole_bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who asks: over the socket it is this machine.
fn client_of(parts: &RequestParts, issuer: &Issuer) -> Result<Client, Problem> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    Client::of(&parts.headers, peer, &issuer.parts.trusted_proxies)
        .map_err(|error| Problem::invalid_request(error.to_string()))
}

/// The policy that a path names.
pub(crate) struct OfPolicy(pub(crate) Arc<IssuerPolicy>);

/// The part of a path that names a policy.
#[derive(serde::Deserialize)]
struct Named {
    namespace: String,
    name: String,
}

impl FromRequestParts<Issuer> for OfPolicy {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut RequestParts, issuer: &Issuer) -> Result<Self, Problem> {
        let Path(Named { namespace, name }) =
            Path::<Named>::from_request_parts(parts, issuer).await.map_err(|_| Problem::not_found("no such call"))?;
        let unknown = || Problem::not_found(format!("there is no policy {namespace}/{name}"));
        let name = PolicyName::try_new(&namespace, &name).map_err(|_| unknown())?;
        issuer.parts.policies.one(&name).map(Self).ok_or_else(unknown)
    }
}

pub(crate) use keys::rings;

/// On how many verifiers the policy's present generation is in force.
pub(crate) fn held_generation(policy: &IssuerPolicy, verifiers: &[Verifier]) -> Enforcement {
    Enforcement::count(verifiers.iter().map(|v| (v.name.as_str(), holds(v, policy, policy.compiled.generation))))
}

/// Whether a verifier holds a generation of a policy; where it acknowledges writes, the present one.
fn holds(verifier: &Verifier, policy: &IssuerPolicy, generation: u64) -> bool {
    if let Some(written) = &policy.written {
        return written.is_applied_by(verifier, &policy.name);
    }
    let policy = &policy.name;
    let held = verifier.ack.as_ref().and_then(|ack| ack.generations.get(policy.as_str()));
    held.is_some_and(|held| *held >= generation)
}
