-- Servers take up sessions of one workspace after the other.
DROP INDEX sessions_runnable;
CREATE INDEX sessions_runnable ON sessions (workspace_id, runnable_at) WHERE runnable_at IS NOT NULL;
