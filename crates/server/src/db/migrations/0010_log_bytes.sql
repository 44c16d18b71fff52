-- How many bytes the events of a session have, so that it takes in no more than it may. What an older program wrote is not
-- counted.
ALTER TABLE sessions ADD COLUMN log_bytes BIGINT NOT NULL DEFAULT 0;
