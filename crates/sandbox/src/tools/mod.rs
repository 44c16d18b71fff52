//! The built-in tools: what a model may call, and how each call is carried out inside the fence.

mod files;
mod media;
mod output;
mod search;

pub use media::Media;
pub(crate) use output::Output;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use files::Content;

/// The folder that relative paths start from, and that the shell starts in.
pub(crate) const WORKSPACE: &str = "/workspace";
/// How long a command may run unless the call says otherwise, in milliseconds.
pub(crate) const BASH_DEFAULT_TIMEOUT_MS: u64 = 120_000;
/// The longest time that a call may ask for, in milliseconds.
pub(crate) const BASH_MAX_TIMEOUT_MS: u64 = 600_000;
/// The longest command, in bytes.
pub(crate) const MAX_COMMAND: usize = 1 << 20;
/// The longest file that `write` takes and `edit` makes, in bytes.
pub(crate) const MAX_WRITE: usize = 4 << 20;

/// The longest path that a file can be reached by, in bytes: the kernel's `PATH_MAX`, without the NUL.
const MAX_PATH: usize = 4095;
/// The most that is said about arguments that do not fit, in bytes.
const MAX_COMPLAINT: usize = 1000;
/// The longest pattern of `glob` and `grep`, in bytes.
const MAX_PATTERN: usize = 16 << 10;
/// The most lines that `grep` shows before a match, and after it.
const MAX_CONTEXT: usize = 1000;

/// One call of a built-in tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolCall {
    /// Run a command in the session's shell, or restart that shell.
    Bash {
        /// The command. Absent only when `restart` is true.
        command: Option<String>,
        /// How long it may run, in milliseconds: at most 600,000; absent or 0 means 120,000.
        timeout_ms: Option<u64>,
        /// End the shell and start a new one.
        restart: bool,
    },
    /// Read a text file, an image or a PDF.
    Read {
        /// Absolute, or relative to `/workspace`.
        file_path: String,
        /// First and last line, counted from 1; a last line of 0 or less means the end of the file.
        view_range: Option<(i64, i64)>,
    },
    /// Write a whole file; its folders are created.
    Write {
        /// Absolute, or relative to `/workspace`.
        file_path: String,
        /// The file's new content.
        content: String,
    },
    /// Replace text in a file.
    Edit {
        /// Absolute, or relative to `/workspace`.
        file_path: String,
        /// The text to find; it must occur exactly once unless `replace_all`.
        old_string: String,
        /// What takes its place.
        new_string: String,
        /// Replace every occurrence.
        replace_all: bool,
    },
    /// List files by name, newest first.
    Glob {
        /// A pattern such as `**/*.rs`, relative to `path`.
        pattern: String,
        /// The folder to search; `/workspace` when absent.
        path: Option<String>,
    },
    /// Search the content of files.
    Grep(Grep),
}

/// A call of `grep`, which has the options of ripgrep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grep {
    /// A regular expression.
    pub pattern: String,
    /// The file or folder to search; `/workspace` when absent.
    pub path: Option<String>,
    /// Only files whose name fits this pattern.
    pub glob: Option<String>,
    /// Only files of this type, as ripgrep calls them: `rust`, `py`.
    pub file_type: Option<String>,
    /// Only the names of the files that have a match, or matching lines, or their counts.
    pub output_mode: GrepMode,
    /// Lines are shown with their numbers.
    pub line_numbers: bool,
    /// Lines that are shown before each match.
    pub before: usize,
    /// Lines that are shown after each match.
    pub after: usize,
    /// Capitals and small letters are the same.
    pub ignore_case: bool,
    /// A match may go over several lines, and `.` stands for the end of a line too.
    pub multiline: bool,
    /// Lines of the answer that are left out at its beginning.
    pub offset: usize,
    /// Most lines of the answer.
    pub head_limit: Option<usize>,
}

/// What `grep` answers with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrepMode {
    /// `path:line:text` of every match.
    Content,
    /// The paths of files with a match.
    #[default]
    FilesWithMatches,
    /// `path:count` of every file with a match.
    Count,
}

/// What a tool answers: always valid UTF-8, always bounded, never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOutput {
    /// The text for the model to read. Empty where there is `media`.
    pub content: String,
    /// An image or a PDF.
    pub media: Option<Media>,
    /// The tool failed, or the command's exit status was not 0.
    pub is_error: bool,
    /// The shell of this call is a new one although the session had one before: files are kept; processes, variables and
    /// the working directory are gone. The content says so too.
    pub shell_restarted: bool,
}

