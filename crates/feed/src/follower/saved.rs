//! What a follower keeps on disk to start from: set, position, server time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use countersign_core::{
    revocation::{Position, RevocationSet},
    time::UnixMillis,
};

use crate::state::FeedState;

const FILE: &str = "feed.snapshot";
const TIME_FILE: &str = "feed.time";
const MAGIC: &[u8; 8] = b"CSFEED02";
const HEAD_BYTES: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct SavedState {
    dir: PathBuf,
}

struct Saved {
    position: Option<Position>,
    time: Option<UnixMillis>,
    set: RevocationSet,
}

impl SavedState {
    /// Reads what is there. A file that can't be used is reported and passed over: the feed has everything that it had.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, FeedState)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let saved = Self { dir: dir.to_owned() };
        let state = match saved.read() {
            Ok(Some(read)) => {
                let state = FeedState::over(read.set, true);
                state.restore(read.position, read.time.max(saved.read_time()));
                state
            }
            Ok(None) => {
                let state = FeedState::empty();
                state.restore(None, saved.read_time());
                state
            }
            Err(error) => {
                tracing::warn!(file = %dir.join(FILE).display(), %error, "saved revocations can't be used; the feed is read from its start");
                let state = FeedState::empty();
                state.restore(None, saved.read_time());
                state
            }
        };
        Ok((saved, state))
    }

    /// Saves the set whole: temporary file, sync, rename.
    pub(super) fn write(&self, state: &FeedState) -> io::Result<()> {
        // The position first: what is applied while the set is written may be in it, what was applied before is.
        let position = state.position();
        let time = state.latest_server_time();
        let temporary = self.dir.join(format!("{FILE}.tmp"));
        let file = create(&temporary)?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(&head(position, time))?;
        state.revocations().write_to(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }

    /// Saves the server's time alone.
    pub(super) fn write_time(&self, time: UnixMillis) -> io::Result<()> {
        let temporary = self.dir.join(format!("{TIME_FILE}.tmp"));
        create(&temporary)?.write_all(time.0.to_string().as_bytes())?;
        fs::rename(temporary, self.dir.join(TIME_FILE))
    }

    fn read(&self) -> io::Result<Option<Saved>> {
        let file = match File::open(self.dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut input = BufReader::with_capacity(1 << 18, file);
        let mut bytes = [0; HEAD_BYTES];
        input.read_exact(&mut bytes)?;
        let word = |at: usize| bytes[at..].first_chunk().copied().unwrap_or_default();
        let position = Position::from_score(u64::from_le_bytes(word(8)));
        let time = Some(i64::from_le_bytes(word(16))).filter(|ms| *ms != i64::MIN).map(UnixMillis);
        if bytes != head(position, time) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown format, or altered"));
        }
        let set = RevocationSet::read_from(&mut input).map_err(io::Error::other)?;
        Ok(Some(Saved { position, time, set }))
    }

    fn read_time(&self) -> Option<UnixMillis> {
        fs::read_to_string(self.dir.join(TIME_FILE)).ok()?.trim().parse().ok().map(UnixMillis)
    }
}

/// What precedes the set, with a checksum: a position that reads higher than it was would pass over entries.
fn head(position: Option<Position>, time: Option<UnixMillis>) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&position.map_or(0, Position::score).to_le_bytes());
    bytes[16..24].copy_from_slice(&time.map_or(i64::MIN, |t| t.0).to_le_bytes());
    let sum = digest(&SHA256, &bytes[..24]);
    bytes[24..].copy_from_slice(&sum.as_ref()[..8]);
    bytes
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
