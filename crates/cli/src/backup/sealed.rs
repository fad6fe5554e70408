//! The file of a backup: encrypted, and in pieces that can't be changed, left out, put elsewhere or cut off.
//!
//! ```text
//! "countersign backup 1\n" | kind of secret | memory KiB, passes, lanes (u32 each) | salt (16) | pieces …
//! ```
//! The key is derived from a passphrase by Argon2id (RFC 9106) or from a file of random bytes by HKDF (RFC 5869), anew for each
//! backup by its salt. Each piece of 64 KiB is sealed by AES-256-GCM under its number and whether it is the last one (the STREAM
//! construction of Hoang, Reyhanitabar, Rogaway and Vizár), with the head as additional data.

use std::io::{self, BufRead, Read, Write};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use zeroize::Zeroizing;

const MAGIC: &[u8; 21] = b"countersign backup 1\n";
const SALT: usize = 16;
const HEAD: usize = MAGIC.len() + 1 + 3 * 4 + SALT;
/// What a piece holds, bytes.
const PIECE: usize = 64 << 10;
const TAG: usize = 16;

/// What Argon2id costs: RFC 9106 section 4, the second recommendation, on one lane.
const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 1 };
/// The most that a file may demand.
const MOST: Cost = Cost { memory_kib: 1 << 20, passes: 16, lanes: 16 };

/// The shortest passphrase and the smallest key file, bytes.
const MIN_PASSPHRASE: usize = 12;
const MIN_KEY_FILE: usize = 32;

/// What a backup is encrypted under.
pub(super) enum Secret {
    /// A person's words.
    Passphrase(Zeroizing<Vec<u8>>),
    /// Random bytes.
    KeyFile(Zeroizing<Vec<u8>>),
}

#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Why a backup can't be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealedError {
    #[error("a passphrase has at least {MIN_PASSPHRASE} characters")]
    ShortPassphrase,
    #[error("a key file holds at least {MIN_KEY_FILE} random bytes")]
    ShortKey,
    #[error("it is no backup of this release's kind")]
    NoBackup,
    #[error("it was made with {0}")]
    OtherSecret(&'static str),
    #[error("it demands more memory or time than any backup of ours")]
    TooCostly,
    #[error("the passphrase or key is another one, or the file was changed")]
    WrongSecret,
    #[error("the file was changed or is cut off, {0} KiB from its beginning")]
    Damaged(u64),
    #[error("the system gave no random numbers")]
    NoRandomness,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Secret {
    /// A passphrase, without the end of its line.
    pub(super) fn passphrase(mut text: Zeroizing<Vec<u8>>) -> Result<Self, SealedError> {
        while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            text.pop();
        }
        if text.len() < MIN_PASSPHRASE { Err(SealedError::ShortPassphrase) } else { Ok(Self::Passphrase(text)) }
    }

    /// A key file's content.
    pub(super) fn key_file(content: Zeroizing<Vec<u8>>) -> Result<Self, SealedError> {
        if content.len() < MIN_KEY_FILE { Err(SealedError::ShortKey) } else { Ok(Self::KeyFile(content)) }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Passphrase(_) => 1,
            Self::KeyFile(_) => 2,
        }
    }

    fn key(&self, salt: &[u8], cost: Cost) -> Result<LessSafeKey, SealedError> {
        let key = match self {
            Self::KeyFile(content) => {
                let secret = Salt::new(HKDF_SHA256, salt).extract(content);
                let derived = secret.expand(&[b"countersign backup"], &AES_256_GCM).map_err(|_| SealedError::ShortKey)?;
                UnboundKey::from(derived)
            }
            Self::Passphrase(text) => {
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None);
                let params = params.map_err(|_| SealedError::TooCostly)?;
                let mut key = Zeroizing::new([0; 32]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(text, salt, &mut *key).map_err(|_| SealedError::TooCostly)?;
                UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| SealedError::TooCostly)?
            }
        };
        Ok(LessSafeKey::new(key))
    }
}

/// The nonce of a piece: no two of one key are alike.
fn nonce(number: u32, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 5..NONCE_LEN - 1].copy_from_slice(&number.to_be_bytes());
    nonce[NONCE_LEN - 1] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

/// Writes a backup. What isn't [`finish`](Self::finish)ed can't be read.
pub(super) struct Sealing<W> {
    to: W,
    key: LessSafeKey,
    head: [u8; HEAD],
    piece: Zeroizing<Vec<u8>>,
    number: u32,
}

impl<W: Write> Sealing<W> {
    pub(super) fn new(mut to: W, secret: &Secret) -> Result<Self, SealedError> {
        let mut head = [0; HEAD];
        let (fixed, salt) = head.split_at_mut(HEAD - SALT);
        rand::fill(salt).map_err(|_| SealedError::NoRandomness)?;
        let cost = [COST.memory_kib, COST.passes, COST.lanes].map(u32::to_be_bytes).concat();
        fixed.copy_from_slice(&[&MAGIC[..], &[secret.kind()], &cost].concat());
        let key = secret.key(salt, COST)?;
        to.write_all(&head)?;
        Ok(Self { to, key, head, piece: Zeroizing::new(Vec::with_capacity(PIECE + TAG)), number: 0 })
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let nonce = nonce(self.number, last);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(&self.head), &mut *self.piece);
        sealed.map_err(|_| io::Error::other("a piece could not be encrypted"))?;
        self.number = self.number.checked_add(1).ok_or_else(|| io::Error::other("a backup holds at most 256 TiB"))?;
        self.to.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }

    /// Writes the last piece.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.seal(false)?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a backup, piece by piece.
