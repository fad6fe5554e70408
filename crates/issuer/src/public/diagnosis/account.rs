//! Gates of an account: from its status to the limits that its logins are counted by.

use std::net::IpAddr;

use countersign_api::policy::OnLimit;
use countersign_core::time::UnixMillis;
use countersign_store::{LockoutKey, User, UserStatus};

use super::{Gate, command};
use crate::{
    call::Call,
    names,
    problem::Failed,
    public::{
        door::{self, Tried},
        login, rate_limits,
    },
    second_factor,
};

/// Sessions that are counted, at most.
const MAX_COUNTED: u32 = 1000;

/// The gates of the account of an id, a name or an e-mail address.
pub(super) async fn gates(call: &Call, named: &str) -> Result<Vec<Gate>, Failed> {
    call.login()?;
    let found = match call.store().user(&call.policy.name, named).await? {
        Some(user) => Some(user),
        None => login::account(call, &names::folded(named.trim())).await?,
    };
    let Some(user) = found else {
        let fix = command(call, "users create --email EMAIL");
        return Ok(vec![Gate::new("account", false, "there is no such account", fix)]);
    };
    let now = call.now().await?;
    Ok(vec![
        Gate::new("account", true, format!("the account {}", user.id), ""),
        status(call, &user),
        password(call, &user).await?,
        lockout(call, &user, now).await?,
        rollout(call, &user)?,
        factor(call, &user).await?,
        sessions(call, &user, now).await?,
    ])
}

fn status(call: &Call, user: &User) -> Gate {
    let detail = match (&user.status_reason, user.status_until) {
        (Some(reason), Some(until)) => format!("{} until {until}: {reason}", user.status.word()),
        (Some(reason), None) => format!("{}: {reason}", user.status.word()),
        (None, _) => user.status.word().to_owned(),
    };
    let fix = match user.status {
        UserStatus::Active => String::new(),
        UserStatus::Pending => "the mailed link; POST /auth/verify-email/resend mails another".to_owned(),
        UserStatus::Disabled => command(call, &format!("users enable {}", user.id)),
        UserStatus::Locked => command(call, &format!("users unlock {}", user.id)),
    };
    Gate::new("status", user.status == UserStatus::Active, detail, fix)
}

async fn password(call: &Call, user: &User) -> Result<Gate, Failed> {
    let has_one = call.store().password(&user.policy, &user.id).await?.is_some();
    let detail = if has_one { "has a password" } else { "has no password" };
    Ok(Gate::new("password", has_one, detail, "POST /auth/forgot-password mails a link to set one"))
}

async fn lockout(call: &Call, user: &User, now: UnixMillis) -> Result<Gate, Failed> {
    let held = call.store().lockout(&user.policy, LockoutKey::Account(&user.id)).await?;
    let locked = held.locked_until.filter(|until| *until > now);
    let detail = match locked {
        Some(until) => format!("locked by {} failures until {until}", held.failures),
        None => format!("{} failures counted", held.failures),
    };
    Ok(Gate::new("lockout", locked.is_none(), detail, command(call, &format!("users unlock {}", user.id))))
}

fn rollout(call: &Call, user: &User) -> Result<Gate, Failed> {
    let login = call.login()?;
    let names: Vec<&str> = [&user.username, &user.email].into_iter().flatten().map(|name| name.folded.as_str()).collect();
    let open = login.rolled_out(&user.policy, &user.id, &names);
    let percentage = login.settings.rollout.percentage;
    let detail = format!("{} by spec.login.rollout ({percentage} %)", if open { "in" } else { "out" });
    Ok(Gate::new("rollout", open, detail, "name the account in spec.login.rollout.subjects"))
}

async fn factor(call: &Call, user: &User) -> Result<Gate, Failed> {
    let enrolled = second_factor::is_on(call, user).await?;
    let demanded = call.login()?.demands_second_factor(&user.roles);
    let detail = match (demanded, enrolled) {
        (_, true) => "enrolled",
        (true, false) => "demanded, and none is enrolled: the next login asks to set one up",
        (false, false) => "none",
    };
    Ok(Gate::new("second factor", enrolled || !demanded, detail, "log in and enrol, or take the role away"))
}

async fn sessions(call: &Call, user: &User, now: UnixMillis) -> Result<Gate, Failed> {
    let settings = &call.login()?.settings.sessions;
    let held = call.store().sessions(&user.policy, &user.id, None, MAX_COUNTED, now).await?.len();
    let most = settings.max_concurrent as usize;
    let open = held < most || settings.on_limit != OnLimit::Reject;
    let detail = format!("{held} of {most} sessions");
    Ok(Gate::new("sessions", open, detail, command(call, &format!("sessions end --all {}", user.id))))
}

/// How logins stand from an address: of each name of an account, where one is named, and of the address.
pub(super) async fn rate_limits(call: &Call, user: Option<&str>, ip: IpAddr) -> Result<Vec<Gate>, Failed> {
    let (now, limits) = (call.now().await?, &call.issuer.parts.limits);
    let names = rate_limits::names_of(call, user).await?;
    let whose = user.map_or_else(|| "ACCOUNT".to_owned(), str::to_owned);
    let fix = command(call, &format!("users unlock {whose} --also-address {ip}"));
    let names: Vec<Option<&Tried>> = if names.is_empty() { vec![None] } else { names.iter().map(Some).collect() };
    let mut gates = Vec::new();
    for tried in names {
        let windows = door::windows(call, tried, ip, now).await?;
        // The tightest of them is what a login meets.
        let Some(standing) = limits.peek(&call.policy.name, &windows, now).await? else { continue };
        let by = tried.map_or_else(|| format!("from {ip}"), |tried| format!("as {} from {ip}", tried.name));
        let (left, of, again) = (standing.remaining, standing.limit, standing.reset_ms.max(0) / 1000);
        let detail = format!("logins {by}: {left} of {of} left, anew in {again} s");
        gates.push(Gate::new("rate limit", standing.allowed, detail, fix.clone()));
    }
    Ok(gates)
}
