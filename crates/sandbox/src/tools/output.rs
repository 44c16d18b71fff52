//! Bounded collection of what a tool answers: a long output goes to a file, and the answer has its beginning and its end.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::files::reason;

/// The longest output that is answered whole, in characters.
pub(super) const MAX_CHARACTERS: usize = 100_000;
/// The same in bytes, for output that is not UTF-8.
const MAX_BYTES: usize = 4 * MAX_CHARACTERS;
/// Bytes that are shown of the beginning of a longer one.
const HEAD: usize = 8 << 10;
/// Bytes that are shown of its end.
const TAIL: usize = 8 << 10;
/// The folder for the files of longer ones. It is on the session's disk, and counts there.
const FOLDER: &str = "/var/tmp/tool-output";

/// What a tool prints.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    /// All of it, or its beginning where there is a `rest`.
    head: Vec<u8>,
    characters: usize,
    total: u64,
    rest: Option<Rest>,
}

/// What follows the beginning of a long output.
#[derive(Debug)]
struct Rest {
    /// The end, so far.
    tail: VecDeque<u8>,
    path: PathBuf,
    /// Where all of it is written, or why it is not.
    whole: io::Result<File>,
}

impl Default for Output {
    fn default() -> Self {
        Self::with_files_in(Path::new(FOLDER))
    }
}

impl Output {
    fn with_files_in(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), head: Vec::new(), characters: 0, total: 0, rest: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if let Some(rest) = &mut self.rest {
            return rest.push(bytes);
        }
        self.head.extend_from_slice(bytes);
        // All bytes of UTF-8 but those that continue a character.
        self.characters += bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        if self.characters > MAX_CHARACTERS || self.head.len() > MAX_BYTES {
            let (path, file) = new_file(&self.folder);
            let mut rest = Rest { tail: VecDeque::new(), path, whole: file };
            rest.write(&self.head);
            rest.keep(&self.head[HEAD..]);
            self.head.truncate(HEAD);
            self.rest = Some(rest);
        }
    }

    /// How much was pushed in all, in bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The text, or of a long one the beginning, a line that names the file with all of it, and the end. Bytes that are not
    /// UTF-8 become `U+FFFD` in the text, and stay in the file.
    pub(crate) fn into_text(self) -> String {
        let head = String::from_utf8_lossy(&self.head);
        let Some(Rest { tail, path, whole }) = self.rest else { return head.into_owned() };
        let cut = self.total - (self.head.len() + tail.len()) as u64;
        let path = path.display();
        let place = match whole {
            Ok(_) => format!(
                "The whole output, {} bytes, is in {path}: read parts of it with view_range, or search it.",
                self.total
            ),
            Err(error) => format!("The whole output could not be kept in {path}: {}.", reason(&error)),
        };
        let tail: Vec<u8> = tail.into();
        format!("{head}\n[{cut} bytes cut here. {place}]\n{}", String::from_utf8_lossy(&tail))
    }
}

impl Rest {
    fn push(&mut self, bytes: &[u8]) {
        self.write(bytes);
        self.keep(bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Ok(file) = &mut self.whole
            && let Err(error) = file.write_all(bytes)
        {
            self.whole = Err(error);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + bytes.len()).saturating_sub(TAIL);
        self.tail.drain(..excess);
        self.tail.extend(bytes);
    }
}

/// A file that was not there, so that what is written cannot end up in one that was.
fn new_file(folder: &Path) -> (PathBuf, io::Result<File>) {
    let mut name = [0; 4];
    // Without randomness the file may be there already, and what is told is that it could not be made.
    let _ = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut name));
    let path = folder.join(format!("{:08x}.txt", u32::from_ne_bytes(name)));
    let made = fs::create_dir_all(folder)
        .and_then(|()| OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path));
    (path, made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_kept_whole_even_when_a_character_arrives_in_two_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::with_files_in(folder.path());
        output.push(&"é".as_bytes()[..1]);
        output.push(&"é".as_bytes()[1..]);
        assert_eq!(output.into_text(), "é");
        let mut output = Output::with_files_in(folder.path());
        let most = "é".repeat(MAX_CHARACTERS);
        output.push(most.as_bytes());
        assert_eq!(output.into_text(), most, "characters are counted, not bytes");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing goes to a file");
    }

    #[test]
    fn one_character_more_and_all_of_it_is_in_a_file_that_the_text_names() {
        for pieces in [1, 7, 1000] {
            let folder = tempfile::tempdir().unwrap();
            let mut output = Output::with_files_in(folder.path());
            let long = format!("first{}last", "é".repeat(MAX_CHARACTERS - 8));
            for piece in long.as_bytes().chunks(long.len().div_ceil(pieces)) {
                output.push(piece);
            }
            assert_eq!(output.total(), long.len() as u64);
            let text = output.into_text();
            let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
            assert!(text.contains(file.to_str().unwrap()) && text.starts_with("first") && text.ends_with("last"));
            assert!(text.contains(&format!("{} bytes cut here", long.len() - HEAD - TAIL)), "{}", text.len());
            assert!(text.len() < HEAD + TAIL + 300, "{}", text.len());
            assert_eq!(fs::read_to_string(file).unwrap(), long);
        }
    }

    #[test]
    fn output_that_is_no_text_is_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::with_files_in(folder.path());
        for _ in 0..50 {
            output.push(&[0x80; 10_000]);
        }
        let text = output.into_text();
        // Each of the bytes is shown as a character of three.
        assert!(text.contains("bytes cut here") && text.len() < 3 * (HEAD + TAIL) + 300, "{}", text.len());
    }

    #[test]
    fn where_no_file_can_be_made_the_text_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::write(&taken, "").unwrap();
        let mut output = Output::with_files_in(&taken);
        output.push(&vec![b'x'; MAX_CHARACTERS + 1]);
        output.push(b"y");
        let text = output.into_text();
        assert!(text.contains("could not be kept") && text.ends_with("xy"), "{}", &text[HEAD..HEAD + 200]);
    }
}
