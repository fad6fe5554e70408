//! Codes: how they are read, which are right, and that each is used up.

use countersign_core::time::UnixMillis;
use countersign_store::{SecretHash, Tx};
use zeroize::Zeroizing;

use super::{Channel, Method, in_use, resealing::opened};
use crate::{
    call::Call,
    opening::random,
    problem::{Failed, Problem},
};

/// The longest code, characters.
const MAX_CODE: usize = 64;
/// What backup codes are made of: Crockford's 32, of which none looks like another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a backup code: 50 bits.
const BACKUP_CODE: usize = 10;

/// A code as it is compared: without what people put between its parts, and whatever they took a 0 or a 1 for.
pub(crate) struct Code(Zeroizing<String>);

impl Code {
    /// A code as it was typed.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_CODE {
            return Err(Problem::validation("a code has at most 64 characters"));
        }
        let between = |c: &char| !c.is_whitespace() && *c != '-';
        let plain = |c: char| match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            c => c,
        };
        let code: Zeroizing<String> = Zeroizing::new(text.chars().filter(between).map(plain).collect());
        if code.is_empty() { Err(Problem::validation("code is empty")) } else { Ok(Self(code)) }
    }

    /// What is kept of a code that completed a challenge, under every key.
    pub(super) fn retry_hashes(&self, call: &Call, user: &str) -> impl Iterator<Item = SecretHash> {
        hashes(call, "code of a challenge", user, &self.0)
    }

    /// The same under the present key.
    pub(super) fn retry_hash(&self, call: &Call, user: &str) -> SecretHash {
        hash(call, "code of a challenge", user, &self.0)
    }

    /// The step of an authenticator's secret that it is of, if of any.
    pub(super) fn step(
        &self,
        call: &Call,
        secret: &crate::totp::TotpSecret,
        now: UnixMillis,
    ) -> Result<Option<i64>, Failed> {
        let unix_s = u64::try_from(now.as_secs()).unwrap_or(0);
        let step = secret.step_of(&call.login()?.totp, &self.0, unix_s);
        let step = step.map_err(|error| Problem::internal(&error))?;
        Ok(step.and_then(|step| i64::try_from(step).ok()))
    }
}

/// Takes a code of an account that the transaction holds: it is right, and is none any more. Absent: it is wrong. Codes that
/// were sent count for their own challenge alone.
pub(super) async fn take(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    challenge: Option<&str>,
    code: &Code,
    now: UnixMillis,
) -> Result<Option<Method>, Failed> {
    let policy = &call.policy.name;
    let Some(held) = in_use(call, tx.totp(policy, user).await?)? else { return Ok(None) };
    let secret = opened(&call.issuer.parts.secrets, policy, user, &held);
    if let Ok(secret) = &secret
        && let Some(step) = code.step(call, secret, now)?
        && tx.take_totp(policy, user, step).await?
    {
        return Ok(Some(Method::Totp));
    }
    if let Some(challenge) = challenge {
        for hash in hashes(call, SENT, challenge, &code.0) {
            if let Some(channel) = tx.take_sent_code(policy, challenge, &hash, now).await? {
                return Ok(Some(if channel == Channel::Sms.word() { Method::Sms } else { Method::Email }));
            }
        }
    }
    for hash in hashes(call, BACKUP, user, &code.0) {
        if tx.take_backup_code(policy, user, &hash).await? {
            return Ok(Some(Method::BackupCode));
        }
    }
    match secret {
        Ok(_) => Ok(None),
        // Nobody's fault but ours: not to be counted as a wrong code.
        Err(error) => Err(Problem::internal(&error).into()),
    }
}

const BACKUP: &str = "backup code";
const SENT: &str = "sent code";
const NUMBER: &str = "code for a number";
/// A code that is sent has six digits.
const SENT_CODES: u32 = 1_000_000;

/// A new code to be sent for a challenge, with what is kept of it.
pub(super) fn code_to_send(call: &Call, challenge: &str) -> Result<(String, SecretHash), Problem> {
    let text = digits()?;
    let kept = hash(call, SENT, challenge, &text);
    Ok((text, kept))
}

/// A new code to be sent to a number that an account shall have, with what is kept of it.
pub(super) fn code_for_number(call: &Call, user: &str) -> Result<(String, SecretHash), Problem> {
    let text = digits()?;
    let kept = hash(call, NUMBER, user, &text);
    Ok((text, kept))
}

/// What would be kept of a code for an account's number, under every key.
pub(super) fn number_hashes(call: &Call, user: &str, code: &Code) -> Vec<SecretHash> {
    hashes(call, NUMBER, user, &code.0).collect()
}

fn digits() -> Result<String, Problem> {
    let bound = u32::MAX - u32::MAX % SENT_CODES;
    // Until one is under the bound, so that no code is likelier than another; nearly always the first is.
    let number = loop {
        let number = u32::from_be_bytes(random()?);
        if number < bound {
            break number % SENT_CODES;
        }
    };
    Ok(format!("{number:06}"))
}

/// So many new backup codes, as they are shown, each with what is kept of it.
pub(super) fn backup_codes(call: &Call, user: &str, count: u32) -> Result<Vec<(String, SecretHash)>, Problem> {
    (0..count)
        .map(|_| {
            let bits: [u8; BACKUP_CODE] = random()?;
            let text: String = bits.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
            let kept = hash(call, BACKUP, user, &text);
            let (first, second) = text.split_at(BACKUP_CODE / 2);
            Ok((format!("{first}-{second}"), kept))
        })
        .collect()
}

fn text_of(call: &Call, whose: &str, code: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{}\0{whose}\0{code}", call.policy.name))
}

fn hash(call: &Call, purpose: &str, whose: &str, code: &str) -> SecretHash {
    call.issuer.parts.secrets.hash(purpose, &text_of(call, whose, code))
}

fn hashes(call: &Call, purpose: &'static str, whose: &str, code: &str) -> impl Iterator<Item = SecretHash> {
    let hashes: Vec<SecretHash> = call.issuer.parts.secrets.hashes(purpose, &text_of(call, whose, code)).collect();
    hashes.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        for (typed, read) in [
            ("123456", "123456"),
            (" 123 456 ", "123456"),
            ("ABCDE-12345", "abcde12345"),
            ("OIL-x", "011x"),
            ("１２３", "１２３"),
        ] {
            assert_eq!(*Code::parse(typed).unwrap().0, read);
        }
        for wrong in ["", " - ", &"1".repeat(65)] {
            assert!(Code::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
