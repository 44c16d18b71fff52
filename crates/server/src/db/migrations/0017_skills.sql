-- latest_version_id is NULL when all versions were deleted, which only requests in the old shape can do.
CREATE TABLE skills (
    workspace_id TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    display_name TEXT NOT NULL,
    latest_version_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (workspace_id, id)
);

-- blob_id names the archive with the files. Versions of a skill are told apart by created_at too.
CREATE TABLE skill_versions (
    workspace_id TEXT NOT NULL,
    skill_id TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    blob_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (workspace_id, skill_id, id),
    UNIQUE (skill_id, created_at)
);
CREATE INDEX skill_versions_of_blob ON skill_versions (blob_id);

-- What a session was given when it was created, in the order of place: it stays when the skill is deleted. path is where the
-- files are in its sandbox, and placed_on the server whose sandbox has them. blob_id is NULL for a skill that was found in a
-- repository.
CREATE TABLE session_skills (
    session_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    path TEXT NOT NULL,
    blob_id TEXT,
    placed_on TEXT,
    UNIQUE (session_id, place)
);
CREATE INDEX session_skills_of_blob ON session_skills (blob_id) WHERE blob_id IS NOT NULL;

-- The skills that the agent refers to, as JSON; NULL where there are none. Until now there could be none.
ALTER TABLE agent_versions ADD COLUMN skills TEXT;
