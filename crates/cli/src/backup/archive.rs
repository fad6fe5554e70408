//! What is in a backup: a list of its files, then their contents one after another.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use countersign_core::time::UnixMillis;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::sealed::{Opening, SealedError, Sealing, Secret};
use crate::dev::data_dir::{DATABASE, SECRET};

/// What a backup holds, in this order.
pub(super) const FILES: [&str; 2] = [DATABASE, SECRET];
/// The longest list, bytes.
const MAX_LIST: u32 = 64 << 10;

/// What a backup says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The release that made it.
    pub(super) release: String,
    /// When, milliseconds since the Unix epoch.
    pub(super) made_ms: i64,
    files: Vec<Listed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    bytes: u64,
}

impl Manifest {
    /// When it was made.
    pub(super) const fn made(&self) -> UnixMillis {
        UnixMillis(self.made_ms)
    }
}

/// Writes the files of a directory.
pub(super) fn pack(from: &Path, to: File, secret: &Secret, now: UnixMillis) -> Result<File, SealedError> {
    let mut files = Vec::new();
    for name in FILES {
        match fs::metadata(from.join(name)) {
            Ok(found) => files.push(Listed { name: name.to_owned(), bytes: found.len() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != DATABASE => {}
            Err(error) => return Err(error.into()),
        }
    }
    let manifest = Manifest { release: env!("CARGO_PKG_VERSION").to_owned(), made_ms: now.0, files };
    let list = serde_json::to_vec(&manifest).map_err(io::Error::other)?;
    let mut sealing = Sealing::new(to, secret)?;
    sealing.write_all(&u32::try_from(list.len()).map_err(io::Error::other)?.to_be_bytes())?;
    sealing.write_all(&list)?;
    for listed in &manifest.files {
        let content = File::open(from.join(&listed.name))?;
        let copied = io::copy(&mut content.take(listed.bytes), &mut sealing)?;
        if copied != listed.bytes {
            return Err(io::Error::other(format!("{} became shorter meanwhile", listed.name)).into());
        }
    }
    Ok(sealing.finish()?)
}

/// Reads a backup to its end into a directory; what it says of itself. Nothing of it may be used when this fails.
pub(super) fn unpack(from: &Path, to: &Path, secret: &Secret) -> Result<Manifest, SealedError> {
    let mut plain =
        Plain { opening: Opening::new(BufReader::new(File::open(from)?), secret)?, rest: Zeroizing::new(Vec::new()) };
    let mut length = [0; 4];
    plain.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_LIST {
        return Err(SealedError::NoBackup);
    }
    let mut list = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    plain.read_exact(&mut list)?;
    let manifest: Manifest = serde_json::from_slice(&list).map_err(|_| SealedError::NoBackup)?;
    let known = |listed: &Listed| FILES.contains(&listed.name.as_str());
    if !manifest.files.iter().all(known) || !manifest.files.iter().any(|listed| listed.name == DATABASE) {
        return Err(SealedError::NoBackup);
    }
    for listed in &manifest.files {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to.join(&listed.name))?;
        plain.copy(listed.bytes, &mut file)?;
        file.sync_all()?;
    }
    plain.end()?;
    Ok(manifest)
}

/// What is opened, as one stream.
struct Plain {
    opening: Opening<BufReader<File>>,
    rest: Zeroizing<Vec<u8>>,
}

impl Plain {
    fn more(&mut self) -> Result<bool, SealedError> {
        while self.rest.is_empty() {
            match self.opening.next_piece()? {
                Some(piece) => self.rest = piece,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn copy(&mut self, mut bytes: u64, to: &mut impl Write) -> Result<(), SealedError> {
        while bytes > 0 {
            if !self.more()? {
                return Err(SealedError::NoBackup);
            }
            let taken = self.rest.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            to.write_all(&self.rest[..taken])?;
            self.rest.drain(..taken);
            bytes -= u64::try_from(taken).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn read_exact(&mut self, mut into: &mut [u8]) -> Result<(), SealedError> {
        let length = u64::try_from(into.len()).unwrap_or(u64::MAX);
        self.copy(length, &mut into)
    }

    /// Reads the last piece, without which a file is not whole.
    fn end(&mut self) -> Result<(), SealedError> {
        if self.more()? { Err(SealedError::NoBackup) } else { Ok(()) }
    }
}
