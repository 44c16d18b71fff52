//! Whether a command is complete. A shell that reads its commands like a script waits for the end of a quotation for
//! ever, and ends at a syntax error.
//!
//! Plain commands are seen to be complete at once: [`is_plain`]. Of all others a bash is asked that runs nothing.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::processes::{self, Ended};
use super::shell::start_bash;

/// A bash that reads a command and runs nothing.
pub(super) struct Syntax {
    pub(super) pid: i32,
    complaints: File,
}

impl Syntax {
    pub(super) fn check(command: &str) -> io::Result<Self> {
        let in_memory = |name| io::Result::Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?));
        let mut script = in_memory(c"command")?;
        script.write_all(command.as_bytes())?;
        script.write_all(b"\n")?;
        script.rewind()?;
        let complaints = in_memory(c"complaints")?;
        let arguments = ["bash", "--noprofile", "--norc", "-n"];
        let pid = start_bash(Path::new("/"), &arguments, &[], Some(&script), &complaints)?;
        Ok(Self { pid, complaints })
    }

    /// It had nothing to say against the command, not even the warning that a here-document has no end.
    pub(super) fn accepts(&self, how: Ended) -> bool {
        how == Ended::Exit(0) && self.complaints.metadata().is_ok_and(|complaints| complaints.len() == 0)
    }

    pub(super) fn kill(&self) {
        processes::kill_one(self.pid);
    }
}

/// The command in a form that is complete whatever it holds. Bash says what is wrong with it when it comes to that.
pub(super) fn as_argument_of_eval(command: &str) -> String {
    format!("\\eval '{}'", command.replace('\'', r"'\''"))
}

/// Words that begin, or go on with, something that must have an end.
const RESERVED: [&str; 17] = [
    "if", "then", "elif", "else", "fi", "for", "select", "while", "until", "do", "done", "case", "esac", "in",
    "function", "time", "coproc",
];

/// What stands before a place in a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The beginning, or the end of a command.
    Nothing,
    /// A word of a command.
    Word,
    /// `&&`, `||` or `|`, which a command must follow.
    Operator,
    /// `<`, `>`, `>>` or `>&`, which a word must follow.
    Redirection,
}

/// The command is nothing but words, quotations, plain variables, simple redirections, comments, and operators, so that
/// every bash finds it complete. That other commands are not does not follow.
pub(super) fn is_plain(command: &str) -> bool {
    let mut before = Before::Nothing;
    let mut rest = command;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let Some(first) = rest.chars().next() else { return matches!(before, Before::Nothing | Before::Word) };
        let (taken, after) = match first {
            '#' if before != Before::Redirection => (rest.find('\n').unwrap_or(rest.len()), before),
            '\n' if before == Before::Operator => (1, Before::Operator),
            '\n' if before != Before::Redirection => (1, Before::Nothing),
            '&' | '|' if before == Before::Word && rest[1..].starts_with(first) => (2, Before::Operator),
            '|' if before == Before::Word && !rest.starts_with("|&") => (1, Before::Operator),
            '&' if before == Before::Word && !rest.starts_with("&>") => (1, Before::Nothing),
            ';' if before == Before::Word => (1, Before::Nothing),
            '>' if before != Before::Redirection => {
                (if rest[1..].starts_with(['>', '&']) { 2 } else { 1 }, Before::Redirection)
            }
            '<' if before != Before::Redirection => (1, Before::Redirection),
            _ => match plain_word(rest) {
                // `>2>` has no word after the first redirection: the number belongs to the second.
                Some(length) if before == Before::Redirection && rest[length..].starts_with(['<', '>']) => {
                    return false;
                }
                Some(length) if !RESERVED.contains(&&rest[..length]) => (length, Before::Word),
                _ => return false,
            },
        };
        rest = &rest[taken..];
        before = after;
    }
}

/// The length of the word that `text` begins with, when it begins with a plain one.
fn plain_word(text: &str) -> Option<usize> {
    let mut length = 0;
    while let Some(next) = text[length..].chars().next() {
        let rest = &text[length + next.len_utf8()..];
        length += match next {
            '\'' => rest.find('\'')? + 2,
            '"' => {
                let end = rest.find('"')?;
                let mut variables = rest[..end].match_indices('$');
                let plain =
                    !rest[..end].contains(['\\', '`']) && variables.all(|(at, _)| names_a_variable(&rest[at + 1..]));
                plain.then_some(end + 2)?
            }
            '$' => names_a_variable(rest).then_some(1)?,
            '\\' => rest.chars().next().filter(|escaped| *escaped != '\n')?.len_utf8() + 1,
            '#' if length > 0 => 1,
            '_' | '-' | '.' | '/' | ':' | ',' | '+' | '=' | '@' | '%' | '^' | '~' | '*' | '?' => 1,
            letter if letter.is_alphanumeric() => letter.len_utf8(),
            _ => break,
        };
    }
    (length > 0).then_some(length)
}

fn names_a_variable(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c == '?' || c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_commands_of_every_day_are_plain() {
        let plain = [
            "",
            "true",
            "ls -la /workspace | head -3",
            "cd src && make -j2 > log 2>&1; tail -5 log",
            "echo \"$HOME: $?\" 'it is (not) open'\nsleep 1 &\n",
            "# it's a comment\ncd x # and another (\nfind . -name \\*.rs \\; a#'b'",
            "a=1 b=~/x grep -rn 'fn \\(main' . ||\n\n echo none",
        ];
        for command in plain {
            assert!(is_plain(command), "{command}");
        }
    }

    #[test]
    fn what_may_go_on_is_not_plain() {
        let other = [
            "echo 'open",
            "echo \"open",
            "echo \"$(\"",
            "cat <<X",
            "a &&",
            "a |",
            "a >",
            "if true",
            "for",
            "(",
            "a; ;",
            "& a",
            "{",
            "echo \\",
            "`",
            "$(",
            "${a",
            "((",
            "[[",
            "a=(",
            "a[",
            "f()",
            "!",
            "a |& b",
            "a &> b",
            "a <> b",
            "a#'",
            "a>#b",
            "a >2>b",
            "a > > b",
        ];
        for command in other {
            assert!(!is_plain(command), "{command}");
        }
    }

    #[test]
    fn bash_has_nothing_to_say_against_what_is_plain() {
        const PIECES: [&str; 36] = [
            "a", "b=", "'x'", "\"y\"", "\"$z\"", "$v", "$?", "1", "2", "é", " ", " ", " ", "\n", ";", "&", "&&", "|",
            "||", ">", ">>", ">&", "<", "'", "\"", "$", "[", "~", "*", "-", "if", "in", "time", "#", "#", "\\",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut plain = 0;
        for _ in 0..4000 {
            let command: String = (0..=next(9)).map(|_| PIECES[next(PIECES.len())]).collect();
            if !is_plain(&command) {
                continue;
            }
            plain += 1;
            // A process for each would take long.
            if plain % 8 == 0 {
                let bash = Command::new("bash")
                    .args(["--norc", "-n", "-c", &format!("\n{command}")])
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                assert!(bash.status.success() && bash.stderr.is_empty(), "{command:?}: {bash:?}");
            }
        }
        assert!(plain > 200, "{plain}");
    }

    #[test]
    fn any_command_is_one_word_for_eval() {
        for (command, wanted) in [("echo", r"\eval 'echo'"), ("it's", r"\eval 'it'\''s'"), ("a\\", r"\eval 'a\'")] {
            assert_eq!(as_argument_of_eval(command), wanted);
        }
    }
}
