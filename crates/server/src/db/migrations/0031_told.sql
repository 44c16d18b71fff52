-- Deployments whose schedule counts, and whether one of their runs has come to a good end of late. good_at is when the last one did, as
-- far as was looked, or from when on the schedule counts; NULL until the first look. look_at is when to look next. silent_at is
-- when it was found that too many intervals have passed since good_at; NULL while they have not.
CREATE TABLE deployment_silence (
    deployment_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    good_at BIGINT,
    look_at BIGINT NOT NULL,
    silent_at BIGINT
);
CREATE INDEX deployment_silence_look ON deployment_silence (look_at, deployment_id);
CREATE INDEX deployment_silence_silent ON deployment_silence (workspace_id, good_at) WHERE silent_at IS NOT NULL;
INSERT INTO deployment_silence (deployment_id, workspace_id, look_at)
SELECT id, workspace_id, 0 FROM deployments
WHERE cron IS NOT NULL AND paused_reason IS NULL AND archived_at IS NULL;

-- How many of its own intervals may pass without a good run; NULL where it is as many as by default.
ALTER TABLE deployments ADD COLUMN silent_after_intervals BIGINT;

-- When an endpoint was disabled; NULL while it is enabled.
ALTER TABLE webhook_endpoints ADD COLUMN disabled_at BIGINT;
UPDATE webhook_endpoints SET disabled_at = updated_at WHERE state = 'disabled';
