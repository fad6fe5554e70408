-- How many revocations a policy's bound still has room for, so that they need not be counted each time one comes.
CREATE TABLE revocation_room (
    policy TEXT   NOT NULL PRIMARY KEY,
    -- The bound that it was reckoned from.
    bound  BIGINT NOT NULL,
    -- Below zero: they are counted again.
    room   BIGINT NOT NULL
);
