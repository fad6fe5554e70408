//! One shard: open addressing with Robin Hood probing. A lookup of an absent id, by far the most frequent, stops as soon as it
//! meets a record nearer to its home than itself, so the table may be nine tenths full.

use std::mem::size_of;

use crate::{
    revocation::{Entry, Kind},
    time::UnixMillis,
};

/// What is kept of an entry: 16 bytes beside its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The cut-off; for a record that kills whenever issued, the time at which a cut-off of the access ring says the same.
    cutoff: i64,
    /// Seconds, rounded up; `u32::MAX` never.
    expires: u32,
    /// The policy's index and two flags.
    tag: u32,
}

/// Dead whenever issued.
const ALWAYS: u32 = 1 << 31;
/// Names own access tokens alone, so a cut-off of the access ring may stand in its place.
const MERGEABLE: u32 = 1 << 30;
const POLICY: u32 = MERGEABLE - 1;
const NEVER: u32 = u32::MAX;

impl Record {
    pub(super) fn of(entry: &Entry, policy: u32) -> Self {
        let mergeable = matches!(entry.kind, Kind::Token | Kind::Session) && entry.version > 0;
        let always = entry.cutoff == UnixMillis::FOREVER;
        let seconds = entry.expires.0.saturating_add(999).div_euclid(1000);
        Self {
            cutoff: if always { i64::try_from(entry.version).unwrap_or(i64::MAX) } else { entry.cutoff.0 },
            expires: if entry.kind == Kind::Key { NEVER } else { u32::try_from(seconds.max(0)).unwrap_or(NEVER) },
            tag: policy & POLICY | if always { ALWAYS } else { 0 } | if mergeable { MERGEABLE } else { 0 },
        }
    }

    pub(super) const fn from_parts(cutoff: i64, expires: u32, tag: u32) -> Self {
        Self { cutoff, expires, tag }
    }

    pub(super) const fn parts(self) -> (i64, u32, u32) {
        (self.cutoff, self.expires, self.tag)
    }

    pub(super) const fn policy(self) -> u32 {
        self.tag & POLICY
    }

    pub(super) const fn cutoff(self) -> UnixMillis {
        if self.tag & ALWAYS == 0 { UnixMillis(self.cutoff) } else { UnixMillis::FOREVER }
    }

    /// Whether a cut-off of the access ring at `access` says all that this record says.
    pub(super) const fn is_subsumed_by(self, access: UnixMillis) -> bool {
        self.tag & MERGEABLE != 0 && self.cutoff <= access.0
    }

    /// A cut-off of the same policy that lives as long.
    pub(super) const fn as_cutoff(self, cutoff: UnixMillis) -> Self {
        let (cutoff, always) = if cutoff.0 == i64::MAX { (0, ALWAYS) } else { (cutoff.0, 0) };
        Self { cutoff, expires: self.expires, tag: self.policy() | always }
    }

    /// This record, kept as long as the longer-lived of the two.
    pub(super) fn outliving(self, other: Self) -> Self {
        Self { expires: self.expires.max(other.expires), ..self }
    }

    pub(super) const fn expired_before(self, at: UnixMillis) -> bool {
        self.expires != NEVER && (self.expires as i64) * 1000 < at.0
    }

    /// At least as strict as each.
    fn join(self, other: Self) -> Self {
        let (a, b) = (self.tag & ALWAYS, other.tag & ALWAYS);
        Self {
            // Between a record that always kills and a cut-off, the later time is what an access cut-off must reach to say both.
            cutoff: self.cutoff.max(other.cutoff),
            expires: self.expires.max(other.expires),
            tag: self.policy() | a | b | (self.tag & other.tag & MERGEABLE),
        }
    }

    fn says_more_than(self, other: Self) -> bool {
        self.cutoff() > other.cutoff() || self.expires > other.expires
    }
}

#[derive(Clone, Copy)]
struct Slot {
    /// 0: free.
    id: u128,
    record: Record,
}

const FREE: Slot = Slot { id: 0, record: Record::from_parts(0, 0, 0) };

/// What an insertion did.
pub(super) struct Inserted {
    pub(super) is_new: bool,
    pub(super) changed: bool,
}

