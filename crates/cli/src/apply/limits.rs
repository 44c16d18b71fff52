//! What a directory of files may hold.

/// Most bytes of a file that describes a resource. A system prompt has at most 100,000 characters.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most files and folders below a directory, those of skills included.
pub const MAX_ENTRIES: usize = 20_000;
/// Most bytes of all files of a directory.
pub const MAX_TOTAL_BYTES: u64 = 512 * 1024 * 1024;
/// Most bytes of the files of one skill: what the server takes.
pub const MAX_SKILL_BYTES: u64 = 30 * 1024 * 1024;
/// Most files of one skill: what the server takes.
pub const MAX_SKILL_FILES: usize = 1000;
/// How deep the folders of a skill go: what the server takes.
pub const MAX_SKILL_DEPTH: usize = 16;
/// Most characters of the name of a project, and of a key.
pub const MAX_KEY: usize = 64;
/// Most problems that are told at once.
pub const MAX_PROBLEMS: usize = 50;
/// Most resources of one kind that a server may have.
pub const MAX_ROWS: usize = 100_000;
/// How long an apply waits for another one to take back what both have made, in seconds.
pub const TWIN_PATIENCE_SECONDS: u64 = 10;
