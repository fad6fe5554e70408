-- What people are to be told by mail: written with what it tells of, so that no kill loses it.
CREATE TABLE notices (
    id          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    policy      TEXT    NOT NULL,
    -- Absent: it is about a name that no account has, and nobody is told.
    user_id     TEXT,
    kind        TEXT    NOT NULL,
    -- What it is about, as its writer keeps it. Nothing secret.
    content     TEXT    NOT NULL,
    expires     INTEGER NOT NULL,
    -- Until then somebody is sending it.
    taken_until INTEGER NOT NULL DEFAULT 0,
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX notices_to_send   ON notices (taken_until, id);
CREATE INDEX notices_by_user   ON notices (policy, user_id);
CREATE INDEX notices_by_expiry ON notices (expires);

-- Telephone numbers, for codes by SMS.
CREATE TABLE phones (
    policy         TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    -- The one that was confirmed by a code.
    number         TEXT,
    confirmed      INTEGER,
    -- The one that takes its place once its code was shown.
    pending_number TEXT,
    code_hash      BLOB,
    code_expires   INTEGER NOT NULL DEFAULT 0,
    attempts       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (policy, user_id),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
