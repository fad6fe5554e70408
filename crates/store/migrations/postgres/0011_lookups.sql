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
