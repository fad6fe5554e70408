//! Who calls: a Bearer token of the policy, judged by the same check as at a verifier, and by what SQL knows of its session.

use std::borrow::Cow;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use countersign_api::policy::Switch;
use countersign_core::{
    check::{self, Ask, Authenticated, CredentialKind, Require, World},
    ratelimit::RateLimiter,
    rules,
    verdict::{DenialReason, Refusal},
};
use countersign_store::{Session, Store, StoreError, User, UserStatus};

use crate::{
    IssuerPolicy,
    call::Call,
    client::Client,
    cookies::{self, Cookie},
    csrf,
    emergency::Noted,
    minter::Scopes,
    problem::{Failed, Problem},
    public::{door, rate_limits},
    second_factor,
    serving::Issuer,
};

/// A caller who showed a good token, of any kind.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The token.
    pub(crate) credential: Authenticated,
    /// Its session, where it has one that is kept here.
    pub(crate) session: Option<Session>,
}

/// A person in a session of theirs.
pub(crate) struct Person {
    pub(crate) call: Call,
    pub(crate) user: User,
    pub(crate) session: Session,
}

/// A caller with the permission that is named where it is asked for.
pub(crate) struct Permitted {
    pub(crate) call: Call,
    pub(crate) caller: Caller,
}

/// A credential as a request carries it.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'h> {
    pub(crate) token: &'h str,
    /// The browser sent it, whoever made it ask.
    pub(crate) from_cookie: bool,
}

/// The credential of a request: one `Authorization: Bearer`, or `X-API-Key`, or the policy's cookie.
pub(crate) fn credential<'h>(policy: &IssuerPolicy, headers: &'h HeaderMap) -> Result<Shown<'h>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (None, _) => {
            let key = headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::trim);
            match key.filter(|key| !key.is_empty()) {
                Some(key) => key,
                None => return cookie(policy, headers),
            }
        }
        (Some(value), None) => {
            let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
            let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
            bearer.ok_or_else(|| Problem::invalid_token("send the token as Authorization: Bearer TOKEN").suspicious())?
        }
        (Some(_), Some(_)) => return Err(Problem::invalid_token("send one Authorization header").suspicious()),
    };
    Ok(Shown { token, from_cookie: false })
}

fn cookie<'h>(policy: &IssuerPolicy, headers: &'h HeaderMap) -> Result<Shown<'h>, Problem> {
    let settings = policy.login.as_ref().map(|login| &login.settings.cookies);
    let found = match settings.filter(|cookies| cookies.mode == Switch::Enabled) {
        Some(settings) => cookies::read(settings, headers, Cookie::Access),
        None => Ok(None),
    };
    match found {
        Ok(Some(token)) => Ok(Shown { token, from_cookie: true }),
        Ok(None) => Err(Problem::no_credential("send an Authorization: Bearer header with a token of this policy")),
        Err(error) => Err(Problem::invalid_token(error.to_string()).suspicious()),
    }
}

/// The request that a token came with, as the policy's rules and address lists see it. Empty where a token is judged that
/// somebody asks about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around<'r> {
    method: Option<&'r str>,
    path: Option<&'r str>,
    host: Option<&'r str>,
    query: Option<&'r str>,
    client: Option<&'r Client>,
}

impl<'r> Around<'r> {
    pub(crate) fn of(parts: &'r Parts, client: &'r Client) -> Self {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        Self {
            method: Some(parts.method.as_str()),
            path: Some(parts.uri.path()),
            host,
            query: parts.uri.query(),
            client: Some(client),
        }
    }

