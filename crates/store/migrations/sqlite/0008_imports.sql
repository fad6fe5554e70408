-- Accounts brought from other schemas: each import by its name, and what it made of each row, so that a row is brought once
-- and can be taken back. What it made stays known when the account is erased: it is not brought again.
CREATE TABLE imports (
    policy   TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    -- Where it reads from, as people know it.
    source   TEXT    NOT NULL,
    begun    INTEGER NOT NULL,
    finished INTEGER,
    PRIMARY KEY (policy, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE imported_users (
    policy  TEXT NOT NULL,
    import  TEXT NOT NULL,
    -- What tells rows apart where they come from.
    row_key TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- A hash of the account as the import left it.
    state   BLOB NOT NULL,
    PRIMARY KEY (policy, import, row_key)
) STRICT, WITHOUT ROWID;