pub(super) struct Opening<R> {
    from: R,
    key: LessSafeKey,
    head: [u8; HEAD],
    number: u32,
    ended: bool,
}

impl<R: BufRead> Opening<R> {
    pub(super) fn new(mut from: R, secret: &Secret) -> Result<Self, SealedError> {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).map_err(|_| SealedError::NoBackup)?;
        let rest = head.strip_prefix(&MAGIC[..]).ok_or(SealedError::NoBackup)?;
        let (kind, rest) = rest.split_first().ok_or(SealedError::NoBackup)?;
        if *kind != secret.kind() {
            return Err(match kind {
                1 => SealedError::OtherSecret("a passphrase: name its file with --passphrase-file"),
                2 => SealedError::OtherSecret("a key file: name it with --key-file"),
                _ => SealedError::NoBackup,
            });
        }
        let (cost, salt) = rest.split_at(rest.len() - SALT);
        let number = |at: usize| cost.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes);
        let cost = Cost { memory_kib: number(0), passes: number(4), lanes: number(8) };
        if cost.memory_kib > MOST.memory_kib || cost.passes > MOST.passes || cost.lanes > MOST.lanes {
            return Err(SealedError::TooCostly);
        }
        Ok(Self { from, key: secret.key(salt, cost)?, head, number: 0, ended: false })
    }

    /// The next piece; `None` after the last, which is what says that the file is whole.
    pub(super) fn next_piece(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, SealedError> {
        if self.ended {
            return Ok(None);
        }
        let mut piece = Zeroizing::new(Vec::with_capacity(PIECE + TAG));
        let whole = u64::try_from(PIECE + TAG).unwrap_or(u64::MAX);
        self.from.by_ref().take(whole).read_to_end(&mut piece)?;
        let last = self.from.fill_buf()?.is_empty();
        let wrong =
            if self.number == 0 { SealedError::WrongSecret } else { SealedError::Damaged(u64::from(self.number) * 64) };
        let opened = self.key.open_in_place(nonce(self.number, last), Aad::from(&self.head), &mut piece);
        let length = opened.map_err(|_| wrong)?.len();
        piece.truncate(length);
        self.ended = last;
        self.number = self.number.checked_add(1).ok_or(SealedError::NoBackup)?;
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Secret {
        Secret::key_file(Zeroizing::new(vec![7; 32])).unwrap()
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::new(Vec::new(), &key()).unwrap();
        sealing.write_all(content).unwrap();
        sealing.finish().unwrap()
    }

    fn opened(file: &[u8], secret: &Secret) -> Result<Vec<u8>, SealedError> {
        let mut opening = Opening::new(file, secret)?;
        let mut content = Vec::new();
        while let Some(piece) = opening.next_piece()? {
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    #[test]
    fn what_is_sealed_opens_whatever_its_length() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
            let file = sealed(&content);
            assert_eq!(opened(&file, &key()).unwrap(), content, "{length}");
        }
        assert_ne!(sealed(b"alike"), sealed(b"alike"), "a salt of its own");
        assert!(!sealed(b"a secret of ours").windows(16).any(|part| part == b"a secret of ours"));
    }

    #[test]
    fn a_file_that_was_changed_cut_off_or_put_together_anew_is_refused() {
        let file = sealed(&vec![1; 2 * PIECE + 100]);
        for at in (0..file.len()).step_by(997).chain(0..HEAD + 20).chain([file.len() - 1]) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(opened(&changed, &key()).is_err(), "changed at {at}");
        }
        let piece = |number: usize| HEAD + number * (PIECE + TAG);
        for end in [0, HEAD - 1, HEAD, HEAD + 5, piece(1), piece(1) + 1, piece(2), file.len() - 1] {
            assert!(opened(&file[..end], &key()).is_err(), "cut off at {end}");
        }
        let swapped = [&file[..HEAD], &file[piece(1)..piece(2)], &file[HEAD..piece(1)], &file[piece(2)..]].concat();
        assert!(opened(&swapped, &key()).is_err());
        let longer = [&file[..], &[0]].concat();
        assert!(opened(&longer, &key()).is_err());
    }

    #[test]
    fn another_secret_opens_nothing_and_a_weak_one_seals_nothing() {
        let file = sealed(b"content");
        let other = Secret::key_file(Zeroizing::new(vec![8; 32])).unwrap();
        assert!(matches!(opened(&file, &other), Err(SealedError::WrongSecret)));
        let words = Secret::passphrase(Zeroizing::new(b"twelve words\n".to_vec())).unwrap();
        assert!(matches!(opened(&file, &words), Err(SealedError::OtherSecret(_))));
        assert!(matches!(
            Secret::passphrase(Zeroizing::new(b"short\n\n\n\n\n\n\n\n".to_vec())),
            Err(SealedError::ShortPassphrase)
        ));
        assert!(matches!(Secret::key_file(Zeroizing::new(vec![0; 31])), Err(SealedError::ShortKey)));
        let mut dear = file;
        dear[MAGIC.len() + 1] = 0xff;
        assert!(matches!(opened(&dear, &key()), Err(SealedError::TooCostly)));
        assert!(matches!(opened(b"PK\x03\x04", &key()), Err(SealedError::NoBackup)));
    }
}
