-- The lease_epoch of the runner that handed a session over between two steps: where the next runner's is the one after it, no
-- call of the session was under way.
ALTER TABLE sessions ADD COLUMN handed_over BIGINT;

-- 1 while what runs is to be stopped at once, and not only before its next request to a model.
ALTER TABLE organization ADD COLUMN halted BIGINT NOT NULL DEFAULT 0;

-- Since when schedules are held: of all workspaces, of one. What is due meanwhile is passed over.
ALTER TABLE organization ADD COLUMN schedules_held_at BIGINT;
ALTER TABLE workspaces ADD COLUMN schedules_held_at BIGINT;
