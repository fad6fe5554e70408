-- Whose people are kept under a policy's name. A policy that is deleted and made again is another one, unless it took over what
-- the one before left.
CREATE TABLE tenures (
    policy      TEXT    NOT NULL PRIMARY KEY,
    -- The uid of the first policy object of those that took over from one another, and of the last.
    origin      TEXT    NOT NULL,
    uid         TEXT    NOT NULL,
    -- The highest generation of a bundle that was heeded.
    generation  INTEGER NOT NULL,
    -- From when on its people are to be erased. Absent: it is in force.
    erase_after INTEGER,
    -- 1 once that has begun: from then on nobody takes them over.
    erasing     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX tenures_over ON tenures (erase_after) WHERE erase_after IS NOT NULL;
