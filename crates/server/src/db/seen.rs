//! In debug builds: every statement that runs on SQLite, in the file that [`FILE`] names. The tests write it, and one of them
//! prepares each statement on both databases.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The variable that names the file: a statement a line, as JSON text.
const FILE: &str = "ROTA_STATEMENTS";

/// The file, and what this process has written to it.
type Seen = Mutex<(File, HashSet<String>)>;

/// Writes the statement down, if this process has not yet.
pub(super) fn note(sql: &str) {
    static SEEN: OnceLock<Option<Seen>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os(FILE)?;
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the file of statements is writable");
        Some(Mutex::new((file, HashSet::new())))
    };
    if let Some(seen) = SEEN.get_or_init(open) {
        let (file, known) = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(sql.to_owned()) {
            let line = serde_json::to_string(sql).expect("a text is JSON");
            // In one piece: other processes write to the same file.
            file.write_all(format!("{line}\n").as_bytes()).expect("the file of statements takes another one");
        }
    }
}
