-- The trail on its way out of the database: up to which place of its chain each policy's was written to the audit log.
ALTER TABLE audit_chains ADD COLUMN logged BIGINT NOT NULL DEFAULT 0;
CREATE INDEX audit_chains_to_log ON audit_chains (policy) WHERE logged < place;

-- Which process writes it, one row: never two at a time.
CREATE TABLE audit_log_writer (
    one        BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    -- Empty: nobody.
    holder     TEXT   NOT NULL,
    held_until BIGINT NOT NULL
);
INSERT INTO audit_log_writer (one, holder, held_until) VALUES (1, '', 0);
