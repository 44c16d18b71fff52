//! The files of a skill: as they were uploaded, one by one or in an archive, and as they are kept.
//!
//! What is kept is an archive that this module writes itself: regular files only, below one folder with the skill's name,
//! sorted, without times. So whatever an uploaded archive holds beside them, or says twice, ends here.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
};

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::manifest;
use crate::{
    error::{Error, Result},
    limits::{
        MAX_SKILL_BYTES, MAX_SKILL_DEPTH, MAX_SKILL_FILE_NAME, MAX_SKILL_FILES, MAX_SKILL_PATH, MAX_SKILL_RATIO,
        SMALL_SKILL_BYTES,
    },
};

/// Most characters of a skill's name.
pub const MAX_NAME: usize = 64;
/// Most characters of a skill's description.
pub const MAX_DESCRIPTION: usize = 1024;

/// The file at the root of a skill that says what it is.
pub const MANIFEST: &str = "SKILL.md";

/// A file that was uploaded.
pub(super) struct UploadedFile {
    /// Its name, with the folders that it is in.
    pub(super) name: String,
    /// Its content.
    pub(super) content: Bytes,
}

/// A skill as it is kept.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The name of the skill and of its folder: lower case letters, digits and hyphens.
    pub(super) name: String,
    /// What it is for.
    pub(super) description: String,
    /// The archive.
    pub(super) archive: Vec<u8>,
}

/// What was uploaded, before anything of it is unpacked.
enum Source {
    Files(Vec<Bytes>),
    Archive(ZipArchive<Cursor<Bytes>>),
}

/// A file of a source.
struct Entry {
    /// Its place in the source.
    at: usize,
    is_executable: bool,
}

impl Bundle {
    /// Reads what was uploaded. The ending of a name alone says whether it is an archive.
    ///
    /// # Errors
    /// 400 when it is no skill; the message says what to do.
    pub(super) fn read(mut uploads: Vec<UploadedFile>) -> Result<Self> {
        if let Some(place) = uploads.iter().position(|upload| is_archive(&upload.name)) {
            if uploads.len() > 1 {
                return Err(Error::invalid("files: an archive must be the only file of an upload"));
            }
            return Self::of_archive(uploads.swap_remove(place).content);
        }
        let mut files = Files::default();
        let mut contents = Vec::new();
        let mut bytes = 0;
        for (at, upload) in uploads.into_iter().enumerate() {
            files.add(&upload.name, Entry { at, is_executable: false })?;
            bytes += upload.content.len();
            contents.push(upload.content);
        }
        if bytes > MAX_SKILL_BYTES {
            return Err(too_many_bytes());
        }
        Self::of(Source::Files(contents), files)
    }

    fn of_archive(content: Bytes) -> Result<Self> {
        // Reading an archive takes memory for each of its headers.
        if content.windows(4).filter(|window| window == b"PK\x01\x02").count() > MAX_SKILL_FILES * 16 {
            return Err(too_many_files());
        }
        let packed = content.len();
        let mut archive = ZipArchive::new(Cursor::new(content)).map_err(|_| unreadable())?;
        let mut files = Files::default();
        let mut bytes: u64 = 0;
        for at in 0..archive.len() {
            let file = archive.by_index_raw(at).map_err(|_| unreadable())?;
            let name = file.name().map_err(|_| unreadable())?.into_owned();
            if file.is_symlink() {
                return Err(Error::invalid("archives must not contain symbolic links"));
            }
            let mode = file.unix_mode().unwrap_or_default();
            if [0o020_000, 0o060_000, 0o140_000].contains(&(mode & 0o170_000)) {
                return Err(Error::invalid("archives must not contain devices or sockets"));
            }
            // What the Finder of macOS adds to the archives that it makes.
            if file.is_dir() || name.starts_with("__MACOSX/") {
                continue;
            }
            let is_read = matches!(file.compression(), CompressionMethod::Stored | CompressionMethod::Deflated);
            if file.encrypted() || !is_read {
                return Err(unreadable());
            }
            bytes = bytes.saturating_add(file.size());
            files.add(&name, Entry { at, is_executable: mode & 0o111 != 0 })?;
        }
        if bytes > MAX_SKILL_BYTES as u64 {
            return Err(too_many_bytes());
        }
        if bytes > SMALL_SKILL_BYTES && bytes / MAX_SKILL_RATIO > packed as u64 {
            return Err(Error::invalid(format_args!(
                "the archive would become more than {MAX_SKILL_RATIO} times as large when it is unpacked"
            )));
        }
        Self::of(Source::Archive(archive), files)
    }

