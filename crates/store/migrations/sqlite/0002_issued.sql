-- Up to when tokens of each policy may have been issued, so that no cut-off is earlier, whatever the clock says by then.
CREATE TABLE issued (
    policy TEXT    NOT NULL PRIMARY KEY,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
