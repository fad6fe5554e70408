-- An entry that leaves is looked for in the entries that name it as the one in their place: without this in all of them.
CREATE INDEX revocations_by_merge ON revocations (merged_into) WHERE merged_into IS NOT NULL;
-- A policy's history, latest first, page by page.
CREATE INDEX revocations_by_policy ON revocations (policy, id);
-- Few among many, and asked for alone.
CREATE INDEX revocations_of_keys ON revocations (policy, id) WHERE kind = 'key';
CREATE INDEX revocations_of_addresses ON revocations (policy, name) WHERE kind = 'ip';
CREATE INDEX revocations_unmergeable ON revocations (policy) WHERE merged_into IS NULL
    AND (kind IN ('api_key', 'subject') OR version = 0 AND kind IN ('token', 'session'));
-- Accounts that are locked, page by page, and not those that only failed.
DROP INDEX lockouts_locked;
CREATE INDEX lockouts_locked ON lockouts (policy, kind, name) WHERE locked_until > 0;

-- Goes on with what 0012 began, for each table that has more than one way to the rows of a person, a session or a name: figures
-- of ten policies that have a million between them.
DELETE FROM sqlite_stat1 WHERE tbl IN ('users', 'old_passwords', 'totp', 'challenges', 'sessions', 'api_keys', 'lockouts',
    'one_time_tokens', 'notices', 'audit_events', 'revocations');
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('users',           'users',                          '1000000 100000 1'),
    ('users',           'users_by_username',              '1000000 100000 1'),
    ('users',           'users_by_email',                 '1000000 100000 1'),
    ('users',           'users_by_status',                '1000000 100000 5000 1'),
    ('users',           'users_by_batch',                 '100000 10000 10000 1'),
    ('old_passwords',   'old_passwords_by_user',          '1000000 100000 5 1'),
    ('totp',            'totp',                           '1000000 100000 1'),
    ('totp',            'totp_by_key',                    '1000000 100000 100000 1'),
    ('challenges',      'challenges',                     '1000000 100000 1'),
    ('challenges',      'challenges_by_user',             '1000000 100000 5 2'),
    ('challenges',      'challenges_by_session',          '1000000 100000 1'),
    ('challenges',      'challenges_by_expiry',           '1000000 5'),
    ('sessions',        'sessions',                       '1000000 100000 1'),
    ('sessions',        'sessions_live',                  '1000000 100000 5 1 1'),
    ('sessions',        'sessions_by_ending',             '1000000 5 2 1'),
    ('api_keys',        'api_keys',                       '1000000 100000 1'),
    -- Most have none.
    ('api_keys',        'api_keys_by_hash',               '1000000 100000 100000'),
    ('api_keys',        'api_keys_by_owner',              '1000000 100000 5 1'),
    ('api_keys',        'api_keys_by_expiry',             '1000000 5 2 1'),
    ('lockouts',        'lockouts',                       '1000000 100000 100000 1'),
    ('lockouts',        'lockouts_by_age',                '1000000 100000 100000 2 1'),
    ('lockouts',        'lockouts_locked',                '10000 1000 1000 1'),
    ('lockouts',        'lockouts_by_expiry',             '1000000 5'),
    ('one_time_tokens', 'one_time_tokens',                '1000000 100000 1'),
    ('one_time_tokens', 'one_time_tokens_by_user',        '1000000 100000 5 2'),
    ('one_time_tokens', 'one_time_tokens_by_expiry',      '1000000 5'),
    ('notices',         'notices_to_send',                '1000000 200000 1'),
    ('notices',         'notices_by_user',                '1000000 100000 5'),
    ('notices',         'notices_by_expiry',              '1000000 5'),
    ('audit_events',    'audit_events_by_time',           '1000000 100000 2 1'),
    ('audit_events',    'audit_events_by_subject',        '1000000 100000 50 1 1'),
    ('audit_events',    'audit_events_by_type',           '1000000 100000 50000 2 1'),
    ('audit_events',    'audit_events_of_concern',        '50000 5000 2 1'),
    ('audit_events',    'audit_events_by_place',          '1000000 100000 1'),
    ('audit_events',    'audit_events_unsealed',          '100 10 1'),
    ('audit_events',    'audit_events_by_ip',             '1000000 100000 100 1 1'),
    ('revocations',     'sqlite_autoindex_revocations_1', '1000000 1'),
    ('revocations',     'revocations_by_mark',            '1000000 100000 1'),
    ('revocations',     'revocations_by_position',        '1000000 1'),
    ('revocations',     'revocations_by_expiry',          '1000000 5'),
    ('revocations',     'revocations_by_subject',         '1000000 100000 5 1'),
    ('revocations',     'revocations_mergeable',          '500000 50000'),
    ('revocations',     'revocations_merged',             '1000 1000'),
    ('revocations',     'revocations_by_creation',        '1000000 100000 2'),
    ('revocations',     'revocations_by_merge',           '10000 10000'),
    ('revocations',     'revocations_by_policy',          '1000000 100000 1'),
    ('revocations',     'revocations_of_keys',            '100 10 1'),
    ('revocations',     'revocations_of_addresses',       '10000 1000 1'),
    ('revocations',     'revocations_unmergeable',        '100000 10000');
-- Reads them.
ANALYZE sqlite_schema;
