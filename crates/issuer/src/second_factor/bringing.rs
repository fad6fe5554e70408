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
    /// Before every time step: no code of it was taken here.
    const NO_STEP: i64 = -1;
    let policy = &call.policy.name;
    let sealed = resealing::sealed(&call.issuer.parts.secrets, policy, user, secret);
    let (sealed, key_id) = sealed.map_err(|error| Problem::internal(&error))?;
    tx.begin_totp(policy, user, &sealed, &key_id, now).await?;
    tx.confirm_totp(policy, user, &sealed, NO_STEP, now).await?;
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
