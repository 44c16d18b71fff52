-- The request that sent what waits to be taken up; null where no request did.
ALTER TABLE session_inputs ADD COLUMN request_id TEXT;
