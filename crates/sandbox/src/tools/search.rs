//! `glob` and `grep`: bounded walks that follow no symbolic link out of the folder they were asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use ignore::types::{Types, TypesBuilder};
use ignore::{DirEntry, WalkBuilder};

use super::files::{open_ordinary, reason, resolve};
use super::{Grep, GrepMode, WORKSPACE};

/// The most paths that `glob` answers with, and keeps while it looks. As in the hosted service, no word says that there are more.
const MAX_GLOB_RESULTS: usize = 100;
/// The most bytes of paths that `glob` answers with.
const MAX_GLOB_OUTPUT: usize = 100 << 10;
/// The most entries that one walk looks at.
const MAX_WALKED: usize = 200_000;
/// The most bytes that `grep` answers with.
const MAX_GREP_OUTPUT: usize = 100 << 10;
/// The most bytes of one matching line that are shown.
const MAX_GREP_LINE: usize = 2000;
/// Memory that one file's search, or one compiled expression, may take, in bytes.
const MAX_SEARCH_MEMORY: usize = 8 << 20;
/// Folders that a search skips.
const SKIPPED: [&str; 2] = [".git", "node_modules"];

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
fn walk(root: &Path, skip: &'static [&'static str]) -> impl Iterator<Item = DirEntry> {
    WalkBuilder::new(root)
        .standard_filters(false)
        .follow_links(false)
        .sort_by_file_name(Ord::cmp)
        .filter_entry(move |entry| entry.depth() == 0 || !skip.iter().any(|name| entry.file_name() == *name))
        .build()
        .filter_map(Result::ok)
        .take(MAX_WALKED)
}

fn matcher_of(pattern: &str, whole_path: bool) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(pattern).literal_separator(whole_path).backslash_escape(true).build();
    Ok(glob.map_err(|error| format!("invalid pattern: {error}"))?.compile_matcher())
}

/// Lists paths, newest first.
pub(super) fn glob(pattern: &str, path: Option<&str>) -> Result<String, String> {
    if pattern.starts_with('/') {
        return Err("the pattern must be relative: give the folder as path".to_owned());
    }
    let root = root_of(path)?;
    let matcher = matcher_of(pattern.strip_prefix("./").unwrap_or(pattern), true)?;
    // The newest so far, the one to go first on top.
    let mut newest: BinaryHeap<(Reverse<i64>, PathBuf)> = BinaryHeap::new();
    for entry in walk(&root, &[]).filter(|entry| entry.depth() > 0) {
        if !entry.path().strip_prefix(&root).is_ok_and(|below| matcher.is_match(below)) {
            continue;
        }
        newest.push((Reverse(entry.metadata().map_or(0, |meta| meta.mtime())), entry.into_path()));
        if newest.len() > MAX_GLOB_RESULTS {
            newest.pop();
        }
    }
    if newest.is_empty() {
        return Ok("No files found".to_owned());
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
    Ok(text)
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
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        self.count += 1;
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
}

fn types_of(file_type: &str) -> Result<Types, String> {
    let mut types = TypesBuilder::new();
    types.add_defaults().select(file_type);
    types.build().map_err(|error| format!("type: {error}"))
}

/// Searches one file, or every file below a folder.
pub(super) fn grep(grep: &Grep) -> Result<String, String> {
    let root = root_of(grep.path.as_deref())?;
    let mut matcher = RegexMatcherBuilder::new();
    matcher.size_limit(MAX_SEARCH_MEMORY).dfa_size_limit(MAX_SEARCH_MEMORY).multi_line(true);
    matcher.case_insensitive(grep.ignore_case).dot_matches_new_line(grep.multiline);
    let matcher = matcher.build(&grep.pattern).map_err(|error| format!("invalid regular expression: {error}"))?;
    let names = grep.glob.as_deref().map(|glob| matcher_of(glob, false)).transpose()?;
    let types = grep.file_type.as_deref().map(types_of).transpose()?;
    let in_content = |lines: usize| if grep.output_mode == GrepMode::Content { lines } else { 0 };
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .multi_line(grep.multiline)
        .before_context(in_content(grep.before))
        .after_context(in_content(grep.after))
        .binary_detection(BinaryDetection::quit(0))
        .heap_limit(Some(MAX_SEARCH_MEMORY))
        .build();
    let mut lines = Lines { skipped: grep.offset, left: grep.head_limit.unwrap_or(usize::MAX), text: String::new() };
    for entry in walk(&root, &SKIPPED) {
        let at_root = entry.depth() == 0;
        if !at_root && !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        if at_root && root.is_dir() {
            continue;
        }
        let below = entry.path().strip_prefix(&root).unwrap_or(entry.path());
        let is_named = names.as_ref().is_none_or(|names| names.is_match(below) || names.is_match(entry.file_name()));
        let is_of_type = types.as_ref().is_none_or(|types| types.matched(entry.path(), false).is_whitelist());
        if !(at_root || is_named && is_of_type) {
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
    Ok(if lines.text.is_empty() { "no matches".to_owned() } else { lines.text })
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
    let mut found = Matches { path: &name, mode, line_numbers, count: 0, lines };
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
