//! The files of a skill: in a folder, and in the archive that a server takes and gives.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::{
    files::parted,
    limits::{MAX_SKILL_BYTES, MAX_SKILL_FILES},
};

/// The file that says what a skill is.
pub const MANIFEST: &str = "SKILL.md";

/// A skill's name and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skill {
    /// What `SKILL.md` calls it, or else its folder.
    pub name: String,
    /// By their paths below the folder.
    pub files: BTreeMap<String, SkillFile>,
}

/// A file of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillFile {
    pub content: Vec<u8>,
    pub is_executable: bool,
}

/// The name that a `SKILL.md` gives its skill.
///
/// # Errors
/// What is wrong with its front matter, and in which line.
pub fn named(manifest: &str) -> Result<Option<String>, (Option<usize>, String)> {
    let (front, _) = parted(manifest)?;
    Ok(front.get("name").and_then(Value::as_str).map(str::to_owned))
}

impl Skill {
    /// The archive that a server takes. Nothing in it is compressed: a server refuses what grows too much.
    ///
    /// # Errors
    /// When a path cannot stand in an archive.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (path, file) in &self.files {
            let mode = if file.is_executable { 0o755 } else { 0o644 };
            let options =
                SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(mode);
            archive.start_file(format!("{}/{path}", self.name), options)?;
            archive.write_all(&file.content)?;
        }
        Ok(archive.finish()?.into_inner())
    }

    /// What a server gives.
    ///
    /// # Errors
    /// When it is no archive of a skill, or larger than one can be.
    pub fn of_archive(archive: &[u8]) -> Result<Self> {
        let mut archive = ZipArchive::new(Cursor::new(archive)).context("the content of a skill is no archive")?;
        let mut skill = Self::default();
        let mut left = MAX_SKILL_BYTES;
        for at in 0..archive.len() {
            let file = archive.by_index(at)?;
            if file.is_dir() {
                continue;
            }
            let name = file.name()?.into_owned();
            let Some((folder, path)) = name.split_once('/') else { bail!("{name} is in no folder of the skill") };
            let is_below = path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']));
            if !is_below || (!skill.name.is_empty() && skill.name != folder) || skill.files.len() == MAX_SKILL_FILES {
                bail!("the archive of a skill has a file that cannot be in one: {name}");
            }
            folder.clone_into(&mut skill.name);
            let is_executable = file.unix_mode().unwrap_or_default() & 0o111 != 0;
            let path = path.to_owned();
            let mut content = Vec::new();
            file.take(left + 1).read_to_end(&mut content)?;
            left = left.checked_sub(content.len() as u64).context("a skill has more than 30 MB")?;
            skill.files.insert(path, SkillFile { content, is_executable });
        }
        Ok(skill)
    }

    /// How the files differ from those of `stored`: what each line says of a path.
    pub fn differences(&self, stored: &Self) -> Vec<(String, &'static str)> {
        let mut differences = Vec::new();
        for (path, file) in &self.files {
            match stored.files.get(path) {
                None => differences.push((path.clone(), "added")),
                Some(kept) if kept != file => differences.push((path.clone(), "changed")),
                Some(_) => {}
            }
        }
        for path in stored.files.keys().filter(|path| !self.files.contains_key(*path)) {
            differences.push((path.clone(), "removed"));
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skill(files: &[(&str, &str, bool)]) -> Skill {
        let file = |content: &str, is_executable| SkillFile { content: content.as_bytes().to_vec(), is_executable };
        let files = files.iter().map(|(path, content, run)| ((*path).to_owned(), file(content, *run))).collect();
        Skill { name: "report".to_owned(), files }
    }

    #[test]
    fn an_archive_is_read_back_with_who_may_run_what() {
        let skill = skill(&[(MANIFEST, "---\nname: report\n---\n", false), ("bin/run.sh", "#!/bin/sh\n", true)]);
        assert_eq!(Skill::of_archive(&skill.archive().unwrap()).unwrap(), skill);
        assert!(Skill::of_archive(b"no archive").is_err());
    }

    #[test]
    fn an_archive_that_leads_out_of_its_folder_is_refused() {
        for path in ["../x", "a/../../x", "/x", "a//b", "./x"] {
            let skill = skill(&[(path, "x", false)]);
            assert!(Skill::of_archive(&skill.archive().unwrap()).is_err(), "{path}");
        }
    }

    #[test]
    fn files_differ_by_content_and_by_who_may_run_them() {
        let stored = skill(&[("a", "1", false), ("b", "1", false), ("c", "1", false)]);
        let wanted = skill(&[("a", "1", false), ("b", "2", false), ("c", "1", true), ("d", "1", false)]);
        let said: Vec<_> = wanted.differences(&stored);
        let expected = [("b", "changed"), ("c", "changed"), ("d", "added")];
        assert_eq!(said, expected.map(|(path, what)| (path.to_owned(), what)));
        assert_eq!(stored.differences(&wanted).last().unwrap(), &("d".to_owned(), "removed"));
    }
}
