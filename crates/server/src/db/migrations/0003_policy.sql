-- How a deployment differs from the server's defaults; NULL where it does not. pending is the one occurrence that has come
-- and is not decided on yet: it waits for a place, or for another attempt.
ALTER TABLE deployments ADD COLUMN overlap TEXT;
ALTER TABLE deployments ADD COLUMN max_concurrent_sessions BIGINT;
ALTER TABLE deployments ADD COLUMN retry TEXT;
ALTER TABLE deployments ADD COLUMN catch_up_seconds BIGINT;
ALTER TABLE deployments ADD COLUMN jitter TEXT;
ALTER TABLE deployments ADD COLUMN pending TEXT;

-- The sessions that are at work, of deployments whose overlap or max_concurrent_sessions is set.
CREATE TABLE deployment_active (
    session_id TEXT NOT NULL UNIQUE,
    deployment_id TEXT NOT NULL
);
CREATE INDEX deployment_active_deployment ON deployment_active (deployment_id, session_id);
