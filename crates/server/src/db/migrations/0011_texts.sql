-- Kept and shown; null where nobody said.
ALTER TABLE workspaces ADD COLUMN inference_data_privacy TEXT;

-- What a model does without a level of effort is told as the level that it is. The texts are those that this program wrote, in
-- its order of fields, so that no other text has this part.
UPDATE agent_versions
SET config = replace(config, '"effort":null,"speed":', '"effort":{"type":"high"},"speed":'),
    snapshot = replace(snapshot, '"effort":null,"speed":', '"effort":{"type":"high"},"speed":')
WHERE snapshot LIKE '%"effort":null,"speed":%';
UPDATE sessions SET agent = replace(agent, '"effort":null,"speed":', '"effort":{"type":"high"},"speed":')
WHERE agent LIKE '%"effort":null,"speed":%';