/// Slots in pieces of one size. Tables grow often and all at once; pieces that one gives back fit the next, where whole
/// arrays of ever other sizes would leave holes as large as themselves in the allocator's hands.
#[derive(Default)]
struct Slots {
    /// All but the last hold [`PIECE`].
    pieces: Vec<Box<[Slot]>>,
    len: usize,
}

/// Slots in a piece: 16 KiB.
const PIECE: usize = 512;

impl Slots {
    fn new(len: usize) -> Self {
        let piece = |start: usize| vec![FREE; PIECE.min(len - start)].into_boxed_slice();
        Self { pieces: (0..len).step_by(PIECE).map(piece).collect(), len }
    }

    const fn len(&self) -> usize {
        self.len
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.pieces.iter().flatten()
    }
}

impl std::ops::Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, at: usize) -> &Slot {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

impl std::ops::IndexMut<usize> for Slots {
    fn index_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.pieces[at / PIECE][at % PIECE]
    }
}

#[derive(Default)]
pub(super) struct Table {
    slots: Slots,
    len: usize,
}

impl Table {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>() + self.slots.pieces.capacity() * size_of::<Box<[Slot]>>()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, Record)> + '_ {
        self.slots.iter().filter(|slot| slot.id != 0).map(|slot| (slot.id, slot.record))
    }

    pub(super) fn find(&self, id: u128) -> Option<Record> {
        self.position(used(id)).map(|at| self.slots[at].record)
    }

    pub(super) fn insert(&mut self, id: u128, record: Record) -> Inserted {
        let id = used(id);
        if let Some(at) = self.position(id) {
            let held = self.slots[at].record;
            let joined = held.join(record);
            self.slots[at].record = joined;
            return Inserted { is_new: false, changed: joined.says_more_than(held) };
        }
        // At most nine tenths full; after growth by a fifth still three quarters: at most 43 bytes an entry.
        if (self.len + 1) * 10 > self.slots.len() * 9 {
            self.resize((self.slots.len() + self.slots.len().div_ceil(5)).max(4));
        }
        self.place(Slot { id, record });
        self.len += 1;
        Inserted { is_new: true, changed: true }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Record) -> bool) {
        let kept: Vec<Slot> = self.slots.iter().filter(|slot| slot.id != 0 && keep(&slot.record)).copied().collect();
        if kept.len() == self.len {
            return;
        }
        self.len = kept.len();
        self.slots = Slots::new(if kept.is_empty() { 0 } else { (kept.len() * 5 / 4).max(4) });
        for slot in kept {
            self.place(slot);
        }
    }

    fn position(&self, id: u128) -> Option<usize> {
        if self.slots.len() == 0 {
            return None;
        }
        let mut at = home(id, self.slots.len());
        let mut distance = 0;
        loop {
            let slot = &self.slots[at];
            if slot.id == id {
                return Some(at);
            }
            if slot.id == 0 || self.distance(at) < distance {
                return None;
            }
            at = self.next(at);
            distance += 1;
        }
    }

    /// Puts an absent id in its place. There is a free slot.
    fn place(&mut self, mut slot: Slot) {
        let mut at = home(slot.id, self.slots.len());
        let mut distance = 0;
        while self.slots[at].id != 0 {
            let held = self.distance(at);
            if held < distance {
                std::mem::swap(&mut self.slots[at], &mut slot);
                distance = held;
            }
            at = self.next(at);
            distance += 1;
        }
        self.slots[at] = slot;
    }

    fn resize(&mut self, size: usize) {
        let old = std::mem::replace(&mut self.slots, Slots::new(size));
        for piece in old.pieces {
            for slot in piece.iter().filter(|slot| slot.id != 0) {
                self.place(*slot);
            }
        }
    }

    const fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// How far the record at `at` is from its home.
    fn distance(&self, at: usize) -> usize {
        let home = home(self.slots[at].id, self.slots.len());
        if at >= home { at - home } else { at + self.slots.len() - home }
    }
}

/// 0 marks a free slot; a name whose hash is 0 shares the id 1, once in 2^128.
const fn used(id: u128) -> u128 {
    if id == 0 { 1 } else { id }
}

/// The high half of the id, scaled to the table: no power of two needed.
const fn home(id: u128, slots: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "a 64-bit fraction times a usize, shifted back, is below it")]
    let at = (((id >> 64) * slots as u128) >> 64) as usize;
    at
}
