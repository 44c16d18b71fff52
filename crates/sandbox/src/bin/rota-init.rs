//! Process 1 of every sandbox. `build.rs` builds it, and the server carries it inside.

use std::process::ExitCode;

fn main() -> ExitCode {
    rota_sandbox::run_init()
}
