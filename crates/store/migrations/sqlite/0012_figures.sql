-- SQLite weighs its ways into a table by figures that ANALYZE takes, and nothing runs that here. Without any it takes a primary
-- key's first column, the policy, for choice enough, and reads all of a policy's families, tokens or devices to find those of one session or account.
-- These are the figures of a policy with a million.
ANALYZE refresh_families;
ANALYZE refresh_tokens;
ANALYZE known_devices;
DELETE FROM sqlite_stat1 WHERE tbl IN ('refresh_families', 'refresh_tokens', 'known_devices');
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('refresh_families', 'refresh_families',            '1000000 1000000 1'),
    ('refresh_families', 'refresh_families_by_session', '1000000 1000000 1'),
    ('refresh_families', 'refresh_families_by_expiry',  '1000000 5 2 1'),
    ('refresh_tokens',   'refresh_tokens',              '1000000 1000000 1'),
    ('refresh_tokens',   'refresh_tokens_by_family',    '1000000 1000000 5'),
    ('refresh_tokens',   'refresh_tokens_to_erase',     '10000 10'),
    ('known_devices',    'known_devices',               '1000000 1000000 1'),
    ('known_devices',    'known_devices_by_user',       '1000000 1000000 5 1');
-- Reads them.
ANALYZE sqlite_schema;