    fn of(mut source: Source, files: Files) -> Result<Self> {
        let (folder, files) = files.below_their_folder()?;
        let manifest = files.get(MANIFEST).ok_or_else(|| Error::invalid("SKILL.md not found in uploaded files"))?;
        let content = source.content(manifest.at, MAX_SKILL_BYTES)?;
        let text = str::from_utf8(&content).map_err(|_| Error::invalid("SKILL.md is not UTF-8 text"))?;
        let matter = manifest::read(text).map_err(|why| Error::invalid(format_args!("SKILL.md: {why}")))?;
        // It is read again to be packed; twice in memory is more than it needs to be.
        drop(content);
        let (name, description) = (matter.name.or(folder), matter.description);
        let (name, description) = resolved(name, description).ok_or_else(|| {
            Error::invalid(
                "`name` and `description` must resolve from `SKILL.md` frontmatter or its fallbacks, within their length \
                 limits",
            )
        })?;
        if !is_name(&name) {
            return Err(Error::invalid(format_args!(
                "Skill name '{name}' in SKILL.md must consist of lowercase letters, digits and single hyphens between them"
            )));
        }
        let archive = source.packed(&name, &files)?;
        Ok(Self { name, description, archive })
    }
}

/// The name and the description of a skill that nobody uploaded, in a folder of this name, by its `SKILL.md`.
///
/// # Errors
/// What is wrong with it.
pub fn described(folder: &str, manifest: &str) -> std::result::Result<(String, String), String> {
    let super::FrontMatter { name, description } = manifest::read(manifest)?;
    let resolved = resolved(name.or_else(|| Some(folder.to_owned())), description);
    let (name, description) = resolved.ok_or_else(|| {
        format!("its front matter needs a `description` of 1 to {MAX_DESCRIPTION} characters, and a `name` of at most {MAX_NAME}")
    })?;
    if is_name(&name) {
        return Ok((name, description));
    }
    Err("its `name` is not of lowercase letters, digits and single hyphens between them".to_owned())
}

/// The name and the description, when they are there and not too long.
fn resolved(name: Option<String>, description: Option<String>) -> Option<(String, String)> {
    let within = |text: Option<String>, most| {
        let text = text?.trim().to_owned();
        (1..=most).contains(&text.chars().count()).then_some(text)
    };
    Some((within(name, MAX_NAME)?, within(description, MAX_DESCRIPTION)?))
}

/// Whether a text can be the name of a skill and of its folder.
fn is_name(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.split('-').all(is_word)
}

fn is_archive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".zip", ".skill"].iter().any(|ending| name.ends_with(ending))
}

fn unreadable() -> Error {
    Error::invalid(r#"archive must be a readable, unencrypted zip using "DEFLATE" or "STORE" compression"#)
}

fn too_many_bytes() -> Error {
    Error::invalid(format_args!("a skill may have no more than {} MB, unpacked", MAX_SKILL_BYTES / 1024 / 1024))
}

fn too_many_files() -> Error {
    Error::invalid(format_args!("a skill may have no more than {MAX_SKILL_FILES} files"))
}

impl Source {
    /// The content of a file that has at most `most` bytes, whatever its header says.
    fn content(&mut self, at: usize, most: usize) -> Result<Bytes> {
        match self {
            Self::Files(contents) => Ok(contents[at].clone()),
            Self::Archive(archive) => {
                let file = archive.by_index(at).map_err(|_| unreadable())?;
                let mut content = Vec::new();
                file.take(most as u64 + 1).read_to_end(&mut content).map_err(|_| unreadable())?;
                if content.len() > most { Err(too_many_bytes()) } else { Ok(content.into()) }
            }
        }
    }

    /// An archive of the files, below a folder of this name.
    fn packed(&mut self, name: &str, files: &BTreeMap<String, Entry>) -> Result<Vec<u8>> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let mut left = MAX_SKILL_BYTES;
        for (path, entry) in files {
            let content = self.content(entry.at, left)?;
            left -= content.len();
            let mode = if entry.is_executable { 0o755 } else { 0o644 };
            let options =
                SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(mode);
            archive.start_file(format!("{name}/{path}"), options).map_err(Error::internal)?;
            archive.write_all(&content).map_err(Error::internal)?;
        }
        Ok(archive.finish().map_err(Error::internal)?.into_inner())
    }
}

