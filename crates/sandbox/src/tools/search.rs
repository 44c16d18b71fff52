//! `glob` and `grep`: bounded walks that follow no symbolic link out of the folder they were asked for. `grep` stands on the
//! libraries of ripgrep, and decides as ripgrep does which files are searched and when one is binary.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch};
use ignore::overrides::OverrideBuilder;
use ignore::types::TypesBuilder;
use ignore::{DirEntry, WalkBuilder};

use super::files::{open_ordinary, reason, resolve};
use super::{Grep, GrepMode, WORKSPACE};

/// The most paths that `glob` answers with, and keeps while it looks. As in the hosted service, no word says that there are more.
const MAX_GLOB_RESULTS: usize = 100;
/// The most bytes of paths that `glob` answers with.
const MAX_GLOB_OUTPUT: usize = 100 << 10;
/// The most bytes that `grep` answers with, or puts into a file where that is too long to be shown.
const MAX_GREP_OUTPUT: usize = 8 << 20;
/// The most bytes of one matching line that are shown.
const MAX_GREP_LINE: usize = 2000;
/// Memory that one compiled expression may take, in bytes.
const MAX_SEARCH_MEMORY: usize = 8 << 20;
/// Memory that the search of one file may take, in bytes: a line, or a whole file where matches go over several lines. A file tool has
/// more than that. What does not fit is searched as far as it does.
const MAX_FILE_MEMORY: usize = 128 << 20;

/// What a walk may take. What was found until then is answered, with a word that there may be more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Files and folders that are looked at.
    entries: usize,
    /// How long it goes on: less than a file tool has.
    time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 500_000, time: Duration::from_secs(45) }
    }
}

/// A walk that ends at its bounds.
struct Walked<I> {
    entries: I,
    bounds: Bounds,
    began: Instant,
    seen: usize,
    /// Why it has ended before its end.
    cut: Option<String>,
}

impl<I: Iterator<Item = DirEntry>> Walked<I> {
    fn new(entries: I, bounds: Bounds) -> Self {
        Self { entries, bounds, began: Instant::now(), seen: 0, cut: None }
    }

    fn next(&mut self) -> Option<DirEntry> {
        let entry = self.entries.next()?;
        let Bounds { entries, time } = self.bounds;
        let bound = match (self.seen >= entries, self.began.elapsed() >= time) {
            (true, _) => format!("{entries} files and folders"),
            (_, true) => format!("{} seconds", time.as_secs()),
            _ => {
                self.seen += 1;
                return Some(entry);
            }
        };
        self.cut = Some(format!("[stopped after {bound}: there may be more. Search a smaller folder]\n"));
        None
    }
}

/// The path as text, safe to print: one line, valid UTF-8.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains(|c: char| c.is_control()) {
        return text
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
            .collect();
    }
    text.into_owned()
}

fn root_of(path: Option<&str>) -> Result<PathBuf, String> {
    let root = resolve(path.unwrap_or(WORKSPACE));
    root.metadata().map_err(|error| format!("{}: {}", shown(&root), reason(&error)))?;
    Ok(root)
}

/// Everything below `root`, hidden files too, in a fixed order.
fn builder(root: &Path) -> WalkBuilder {
    let mut builder = WalkBuilder::new(root);
    builder.standard_filters(false).follow_links(false).sort_by_file_name(Ord::cmp);
    builder
}

fn matcher_of(pattern: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    Ok(glob.map_err(|error| format!("invalid pattern: {error}"))?.compile_matcher())
}

