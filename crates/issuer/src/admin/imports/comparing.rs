//! Whether an account is as the row that it came from.

use countersign_store::{ImportedUser, Tx, User};

use super::{Outcome, judging::Arrival};
use crate::{call::Call, problem::Failed, second_factor};

/// Compares an account with its row, and says whether somebody touched it since it was brought.
pub(super) async fn compare(
    tx: &mut Tx,
    call: &Call,
    brought: &ImportedUser,
    user: User,
    arrival: Arrival,
) -> Result<Outcome, Failed> {
    let policy = &call.policy.name;
    let id = brought.user.clone();
    let password = tx.password(policy, &id).await?.map(|password| password.hash);
    let totp = tx.totp(policy, &id).await?;
    let mut lacks_key = false;
    for key in &arrival.api_keys {
        lacks_key |= tx.api_key(policy, &key.id).await?.is_none_or(|held| held.owner != id);
    }
    let wanted = &arrival.user;
    let same = [
        ("username", user.username == wanted.username),
        ("email", user.email == wanted.email),
        ("first_name", user.first_name == wanted.first_name),
        ("last_name", user.last_name == wanted.last_name),
        ("email_verified", user.email_verified == wanted.email_verified),
        ("status", user.status == wanted.status),
        ("roles", user.roles == wanted.roles),
        ("password", password == arrival.password),
        ("totp", second_factor::is_of(call, &id, totp.as_ref(), arrival.totp.as_ref())),
        ("api_keys", !lacks_key),
    ];
    let fields: Vec<&'static str> = same.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect();
    if fields.is_empty() {
        return Ok(Outcome::Same { id });
    }
    let untouched = tx.account_state(policy, &id).await? == Some(brought.state);
    Ok(if untouched { Outcome::Differs { id, fields } } else { Outcome::Changed { id, fields } })
}