impl ToolOutput {
    /// A successful answer.
    pub(crate) fn ok(content: impl Into<String>) -> Self {
        Self { content: content.into(), ..Self::default() }
    }

    /// The same as models' APIs take it, whatever came out of the sandbox: with words where there is nothing to read, for a
    /// text that is empty or blank is refused, and without what is neither an image nor a PDF.
    pub(crate) fn checked(self) -> Self {
        if self.media.as_ref().is_some_and(|media| !media.is_whole()) {
            return Self::error("what the tool answered is no image and no PDF");
        }
        if self.media.is_some() || !self.content.trim().is_empty() {
            return self;
        }
        let words = if self.content.is_empty() { "(no output)" } else { "(nothing but white space)" };
        Self { content: words.to_owned(), ..self }
    }

    /// A failure for the model to read.
    pub(crate) fn error(content: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: true, ..Self::default() }
    }
}

#[derive(Deserialize)]
struct BashInput {
    command: Option<String>,
    timeout_ms: Option<f64>,
    restart: Option<bool>,
}

#[derive(Deserialize)]
struct ReadInput {
    file_path: String,
    view_range: Option<Vec<i64>>,
}

#[derive(Deserialize)]
struct WriteInput {
    file_path: String,
    content: String,
}

#[derive(Deserialize)]
struct EditInput {
    file_path: String,
    old_string: String,
    new_string: String,
    replace_all: Option<bool>,
}

#[derive(Deserialize)]
struct GlobInput {
    pattern: String,
    path: Option<String>,
}

#[derive(Deserialize)]
struct GrepInput {
    pattern: String,
    path: Option<String>,
    glob: Option<String>,
    r#type: Option<String>,
    output_mode: Option<GrepMode>,
    #[serde(rename = "-n")]
    line_numbers: Option<bool>,
    #[serde(rename = "-A")]
    after: Option<u64>,
    #[serde(rename = "-B")]
    before: Option<u64>,
    #[serde(rename = "-C")]
    around: Option<u64>,
    context: Option<u64>,
    #[serde(rename = "-i")]
    ignore_case: Option<bool>,
    head_limit: Option<u64>,
    offset: Option<u64>,
    multiline: Option<bool>,
}

impl ToolCall {
    /// A plain shell command with the default time.
    pub fn bash(command: impl Into<String>) -> Self {
        Self::Bash { command: Some(command.into()), timeout_ms: None, restart: false }
    }

    /// Reads the input of a tool use as the model wrote it.
    ///
    /// # Errors
    /// A sentence for the model: an unknown tool, a missing or wrong field, a text above its bound.
    pub fn parse(name: &str, input: &RawValue) -> Result<Self, String> {
        Self::parsed(name, input).map_err(|mut why| {
            // It may repeat what the model wrote.
            why.truncate(why.floor_char_boundary(MAX_COMPLAINT));
            why
        })
    }

    fn parsed(name: &str, input: &RawValue) -> Result<Self, String> {
        fn input_of<'a, T: Deserialize<'a>>(name: &str, input: &'a RawValue) -> Result<T, String> {
            serde_json::from_str(input.get()).map_err(|error| format!("{name}: {error}"))
        }
        match name {
            "bash" => parse_bash(input_of(name, input)?),
            "read" => parse_read(input_of(name, input)?),
            "write" => {
                let WriteInput { file_path, content } = input_of(name, input)?;
                if content.len() > MAX_WRITE {
                    return Err(format!("write: content is {} bytes; the most is {MAX_WRITE}", content.len()));
                }
                Ok(Self::Write { file_path: path_of(name, file_path)?, content })
            }
            "edit" => parse_edit(input_of(name, input)?),
            "glob" => {
                let GlobInput { pattern, path } = input_of(name, input)?;
                let path = path.map(|path| path_of(name, path)).transpose()?;
                Ok(Self::Glob { pattern: pattern_of(name, pattern)?, path })
            }
            "grep" => parse_grep(input_of(name, input)?),
            other => Err(format!("{other}: there is no such tool")),
        }
    }