/// Lists paths, newest first.
pub(super) fn glob(pattern: &str, path: Option<&str>, bounds: Bounds) -> Result<String, String> {
    if pattern.starts_with('/') {
        return Err("the pattern must be relative: give the folder as path".to_owned());
    }
    let root = root_of(path)?;
    let matcher = matcher_of(pattern.strip_prefix("./").unwrap_or(pattern))?;
    // The newest so far, the one to go first on top.
    let mut newest: BinaryHeap<(Reverse<i64>, PathBuf)> = BinaryHeap::new();
    let mut walked = Walked::new(builder(&root).build().filter_map(Result::ok), bounds);
    while let Some(entry) = walked.next() {
        if entry.depth() == 0 || !entry.path().strip_prefix(&root).is_ok_and(|below| matcher.is_match(below)) {
            continue;
        }
        newest.push((Reverse(entry.metadata().map_or(0, |meta| meta.mtime())), entry.into_path()));
        if newest.len() > MAX_GLOB_RESULTS {
            newest.pop();
        }
    }
    let cut = walked.cut.unwrap_or_default();
    if newest.is_empty() {
        return Ok(if cut.is_empty() { "No files found".to_owned() } else { cut });
    }
    let (kept, mut listed) = (newest.len(), 0);
    let mut text = String::new();
    for (_, path) in newest.into_sorted_vec() {
        let line = shown(&path) + "\n";
        if text.len() + line.len() > MAX_GLOB_OUTPUT {
            break;
        }
        text.push_str(&line);
        listed += 1;
    }
    if listed < kept {
        text.push_str(&format!("[{} more not shown]\n", kept - listed));
    }
    Ok(text + &cut)
}

/// The lines of an answer of `grep`: those after the first `skipped`, at most `left`.
struct Lines {
    skipped: usize,
    left: usize,
    text: String,
}

impl Lines {
    /// Whether there may be more.
    fn add(&mut self, line: &str) -> bool {
        if self.skipped > 0 {
            self.skipped -= 1;
        } else if self.left > 0 {
            self.left -= 1;
            self.text.push_str(line);
            self.text.push('\n');
        }
        self.left > 0 && self.text.len() <= MAX_GREP_OUTPUT
    }
}

/// Collects one file's matches.
struct Matches<'a> {
    path: &'a str,
    mode: GrepMode,
    line_numbers: bool,
    count: u64,
    /// Where the first byte is that no text has.
    binary_at: Option<u64>,
    lines: &'a mut Lines,
}

impl Matches<'_> {
    /// Adds lines of the file, the first of which has the number `first`. What stands after the path and the number says
    /// whether they match.
    fn add(&mut self, bytes: &[u8], first: Option<u64>, sign: char) -> bool {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        text.split(|byte| *byte == b'\n').zip(first.unwrap_or(1)..).all(|(line, number)| {
            let line = line.trim_ascii_end();
            let kept = &line[..line.len().min(MAX_GREP_LINE)];
            let mut shown = format!("{}{sign}", self.path);
            if self.line_numbers {
                shown.push_str(&format!("{number}{sign}"));
            }
            shown.push_str(&String::from_utf8_lossy(kept));
            if kept.len() < line.len() {
                shown.push_str(&format!(" [{} bytes cut]", line.len() - kept.len()));
            }
            self.lines.add(&shown)
        })
    }
}

