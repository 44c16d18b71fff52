//! Skills: folders of instructions that agents load when they need them, in numbered versions.
//!
//! A skill has two shapes. The one of before is for requests that name the beta [`OLD_BETA`] in their header; its versions
//! are addressed by their number, a time in microseconds.

use serde::Serialize;

use crate::{
    Time,
    fields::types,
    id::{SkillId, SkillVersionId},
};

/// Most characters of a skill's display name.
pub const MAX_DISPLAY_NAME: usize = 255;
/// The beta whose requests speak of skills in their old shape.
pub const OLD_BETA: &str = "skills-2025-10-02";
/// The version of a reference that means the newest one.
pub const LATEST: &str = "latest";

types! {
    /// Where a skill comes from.
    Source {
        /// From a user of the workspace.
        "custom" => Custom,
        /// From the vendor of the hosted service, which this server has none of.
        "anthropic" => Anthropic,
    }
}

/// A skill as the API shows it.
#[derive(Debug, Serialize)]
pub struct Skill {
    /// Always `skill`.
    pub r#type: &'static str,
    /// Its id.
    pub id: SkillId,
    /// For people: at most [`MAX_DISPLAY_NAME`] characters, on one line.
    pub display_name: String,
    /// Always [`Source::Custom`].
    pub source: Source,
    /// What `latest` means. It always has one.
    pub latest_version_id: SkillVersionId,
    /// When it was created.
    pub created_at: Time,
    /// When a version of it was last created or deleted.
    pub updated_at: Time,
}

/// A version of a skill as the API shows it.
#[derive(Debug, Serialize)]
pub struct SkillVersion {
    /// Always `skill_version`.
    pub r#type: &'static str,
    /// Its id.
    pub id: SkillVersionId,
    /// The skill.
    pub skill_id: SkillId,
    /// The name of the skill's folder, the same in all versions.
    pub name: String,
    /// What the skill is for.
    pub description: String,
    /// When it was created.
    pub created_at: Time,
}

/// A skill in its old shape.
#[derive(Debug, Serialize)]
pub struct OldSkill {
    /// Always `skill`.
    pub r#type: &'static str,
    /// Its id.
    pub id: SkillId,
    /// [`Skill::display_name`].
    pub display_title: String,
    /// Always `custom`.
    pub source: &'static str,
    /// The number of its newest version; null when all were deleted.
    pub latest_version: Option<String>,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
}

/// A version of a skill in its old shape.
#[derive(Debug, Serialize)]
pub struct OldSkillVersion {
    /// Always `skill_version`.
    pub r#type: &'static str,
    /// [`SkillVersion::id`] under another prefix.
    pub id: String,
    /// The skill.
    pub skill_id: SkillId,
    /// Its number: a time in microseconds.
    pub version: String,
    /// The name of the skill.
    pub name: String,
    /// What the skill is for.
    pub description: String,
    /// The folder of its files, which has the skill's name.
    pub directory: String,
    /// When it was created.
    pub created_at: Time,
}
