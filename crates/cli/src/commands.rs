//! The toolkit: one module for each group of commands.

pub(crate) mod fleet;
pub(crate) mod keys;
pub(crate) mod migrate;
pub(crate) mod people;
pub(crate) mod plain;
pub(crate) mod policy;
pub(crate) mod report;
pub(crate) mod revoke;
pub(crate) mod status;
pub(crate) mod test_flow;
pub(crate) mod token;
pub(crate) mod verify;

use countersign_core::time::UnixMillis;
use serde_json::Value;

use crate::span::rough;

/// The system's clock.
pub(crate) fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A string member, empty when it isn't there.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A list of strings, empty when it isn't there.
pub(crate) fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.get(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A NumericDate member.
pub(crate) fn instant(value: &Value, name: &str) -> Option<UnixMillis> {
    let number = value.get(name)?;
    number.as_i64().map(UnixMillis::from_secs).or_else(|| {
        #[expect(clippy::cast_possible_truncation, reason = "a float beyond every calendar saturates")]
        number.as_f64().map(|s| UnixMillis((s * 1000.0) as i64))
    })
}

/// An instant seen from now: "3h ago", "in 15m".
pub(crate) fn relative(at: UnixMillis, now: UnixMillis) -> String {
    match at.since(now) {
        0.. => format!("in {}", rough(at.since(now))),
        _ => format!("{} ago", rough(now.since(at))),
    }
}
