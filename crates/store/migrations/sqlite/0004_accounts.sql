-- People, what they prove themselves with, and what they are given. Times are milliseconds since the Unix epoch; lists are
-- JSON arrays; what is secret is here only as a hash, or encrypted.
CREATE TABLE users (
    policy               TEXT    NOT NULL,
    id                   TEXT    NOT NULL,
    username             TEXT,
    -- As names compare.
    username_folded      TEXT,
    email                TEXT,
    email_folded         TEXT,
    -- What the address becomes once its link is used.
    pending_email        TEXT,
    pending_email_folded TEXT,
    first_name           TEXT,
    last_name            TEXT,
    status               TEXT    NOT NULL,
    status_reason        TEXT,
    status_until         INTEGER,
    roles                TEXT    NOT NULL,
    email_verified       INTEGER NOT NULL,
    created              INTEGER NOT NULL,
    last_login           INTEGER,
    password_changed     INTEGER,
    -- The import that brought them, to take it back.
    import_batch         TEXT,
    PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX users_by_username ON users (policy, username_folded);
CREATE UNIQUE INDEX users_by_email    ON users (policy, email_folded);
CREATE INDEX users_by_status          ON users (policy, status, id);
CREATE INDEX users_by_batch           ON users (policy, import_batch, id) WHERE import_batch IS NOT NULL;

CREATE TABLE passwords (
    policy  TEXT    NOT NULL,
    user_id TEXT    NOT NULL,
    hash    TEXT    NOT NULL,
    changed INTEGER NOT NULL,
    PRIMARY KEY (policy, user_id),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE old_passwords (
    id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    policy  TEXT    NOT NULL,
    user_id TEXT    NOT NULL,
    hash    TEXT    NOT NULL,
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX old_passwords_by_user ON old_passwords (policy, user_id, id);

CREATE TABLE totp (
    policy    TEXT    NOT NULL,
    user_id   TEXT    NOT NULL,
    -- Encrypted under the key named.
    secret    BLOB    NOT NULL,
    key_id    TEXT    NOT NULL,
    created   INTEGER NOT NULL,
    confirmed INTEGER,
    -- The last time step whose code was taken.
    last_step INTEGER NOT NULL DEFAULT -1,
    PRIMARY KEY (policy, user_id),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX totp_by_key ON totp (key_id, policy, user_id);

CREATE TABLE backup_codes (
    policy  TEXT NOT NULL,
    user_id TEXT NOT NULL,
    hash    BLOB NOT NULL,
    PRIMARY KEY (policy, user_id, hash),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE challenges (
    policy       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    created      INTEGER NOT NULL,
    expires      INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    ip           TEXT,
    user_agent   TEXT,
    -- What the login asked for, as its handler keeps it.
    request      TEXT    NOT NULL,
    completed    INTEGER,
    session_id   TEXT,
    code_hash    BLOB,
    -- When the retry with the same code was answered, or could be no more.
    retry_closed INTEGER,
    PRIMARY KEY (policy, id),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX challenges_by_user    ON challenges (policy, user_id, completed);
CREATE INDEX challenges_by_session ON challenges (policy, session_id) WHERE session_id IS NOT NULL;
CREATE INDEX challenges_by_expiry  ON challenges (expires);

-- Codes that were sent: one a channel of each challenge.
CREATE TABLE sent_codes (
    policy       TEXT    NOT NULL,
    challenge_id TEXT    NOT NULL,
    channel      TEXT    NOT NULL,
    hash         BLOB    NOT NULL,
    expires      INTEGER NOT NULL,
    PRIMARY KEY (policy, challenge_id, channel),
    FOREIGN KEY (policy, challenge_id) REFERENCES challenges (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    policy        TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    created       INTEGER NOT NULL,
    auth_time     INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL,
    idle_ms       INTEGER NOT NULL,
    absolute_end  INTEGER NOT NULL,
    -- The earlier of last_seen + idle_ms and absolute_end.
    ends          INTEGER NOT NULL,
    ip            TEXT,
    user_agent    TEXT,
    device_id     TEXT,
    device        TEXT,
    remember_me   INTEGER NOT NULL,
    amr           TEXT    NOT NULL,
    ended         INTEGER,
    ended_because TEXT,
    PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_live      ON sessions (policy, subject, created, id) WHERE ended IS NULL;
CREATE INDEX sessions_by_ending ON sessions (ends, policy, id);

CREATE TABLE refresh_families (
    policy     TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    rotates    INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    -- Moves with each use.
    expires    INTEGER NOT NULL,
    ended      INTEGER,
    PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_families_by_session ON refresh_families (policy, session_id);
CREATE INDEX refresh_families_by_expiry  ON refresh_families (expires, policy, id);

CREATE TABLE refresh_tokens (
    policy      TEXT    NOT NULL,
    -- SHA-256 of the token.
    hash        BLOB    NOT NULL,
    family_id   TEXT    NOT NULL,
    predecessor BLOB,
    rotated     INTEGER,
    -- What makes the successor of this token, until it is erased.
    bits        BLOB,
    bits_until  INTEGER,
    PRIMARY KEY (policy, hash),
    FOREIGN KEY (policy, family_id) REFERENCES refresh_families (policy, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (policy, family_id);
CREATE INDEX refresh_tokens_to_erase  ON refresh_tokens (bits_until) WHERE bits IS NOT NULL;

CREATE TABLE api_keys (
    policy    TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    owner     TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    -- Enough to recognise it by, too little to use it.
    hint      TEXT    NOT NULL,
    -- SHA-256 of an opaque key that was imported.
    hash      BLOB,
    scopes    TEXT    NOT NULL,
    roles     TEXT    NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    last_used INTEGER,
    revoked   INTEGER,
    PRIMARY KEY (policy, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (policy, hash);
CREATE INDEX api_keys_by_owner       ON api_keys (policy, owner, id);
CREATE INDEX api_keys_by_expiry      ON api_keys (expires, policy, id);

-- Failures, by account, by name without an account, by known device.
CREATE TABLE lockouts (
    policy       TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    failures     INTEGER NOT NULL,
    window_start INTEGER NOT NULL,
    locks        INTEGER NOT NULL DEFAULT 0,
    locked_until INTEGER NOT NULL DEFAULT 0,
    updated      INTEGER NOT NULL,
    expires      INTEGER NOT NULL,
    PRIMARY KEY (policy, kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX lockouts_by_age    ON lockouts (policy, kind, updated, name);
CREATE INDEX lockouts_locked    ON lockouts (policy, kind, locked_until);
CREATE INDEX lockouts_by_expiry ON lockouts (expires);

CREATE TABLE known_devices (
    policy    TEXT    NOT NULL,
    -- SHA-256 of the secret that the device was given.
    hash      BLOB    NOT NULL,
    user_id   TEXT    NOT NULL,
    label     TEXT,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    PRIMARY KEY (policy, hash),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX known_devices_by_user ON known_devices (policy, user_id, last_used);

CREATE TABLE one_time_tokens (
    policy  TEXT    NOT NULL,
    hash    BLOB    NOT NULL,
    purpose TEXT    NOT NULL,
    user_id TEXT    NOT NULL,
    content TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (policy, hash),
    FOREIGN KEY (policy, user_id) REFERENCES users (policy, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX one_time_tokens_by_user   ON one_time_tokens (policy, user_id, purpose);
CREATE INDEX one_time_tokens_by_expiry ON one_time_tokens (expires);

-- Rate limits where there is no Redis.
CREATE TABLE rate_buckets (
    policy  TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    hits    INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (policy, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX rate_buckets_by_expiry ON rate_buckets (expires);

CREATE TABLE address_blocks (
    policy  TEXT    NOT NULL,
    network TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    source  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (policy, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX address_blocks_by_expiry ON address_blocks (expires);
