//! The statements whose cost must not grow with the database. Tests ask both databases how they would run them.

use crate::{audit, devices, expiry, lockouts, refresh, revocations, sessions};

/// The next page of a subject's sessions. Policy, subject, time and id of the last one, now, limit.
pub const SESSIONS_OF_SUBJECT: &str = sessions::PAGE;
/// What the limit on sessions evicts. Policy, subject, now, how many stay, limit.
pub const SESSIONS_BEYOND_LIMIT: &str = sessions::BEYOND_OLDEST;
/// The same, by when they were seen.
pub const SESSIONS_BEYOND_LIMIT_IDLE: &str = sessions::BEYOND_IDLE;
/// A subject's sessions that are to end. Policy, subject.
pub const SESSIONS_OPEN: &str = sessions::OPEN;
/// The end of a session. Policy, id, time, reason.
pub const SESSION_ENDS: &str = sessions::END;
/// The end of its refresh families. Policy, the session's id, time.
pub const FAMILIES_END: &str = sessions::END_FAMILIES;
/// A new device in the place of the one that was used least recently. Policy, the account's id, hash, label, time, how many
/// stay.
pub const DEVICE_REPLACED: &str = devices::REPLACE;
/// Activity. Policy, id, its time, and the latest time before which it is written again.
pub const SESSION_SEEN: &str = sessions::SEEN;
/// A refresh token. Policy, hash.
pub const REFRESH_TOKEN: &str = refresh::BY_HASH;
/// A batch of refresh tokens whose successors can't be made again from now on. Time, limit.
pub const REFRESH_BITS: &str = expiry::REFRESH_BITS;
/// Audit events of a subject. As of the other four: policy, subject, time and id of the last one, since, kind, severity,
/// limit, address.
pub const AUDIT_OF_SUBJECT: &str = audit::BY_SUBJECT;
/// Audit events from an address.
pub const AUDIT_OF_IP: &str = audit::BY_IP;
/// Audit events of a kind.
pub const AUDIT_OF_KIND: &str = audit::BY_KIND;
/// Audit events that matter.
pub const AUDIT_OF_CONCERN: &str = audit::OF_CONCERN;
/// Audit events.
pub const AUDIT: &str = audit::ALL;
/// A batch of expired rows of each table. Time, limit.
pub const EXPIRED: [&str; 10] = expiry::EXPIRED;
/// A batch of counters of unknown names that are too many. Policy, limit, how many stay.
pub const UNKNOWN_BEYOND: &str = lockouts::UNKNOWN_BEYOND;
/// Entries that a cut-off could take the place of, counted. Policy, the end of time, now.
pub const REVOCATIONS_MERGEABLE: &str = revocations::MERGEABLE;
/// Room for more of them. Policy, how many come, bound.
pub const REVOCATION_ROOM: &str = revocations::ROOM;
