//! What was proven once and need not be proven again.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use countersign_core::check::Authenticated;
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use serde_json::Value;

use crate::http::{authorize::AnswerHeaders, verdict::valid_prefix};

/// A cryptographic hash of a credential's text, under a key of this process's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHash([u8; 16]);

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Makes hashes: AES-256-GMAC (NIST SP 800-38D) with a random key and one nonce, a third of what SHA-256 takes.
///
/// One nonce for all is what makes it a hash, and what would break it as a signature, so no hash ever leaves the cache. Whoever
/// can't see one can do no better than to guess: two texts of at most 16 KiB share one with a probability under 2^-117 over the
/// key, however they were chosen.
pub(crate) struct TokenHasher(LessSafeKey);

impl TokenHasher {
    /// A hasher with a fresh key.
    pub(crate) fn new() -> Self {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).expect("the system's randomness works");
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are an AES-256 key")))
    }

    /// The hash of a text. `None` should the library fail; the text is then proven anew.
    pub(crate) fn hash(&self, token: &str) -> Option<TokenHash> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(token.as_bytes()), &mut []).ok()?;
        tag.as_ref().try_into().ok().map(TokenHash)
    }
}

/// A genuine credential with the part of its answer that never changes. In this order in memory: what an answer is made of
/// stands next to what the verdict is.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Proven {
    /// A 200 body up to where time and feed come in.
    pub(crate) prefix: Box<[u8]>,
    pub(crate) credential: Authenticated,
    /// The same for forward-auth, once it was asked for.
    pub(crate) answer_headers: AnswerHeaders,
}

impl Proven {
    pub(crate) fn new(credential: Authenticated) -> Self {
        let prefix = valid_prefix(&credential).into_boxed_slice();
        Self { prefix, credential, answer_headers: AnswerHeaders::default() }
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

/// Counts entries by the memory that they take, roughly: claims are held as text, in the answer and by themselves, in parts
/// in headers, and where there are rules also as a tree.
#[derive(Clone)]
struct Bytes;

impl Weighter<TokenHash, Arc<Proven>> for Bytes {
    fn weight(&self, _: &TokenHash, proven: &Arc<Proven>) -> u64 {
        const FIXED: usize = 1792;
        const ITEM: usize = size_of::<String>() + 32;
        let text = proven.prefix.len();
        let credential = &proven.credential;
        let lists =
            [credential.audience(), credential.roles(), credential.permissions(), credential.scopes(), credential.amr()];
        let items: usize = lists.iter().map(|list| list.len() * ITEM).sum();
        let tree = credential.claims_made().into_iter().flatten();
        let tree: usize = tree.map(|(name, value)| member(name, value)).sum();
        (FIXED + text * 3 + items + tree) as u64
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
