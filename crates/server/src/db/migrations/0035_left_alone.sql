-- When schedules that were held were let go on last: what counts by them counts from then.
ALTER TABLE organization ADD COLUMN schedules_released_at BIGINT;
ALTER TABLE workspaces ADD COLUMN schedules_released_at BIGINT;

-- Sessions that neither work nor wait: how many there are is counted from this. It has all that the count asks for, so that no row is
-- read.
CREATE INDEX sessions_resting ON sessions (id, stop_reason, runnable_at, status)
    WHERE status = 'idle' AND runnable_at IS NULL AND coalesce(stop_reason, '') <> 'requires_action';

-- What was spent on days that no policy asks for any more.
CREATE INDEX deployment_spend_day ON deployment_spend (day);

-- The secret of a hook before its last rotation, sealed as the other, and until when it is taken too.
ALTER TABLE hooks ADD COLUMN former_secret TEXT;
ALTER TABLE hooks ADD COLUMN former_until BIGINT;
