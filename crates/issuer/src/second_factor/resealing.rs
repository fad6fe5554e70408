//! Authenticators' secrets at rest.

use countersign_core::names::PolicyName;
use countersign_store::{HeldTotp, Store, StoreError, Totp, transact};

use crate::{
    sealing::SealingError,
    secrets::Secrets,
    totp::{TotpError, TotpSecret},
};

/// Secrets that move to another key in one transaction.
const BATCH: u32 = 100;

/// Why a secret that is kept can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the secret of an authenticator can't be opened: {0}")]
    Sealed(#[from] SealingError),
    #[error("the secret of an authenticator is none: {0}")]
    Secret(#[from] TotpError),
}

/// Where a secret belongs: it opens nowhere else.
fn place(policy: &PolicyName, user: &str) -> String {
    format!("totp/{policy}/{user}")
}

/// A secret, sealed for its account, and the key's id.
pub(super) fn sealed(
    secrets: &Secrets,
    policy: &PolicyName,
    user: &str,
    secret: &TotpSecret,
) -> Result<(Vec<u8>, String), SealingError> {
    let sealed = secrets.sealing.seal(secret.as_bytes(), &place(policy, user))?;
    Ok((sealed, secrets.sealing.present_id()))
}

/// The secret of an account.
pub(super) fn opened(secrets: &Secrets, policy: &PolicyName, user: &str, held: &Totp) -> Result<TotpSecret, Unusable> {
    let secret = secrets.sealing.open(&held.secret, &place(policy, user))?;
    Ok(TotpSecret::from_bytes(secret.to_vec())?)
}

/// Seals under the present key what is sealed under an earlier one, so that that one can go.
pub(crate) async fn reseal(store: &Store, secrets: &Secrets) -> Result<(), StoreError> {
    let present = secrets.sealing.present_id();
    let anew = |held: &HeldTotp| {
        let secret = opened(secrets, &held.policy, &held.user, &held.totp)?;
        Ok::<_, Unusable>(sealed(secrets, &held.policy, &held.user, &secret)?.0)
    };
    let (mut after, mut unusable): (Option<HeldTotp>, u64) = (None, 0);
    loop {
        let page = store.totp_under_other_keys(&present, after.as_ref(), BATCH).await?;
        let Some(last) = page.last().cloned() else { break };
        let mut moved = Vec::new();
        for held in &page {
            match anew(held) {
                Ok(sealed) => moved.push((held, sealed)),
                Err(error) => {
                    unusable += 1;
                    tracing::debug!(policy = %held.policy, user = held.user, %error, "a secret stays as it is");
                }
            }
        }
        transact!(store, |tx| {
            for (held, sealed) in &moved {
                tx.reencrypt_totp(held, sealed, &present).await?;
            }
            Ok(())
        })?;
        after = Some(last);
    }
    if unusable > 0 {
        tracing::warn!(secrets = unusable, "authenticators' secrets can't be opened by any key that is configured");
    }
    Ok(())
}