    /// The tool's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bash { .. } => "bash",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Edit { .. } => "edit",
            Self::Glob { .. } => "glob",
            Self::Grep(_) => "grep",
        }
    }

    /// Running this call twice changes nothing: after a crash it may simply be run again.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Glob { .. } | Self::Grep(_))
    }

    /// Carries out a file tool, inside the fence. `bash` is the shell's affair.
    pub(crate) fn run_on_files(&self) -> ToolOutput {
        let result = match self {
            Self::Bash { .. } => Err("bash does not run here".to_owned()),
            Self::Read { file_path, view_range } => match files::read(file_path, *view_range) {
                Ok(Content::Media(media)) => return ToolOutput { media: Some(media), ..ToolOutput::default() },
                Ok(Content::Text(text)) => Ok(text),
                Err(reason) => Err(reason),
            },
            Self::Write { file_path, content } => files::write(file_path, content),
            Self::Edit { file_path, old_string, new_string, replace_all } => {
                files::edit(file_path, old_string, new_string, *replace_all)
            }
            Self::Glob { pattern, path } => search::glob(pattern, path.as_deref(), search::Bounds::default()),
            Self::Grep(grep) => search::grep(grep, search::Bounds::default()),
        };
        match result {
            Ok(content) => {
                let mut output = Output::default();
                output.push(content.as_bytes());
                ToolOutput::ok(output.into_text())
            }
            Err(reason) => ToolOutput::error(format!("{}: {reason}", self.name())),
        }
    }
}

fn path_of(tool: &str, path: String) -> Result<String, String> {
    if path.is_empty() {
        return Err(format!("{tool}: the path is empty"));
    }
    if path.contains('\0') {
        return Err(format!("{tool}: the path contains a NUL character"));
    }
    if path.len() > MAX_PATH {
        return Err(format!("{tool}: the path is {} bytes; the most is {MAX_PATH}", path.len()));
    }
    Ok(path)
}

fn pattern_of(tool: &str, pattern: String) -> Result<String, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("{tool}: the pattern is {} bytes; the most is {MAX_PATTERN}", pattern.len()));
    }
    Ok(pattern)
}

fn parse_bash(input: BashInput) -> Result<ToolCall, String> {
    let BashInput { command, timeout_ms, restart } = input;
    let restart = restart.unwrap_or(false);
    let command = command.filter(|command| !command.is_empty());
    match &command {
        None if !restart => return Err("bash: command is required".to_owned()),
        Some(_) if restart => return Err("bash: give either command or restart, not both".to_owned()),
        Some(command) if command.contains('\0') => return Err("bash: command contains a NUL character".to_owned()),
        Some(command) if command.len() > MAX_COMMAND => {
            return Err(format!("bash: command is {} bytes; the most is {MAX_COMMAND}", command.len()));
        }
        _ => {}
    }
    let timeout_ms = match timeout_ms {
        None | Some(0.0) => None,
        Some(ms) if ms > 0.0 && ms <= BASH_MAX_TIMEOUT_MS as f64 => Some(ms.ceil() as u64),
        Some(ms) => return Err(format!("bash: timeout_ms is {ms}; it must be between 1 and {BASH_MAX_TIMEOUT_MS}")),
    };
    Ok(ToolCall::Bash { command, timeout_ms, restart })
}

fn parse_read(input: ReadInput) -> Result<ToolCall, String> {
    let view_range = match input.view_range.as_deref() {
        None => None,
        Some(&[first, last]) => Some((first, last)),
        Some(_) => return Err("read: view_range must be [start_line, end_line]".to_owned()),
    };
    Ok(ToolCall::Read { file_path: path_of("read", input.file_path)?, view_range })
}

fn parse_edit(input: EditInput) -> Result<ToolCall, String> {
    let EditInput { file_path, old_string, new_string, replace_all } = input;
    if old_string.is_empty() {
        return Err("edit: old_string is empty; use write to create a file".to_owned());
    }
    if old_string == new_string {
        return Err("edit: old_string and new_string are the same".to_owned());
    }
    if new_string.len() > MAX_WRITE {
        return Err(format!("edit: new_string is {} bytes; the most is {MAX_WRITE}", new_string.len()));
    }
    let replace_all = replace_all.unwrap_or(false);
    Ok(ToolCall::Edit { file_path: path_of("edit", file_path)?, old_string, new_string, replace_all })
}

