-- Key rings, with the version at which each was last written.
CREATE TABLE rings (
    policy  TEXT    NOT NULL,
    ring    TEXT    NOT NULL,
    version INTEGER NOT NULL,
    content TEXT    NOT NULL,
    PRIMARY KEY (policy, ring)
) STRICT, WITHOUT ROWID;

-- The generation of each policy's latest bundle.
CREATE TABLE bundles (
    policy     TEXT    NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The feed's epoch. Raised by compare-and-set before a server is told.
CREATE TABLE feed (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO feed (one, epoch) VALUES (1, 0);

-- Revocations: history, outbox and the in-process feed's live set in one. Times are milliseconds since the Unix epoch.
CREATE TABLE revocations (
    id                INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- Two entries of one key speak of the same thing.
    key               TEXT    NOT NULL UNIQUE,
    policy            TEXT    NOT NULL,
    kind              TEXT    NOT NULL,
    issuer            TEXT,
    name              TEXT    NOT NULL,
    cutoff            INTEGER NOT NULL,
    expires           INTEGER NOT NULL,
    version           INTEGER NOT NULL,
    reason            TEXT    NOT NULL,
    source            TEXT    NOT NULL,
    -- Whom it concerns, where that is known.
    subject           TEXT,
    created           INTEGER NOT NULL,
    -- Rises with each change of what the row says.
    revision          INTEGER NOT NULL DEFAULT 1,
    -- Where it stands in the feed, and which revision stands there.
    position          INTEGER,
    position_revision INTEGER,
    -- The epoch in which this revision is published. Any other: still to publish.
    mark              INTEGER NOT NULL DEFAULT 0,
    -- The cut-off that stands in its place, if any; and whether it is out of the feed.
    merged_into       INTEGER REFERENCES revocations (id) ON DELETE SET NULL,
    removed           INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX revocations_by_mark     ON revocations (mark, id) WHERE merged_into IS NULL;
CREATE INDEX revocations_by_position ON revocations (position) WHERE position IS NOT NULL;
CREATE INDEX revocations_by_expiry   ON revocations (expires);
CREATE INDEX revocations_by_subject  ON revocations (policy, subject, id);
CREATE INDEX revocations_mergeable   ON revocations (policy) WHERE merged_into IS NULL AND version > 0 AND kind IN ('token', 'session');
CREATE INDEX revocations_merged      ON revocations (merged_into) WHERE merged_into IS NOT NULL AND removed = 0;
