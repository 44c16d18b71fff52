-- The name of the image that new sessions of an environment have. NULL: the server's default.
ALTER TABLE environments ADD COLUMN image TEXT;
-- What a session's sandbox is made from, as it was when the session was created: the image, by name and key, and the packages as JSON.
-- NULL: the programs of the machine; no packages.
ALTER TABLE sessions ADD COLUMN image TEXT;
ALTER TABLE sessions ADD COLUMN packages TEXT;

-- How the packages of an environment were installed last. log and ended_at are NULL while that is under way.
CREATE TABLE package_builds (
    workspace_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    node TEXT NOT NULL,
    state TEXT NOT NULL,
    log TEXT,
    error TEXT,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    UNIQUE (workspace_id, environment_id)
);
