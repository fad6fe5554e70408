//! Who may try to log in at all: addresses that aren't blocked, within their limits.

use std::net::IpAddr;

use axum::http::StatusCode;
use countersign_api::policy::Switch;
use countersign_core::time::UnixMillis;
use countersign_store::{Appended, StoreError, Tx, User, transact};
use tokio::sync::OwnedMutexGuard;

use super::owner::{of_account, of_address};
use crate::{
    addresses::{Blocking, block_of, networks_around},
    audit::EventKind,
    call::Call,
    limits::{Reserved, Window, address_key, halved_under_attack, joined_key},
    problem::{Failed, Problem},
};

/// What tries are counted under.
pub(super) const BY_ACCOUNT: &str = "login-account";
const BY_ADDRESS: &str = "login-address";
/// What failures of one address are counted under.
const FAILURES: &str = "login-failures";
/// What wrong secrets of OAuth clients are counted under: of one client from one address, from one address, and of one client
/// from addresses that haven't shown its secret.
const CLIENT_SECRETS: &str = "client-secret";
const CLIENT_SECRETS_BY_ADDRESS: &str = "client-secret-address";
const CLIENT_SECRETS_OF_CLIENT: &str = "client-secret-client";
/// What it is remembered under that an address has shown a client's secret, and for how long.
const CLIENT_AT_HOME: &str = "client-at-home";
const AT_HOME_MS: i64 = 24 * 3_600_000;
/// What tokens that are no good are counted under, and how many of them a minute are written down.
const BAD_TOKENS: &str = "bad-tokens";
const BAD_TOKENS_TOLD: u32 = 5;
const MINUTE_MS: i64 = 60_000;

/// 403 while the address is blocked.
pub(super) async fn not_blocked(call: &Call, now: UnixMillis) -> Result<(), Failed> {
    let networks = networks_around(call.client.ip);
    let block = call.store().blocked(&call.policy.name, &networks, now).await?;
    Ok(open_to(block.map(|block| block.expires), now)?)
}

/// The same of an address that was blocked until then, if it was.
pub(super) fn open_to(blocked_until: Option<UnixMillis>, now: UnixMillis) -> Result<(), Problem> {
    let Some(until) = blocked_until.filter(|until| *until > now) else { return Ok(()) };
    let left_s = u64::try_from(until.since(now).max(0)).unwrap_or(0).div_ceil(1000).max(1);
    let problem = Problem::new(StatusCode::FORBIDDEN, "address_blocked", "too many logins failed from this address");
    Err(problem.retry_after(left_s))
}

/// Who is tried to log in as.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    /// What was typed, folded: accounts that aren't there count alike.
    pub(super) name: String,
    /// Since when the account's tries count, where those before were forgotten.
    pub(super) since: Option<UnixMillis>,
}

impl Tried {
    /// What its tries from an address are counted under: something else once those before were forgotten.
    fn key(&self, ip: IpAddr) -> String {
        let address = address_key(ip);
        match self.since {
            Some(since) => joined_key(&[&self.name, &address, &since.0.to_string()]),
            None => joined_key(&[&self.name, &address]),
        }
    }
}

/// Counts a try, or refuses it with 429.
pub(super) async fn may_try(call: &Call, tried: &Tried, now: UnixMillis) -> Result<Reserved, Failed> {
    let windows = windows(call, Some(tried), call.client.ip, now).await?;
    let reserved = call.issuer.parts.limits.reserve(&call.policy.name, &windows, now).await?;
    match reserved.standing.filter(|standing| !standing.allowed) {
        Some(standing) => {
            call.counted_by.note(standing);
            Err(Problem::rate_limited(standing).into())
        }
        None => Ok(reserved),
    }
}

/// The limits on a login as somebody, or as whoever, from an address.
pub(super) async fn windows(
    call: &Call,
    tried: Option<&Tried>,
    ip: IpAddr,
    now: UnixMillis,
) -> Result<Vec<Window>, Failed> {
    let limits = &call.login()?.settings.rate_limits.login;
    let mut windows = Vec::new();
    if let (Some(limit), Some(tried)) = (&limits.per_account_and_address, tried) {
        let key = tried.key(ip);
        windows.push(Window { what: BY_ACCOUNT, key, limit: limit.limit, window_ms: limit.window.as_millis() });
    }
    if let Some(limit) = &limits.per_address {
        let account = limits.per_account_and_address.as_ref().map_or(limit.limit, |account| account.limit);
        let attack = call.issuer.parts.limits.pressure(&call.policy.name, now).await?.is_attack(account);
        let held = halved_under_attack(limit.limit, attack);
        windows.push(Window { what: BY_ADDRESS, key: address_key(ip), limit: held, window_ms: limit.window.as_millis() });
    }
    Ok(windows)
}