impl Sink for Matches<'_> {
    type Error = io::Error;

    fn matched(&mut self, searcher: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        self.count += 1;
        if self.binary_at.is_some() && searcher.binary_detection().convert_byte().is_some() {
            // That there is a match is all that is said of a binary file.
            return Ok(false);
        }
        Ok(match self.mode {
            GrepMode::Content => self.add(found.bytes(), found.line_number(), ':'),
            GrepMode::Count => true,
            GrepMode::FilesWithMatches => false,
        })
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, Self::Error> {
        Ok(self.add(context.bytes(), context.line_number(), '-'))
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, Self::Error> {
        Ok(self.lines.add("--"))
    }

    fn binary_data(&mut self, _: &Searcher, offset: u64) -> Result<bool, Self::Error> {
        self.binary_at.get_or_insert(offset);
        Ok(true)
    }

    fn finish(&mut self, searcher: &Searcher, end: &SinkFinish) -> Result<(), Self::Error> {
        self.binary_at = self.binary_at.or(end.binary_byte_offset());
        let Some(offset) = self.binary_at.filter(|_| self.count > 0) else { return Ok(()) };
        let stops = searcher.binary_detection().quit_byte().is_some();
        match self.mode {
            GrepMode::Content if stops => {
                let words = "stopped searching binary file after match";
                self.lines.add(&format!("{}: {words} (found \"\\0\" byte around offset {offset})", self.path));
            }
            GrepMode::Content => {
                let words = "binary file matches";
                self.lines.add(&format!("{}: {words} (found \"\\0\" byte around offset {offset})", self.path));
            }
            // A binary file that nobody named has no matches.
            GrepMode::Count | GrepMode::FilesWithMatches if stops => self.count = 0,
            GrepMode::Count | GrepMode::FilesWithMatches => {}
        }
        Ok(())
    }
}

/// The files below `root` that ripgrep would search with `--hidden --glob '!.git'`: all but those that `.gitignore`, `.ignore`
/// and `.rgignore` name. A `glob` goes before these, a `type` behind them.
fn searched(root: &Path, grep: &Grep) -> Result<WalkBuilder, String> {
    let mut builder = builder(root);
    builder.parents(true).ignore(true).git_ignore(true).git_exclude(true).add_custom_ignore_filename(".rgignore");
    builder.filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git");
    if let Some(glob) = &grep.glob {
        let mut overrides = OverrideBuilder::new(root);
        overrides.add(glob).map_err(|error| format!("invalid pattern: {error}"))?;
        builder.overrides(overrides.build().map_err(|error| format!("invalid pattern: {error}"))?);
    }
    if let Some(file_type) = &grep.file_type {
        let mut types = TypesBuilder::new();
        types.add_defaults().select(file_type);
        builder.types(types.build().map_err(|error| format!("type: {error}"))?);
    }
    Ok(builder)
}

/// Searches one file, or every file below a folder.
pub(super) fn grep(grep: &Grep, bounds: Bounds) -> Result<String, String> {
    let root = root_of(grep.path.as_deref())?;
    let mut matcher = RegexMatcherBuilder::new();
    matcher.size_limit(MAX_SEARCH_MEMORY).dfa_size_limit(MAX_SEARCH_MEMORY).multi_line(true);
    matcher.case_insensitive(grep.ignore_case).dot_matches_new_line(grep.multiline);
    let matcher = matcher.build(&grep.pattern).map_err(|error| format!("invalid regular expression: {error}"))?;
    let in_content = |lines: usize| if grep.output_mode == GrepMode::Content { lines } else { 0 };
    // A file that was named is searched also where it is binary, as ripgrep does it.
    let binary = if root.is_dir() { BinaryDetection::quit(0) } else { BinaryDetection::convert(0) };
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .multi_line(grep.multiline)
        .before_context(in_content(grep.before))
        .after_context(in_content(grep.after))
        .binary_detection(binary)
        .heap_limit(Some(MAX_FILE_MEMORY))
        .build();
    let mut lines = Lines { skipped: grep.offset, left: grep.head_limit.unwrap_or(usize::MAX), text: String::new() };
    let mut walked = Walked::new(searched(&root, grep)?.build().filter_map(Result::ok), bounds);
    while let Some(entry) = walked.next() {
        let at_root = entry.depth() == 0;
        if at_root && root.is_dir() || !at_root && !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        search_file(&mut searcher, &matcher, entry.path(), grep, &mut lines)
            .or_else(|why| if at_root { Err(why) } else { Ok(()) })?;
        if lines.text.len() > MAX_GREP_OUTPUT {
            lines.text.truncate(lines.text.floor_char_boundary(MAX_GREP_OUTPUT));
            lines.text.push_str(&format!("\n[output cut at {MAX_GREP_OUTPUT} bytes]\n"));
            break;
        }
        if lines.left == 0 {
            break;
        }
    }
    let text = lines.text + &walked.cut.unwrap_or_default();
    Ok(if text.is_empty() { "no matches".to_owned() } else { text })
}

fn search_file(
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    path: &Path,
    grep: &Grep,
    lines: &mut Lines,
) -> Result<(), String> {
    let file = open_ordinary(path, OpenOptions::new().read(true))?;
    let name = shown(path);
    let (mode, line_numbers) = (grep.output_mode, grep.line_numbers);
    let mut found = Matches { path: &name, mode, line_numbers, count: 0, binary_at: None, lines };
    // A file that cannot be read to its end still gives the matches found so far.
    let _ = searcher.search_file(matcher, &file, &mut found);
    let count = found.count;
    match mode {
        GrepMode::FilesWithMatches if count > 0 => drop(lines.add(&name)),
        GrepMode::Count if count > 0 => drop(lines.add(&format!("{name}:{count}"))),
        GrepMode::Content | GrepMode::FilesWithMatches | GrepMode::Count => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder of the host with these files; the one that is called `.git` makes it a repository.
    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn call(pattern: &str, below: &Path) -> Grep {
        Grep {
            pattern: pattern.to_owned(),
            path: Some(below.to_str().unwrap().to_owned()),
            glob: None,
            file_type: None,
            output_mode: GrepMode::FilesWithMatches,
            line_numbers: true,
            before: 0,
            after: 0,
            ignore_case: false,
            multiline: false,
            offset: 0,
            head_limit: None,
        }
    }

    /// The answer, with paths below `folder`.
    fn found(folder: &Path, grep: &Grep) -> String {
        super::grep(grep, Bounds::default()).unwrap().replace(&format!("{}/", folder.display()), "")
    }

    #[test]
    fn what_ripgrep_ignores_is_not_searched_unless_it_is_named() {
        let folder = tree(&[
            (".git/config", b"needle"),
            (".gitignore", b"built/\n*.log\n!kept.log\n"),
            (".ignore", b"vendor\n"),
            ("built/a.txt", b"needle"),
            ("a.log", b"needle"),
            ("kept.log", b"needle"),
            ("vendor/b.txt", b"needle"),
            (".hidden/c.txt", b"needle"),
            ("node_modules/d.js", b"needle"),
            ("src/.gitignore", b"e.txt\n"),
            ("src/e.txt", b"needle"),
            ("src/f.txt", b"needle"),
        ]);
        let root = folder.path();
        let plain = call("needle", root);
        assert_eq!(found(root, &plain), ".hidden/c.txt\nkept.log\nnode_modules/d.js\nsrc/f.txt\n");
        let rows = [
            ("*.log", "a.log\nkept.log\n", "a glob goes before what is ignored"),
            ("!*.txt", "kept.log\nnode_modules/d.js\n", "all but these"),
            ("src/*.txt", "src/e.txt\nsrc/f.txt\n", "one with a folder begins where the search does"),
            ("*.{js,log}", "a.log\nkept.log\nnode_modules/d.js\n", "one of several"),
            ("f.txt", "src/f.txt\n", "one without is of any folder"),
        ];
        for (glob, expected, why) in rows {
            let with_glob = Grep { glob: Some(glob.to_owned()), ..plain.clone() };
            assert_eq!(found(root, &with_glob), expected, "{glob}: {why}");
        }
        for named in ["a.log", "built", "vendor"] {
            let inside = call("needle", &root.join(named));
            assert!(found(root, &inside).starts_with(named), "{named}");
        }
        fs::remove_dir_all(root.join(".git")).unwrap();
        assert!(found(root, &plain).contains("built/a.txt"), "without a repository there is no .gitignore");
    }

    #[test]
    fn binary_files_are_told_from_text_as_ripgrep_does_it() {
        let late = [&b"needle\n"[..], &vec![b'x'; 100_000], b"\n\0needle\n"].concat();
        let folder = tree(&[("early", b"\0needle\n"), ("late", &late), ("text", b"a needle\n")]);
        let root = folder.path();
        let of = |mode, path: &str| {
            let path = if path.is_empty() { root.to_owned() } else { root.join(path) };
            found(root, &Grep { output_mode: mode, ..call("needle", &path) })
        };
        let content = of(GrepMode::Content, "");
        assert!(
            content.starts_with("late:1:needle\nlate: stopped searching binary file after match (found"),
            "{content}"
        );
        assert!(content.ends_with("text:1:a needle\n"), "{content}");
        assert_eq!(of(GrepMode::Count, ""), "text:1\n");
        let named = of(GrepMode::Content, "early");
        assert_eq!(named, "early: binary file matches (found \"\\0\" byte around offset 0)\n");
        assert_eq!(of(GrepMode::FilesWithMatches, "early"), "early\n");
        assert_eq!(of(GrepMode::Content, "text"), "text:1:a needle\n");
    }

    #[test]
    fn a_long_line_is_cut_and_a_long_file_is_searched_to_its_end() {
        let long = ["x".repeat(20 << 20), "\n".to_owned(), "needle\n".to_owned()].concat();
        let folder = tree(&[("long", long.as_bytes()), ("wide", format!("needle{}", "y".repeat(5000)).as_bytes())]);
        let root = folder.path();
        let content = Grep { output_mode: GrepMode::Content, ..call("needle", root) };
        let answer = found(root, &content);
        assert!(answer.starts_with("long:2:needle\n"), "{}", &answer[..50]);
        let wide = answer.lines().find(|line| line.starts_with("wide:1:needle")).unwrap();
        assert!(wide.ends_with(" [3006 bytes cut]"), "{}", &wide[wide.len() - 30..]);
    }

    #[test]
    fn a_hundred_thousand_files_are_searched_and_listed() {
        let folder = tree(&[("0/a.txt", b"straw\n"), ("0/needle.txt", b"needle\n")]);
        let root = folder.path();
        // Names of one file cost less than files.
        for number in 1..100 {
            let here = root.join(number.to_string());
            fs::create_dir(&here).unwrap();
            fs::write(here.join("0"), "straw\n").unwrap();
            for link in 1..1010 {
                fs::hard_link(here.join("0"), here.join(link.to_string())).unwrap();
            }
        }
        // A machine may be as slow as it likes: what is shown is that the bound is not one of files.
        let bounds = Bounds { time: Duration::MAX, ..Bounds::default() };
        let searched = super::grep(&call("needle", root), bounds).unwrap();
        assert_eq!(searched, format!("{}/0/needle.txt\n", root.display()));
        assert_eq!(glob("**/needle.*", root.to_str(), bounds).unwrap(), searched);
    }

    #[test]
    fn what_was_found_at_a_bound_is_answered_with_a_word_that_there_may_be_more() {
        let names: Vec<String> = (100..200).map(|number| format!("{number}.txt")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"needle"[..])).collect();
        let folder = tree(&files);
        let root = folder.path();
        let few = Bounds { entries: 11, ..Bounds::default() };
        let cut = "[stopped after 11 files and folders: there may be more. Search a smaller folder]\n";
        let answer = super::grep(&call("needle", root), few).unwrap();
        assert!(answer.ends_with(cut) && answer.lines().count() == 11, "{answer}");
        let listed = glob("*.txt", root.to_str(), few).unwrap();
        assert!(listed.ends_with(cut) && listed.lines().count() == 11, "{listed}");
        let late = Bounds { time: Duration::ZERO, ..Bounds::default() };
        for answer in [super::grep(&call("needle", root), late), glob("*", root.to_str(), late)] {
            assert_eq!(answer.unwrap(), "[stopped after 0 seconds: there may be more. Search a smaller folder]\n");
        }
    }
}
