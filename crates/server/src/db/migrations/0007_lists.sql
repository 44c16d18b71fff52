-- What a list seldom finds is found without a look at every row that it passes over. These have an entry only for sessions
-- that ended for good: all of them, and those that were not archived since. archived_at, there always NULL, makes the second
-- the better match of a query for them also where a database knows nothing of their numbers.
CREATE INDEX sessions_terminated ON sessions (workspace_id, id) WHERE status = 'terminated';
CREATE INDEX sessions_died ON sessions (workspace_id, archived_at, id)
    WHERE status = 'terminated' AND archived_at IS NULL;

-- scheduled_at is in it so that a deployment's runs by hand, or on schedule, are told apart within the index.
DROP INDEX deployment_runs_deployment;
CREATE INDEX deployment_runs_deployment ON deployment_runs (deployment_id, id, scheduled_at);
