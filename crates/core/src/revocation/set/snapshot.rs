//! A set as bytes, to start from: written shard by shard, so that saving a million entries needs no second million.

use std::io::{self, Read, Write};

use super::{RevocationSet, table::Record};
use crate::{
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, IdHasher, Kind},
};

const MAGIC: &[u8; 8] = b"CSREVS02";
const RECORD_BYTES: usize = 32;
/// No honest header is longer.
const MAX_HEADER_BYTES: usize = 256 << 20;

/// Why bytes are no saved set.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They could not be read.
    #[error("reading the saved revocations: {0}")]
    Io(#[from] io::Error),
    /// They are cut short, altered, or of another release.
    #[error("not saved revocations: {0}")]
    Corrupt(&'static str),
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    hasher: [u8; 16],
    policies: Vec<PolicyName>,
    access_cutoffs: Vec<i64>,
    /// Each policy's cut-off of the access ring as it stood in the end: one that came in after its shard was written has
    /// taken the place of records in shards that were written later.
    access_records: Vec<Option<(i64, u32, u32)>>,
    addresses: Vec<Entry>,
}

impl RevocationSet {
    /// Writes the set. What is applied meanwhile may or may not be in it: read the position to save beforehand.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        // Records first: every policy that they name is then in the header.
        let header = |set: &Self| -> io::Result<Vec<u8>> {
            let policies = set.policies.names();
            let access_cutoffs = set.policies.access_cutoffs();
            let id = |policy: &PolicyName| set.hasher.id(policy, Kind::Policy, None, ACCESS_RING_ONLY);
            let record = |id: u128| set.shard(id).read().find(id).map(Record::parts);
            let header = Header {
                hasher: *set.hasher.key(),
                access_records: policies.iter().map(id).map(record).collect(),
                access_cutoffs: access_cutoffs.into_iter().take(policies.len()).collect(),
                policies,
                addresses: set.addresses.entries(),
            };
            serde_json::to_vec(&header).map_err(io::Error::other)
        };
        out.write_all(MAGIC)?;
        for shard in &self.shards {
            let mut bytes = Vec::new();
            {
                let table = shard.read();
                bytes.reserve(table.len() * RECORD_BYTES);
                for (id, record) in table.iter() {
                    let (cutoff, expires, tag) = record.parts();
                    bytes.extend_from_slice(&id.to_le_bytes());
                    bytes.extend_from_slice(&cutoff.to_le_bytes());
                    bytes.extend_from_slice(&expires.to_le_bytes());
                    bytes.extend_from_slice(&tag.to_le_bytes());
                }
            }
            write_block(out, &bytes)?;
        }
        write_block(out, &header(self)?)
    }

    /// Reads a set that [`RevocationSet::write_to`] wrote.
    pub fn read_from(input: &mut impl Read) -> Result<Self, SnapshotError> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(SnapshotError::Corrupt("unknown format"));
        }
        // The hasher comes last in the file; shards don't depend on it.
        let mut set = Self::new(IdHasher::new([0; 16]));
        for shard in &set.shards {
            let bytes = read_block(input)?;
            if bytes.len() % RECORD_BYTES != 0 {
                return Err(SnapshotError::Corrupt("a broken record"));
            }
            let mut table = shard.write();
            for record in bytes.chunks_exact(RECORD_BYTES) {
                let (id, record) = parse_record(record).ok_or(SnapshotError::Corrupt("a broken record"))?;
                table.insert(id, record);
            }
        }
        let header: Header =
            serde_json::from_slice(&read_block(input)?).map_err(|_| SnapshotError::Corrupt("a broken header"))?;
        if header.policies.len() != header.access_cutoffs.len() || header.policies.len() != header.access_records.len() {
            return Err(SnapshotError::Corrupt("a broken header"));
        }
        set.hasher = IdHasher::new(header.hasher);
        for (name, cutoff) in header.policies.iter().zip(header.access_cutoffs) {
            let index = set.policies.index_of(name);
            set.policies.raise_access_cutoff(index, crate::time::UnixMillis(cutoff));
        }
        for (name, parts) in header.policies.iter().zip(&header.access_records) {
            if let Some((cutoff, expires, tag)) = *parts {
                let id = set.hasher.id(name, Kind::Policy, None, ACCESS_RING_ONLY);
                set.shard(id).write().insert(id, Record::from_parts(cutoff, expires, tag));
            }
        }
        for shard in &set.shards {
            for (_, record) in shard.read().iter() {
                if record.policy() as usize >= header.policies.len() {
                    return Err(SnapshotError::Corrupt("a record of no policy"));
                }
                set.policies.add(record.policy(), 1);
            }
        }
        for entry in &header.addresses {
            set.addresses.apply(entry);
        }
        Ok(set)
    }
}

fn parse_record(bytes: &[u8]) -> Option<(u128, Record)> {
    let id = u128::from_le_bytes(bytes.get(..16)?.try_into().ok()?);
    let cutoff = i64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    let expires = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
    let tag = u32::from_le_bytes(bytes.get(28..32)?.try_into().ok()?);
    Some((id, Record::from_parts(cutoff, expires, tag)))
}

/// Length, checksum, bytes.
fn write_block(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(&checksum(bytes).to_le_bytes())?;
    out.write_all(bytes)
}

fn read_block(input: &mut impl Read) -> Result<Vec<u8>, SnapshotError> {
    let mut word = [0; 8];
    input.read_exact(&mut word)?;
    let len = usize::try_from(u64::from_le_bytes(word)).unwrap_or(usize::MAX);
    if len > MAX_HEADER_BYTES {
        return Err(SnapshotError::Corrupt("an impossible length"));
    }
    input.read_exact(&mut word)?;
    let mut bytes = Vec::new();
    input.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() != len || checksum(&bytes) != u64::from_le_bytes(word) {
        return Err(SnapshotError::Corrupt("cut short or altered"));
    }
    Ok(bytes)
}

/// Against torn writes and bad disks, not against people: who can write the file can write the key as well.
fn checksum(bytes: &[u8]) -> u64 {
    use std::hash::Hasher as _;

    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}
