-- Policies for sessions that nobody watches. The times bound the schedule: occurrences are from starts_at on and before ends_at.
ALTER TABLE deployments ADD COLUMN unattended TEXT;
ALTER TABLE deployments ADD COLUMN max_session_seconds BIGINT;
ALTER TABLE deployments ADD COLUMN max_idle_waiting_seconds BIGINT;
ALTER TABLE deployments ADD COLUMN pause_after_failures BIGINT;
ALTER TABLE deployments ADD COLUMN starts_at BIGINT;
ALTER TABLE deployments ADD COLUMN ends_at BIGINT;
CREATE INDEX deployments_deadlines ON deployments (id)
    WHERE unattended IS NOT NULL OR max_session_seconds IS NOT NULL OR max_idle_waiting_seconds IS NOT NULL;

ALTER TABLE deployment_spans ADD COLUMN starts_at BIGINT;
ALTER TABLE deployment_spans ADD COLUMN ends_at BIGINT;

-- When a session of a deployment is to be looked at for its deadlines. Its time counts from started_at, where it has a limit.
CREATE TABLE session_deadlines (
    session_id TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    started_at BIGINT,
    due_at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX session_deadlines_due ON session_deadlines (due_at, session_id);
CREATE INDEX session_deadlines_deployment ON session_deadlines (deployment_id);
CREATE INDEX sessions_unanswered ON sessions (deployment_id, id) WHERE stop_reason = 'requires_action';

-- The limit for which a session was interrupted.
ALTER TABLE sessions ADD COLUMN interrupted_by TEXT;
CREATE INDEX sessions_interrupted ON sessions (workspace_id, run_id, id) WHERE interrupted_by IS NOT NULL;

-- 1 where the deployment has failed so often that it is to be paused.
ALTER TABLE deployment_failures ADD COLUMN pauses BIGINT;
CREATE INDEX deployment_failures_pausing ON deployment_failures (deployment_id) WHERE pauses = 1;