/// Notes that a login failed; blocks the address when it is one too many.
pub(super) async fn failed(call: &Call) -> Result<(), Failed> {
    let blocking = &call.login()?.settings.address_blocking;
    let (policy, limits) = (&call.policy.name, &call.issuer.parts.limits);
    let now = call.now().await?;
    limits.note_failed_login(policy, now).await?;
    if blocking.mode == Switch::Disabled {
        return Ok(());
    }
    let window = Window {
        what: FAILURES,
        key: address_key(call.client.ip),
        limit: blocking.failed_logins,
        window_ms: blocking.window.as_millis(),
    };
    let standing = limits.hit(policy, &[window], now).await?;
    if standing.is_some_and(|standing| standing.remaining == 0)
        && let Some(ended) = block(call, blocking.duration.as_millis(), blocking.verifiers).await?
    {
        call.publish(ended).await;
    }
    Ok(())
}

/// Blocks the caller's address, unless it is one of ours or the policy names it as allowed.
async fn block(call: &Call, duration_ms: i64, verifiers: bool) -> Result<Option<Appended>, Failed> {
    let ip = call.client.ip.to_canonical();
    if call.issuer.parts.trusted_proxies.contains(ip) {
        return Ok(None);
    }
    let asked = Blocking {
        network: block_of(ip),
        reason: "too many failed logins".to_owned(),
        ttl_s: (duration_ms / 1000).clamp(1, 31_536_000),
        source: "issuer",
    };
    transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        let Ok(new) = asked.revocation(&call.policy, now) else { return Ok(None) };
        match asked.block(tx, call, &new, now).await {
            Ok(_) => {}
            Err(StoreError::Full(_)) => {
                tracing::warn!(policy = %call.policy.name, "no room for another address block");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        if !verifiers {
            return Ok(None);
        }
        Ok(Some(tx.revoke(&[new], now, |_| call.policy.max_entries).await?))
    })
}

/// A client's secret that was shown and is not compared yet. It counts as wrong until then, so that of many guesses at once none
/// is compared beyond a limit.
pub(super) struct ShownSecret<'c> {
    call: &'c Call,
    client: &'c str,
    reserved: Reserved,
    /// How long the address is remembered to have shown the client's secret, milliseconds.
    at_home_ms: i64,
    /// Right secrets that an address shows at once don't refuse each other.
    _turn: OwnedMutexGuard<()>,
}

/// 429 once too many wrong secrets were shown: then a right one isn't compared either. The limits are those on logins: on one
/// client from one address, on one address, and on one client from all addresses that haven't shown its secret, so that
/// guesses from many places are limited and keep no service from its tokens.
pub(super) async fn client_secret<'c>(call: &'c Call, client: &'c str) -> Result<ShownSecret<'c>, Failed> {
    let (policy, limits) = (&call.policy.name, &call.issuer.parts.limits);
    let address = address_key(call.client.ip);
    let turn = limits.turn(policy, CLIENT_SECRETS, &address).await;
    let now = call.now().await?;
    let known = limits.peek(policy, &[at_home(client, &address)], now).await?;
    let at_home_ms = known.filter(|known| !known.allowed).map_or(0, |known| known.reset_ms);
    let login = &call.login()?.settings.rate_limits.login;
    let windows = [
        of_account(CLIENT_SECRETS, &joined_key(&[client, &address]), login.per_account_and_address.as_ref()),
        of_address(call, CLIENT_SECRETS_BY_ADDRESS, login.per_address.as_ref()),
        of_account(CLIENT_SECRETS_OF_CLIENT, client, login.per_address.as_ref()).filter(|_| at_home_ms == 0),
    ];
    let windows: Vec<Window> = windows.into_iter().flatten().collect();
    let reserved = limits.reserve(policy, &windows, now).await?;
    match reserved.standing.filter(|standing| !standing.allowed) {
        Some(standing) => {
            call.counted_by.note(standing);
            Err(Problem::rate_limited(standing).into())
        }
        None => Ok(ShownSecret { call, client, reserved, at_home_ms, _turn: turn }),
    }
}