/// The files of a source by their paths.
#[derive(Default)]
struct Files(BTreeMap<String, Entry>);

impl Files {
    fn add(&mut self, name: &str, entry: Entry) -> Result<()> {
        let path = path(name)?;
        if self.0.insert(path, entry).is_some() {
            return Err(Error::invalid(format_args!("files: {name:?} is there twice")));
        }
        if self.0.len() > MAX_SKILL_FILES { Err(too_many_files()) } else { Ok(()) }
    }

    /// The one folder that all of them are in, if there is one, and the files by their paths in it.
    fn below_their_folder(self) -> Result<(Option<String>, BTreeMap<String, Entry>)> {
        let Self(files) = self;
        // Sorted, `a/b` comes after `a`, perhaps with `a-` and `a.` between them.
        for path in files.keys() {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if let Some(file) = above.into_iter().find(|above| files.contains_key(*above)) {
                return Err(Error::invalid(format_args!("files: {file:?} is a file and a folder")));
            }
        }
        let folder = |path: &str| path.split_once('/').map(|(folder, _)| folder.to_owned());
        let first = files.keys().next().and_then(|path| folder(path));
        let Some(first) = first.filter(|first| files.keys().all(|path| folder(path).as_ref() == Some(first))) else {
            let is_below = |path: &String| path.split_once('/').is_some_and(|(_, rest)| rest == MANIFEST);
            if !files.contains_key(MANIFEST) && files.keys().any(is_below) {
                return Err(Error::invalid("files: all files must be in the same top-level directory as SKILL.md"));
            }
            return Ok((None, files));
        };
        let below = files.into_iter().map(|(path, entry)| (path[first.len() + 1..].to_owned(), entry)).collect();
        Ok((Some(first), below))
    }
}

/// The path that a file is kept under: names with `/` between them.
fn path(name: &str) -> Result<String> {
    let refused = |why: &str| Error::invalid(format_args!("files: {name:?} {why}"));
    let plain = name.replace('\\', "/");
    if plain.starts_with('/') {
        return Err(refused("is an absolute path"));
    }
    if plain.chars().any(char::is_control) {
        return Err(refused("has a control character"));
    }
    let names: Vec<&str> = plain.split('/').filter(|name| *name != ".").collect();
    if names.contains(&"..") {
        return Err(refused("leads out of the skill"));
    }
    if names.iter().any(|name| name.is_empty()) {
        return Err(refused("has an empty name"));
    }
    let path = names.join("/");
    if path.len() > MAX_SKILL_PATH || names.len() > MAX_SKILL_DEPTH {
        return Err(refused("is too long or too deep"));
    }
    if names.iter().any(|name| name.len() > MAX_SKILL_FILE_NAME) {
        return Err(refused("has a name that is too long"));
    }
    Ok(path)
}

/// A file of a kept archive.
#[derive(Debug)]
pub struct Kept {
    /// Its path below the skill's folder.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Whether it can be run.
    pub is_executable: bool,
}

