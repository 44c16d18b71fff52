//! `glob` and `grep`: bounded walks that follow no symbolic link out of the folder they were asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::{DirEntry, WalkBuilder};

use super::files::{open_ordinary, reason, resolve};
use super::{GrepMode, WORKSPACE};

/// The most paths that `glob` answers with, and keeps while it looks.
const MAX_GLOB_RESULTS: usize = 200;
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
    let mut found = 0;
    for entry in walk(&root, &[]).filter(|entry| entry.depth() > 0) {
        if !entry.path().strip_prefix(&root).is_ok_and(|below| matcher.is_match(below)) {
            continue;
        }
        found += 1;
        newest.push((Reverse(entry.metadata().map_or(0, |meta| meta.mtime())), entry.into_path()));
        if newest.len() > MAX_GLOB_RESULTS {
            newest.pop();
        }
    }
    if found == 0 {
        return Ok("no matches".to_owned());
    }
    let mut text = String::new();
    let mut listed = 0;
    for (_, path) in newest.into_sorted_vec() {
        let line = shown(&path) + "\n";
        if text.len() + line.len() > MAX_GLOB_OUTPUT {
            break;
        }
        text.push_str(&line);
        listed += 1;
    }
    if listed < found {
        text.push_str(&format!("[{} more not shown]\n", found - listed));
    }
    Ok(text)
}

/// Collects one file's matches.
struct Matches<'a> {
    path: &'a str,
    mode: GrepMode,
    count: u64,
    text: &'a mut String,
}

impl Sink for Matches<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        self.count += 1;
        if self.mode != GrepMode::Content {
            return Ok(self.mode == GrepMode::Count);
        }
        let line = found.bytes().trim_ascii_end();
        let kept = &line[..line.len().min(MAX_GREP_LINE)];
        let number = found.line_number().unwrap_or(0);
        self.text.push_str(&format!("{}:{number}:{}", self.path, String::from_utf8_lossy(kept)));
        if kept.len() < line.len() {
            self.text.push_str(&format!(" [{} bytes cut]", line.len() - kept.len()));
        }
        self.text.push('\n');
        Ok(self.text.len() <= MAX_GREP_OUTPUT)
    }
}

/// Searches one file, or every file below a folder.
pub(super) fn grep(pattern: &str, path: Option<&str>, glob: Option<&str>, mode: GrepMode) -> Result<String, String> {
    let root = root_of(path)?;
    let matcher = RegexMatcherBuilder::new()
        .size_limit(MAX_SEARCH_MEMORY)
        .dfa_size_limit(MAX_SEARCH_MEMORY)
        .build(pattern)
        .map_err(|error| format!("invalid regular expression: {error}"))?;
    let names = glob.map(|glob| matcher_of(glob, false)).transpose()?;
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .binary_detection(BinaryDetection::quit(0))
        .heap_limit(Some(MAX_SEARCH_MEMORY))
        .build();
    let mut text = String::new();
    for entry in walk(&root, &SKIPPED) {
        let at_root = entry.depth() == 0;
        if !at_root && !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        if at_root && root.is_dir() {
            continue;
        }
        let below = entry.path().strip_prefix(&root).unwrap_or(entry.path());
        if names.as_ref().is_some_and(|names| !at_root && !names.is_match(below) && !names.is_match(entry.file_name()))
        {
            continue;
        }
        search_file(&mut searcher, &matcher, entry.path(), mode, &mut text)
            .or_else(|why| if at_root { Err(why) } else { Ok(()) })?;
        if text.len() > MAX_GREP_OUTPUT {
            text.truncate(text.floor_char_boundary(MAX_GREP_OUTPUT));
            text.push_str(&format!("\n[output cut at {MAX_GREP_OUTPUT} bytes]\n"));
            break;
        }
    }
    Ok(if text.is_empty() { "no matches".to_owned() } else { text })
}

fn search_file(
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    path: &Path,
    mode: GrepMode,
    text: &mut String,
) -> Result<(), String> {
    let file = open_ordinary(path, OpenOptions::new().read(true))?;
    let name = shown(path);
    let mut found = Matches { path: &name, mode, count: 0, text };
    // A file that cannot be read to its end still gives the matches found so far.
    let _ = searcher.search_file(matcher, &file, &mut found);
    let count = found.count;
    match mode {
        GrepMode::FilesWithMatches if count > 0 => text.push_str(&format!("{name}\n")),
        GrepMode::Count if count > 0 => text.push_str(&format!("{name}:{count}\n")),
        GrepMode::Content | GrepMode::FilesWithMatches | GrepMode::Count => {}
    }
    Ok(())
}
