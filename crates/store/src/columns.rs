//! How values look in columns.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::StoreError;

pub(crate) fn list(values: &[String]) -> Result<String, StoreError> {
    serde_json::to_string(values).map_err(|_| StoreError::Corrupt("a list"))
}

pub(crate) fn strings(row: &AnyRow, column: &str) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(row.try_get(column)?).map_err(|_| StoreError::Corrupt("a list"))
}

pub(crate) fn flag(row: &AnyRow, column: &str) -> Result<bool, StoreError> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

pub(crate) fn time(row: &AnyRow, column: &str) -> Result<UnixMillis, StoreError> {
    Ok(UnixMillis(row.try_get(column)?))
}

pub(crate) fn time_if_any(row: &AnyRow, column: &str) -> Result<Option<UnixMillis>, StoreError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(UnixMillis))
}

pub(crate) fn hash(row: &AnyRow, column: &str) -> Result<[u8; 32], StoreError> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(|_| StoreError::Corrupt("a hash"))
}

pub(crate) fn policy(row: &AnyRow) -> Result<PolicyName, StoreError> {
    row.try_get::<&str, _>("policy")?.parse().map_err(|_| StoreError::Corrupt("a policy's name"))
}

pub(crate) fn ms(time: Option<UnixMillis>) -> Option<i64> {
    time.map(|time| time.0)
}

/// A count that a caller keeps as `u32`.
pub(crate) fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// The most rows of one answer.
pub(crate) const PAGE: u32 = 1000;

pub(crate) fn page(limit: u32) -> i64 {
    i64::from(limit.clamp(1, PAGE))
}
