//! A writer's truth in memory, by the rules that the SQL store keeps.

use countersign_core::{
    revocation::{Entry, PURGE_AFTER_MS, Position},
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, LiveStore, Mark, Outbox, OutboxError, OutboxRow, Removal};
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Truth(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    epoch: u64,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    entry: Entry,
    revision: i64,
    position: Option<(Position, i64)>,
    mark: u64,
    merged_into: Option<usize>,
    removed: bool,
}

impl Truth {
    /// Commits an entry; the number of its row.
    pub(crate) fn commit(&self, entry: Entry) -> i64 {
        let mut inner = self.0.lock();
        let at = inner.rows.iter().position(|row| row.entry.key() == entry.key());
        if let Some(at) = at {
            let row = &mut inner.rows[at];
            let joined = row.entry.clone().join(entry);
            if joined != row.entry {
                row.entry = joined;
                row.revision += 1;
                row.mark = 0;
            }
            return i64::try_from(at).unwrap();
        }
        inner.rows.push(Row { entry, revision: 1, position: None, mark: 0, merged_into: None, removed: false });
        i64::try_from(inner.rows.len() - 1).unwrap()
    }

    /// Puts the entry of row `into` in the place of others.
    pub(crate) fn merge(&self, gone: &[i64], into: i64) {
        let mut inner = self.0.lock();
        for id in gone {
            inner.rows[usize::try_from(*id).unwrap()].merged_into = Some(usize::try_from(into).unwrap());
        }
    }

    pub(crate) fn epoch_now(&self) -> u64 {
        self.0.lock().epoch
    }

    /// What a backup of the database would hold.
    pub(crate) fn backup(&self) -> Self {
        let Inner { epoch, rows } = &*self.0.lock();
        Self(Mutex::new(Inner { epoch: *epoch, rows: rows.clone() }))
    }

    /// As a database restored from a backup would be.
    pub(crate) fn restore(&self, backup: Self) {
        *self.0.lock() = backup.0.into_inner();
    }

    /// As if another writer had moved it.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.0.lock().epoch = epoch;
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().rows.iter().map(|row| row.entry.clone()).collect()
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, OutboxError>> {
    Box::pin(async { Ok(value) })
}

fn outbox_row(at: usize, row: &Row, epoch: u64) -> OutboxRow {
    OutboxRow {
        id: i64::try_from(at).unwrap(),
        revision: row.revision,
        entry: row.entry.clone(),
        recorded: row.position.filter(|(_, revision)| *revision == row.revision).map(|(position, _)| position),
        published: row.mark == epoch,
    }
}

impl Outbox for Truth {
    fn epoch(&self) -> BoxFuture<'_, Result<u64, OutboxError>> {
        ready(self.0.lock().epoch)
    }

    fn advance_epoch(&self, from: u64, to: u64, keep_positions: bool) -> BoxFuture<'_, Result<bool, OutboxError>> {
        let mut inner = self.0.lock();
        let advances = inner.epoch == from && to > from;
        if advances {
            inner.epoch = to;
            for row in inner.rows.iter_mut().filter(|_| !keep_positions) {
                row.position = row.position.map(|(position, _)| (position, 0));
            }
        }
        ready(advances)
    }

    fn unpublished(&self, epoch: u64, limit: usize) -> BoxFuture<'_, Result<Vec<OutboxRow>, OutboxError>> {
        let inner = self.0.lock();
        let rows = inner.rows.iter().enumerate().filter(|(_, row)| row.mark < epoch && row.merged_into.is_none());
        ready(rows.take(limit).map(|(at, row)| outbox_row(at, row, epoch)).collect())
    }

    fn rows<'a>(&'a self, epoch: u64, ids: &'a [i64]) -> BoxFuture<'a, Result<Vec<OutboxRow>, OutboxError>> {
        let inner = self.0.lock();
        let at = |id: &i64| usize::try_from(*id).unwrap();
        ready(ids.iter().map(|id| outbox_row(at(id), &inner.rows[at(id)], epoch)).collect())
    }

    fn mark<'a>(&'a self, epoch: u64, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), OutboxError>> {
        let mut inner = self.0.lock();
        if inner.epoch == epoch {
            for mark in marks {
                let row = &mut inner.rows[usize::try_from(mark.id).unwrap()];
                if row.revision == mark.revision {
                    row.mark = epoch;
                    row.position = Some((mark.position, mark.revision));
                }
            }
        }
        ready(())
    }

    fn highest_position(&self) -> BoxFuture<'_, Result<Position, OutboxError>> {
        let inner = self.0.lock();
        let highest = inner.rows.iter().filter_map(|row| row.position.map(|(position, _)| position)).max();
        ready(highest.unwrap_or(Position::ZERO))
    }

    fn pending(&self, epoch: u64) -> BoxFuture<'_, Result<u64, OutboxError>> {
        let inner = self.0.lock();
        ready(inner.rows.iter().filter(|row| row.mark < epoch && row.merged_into.is_none()).count() as u64)
    }

    fn merged(&self, limit: usize) -> BoxFuture<'_, Result<Vec<(i64, Removal)>, OutboxError>> {
        let inner = self.0.lock();
        let epoch = inner.epoch;
        let gone = inner
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.removed && row.merged_into.is_some_and(|into| inner.rows[into].mark == epoch));
        let stood = |row: &Row| row.position.map_or(Position::ZERO, |(position, _)| position);
        ready(gone.take(limit).map(|(at, row)| (i64::try_from(at).unwrap(), (row.entry.key(), stood(row)))).collect())
    }

    fn forget_merged<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), OutboxError>> {
        let mut inner = self.0.lock();
        for id in ids {
            inner.rows[usize::try_from(*id).unwrap()].removed = true;
        }
        ready(())
    }

    fn purge(&self, server_now: UnixMillis, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, OutboxError>> {
        let before = server_now.min(own_now).minus(PURGE_AFTER_MS);
        let mut inner = self.0.lock();
        let held = inner.rows.len();
        inner.rows.retain(|row| row.entry.expires >= before);
        ready((held - inner.rows.len()) as u64)
    }
}

impl LiveStore for Truth {
    fn live_after(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
        let inner = self.0.lock();
        let live = inner.rows.iter().filter(|row| !row.removed);
        let mut live: Vec<_> = live.filter_map(|row| Some((row.position?.0, row.entry.clone()))).collect();
        live.retain(|(position, _)| *position > after);
        live.sort_by_key(|(position, _)| *position);
        live.truncate(limit);
        ready(live)
    }

    fn record<'a>(&'a self, epoch: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
        let mut inner = self.0.lock();
        assert_eq!(inner.epoch, epoch);
        for (entry, position) in entries {
            for row in &mut inner.rows {
                if row.entry.key() == entry.key() {
                    let same = row.entry == *entry;
                    row.position = Some((*position, if same { row.revision } else { 0 }));
                    row.mark = if same { epoch } else { row.mark };
                }
            }
        }
        ready(())
    }
}
