//! `read`, `write` and `edit`: ordinary files only, opened without waiting and checked on the open descriptor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::media::{self, Media};
use super::output::MAX_CHARACTERS;
use super::{MAX_WRITE, WORKSPACE};

/// The longest file that `read` reads whole or that `edit` takes, and the longest line that `read` shows, in bytes.
const MAX_READ: u64 = 256 << 10;
/// What `read` keeps of its answer for the note that there is more, in characters.
const NOTE: usize = 200;
/// `statfs` type of `/proc`: its files look ordinary and are not.
const PROC_MAGIC: i64 = 0x9fa0;

/// Where a path of the model's leads.
pub(super) fn resolve(path: &str) -> PathBuf {
    Path::new(WORKSPACE).join(path)
}

/// The reason of an I/O error in plain words.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::ENOTDIR) => "a part of the path is not a directory".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::EACCES | libc::EPERM) => "permission denied".to_owned(),
        Some(libc::EROFS) => "the file system is read-only here".to_owned(),
        Some(libc::ELOOP) => "too many levels of symbolic links".to_owned(),
        Some(libc::ENOSPC | libc::EDQUOT) => "no space left".to_owned(),
        Some(libc::EFBIG) => "the file would be larger than the disk limit".to_owned(),
        Some(libc::ENAMETOOLONG) => "the path is too long".to_owned(),
        Some(libc::ENXIO) => "not an ordinary file".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}

/// Opens what must turn out to be an ordinary file. `O_NONBLOCK` keeps a FIFO from holding the call.
pub(super) fn open_ordinary(path: &Path, options: &mut OpenOptions) -> Result<File, String> {
    let shown = path.display();
    let file = options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| format!("{shown}: {}", reason(&error)))?;
    let kind = file.metadata().map_err(|error| format!("{shown}: {}", reason(&error)))?.file_type();
    if kind.is_dir() {
        return Err(format!("{shown}: is a directory"));
    }
    let of_proc = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == PROC_MAGIC);
    if !kind.is_file() || of_proc {
        return Err(format!("{shown}: not an ordinary file"));
    }
    Ok(file)
}

/// What a file is for a model.
pub(super) enum Content {
    Text(String),
    Media(Media),
}

/// Answers with the file's lines, each after its number and a tab, or with the image or PDF that it is.
pub(super) fn read(path: &str, view_range: Option<(i64, i64)>) -> Result<Content, String> {
    let path = resolve(path);
    let file = open_ordinary(&path, OpenOptions::new().read(true))?;
    let shown = path.display();
    let size = file.metadata().map_err(|error| format!("{shown}: {}", reason(&error)))?.len();
    let mut beginning = [0; media::BEGINNING];
    let got = file.read_at(&mut beginning, 0).map_err(|error| format!("{shown}: {}", reason(&error)))?;
    if let Some((kind, most)) = media::kind_of(&beginning[..got]) {
        return whole(&file, kind, most).map(Content::Media).map_err(|why| format!("{shown} {why}"));
    }
    if view_range.is_none() && size > MAX_READ {
        return Err(format!(
            "{shown} is {size} bytes; at most {MAX_READ} are read at once. Use view_range, for example [1, 500]."
        ));
    }
    let (first, last) = view_range.unwrap_or((1, 0));
    let first = first.max(1) as u64;
    let last = if last <= 0 { u64::MAX } else { last as u64 };
    let text = numbered_lines(file, first, last).map_err(|why| format!("{shown}: {why}"))?;
    if text.is_empty() && size > 0 {
        return Err(format!("{shown} has no line {first}"));
    }
    Ok(Content::Text(text))
}

/// An image or a PDF. It may grow while it is read.
fn whole(file: &File, kind: &str, most: u64) -> Result<Media, String> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content).map_err(|error| format!("cannot be read: {}", reason(&error)))?;
    if content.len() as u64 > most {
        return Err(format!("({kind}) is larger than {most} bytes, the most that is read: make it smaller first"));
    }
    Ok(Media::new(kind, &content))
}

fn numbered_lines(file: File, first: u64, last: u64) -> Result<String, String> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut text = String::new();
    let mut characters = 0;
    let mut line = Vec::new();
    let mut number = 0;
    while number < last {
        line.clear();
        // One line may be longer than all that may be answered: read no more of it than that.
        let got = (&mut reader).take(MAX_READ + 1).read_until(b'\n', &mut line).map_err(|error| reason(&error))?;
        if got == 0 {
            break;
        }
        number += 1;
        if number < first {
            if got as u64 > MAX_READ {
                return Err(format!("line {number} is longer than {MAX_READ} bytes"));
            }
            continue;
        }
        let line = std::str::from_utf8(line.strip_suffix(b"\n").unwrap_or(&line))
            .ok()
            .filter(|line| !line.contains('\0'))
            .ok_or("not a text file (it is not valid UTF-8)")?;
        let line = format!("{number}\t{line}\n");
        characters += line.chars().count();
        if characters > MAX_CHARACTERS - NOTE {
            if text.is_empty() {
                text.extend(line.chars().take(MAX_CHARACTERS - NOTE));
                text.push_str(&format!("\n[line {number} goes on]\n"));
            } else {
                text.push_str(&format!("[cut here: go on with view_range [{number}, …]]\n"));
            }
            break;
        }
        text.push_str(&line);
    }
    Ok(text)
}

/// Replaces or creates a file.
pub(super) fn write(path: &str, content: &str) -> Result<String, String> {
    let path = resolve(path);
    let shown = path.display();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| format!("{}: {}", parent.display(), reason(&error)))?;
    }
    // Not truncated by the open: what is there may turn out not to be an ordinary file.
    let file = open_ordinary(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
    replace_content(file, content).map_err(|error| format!("{shown}: {}", reason(&error)))?;
    Ok(format!("wrote {} bytes to {shown}", content.len()))
}

fn replace_content(mut file: File, content: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(content.as_bytes())
}

/// Replaces text in a file.
pub(super) fn edit(path: &str, old: &str, new: &str, replace_all: bool) -> Result<String, String> {
    let path = resolve(path);
    let shown = path.display();
    let mut file = open_ordinary(&path, OpenOptions::new().read(true).write(true))?;
    let mut text = Vec::new();
    (&file).take(MAX_READ + 1).read_to_end(&mut text).map_err(|error| format!("{shown}: {}", reason(&error)))?;
    if text.len() as u64 > MAX_READ {
        return Err(format!("{shown} is larger than {MAX_READ} bytes, the most that edit takes"));
    }
    let text = String::from_utf8(text).map_err(|_| format!("{shown}: not a text file (it is not valid UTF-8)"))?;
    let count = text.matches(old).count();
    match count {
        0 => return Err(format!("old_string was not found in {shown}")),
        1 => {}
        _ if replace_all => {}
        _ => return Err(format!("old_string occurs {count} times in {shown}: make it unique or set replace_all")),
    }
    let size = text.len() - count * old.len() + count * new.len();
    if size > MAX_WRITE {
        return Err(format!("{shown} would be {size} bytes; the most is {MAX_WRITE}"));
    }
    let edited = text.replace(old, new);
    io::Seek::rewind(&mut file)
        .and_then(|()| replace_content(file, &edited))
        .map_err(|error| format!("{shown}: {}", reason(&error)))?;
    Ok(format!("edited {shown} ({count} replaced)"))
}
