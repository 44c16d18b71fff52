-- Which version of which skill a session was given, so that its workers find it also once it is gone; NULL for a skill that was
-- found in a repository.
ALTER TABLE session_skills ADD COLUMN skill_id TEXT;
ALTER TABLE session_skills ADD COLUMN version_id TEXT;
UPDATE session_skills SET
    skill_id = (SELECT v.skill_id FROM skill_versions v WHERE v.blob_id = session_skills.blob_id),
    version_id = (SELECT v.id FROM skill_versions v WHERE v.blob_id = session_skills.blob_id);
-- What of its outputs was not taken in the last time, each with the reason, as JSON; NULL where everything was.
ALTER TABLE sessions ADD COLUMN outputs_left_out TEXT;
