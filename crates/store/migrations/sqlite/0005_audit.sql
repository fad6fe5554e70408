-- What happened. Written with what it tells of, in one transaction; chained afterwards.
CREATE TABLE audit_events (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    policy     TEXT    NOT NULL,
    time       INTEGER NOT NULL,
    type       TEXT    NOT NULL,
    -- 0 INFO, 1 WARNING, 2 CRITICAL
    severity   INTEGER NOT NULL,
    subject    TEXT,
    session_id TEXT,
    ip         TEXT,
    user_agent TEXT,
    request_id TEXT,
    -- A JSON object.
    details    TEXT    NOT NULL,
    -- Its place in the policy's chain, and the hash of it and all before it.
    place      INTEGER,
    hash       BLOB
) STRICT;
CREATE INDEX audit_events_by_time     ON audit_events (policy, time, id);
CREATE INDEX audit_events_by_subject  ON audit_events (policy, subject, time, id);
CREATE INDEX audit_events_by_type     ON audit_events (policy, type, time, id);
CREATE INDEX audit_events_of_concern  ON audit_events (policy, time, id) WHERE severity >= 1;
CREATE UNIQUE INDEX audit_events_by_place ON audit_events (policy, place);
CREATE INDEX audit_events_unsealed    ON audit_events (policy, id) WHERE place IS NULL;

-- Each policy's chain: where it ends, and where it begins since the events before were removed.
CREATE TABLE audit_chains (
    policy     TEXT    NOT NULL PRIMARY KEY,
    place      INTEGER NOT NULL,
    hash       BLOB    NOT NULL,
    from_place INTEGER NOT NULL,
    from_hash  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
