-- What became of a session: why its last turn ended and when, what it died of or what is tried again, and what it cost. stop_reason is NULL
-- while a turn is under way. run_id is the run that started it. Sessions of before have none of this.
ALTER TABLE sessions ADD COLUMN run_id TEXT;
ALTER TABLE sessions ADD COLUMN stop_reason TEXT;
ALTER TABLE sessions ADD COLUMN stopped_at BIGINT;
ALTER TABLE sessions ADD COLUMN error TEXT;
ALTER TABLE sessions ADD COLUMN cost_nanos BIGINT;
CREATE INDEX sessions_waiting ON sessions (workspace_id, run_id, id) WHERE stop_reason = 'requires_action';
CREATE INDEX sessions_failed ON sessions (workspace_id, run_id, id)
    WHERE stop_reason IN ('retries_exhausted', 'terminated');

-- Occurrences that did not fire, of a whole workspace.
ALTER TABLE deployment_skips ADD COLUMN workspace_id TEXT;
UPDATE deployment_skips SET workspace_id = d.workspace_id FROM deployments d WHERE d.id = deployment_skips.deployment_id;
CREATE INDEX deployment_skips_workspace ON deployment_skips (workspace_id, last_at, deployment_id);

-- Deployments whose newest runs have all failed: how many in a row, since when, and the last of them.
CREATE TABLE deployment_failures (
    deployment_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    failures BIGINT NOT NULL,
    since BIGINT NOT NULL,
    run_id TEXT,
    message TEXT NOT NULL
);
CREATE INDEX deployment_failures_workspace ON deployment_failures (workspace_id, since);

CREATE INDEX deployments_stopped ON deployments (workspace_id, id) WHERE paused_reason IS NOT NULL OR pending IS NOT NULL;