fn at_home(client: &str, address: &str) -> Window {
    Window { what: CLIENT_AT_HOME, key: joined_key(&[client, address]), limit: 1, window_ms: AT_HOME_MS }
}

impl ShownSecret<'_> {
    /// It is right: nothing was guessed. A service shows its secret as often as it has to.
    pub(super) async fn accepted(self) -> Result<(), Failed> {
        let (policy, limits) = (&self.call.policy.name, &self.call.issuer.parts.limits);
        limits.take_back(policy, self.reserved).await?;
        if self.at_home_ms < AT_HOME_MS / 2 {
            let home = at_home(self.client, &address_key(self.call.client.ip));
            limits.clear(policy, home.what, &home.key).await?;
            limits.hit(policy, &[home], self.call.now().await?).await?;
        }
        Ok(())
    }

    /// It is wrong: that stays counted and is written down, and the address is blocked when it is one too many.
    pub(super) async fn rejected(self, known: bool) -> Result<(), Failed> {
        let Self { call, client, .. } = self;
        if let Some(standing) = self.reserved.standing {
            call.counted_by.note(standing);
        }
        transact!(call.store(), Failed, |tx| {
            let now = tx.database_now().await?;
            let event = call.event(EventKind::ClientRejected);
            // What isn't the name of a client may be somebody's password.
            let event = if known {
                event.detail("client_id", client)
            } else {
                event.detail("unknown_client", call.issuer.parts.secrets.short_hash("name", client))
            };
            Ok(event.write(tx, now).await?)
        })?;
        failed(call).await
    }
}

/// What became of a credential; one that is worth a line of the trail is written down.
pub(crate) async fn watched<T>(call: &Call, judged: Result<T, Failed>) -> Result<T, Failed> {
    if let Err(Failed::Problem(problem)) = &judged
        && problem.is_suspicious()
    {
        bad_token(call, problem.detail()).await?;
    }
    judged
}

/// Writes down that a token was shown which is no good, and has not merely run out: so many a minute of one address, so that
/// nobody fills the trail.
pub(super) async fn bad_token(call: &Call, reason: &str) -> Result<(), Failed> {
    let (policy, limits) = (&call.policy.name, &call.issuer.parts.limits);
    let key = address_key(call.client.ip);
    let window = Window { what: BAD_TOKENS, key, limit: BAD_TOKENS_TOLD, window_ms: MINUTE_MS };
    if limits.hit(policy, &[window], call.now().await?).await?.is_some_and(|standing| !standing.allowed) {
        return Ok(());
    }
    transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        Ok(call.event(EventKind::InvalidToken).detail("reason", reason).write(tx, now).await?)
    })
}

/// Forgets what an account has tried, from wherever: its owner comes in again.
pub(crate) async fn forget_tries(tx: &mut Tx, call: &Call, user: &str, now: UnixMillis) -> Result<(), Failed> {
    if let Some(limit) = &call.login()?.settings.rate_limits.login.per_account_and_address {
        tx.forget_tries(&call.policy.name, user, now.plus(limit.window.as_millis()), now).await?;
    }
    Ok(())
}

/// Forgets what was tried from an address, as whomever, and what an account has tried from there. Whether there was anything.
pub(crate) async fn forget_address(call: &Call, user: &User, ip: IpAddr) -> Result<bool, Failed> {
    let (policy, limits) = (&call.policy.name, &call.issuer.parts.limits);
    let mut any = limits.clear(policy, BY_ADDRESS, &address_key(ip)).await?;
    any |= limits.clear(policy, FAILURES, &address_key(ip)).await?;
    let since = call.store().tries_since(policy, &user.id).await?;
    for name in [&user.username, &user.email].into_iter().flatten() {
        let tried = Tried { name: name.folded.clone(), since };
        any |= limits.clear(policy, BY_ACCOUNT, &tried.key(ip)).await?;
    }
    Ok(any)
}
