//! What was proven once and need not be proven again.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use countersign_core::check::Authenticated;
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use serde_json::Value;

use crate::http::{authorize::AnswerHeaders, verdict::valid_prefix};

/// A cryptographic hash of a credential's text. Two texts share one only if somebody breaks SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHash([u8; 32]);

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// A genuine credential with the part of its answer that never changes.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) credential: Authenticated,
    /// A 200 body up to where time and feed come in.
    pub(crate) prefix: Box<[u8]>,
    /// The same for forward-auth, once it was asked for.
    pub(crate) answer_headers: AnswerHeaders,
}

impl Proven {
    pub(crate) fn new(credential: Authenticated) -> Self {
        let prefix = valid_prefix(&credential).into_boxed_slice();
        Self { credential, prefix, answer_headers: AnswerHeaders::default() }
    }
}

/// The successes of one policy in one version, bounded in bytes. An edit makes a new one.
pub(crate) struct VerdictCache(Option<Cache<TokenHash, Arc<Proven>, Bytes, BuildHasherDefault<FirstBytes>>>);

impl VerdictCache {
    /// A cache of up to `bytes`; 0: none.
    pub(crate) fn new(bytes: u64) -> Self {
        /// What an ordinary entry takes, for the table's first guess.
        const TYPICAL: u64 = 3 * 1024;
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity(usize::try_from(bytes / TYPICAL).unwrap_or(usize::MAX).max(1))
            .build();
        Self(options.ok().filter(|_| bytes > 0).map(|options| {
            Cache::with_options(
                options,
                Bytes,
                BuildHasherDefault::default(),
                quick_cache::sync::DefaultLifecycle::default(),
            )
        }))
    }

    pub(crate) fn find(&self, hash: &TokenHash) -> Option<Arc<Proven>> {
        self.0.as_ref()?.get(hash)
    }

    pub(crate) fn keep(&self, hash: TokenHash, proven: Arc<Proven>) {
        if let Some(cache) = &self.0 {
            cache.insert(hash, proven);
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

/// Counts entries by the memory that they take, roughly: claims are held parsed and as text, and again in headers.
#[derive(Clone)]
struct Bytes;

impl Weighter<TokenHash, Arc<Proven>> for Bytes {
    fn weight(&self, _: &TokenHash, proven: &Arc<Proven>) -> u64 {
        const FIXED: usize = 1792;
        let text = proven.prefix.len();
        let claims: usize = proven.credential.claims().iter().map(|(name, value)| member(name, value)).sum();
        (FIXED + (text * 4).max(text * 3 + claims)) as u64
    }
}

/// A short text may hold many values, each with its own place in memory.
fn member(name: &str, value: &Value) -> usize {
    const NODE: usize = size_of::<String>() + size_of::<Value>() + 16;
    NODE + name.len() + held(value)
}

/// What a value takes beside its own place. Claims nest no deeper than the parser lets them.
fn held(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| size_of::<Value>() + held(item)).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| member(name, value)).sum(),
    }
}

/// Takes the first eight bytes of a hash for a hash.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}
