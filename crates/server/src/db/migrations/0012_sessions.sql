-- The request that set a session to work; null where no request did.
ALTER TABLE sessions ADD COLUMN request_id TEXT;