/// Unpacks an archive that `Bundle` has written, one file at a time.
///
/// # Errors
/// When it is not one, or `each` fails.
pub fn unpack(archive: Vec<u8>, mut each: impl FnMut(Kept) -> Result<()>) -> Result<()> {
    let mut archive = ZipArchive::new(Cursor::new(archive)).map_err(Error::internal)?;
    for at in 0..archive.len() {
        let file = archive.by_index(at).map_err(Error::internal)?;
        let name = file.name().map_err(Error::internal)?.into_owned();
        let (_, path) = name.split_once('/').ok_or_else(|| Error::internal("a kept skill has a file in no folder"))?;
        let is_executable = file.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let mut content = Vec::new();
        file.take(MAX_SKILL_BYTES as u64).read_to_end(&mut content).map_err(Error::internal)?;
        each(Kept { path: path.to_owned(), content, is_executable })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKILL: &str = "---\nname: report\ndescription: Writes reports.\n---\nDo it.\n";

    fn upload(name: &str, content: impl Into<Bytes>) -> UploadedFile {
        UploadedFile { name: name.to_owned(), content: content.into() }
    }

    fn zipped(files: &[(&str, &str)]) -> Bytes {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            archive.start_file(*name, SimpleFileOptions::default()).unwrap();
            archive.write_all(content.as_bytes()).unwrap();
        }
        archive.finish().unwrap().into_inner().into()
    }

    fn read_zip(files: &[(&str, &str)]) -> Result<Bundle> {
        Bundle::read(vec![upload("a.zip", zipped(files))])
    }

    fn paths(bundle: Bundle) -> Vec<String> {
        let mut paths = Vec::new();
        unpack(bundle.archive, |kept| {
            paths.push(kept.path);
            Ok(())
        })
        .unwrap();
        paths
    }

    #[test]
    fn files_and_archives_of_them_make_the_same_skill() {
        let files = [("report/scripts/run.py", "print(1)"), ("report/SKILL.md", SKILL)];
        let uploaded = Bundle::read(files.map(|(name, content)| upload(name, content)).into()).unwrap();
        let archived = Bundle::read(vec![upload("any.SKILL", zipped(&files))]).unwrap();
        assert_eq!(uploaded.archive, archived.archive);
        assert_eq!((archived.name.as_str(), archived.description.as_str()), ("report", "Writes reports."));
        assert_eq!(paths(archived), ["SKILL.md", "scripts/run.py"]);
        let flat = read_zip(&[("SKILL.md", SKILL), ("a.txt", ""), ("__MACOSX/._SKILL.md", "x")]).unwrap();
        assert_eq!(paths(flat), ["SKILL.md", "a.txt"]);
    }

    #[test]
    fn a_skill_without_a_name_has_that_of_its_folder() {
        let text = "---\ndescription: d\n---\n";
        assert_eq!(read_zip(&[("monthly-report/SKILL.md", text)]).unwrap().name, "monthly-report");
        let refused = read_zip(&[("SKILL.md", text)]).unwrap_err().to_string();
        assert!(refused.starts_with("`name` and `description` must resolve"), "{refused}");
    }

    #[test]
    fn what_leads_out_of_the_skill_is_refused() {
        for (name, why) in [
            ("../SKILL.md", "leads out of the skill"),
            ("report/../../SKILL.md", "leads out of the skill"),
            ("report\\..\\x", "leads out of the skill"),
            ("/etc/passwd", "is an absolute path"),
            ("\\\\host\\x", "is an absolute path"),
            ("report//x", "has an empty name"),
            ("report/a\nb", "has a control character"),
            (&"a/".repeat(MAX_SKILL_DEPTH), "has an empty name"),
            (&format!("{}x", "a/".repeat(MAX_SKILL_DEPTH)), "too deep"),
            (&format!("report/{}", "x".repeat(MAX_SKILL_FILE_NAME + 1)), "too long"),
        ] {
            let files = vec![upload("report/SKILL.md", SKILL), upload(name, "x")];
            let refused = Bundle::read(files).unwrap_err().to_string();
            assert!(refused.contains(why), "{name:?}: {refused}");
        }
        let doubled = vec![upload("r/SKILL.md", SKILL), upload("r/./SKILL.md", "x")];
        assert!(Bundle::read(doubled).unwrap_err().to_string().ends_with("is there twice"));
        let both = vec![upload("r/SKILL.md", SKILL), upload("r/a", "x"), upload("r/a/b", "x")];
        assert!(Bundle::read(both).unwrap_err().to_string().ends_with("is a file and a folder"));
    }

    #[test]
    fn links_and_devices_in_an_archive_are_refused_and_a_fifo_is_a_file() {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("r/SKILL.md", SimpleFileOptions::default()).unwrap();
        archive.write_all(SKILL.as_bytes()).unwrap();
        archive.add_symlink("r/link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        let linked: Bytes = archive.finish().unwrap().into_inner().into();
        let refused = Bundle::read(vec![upload("a.zip", linked)]).unwrap_err().to_string();
        assert_eq!(refused, "archives must not contain symbolic links");
        let with_mode = |kind: u32| {
            let mut bytes = zipped(&[("r/SKILL.md", SKILL), ("r/x", "x")]).to_vec();
            // The attributes of the last header of the directory: the mode is in their upper half.
            let header = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
            bytes[header + 5] = 3;
            bytes[header + 38..header + 42].copy_from_slice(&((kind | 0o644) << 16).to_le_bytes());
            Bundle::read(vec![upload("a.zip", bytes)])
        };
        for device in [0o020_000, 0o060_000] {
            let refused = with_mode(device).unwrap_err().to_string();
            assert_eq!(refused, "archives must not contain devices or sockets");
        }
        assert_eq!(paths(with_mode(0o010_000).unwrap()), ["SKILL.md", "x"]);
    }

    #[test]
    fn an_archive_that_would_grow_too_much_is_refused_whatever_its_headers_say() {
        let zeros = "\0".repeat(MAX_SKILL_BYTES);
        let refused = read_zip(&[("r/SKILL.md", SKILL), ("r/zeros", &zeros)]).unwrap_err().to_string();
        assert_eq!(refused, too_many_bytes().to_string());
        let less = "\0".repeat(MAX_SKILL_BYTES / 2);
        let refused = read_zip(&[("r/SKILL.md", SKILL), ("r/zeros", &less)]).unwrap_err().to_string();
        assert!(refused.contains("times as large"), "{refused}");
        // The header of the bomb says that it has ten bytes.
        let mut bytes = zipped(&[("r/SKILL.md", SKILL), ("r/zeros", &zeros)]).to_vec();
        let header = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
        bytes[header + 24..header + 28].copy_from_slice(&10_u32.to_le_bytes());
        let refused = Bundle::read(vec![upload("a.zip", bytes)]).unwrap_err().to_string();
        let expected = [too_many_bytes().to_string(), unreadable().to_string()];
        assert!(expected.contains(&refused), "{refused}");
    }

    #[test]
    fn the_number_of_files_has_a_bound() {
        let files = |count: usize| {
            let mut files = vec![upload("r/SKILL.md", SKILL)];
            files.extend((1..count).map(|i| upload(&format!("r/{i}"), "")));
            Bundle::read(files)
        };
        assert!(files(MAX_SKILL_FILES).is_ok());
        assert_eq!(files(MAX_SKILL_FILES + 1).unwrap_err().to_string(), too_many_files().to_string());
    }

    #[test]
    fn what_is_no_archive_or_no_skill_is_refused_in_recorded_words() {
        let broken = Bundle::read(vec![upload("a.zip", "no zip")]).unwrap_err().to_string();
        assert_eq!(broken, r#"archive must be a readable, unencrypted zip using "DEFLATE" or "STORE" compression"#);
        let renamed = Bundle::read(vec![upload("r/SKILL.txt", zipped(&[("r/SKILL.md", SKILL)]))]);
        assert_eq!(renamed.unwrap_err().to_string(), "SKILL.md not found in uploaded files");
        let apart = read_zip(&[("a/SKILL.md", SKILL), ("b/x", "")]).unwrap_err().to_string();
        assert!(apart.contains("same top-level directory"), "{apart}");
    }

    #[test]
    fn names_and_descriptions_are_held_to_their_limits() {
        let read = |name: &str, description: &str| {
            let text = format!("---\nname: {name}\ndescription: {description}\n---\n");
            read_zip(&[("r/SKILL.md", &text)]).map(|bundle| bundle.name).map_err(|error| error.to_string())
        };
        let at = |count: usize| "a".repeat(count);
        assert!(read(&at(MAX_NAME), "d").is_ok());
        assert!(read(&at(MAX_NAME + 1), "d").is_err());
        assert!(read("r", &at(MAX_DESCRIPTION)).is_ok());
        assert!(read("r", &"é".repeat(MAX_DESCRIPTION)).is_ok(), "characters count, not bytes");
        assert!(read("r", &at(MAX_DESCRIPTION + 1)).is_err());
        for wrong in ["Report", "re_port", "-report", "report-", "re--port", "réport", "re.port", "a/b"] {
            let said = read(wrong, "d").unwrap_err();
            assert!(said.starts_with(&format!("Skill name '{wrong}' in SKILL.md must consist")), "{said}");
        }
    }
}