    fn ask(&self, permission: Option<&'static str>) -> Ask<'r> {
        Ask {
            require: Require { permissions: permission.into_iter().map(Cow::Borrowed).collect(), ..Require::default() },
            request: rules::Request { method: self.method, path: self.path, host: self.host, query: self.query },
            client: rules::Client {
                ip: self.client.map(|client| client.ip),
                user_agent: self.client.and_then(|client| client.user_agent.as_deref()),
                device_id: None,
            },
        }
    }
}

/// A token of the policy that is genuine, whatever has become of it and whatever it may do.
pub(crate) fn genuine(issuer: &Issuer, policy: &IssuerPolicy, token: &str) -> Result<Authenticated, Refusal> {
    let feed = &issuer.parts.feed;
    let now = feed.now(policy.clock_skew_ms);
    check::authenticate(&policy.compiled, token, now, feed.revocations().hasher())
}

/// Judges a token of the policy, with what must hold.
pub(crate) async fn judge(
    issuer: &Issuer,
    policy: &IssuerPolicy,
    token: &str,
    permission: Option<&'static str>,
    around: &Around<'_>,
) -> Result<Caller, Failed> {
    judged(issuer, policy, token, Demands::Of { permission, around }).await
}

/// Whether a token of the policy is good still, whatever it may do and wherever it may come from: for who has no request to
/// tell of.
pub(crate) async fn standing(issuer: &Issuer, policy: &IssuerPolicy, token: &str) -> Result<Caller, Failed> {
    judged(issuer, policy, token, Demands::None).await
}

/// What is demanded of a token beside that it is good.
enum Demands<'a> {
    /// A permission, if any, and what the policy's rules and address lists say of the request.
    Of { permission: Option<&'static str>, around: &'a Around<'a> },
    /// Nothing.
    None,
}

async fn judged(issuer: &Issuer, policy: &IssuerPolicy, token: &str, demands: Demands<'_>) -> Result<Caller, Failed> {
    let parts = &issuer.parts;
    let feed = &parts.feed;
    let view = feed.view();
    let (limiter, noted) = (RateLimiter::default(), Noted::default());
    let world = World {
        now: feed.now(policy.clock_skew_ms),
        revocations: feed.revocations(),
        // What SQL knows is read below: here the truth lies, so nothing is ever stale.
        feed_age_ms: Some(0),
        behind: false,
        rate_limiter: &limiter,
        witness: &noted,
    };
    let (permission, ask) = match demands {
        Demands::Of { permission, around } => (permission, around.ask(permission)),
        Demands::None => (None, Ask::default()),
    };
    let refused = |refusal: Refusal| match refusal.status() {
        401 if is_suspicious(&refusal) => Problem::invalid_token(refusal.detail()).suspicious(),
        401 => Problem::invalid_token(refusal.detail()),
        403 if matches!(&refusal, Refusal::Denied(denial) if denial.reason == DenialReason::Ip) => {
            Problem::not_from_there()
        }
        403 => match permission {
            Some(permission) => Problem::forbidden(format!("{}; {permission} is needed", refusal.detail())),
            None => Problem::forbidden(refusal.detail()),
        },
        _ => Problem::unavailable(refusal.detail()),
    };
    let credential =
        check::authenticate(&policy.compiled, token, world.now, feed.revocations().hasher()).map_err(refused)?;
    match (check::judge(&policy.compiled, &credential, &ask, &world), &demands) {
        // Demands come after times and revocations: what is only denied is good.
        (Ok(_), _) | (Err(Refusal::Denied(_)), Demands::None) => {}
        (Err(refusal), _) => return Err(refused(refusal).into()),
    }
    if !view.fresh && ended_in_sql(&parts.store, policy, &credential, token).await? {
        return Err(Problem::invalid_token("the token was revoked").suspicious().into());
    }
    let session = match (credential.kind(), credential.session_id()) {
        (CredentialKind::Access, Some(id)) => parts.store.session(&policy.name, id).await?,
        _ => None,
    };
    if let Some(session) = &session {
        let theirs = session.subject == credential.subject();
        if !theirs || !session.is_live(world.now) {
            let over = Problem::invalid_token("the session has ended");
            let ran_out = theirs && session.ended.is_none();
            return Err(if ran_out { over } else { over.suspicious() }.into());
        }
    }
    noted.write(&parts.store).await?;
    if let Some(session) = &session {
        second_factor::used(&parts.store, &policy.name, session).await?;
    }
    Ok(Caller { credential, session })
}

/// Whether somebody shows what was never given to them, or was taken from them: not that it has merely run out, or comes early.
const fn is_suspicious(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::Expired | Refusal::NotYetValid)
}

/// Whether SQL says that a credential has ended, while the feed may not know.
async fn ended_in_sql(
    store: &Store,
    policy: &IssuerPolicy,
    credential: &Authenticated,
    token: &str,
) -> Result<bool, StoreError> {
    let since = credential.claim("iat_ms").and_then(|at| at.as_i64()).unwrap_or(i64::MIN);
    let issuer = credential.issuer().unwrap_or_default();
    let keys = Scopes { policy: &policy.name, issuer }.of_token(credential, token);
    let access = credential.kind() != CredentialKind::ApiKey;
    let entries = store.entries(&keys).await?;
    Ok(entries.iter().any(|entry| entry.cutoff.0 >= since && (access || entry.id != Scopes::ACCESS_ONLY)))
}

impl Caller {
    /// Whom the token speaks for, as an account.
    pub(crate) async fn user(&self, call: &Call) -> Result<User, Failed> {
        // Another issuer's subjects are not ours, whatever they are called.
        let own = call.policy.own.as_ref().map(|own| own.issuer.as_str());
        // Nor is a client that has the id of an account that account: its tokens are its own (RFC 9068 section 2.2).
        let client = self.credential.claim("client_id").is_some_and(|client| client == self.credential.subject());
        if own.is_none() || self.credential.issuer() != own || client {
            return Err(Problem::invalid_token("the token belongs to no account of this policy").into());
        }
        let user = call.store().user(&call.policy.name, self.credential.subject()).await?;
        let user = user.ok_or_else(|| Problem::invalid_token("the token belongs to no account of this policy"))?;
        match user.status {
            UserStatus::Active | UserStatus::Pending => Ok(user),
            UserStatus::Disabled | UserStatus::Locked => Err(Problem::invalid_token("the account is closed").into()),
        }
    }

    /// 403 unless its permissions grant this.
    pub(crate) fn require(&self, permission: &str) -> Result<(), Problem> {
        if countersign_core::roles::grants(self.credential.permissions(), permission) {
            Ok(())
        } else {
            Err(Problem::forbidden(format!("the permission {permission} is needed")))
        }
    }
}

impl FromRequestParts<Issuer> for Permitted {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Failed> {
        let call = Call::from_request_parts(parts, issuer).await?;
        let shown = door::watched(&call, credential(&call.policy, &parts.headers).map_err(Failed::from)).await?;
        let judged = judge(issuer, &call.policy, shown.token, None, &Around::of(parts, &call.client)).await;
        let caller = door::watched(&call, judged).await?;
        if shown.from_cookie && !cookies::is_safe(&parts.method) {
            let session = caller.credential.session_id();
            if !session.is_some_and(|session| csrf::holds(issuer, &call.policy, session, &parts.headers)) {
                return Err(csrf::failed().into());
            }
        }
        rate_limits::may_call(&call, &caller.credential).await?;
        Ok(Self { call, caller })
    }
}

impl FromRequestParts<Issuer> for Person {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Failed> {
        let Permitted { call, caller } = Permitted::from_request_parts(parts, issuer).await?;
        call.login()?;
        let user = caller.user(&call).await?;
        let session = caller.session.ok_or_else(|| Problem::invalid_token("this call needs the token of a login"))?;
        Ok(Self { call, user, session })
    }
}
