-- The latest time recorded for a policy, which no later one may be before.
CREATE INDEX revocations_by_creation ON revocations (policy, created);
