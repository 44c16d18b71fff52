-- Counts the writes that were made to see whether writes can be made.
ALTER TABLE organization ADD COLUMN writes_tried BIGINT NOT NULL DEFAULT 0;

-- Sessions that a user deleted while a server had files of them, until those are gone: files of other sessions that are not
-- in the store are kept for a while.
CREATE TABLE deleted_sessions (
    session_id TEXT NOT NULL UNIQUE,
    deleted_at BIGINT NOT NULL
);
