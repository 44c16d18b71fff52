-- Of several runs of one occurrence each has its number: the session of each but the last has died. retry_of is the run before.
ALTER TABLE deployment_runs ADD COLUMN attempt BIGINT NOT NULL DEFAULT 1;
ALTER TABLE deployment_runs ADD COLUMN retry_of TEXT;
-- 1 where a run went on with the session of an earlier one.
ALTER TABLE deployment_runs ADD COLUMN goes_on BIGINT NOT NULL DEFAULT 0;
DROP INDEX deployment_runs_occurrence;
CREATE UNIQUE INDEX deployment_runs_occurrence ON deployment_runs (deployment_id, scheduled_at, attempt)
    WHERE scheduled_at IS NOT NULL;
CREATE UNIQUE INDEX deployment_runs_retry_of ON deployment_runs (retry_of) WHERE retry_of IS NOT NULL;

-- What follows the death of the session of a run, of deployments whose policy asks for other sessions: pending, until look_at or later,
-- and then next_run_id or a reason. has_acted is 1 where its agent had called a tool that may change something.
CREATE TABLE session_retries (
    run_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    scheduled_at BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    has_acted BIGINT NOT NULL,
    look_at BIGINT,
    pending TEXT,
    reason TEXT,
    next_run_id TEXT
);
CREATE INDEX session_retries_due ON session_retries (look_at, run_id) WHERE look_at IS NOT NULL;
CREATE INDEX session_retries_occurrence ON session_retries (deployment_id, scheduled_at);

-- Whether a start goes on with the session of the last run; NULL where it does not. How many characters of what an earlier run said last
-- a new session begins with.
ALTER TABLE deployments ADD COLUMN session_choice TEXT;
ALTER TABLE deployments ADD COLUMN carry_forward BIGINT;

-- What a deployment may spend, in US cents, and what its sessions have cost, in billionths of a dollar, by days of UTC from the first
-- of January 1970. spent_at is when something was added last.
ALTER TABLE deployments ADD COLUMN spend_day BIGINT;
ALTER TABLE deployments ADD COLUMN spend_month BIGINT;
CREATE INDEX deployments_spend ON deployments (workspace_id, id) WHERE spend_day IS NOT NULL OR spend_month IS NOT NULL;
CREATE TABLE deployment_spend (
    deployment_id TEXT NOT NULL,
    day BIGINT NOT NULL,
    workspace_id TEXT NOT NULL,
    nanos BIGINT NOT NULL,
    spent_at BIGINT NOT NULL,
    UNIQUE (deployment_id, day)
);
