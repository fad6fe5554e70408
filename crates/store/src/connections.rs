//! Connections that are kept open, and how much is asked over them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use futures_util::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    Any, AnyPool, Either, Error, Execute, Executor, SqlStr, Transaction,
    any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo},
};

/// How many statements were asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    /// Counts one.
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many there were.
    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Connections that statements outside of transactions, and transactions, share.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pool: AnyPool,
    pub(crate) counted: Counted,
}

impl Connections {
    /// Those of a pool. What is asked over them is counted there.
    pub(crate) fn new(pool: AnyPool, counted: &Counted) -> Self {
        Self { pool, counted: counted.clone() }
    }

    /// Begins a transaction by these words.
    pub(crate) async fn begin(&self, words: &'static str) -> Result<Transaction<'static, Any>, Error> {
        self.counted.one();
        self.pool.begin_with(words).await
    }

    /// Closes them.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl<'c> Executor<'c> for &Connections {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        self.counted.one();
        self.pool.fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        self.counted.one();
        self.pool.fetch_optional(query)
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
