//! Who may try to log in at all: addresses that aren't blocked, within their limits.

use std::net::IpAddr;

use axum::http::StatusCode;
use countersign_api::policy::Switch;
use countersign_core::time::UnixMillis;
use countersign_store::{Appended, StoreError, User, transact};

use super::owner::{of_account, of_address};
use crate::{
    addresses::{Blocking, block_of, networks_around},
    audit::EventKind,
    call::Call,
    limits::{Standing, Window, address_key, halved_under_attack, joined_key},
    problem::{Failed, Problem},
};

/// What tries are counted under.
pub(super) const BY_ACCOUNT: &str = "login-account";
const BY_ADDRESS: &str = "login-address";
/// What failures of one address are counted under.
const FAILURES: &str = "login-failures";
/// What wrong secrets of OAuth clients are counted under: of one client from one address, and from one address.
const CLIENT_SECRETS: &str = "client-secret";
const CLIENT_SECRETS_BY_ADDRESS: &str = "client-secret-address";
/// What tokens that are no good are counted under, and how many of them a minute are written down.
const BAD_TOKENS: &str = "bad-tokens";
const BAD_TOKENS_TOLD: u32 = 5;
const MINUTE_MS: i64 = 60_000;

/// 403 while the address is blocked.
pub(super) async fn not_blocked(call: &Call, now: UnixMillis) -> Result<(), Failed> {
    let networks = networks_around(call.client.ip);
    let Some(block) = call.store().blocked(&call.policy.name, &networks, now).await? else { return Ok(()) };
    let left_s = u64::try_from(block.expires.since(now).max(0)).unwrap_or(0).div_ceil(1000).max(1);
    let problem = Problem::new(StatusCode::FORBIDDEN, "address_blocked", "too many logins failed from this address");
    Err(problem.retry_after(left_s).into())
}

/// Counts a try, or refuses it with 429. `name` is what was typed, folded: accounts that aren't there count alike.
pub(super) async fn may_try(call: &Call, name: &str, now: UnixMillis) -> Result<Option<Standing>, Failed> {
    let windows = windows(call, Some(name), call.client.ip, now).await?;
    call.count(windows.into_iter().map(Some)).await
}

/// The limits on a login by a name, or by whoever, from an address.
pub(super) async fn windows(call: &Call, name: Option<&str>, ip: IpAddr, now: UnixMillis) -> Result<Vec<Window>, Failed> {
    let limits = &call.login()?.settings.rate_limits.login;
    let mut windows = Vec::new();
    if let (Some(limit), Some(name)) = (&limits.per_account_and_address, name) {
        let key = joined_key(&[name, &address_key(ip)]);
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

/// The limits on guessing an OAuth client's secret: those on logins.
fn client_windows(call: &Call, client: &str) -> Result<Vec<Window>, Failed> {
    let limits = &call.login()?.settings.rate_limits.login;
    let key = joined_key(&[client, &address_key(call.client.ip)]);
    let windows = [
        of_account(CLIENT_SECRETS, &key, limits.per_account_and_address.as_ref()),
        of_address(call, CLIENT_SECRETS_BY_ADDRESS, limits.per_address.as_ref()),
    ];
    Ok(windows.into_iter().flatten().collect())
}

/// 429 once too many wrong secrets were shown: then a right one isn't looked at either. Right ones aren't counted: a service
/// shows its secret as often as it has to.
pub(super) async fn may_show_client_secret(call: &Call, client: &str) -> Result<(), Failed> {
    let windows = client_windows(call, client)?;
    let standing = call.issuer.parts.limits.peek(&call.policy.name, &windows, call.now().await?).await?;
    match standing.filter(|standing| !standing.allowed) {
        Some(standing) => {
            call.counted_by.note(standing);
            Err(Problem::rate_limited(standing).into())
        }
        None => Ok(()),
    }
}

/// Counts a wrong secret of a client, writes it down, and blocks the address when it is one too many.
pub(super) async fn wrong_client_secret(call: &Call, client: &str, known: bool) -> Result<(), Failed> {
    call.count(client_windows(call, client)?.into_iter().map(Some)).await?;
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

/// Writes down that a token was shown which is no good, and has not merely run out: so many a minute of one address, so that
/// nobody fills the trail.
pub(crate) async fn bad_token(call: &Call, reason: &str) -> Result<(), Failed> {
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

/// Forgets what an account has tried from an address, for an administrator who lets somebody in again. Whether there was
/// anything.
pub(crate) async fn forget_tries(call: &Call, user: &User, address: Option<IpAddr>) -> Result<bool, Failed> {
    let Some(ip) = address else { return Ok(false) };
    let (policy, limits) = (&call.policy.name, &call.issuer.parts.limits);
    let mut any = limits.clear(policy, BY_ADDRESS, &address_key(ip)).await?;
    any |= limits.clear(policy, FAILURES, &address_key(ip)).await?;
    for name in [&user.username, &user.email].into_iter().flatten() {
        any |= limits.clear(policy, BY_ACCOUNT, &joined_key(&[&name.folded, &address_key(ip)])).await?;
    }
    Ok(any)
}