fn parse_grep(input: GrepInput) -> Result<ToolCall, String> {
    let pattern = |pattern| pattern_of("grep", pattern);
    let lines = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let around = input.around.or(input.context);
    let context = |own: Option<u64>| own.or(around).map_or(0, lines).min(MAX_CONTEXT);
    Ok(ToolCall::Grep(Grep {
        pattern: pattern(input.pattern)?,
        path: input.path.map(|path| path_of("grep", path)).transpose()?,
        glob: input.glob.map(pattern).transpose()?,
        file_type: input.r#type.map(pattern).transpose()?,
        output_mode: input.output_mode.unwrap_or_default(),
        line_numbers: input.line_numbers.unwrap_or(true),
        before: context(input.before),
        after: context(input.after),
        ignore_case: input.ignore_case.unwrap_or(false),
        multiline: input.multiline.unwrap_or(false),
        offset: input.offset.map_or(0, lines),
        head_limit: input.head_limit.filter(|limit| *limit > 0).map(lines),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, input: &str) -> Result<ToolCall, String> {
        ToolCall::parse(name, &RawValue::from_string(input.to_owned()).unwrap())
    }

    #[test]
    fn what_a_model_sends_becomes_a_call() {
        let bash = |command: &str, timeout_ms| ToolCall::Bash {
            command: Some(command.to_owned()),
            timeout_ms,
            restart: false,
        };
        let plain = Grep {
            pattern: "x".into(),
            path: None,
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
        };
        let cases = [
            ("bash", r#"{"command":"ls"}"#, bash("ls", None)),
            ("bash", r#"{"command":"ls","timeout_ms":0}"#, bash("ls", None)),
            ("bash", r#"{"command":"ls","timeout_ms":1500.0,"restart":false}"#, bash("ls", Some(1500))),
            ("bash", r#"{"restart":true}"#, ToolCall::Bash { command: None, timeout_ms: None, restart: true }),
            (
                "read",
                r#"{"file_path":"a","view_range":[2,-1]}"#,
                ToolCall::Read { file_path: "a".into(), view_range: Some((2, -1)) },
            ),
            (
                "grep",
                r#"{"pattern":"x","output_mode":"count","type":"rust","-n":false,"-C":2,"-A":5,"-i":true,"head_limit":3,
                    "offset":1,"multiline":true}"#,
                ToolCall::Grep(Grep {
                    output_mode: GrepMode::Count,
                    file_type: Some("rust".into()),
                    line_numbers: false,
                    before: 2,
                    after: 5,
                    ignore_case: true,
                    multiline: true,
                    offset: 1,
                    head_limit: Some(3),
                    ..plain.clone()
                }),
            ),
            ("grep", r#"{"pattern":"x","context":4}"#, ToolCall::Grep(Grep { before: 4, after: 4, ..plain.clone() })),
            ("grep", r#"{"pattern":"x"}"#, ToolCall::Grep(plain)),
        ];
        for (name, input, expected) in cases {
            assert_eq!(parse(name, input), Ok(expected), "{name} {input}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_answered_with_the_field_at_fault() {
        let long = "x".repeat(20_000);
        let cases = [
            ("bash", "{}", "command is required"),
            ("bash", r#"{"command":"a\u0000b"}"#, "NUL"),
            ("bash", r#"{"command":"a","timeout_ms":600001}"#, "timeout_ms"),
            ("bash", r#"{"command":"a","timeout_ms":-1}"#, "timeout_ms"),
            ("bash", r#"{"command":"a","restart":true}"#, "not both"),
            ("read", r#"{"view_range":[1,2]}"#, "file_path"),
            ("read", r#"{"file_path":"a","view_range":[1]}"#, "view_range"),
            ("read", r#"{"file_path":""}"#, "empty"),
            ("edit", r#"{"file_path":"a","old_string":"","new_string":"b"}"#, "old_string"),
            ("edit", r#"{"file_path":"a","old_string":"b","new_string":"b"}"#, "same"),
            ("grep", r#"{"pattern":"x","output_mode":"all"}"#, "output_mode"),
            ("rm", "{}", "no such tool"),
            ("read", &format!(r#"{{"file_path":"{long}"}}"#), "the path is 20000 bytes"),
            ("glob", &format!(r#"{{"pattern":"{long}"}}"#), "the pattern is 20000 bytes"),
            ("grep", &format!(r#"{{"pattern":"x","glob":"{long}"}}"#), "the pattern is 20000 bytes"),
            ("grep", &format!(r#"{{"pattern":"x","path":"{long}"}}"#), "the path is 20000 bytes"),
            ("grep", &format!(r#"{{"pattern":"x","output_mode":"{long}"}}"#), "unknown variant"),
        ];
        for (name, input, part) in cases {
            let message = parse(name, input).unwrap_err();
            assert!(message.contains(part) || message.contains("unknown variant"), "{name} {input}: {message}");
            assert!(message.len() <= MAX_COMPLAINT, "{name}: {}", message.len());
        }
    }
}
