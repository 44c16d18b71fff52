//! A sandbox from the command line, for tests and for looking around: `rota-sandbox DATA_DIR SESSION COMMAND…` runs the
//! commands in one sandbox, one call each, and prints what they answer; `rota-sandbox DATA_DIR doctor` prints the probe.

use std::process::ExitCode;

use rota_sandbox::{Config, Embedded, ToolCall};

fn main() -> ExitCode {
    rota_sandbox::run_init_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, session, commands @ ..] = &arguments[..] else {
        eprintln!("usage: rota-sandbox DATA_DIR (doctor | SESSION COMMAND...)");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(data_dir, session, commands)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(data_dir: &str, session: &str, commands: &[String]) -> Result<(), rota_sandbox::Error> {
    let embedded = Embedded::new(Config::new(data_dir))?;
    if session == "doctor" {
        for row in embedded.probe() {
            println!("{:?}\t{}\t{}\t{}", row.state, row.name, row.detail, row.remedy);
        }
        return Ok(());
    }
    let start = std::time::Instant::now();
    for (number, command) in commands.iter().enumerate() {
        let sandbox = embedded.open(session).await?;
        let output = sandbox.call(&number.to_string(), &ToolCall::bash(command)).await?;
        println!("{}", output.content);
        eprintln!("[{:?}]", start.elapsed());
    }
    embedded.shutdown().await;
    Ok(())
}
