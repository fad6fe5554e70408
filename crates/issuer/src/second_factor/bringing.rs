//! Authenticators that a migration brings: they are in use already, where they come from.

use countersign_core::time::UnixMillis;
use countersign_store::{Totp, Tx};

use super::resealing;
use crate::{
    call::Call,
    problem::{Failed, Problem},
    totp::TotpSecret,
};

/// Puts an authenticator's secret in use for an account that has none, sealed as every secret is.
pub(crate) async fn bring(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    secret: &TotpSecret,
    now: UnixMillis,
) -> Result<(), Failed> {
    let policy = &call.policy.name;
    let sealed = resealing::sealed(&call.issuer.parts.secrets, policy, user, secret);
    let (sealed, key_id) = sealed.map_err(|error| Problem::internal(&error))?;
    tx.begin_totp(policy, user, &sealed, &key_id, now).await?;
    // Whatever code was shown where it comes from isn't good here once more.
    let totp = &call.login()?.totp;
    let present = now.as_secs().div_euclid(i64::try_from(totp.period_s).unwrap_or(i64::MAX).max(1));
    tx.confirm_totp(policy, user, &sealed, present.saturating_add(totp.skew.into()), now).await?;
    Ok(())
}

/// Whether an account's authenticator is that one; an account without one is alike to nobody's.
pub(crate) fn is_of(call: &Call, user: &str, held: Option<&Totp>, secret: Option<&TotpSecret>) -> bool {
    match (held, secret) {
        (None, None) => true,
        (Some(held), Some(secret)) => resealing::opened(&call.issuer.parts.secrets, &call.policy.name, user, held)
            .is_ok_and(|opened| opened.as_bytes() == secret.as_bytes()),
        _ => false,
    }
}
