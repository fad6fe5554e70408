//! One transaction, tried again when the database undid it for reasons of its own.

use crate::{Store, StoreError, Tx};

/// Does some work in one transaction of a [`Store`]: all of it when the block's value is `Ok`, nothing when it is `Err`.
///
/// What PostgreSQL undid for reasons of its own (a deadlock, a failed serialisation) is done again a few times, so the block
/// must have no effect outside the transaction. In the block `tx` is a `&mut` [`Tx`], and `?` fails it with a [`StoreError`].
///
/// ```no_run
/// # async fn unlock(store: &countersign_store::Store, policy: &countersign_core::names::PolicyName) -> Result<(), countersign_store::StoreError> {
/// countersign_store::transact!(store, |tx| {
///     tx.lock_subject(policy, "alice").await
/// })
/// # }
/// ```
/// A failure of another type is named before the block; `?` then turns a [`StoreError`] into it, and the work is undone
/// whatever it says: `transact!(store, Problem, |tx| { … })`.
// A macro, because the future of a function over async closures isn't known to be `Send` (rust-lang/rust#110338).
#[macro_export]
macro_rules! transact {
    ($store:expr, |$tx:ident| $work:block) => {
        $crate::transact!($store, $crate::StoreError, |$tx| $work)
    };
    ($store:expr, $failure:ty, |$tx:ident| $work:block) => {{
        let mut attempts = $crate::Attempts::new($store);
        loop {
            let mut transaction = match attempts.begin().await {
                Ok(transaction) => transaction,
                Err(error) => break Err(<$failure as From<$crate::StoreError>>::from(error)),
            };
            let done: Result<_, $failure> = async {
                let $tx = &mut transaction;
                $work
            }
            .await;
            if let Some(done) = attempts.settle(transaction, done).await {
                break done;
            }
        }
    }};
}

/// What the work of a transaction may fail with.
pub trait Failure: From<StoreError> {
    /// The store's own failure, if that is what it is: some of those are tried again.
    fn of_store(&self) -> Option<&StoreError>;
}

impl Failure for StoreError {
    fn of_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// The attempts at one transaction: what [`transact!`] is made of.
#[derive(Debug)]
pub struct Attempts<'s> {
    store: &'s Store,
    made: u32,
}

const AT_MOST: u32 = 5;

impl<'s> Attempts<'s> {
    /// None made yet.
    pub const fn new(store: &'s Store) -> Self {
        Self { store, made: 0 }
    }

    /// The next attempt. A connection that was lost while nobody used it is given up for another: nothing was asked over it.
    pub async fn begin(&mut self) -> Result<Tx, StoreError> {
        let Store { writer, dialect, .. } = self.store;
        let inner = loop {
            self.made += 1;
            match writer.begin(dialect.begin()).await.map_err(StoreError::from) {
                Err(error) if self.made < AT_MOST && error.is_lost() => {
                    tracing::debug!(%error, "a connection to the database was lost; over another");
                }
                begun => break begun?,
            }
        };
        let counted = writer.counted.clone();
        Ok(Tx { inner, dialect: *dialect, subjects: Vec::new(), locked: None, counted })
    }

    /// Commits what was done, or undoes what failed. `None`: it is to be done again.
    pub async fn settle<T, E: Failure>(&mut self, tx: Tx, done: Result<T, E>) -> Option<Result<T, E>> {
        tx.counted.one();
        let done = match done {
            Ok(done) => tx.inner.commit().await.map(|()| done).map_err(|error| StoreError::from(error).into()),
            Err(error) => {
                // Now, and not when the connection is used next: others wait for its locks.
                if let Err(undoing) = tx.inner.rollback().await {
                    tracing::debug!(error = %undoing, "could not undo a transaction; its connection is given up");
                }
                Err(error)
            }
        };
        match done {
            Err(error) if self.made < AT_MOST && error.of_store().is_some_and(StoreError::is_undone) => {
                tracing::debug!(attempt = self.made, "the database undid a transaction; once more");
                None
            }
            done => Some(done),
        }
    }
}
