-- How a run was started, where the official record has no word for it, and what it was given. kind is manual, hook, at, backfill or
-- rerun. inputs are the texts that filled its first events and content the blocks that were added to them, as JSON. start_id is
-- the planned start that it came of, hook_id the hook, rerun_of the run that it does again.
CREATE TABLE run_starts (
    run_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    inputs TEXT,
    content TEXT,
    start_id TEXT,
    hook_id TEXT,
    rerun_of TEXT
);
CREATE INDEX run_starts_kind ON run_starts (workspace_id, kind, run_id);
CREATE UNIQUE INDEX run_starts_rerun ON run_starts (rerun_of) WHERE rerun_of IS NOT NULL;

-- Starts that come later: at a time (at), when a session comes to rest (hook), or as fast as the deployment lets them (backfill,
-- of the occurrence scheduled_at). at is the time that the start is for. look_at is when it may start; NULL once it is decided
-- on, and while an earlier occurrence is backfilled. state is planned until then. reason says why it waits or never ran.
CREATE TABLE planned_starts (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    scheduled_at BIGINT,
    inputs TEXT,
    content TEXT,
    hook_id TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    run_id TEXT,
    look_at BIGINT,
    created_at BIGINT NOT NULL,
    ended_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE INDEX planned_starts_due ON planned_starts (look_at, id) WHERE look_at IS NOT NULL;
CREATE INDEX planned_starts_deployment ON planned_starts (deployment_id, id);
CREATE INDEX planned_starts_open ON planned_starts (deployment_id, kind, id) WHERE state = 'planned';
CREATE UNIQUE INDEX planned_starts_occurrence ON planned_starts (deployment_id, scheduled_at)
    WHERE scheduled_at IS NOT NULL AND state = 'planned';
CREATE INDEX planned_starts_without_run ON planned_starts (workspace_id, at, id) WHERE state IN ('missed', 'skipped');
CREATE INDEX planned_starts_ended ON planned_starts (ended_at) WHERE ended_at IS NOT NULL;

-- Addresses at which others start a deployment. secret is sealed under the data key of the workspace. minute is the last minute in
-- which something was delivered, counted from the epoch, and deliveries how much in it.
CREATE TABLE hooks (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    scheme TEXT NOT NULL,
    secret TEXT NOT NULL,
    max_per_minute BIGINT NOT NULL,
    minute BIGINT NOT NULL,
    deliveries BIGINT NOT NULL,
    last_delivery_at BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (workspace_id, id)
);
CREATE UNIQUE INDEX hooks_id ON hooks (id);
CREATE INDEX hooks_deployment ON hooks (deployment_id, id);

-- What hooks were sent, by the sender's own id of it, and the answer: what is sent again is answered so.
CREATE TABLE hook_deliveries (
    hook_id TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    UNIQUE (hook_id, delivery_id)
);
CREATE INDEX hook_deliveries_age ON hook_deliveries (received_at);
