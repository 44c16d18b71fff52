-- When schedules that were held were let go on last: what counts by them counts from then.
ALTER TABLE organization ADD COLUMN schedules_released_at BIGINT;
ALTER TABLE workspaces ADD COLUMN schedules_released_at BIGINT;
