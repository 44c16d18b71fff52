//! What is wrong with files: where, and what to do.

use std::fmt;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Below the directory.
    pub file: String,
    /// Counted from 1.
    pub line: Option<usize>,
    /// What is wrong, the field first where it is about one.
    pub message: String,
}

impl Problem {
    pub fn new(file: &str, message: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), line: None, message: message.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}
