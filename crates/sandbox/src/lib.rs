//! The fence around an agent's tools: namespaces, limits, the init inside, the built-in tools.
//!
//! [`Embedded`] opens one [`Sandbox`] a session. The program that hosts it calls [`run_init_if_asked`] first thing in
//! `main`: the same program, started again with a marker argument, becomes process 1 of every sandbox.
//!
//! ```no_run
//! use rota_sandbox::{Config, Embedded, ToolCall};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! rota_sandbox::run_init_if_asked();
//! let embedded = Embedded::new(Config::new("/var/lib/rota"))?;
//! let sandbox = embedded.open("sesn_1").await?;
//! let call = ToolCall::bash("echo hello");
//! println!("{}", sandbox.call("toolu_1", &call).await?.content);
//! # Ok(())
//! # }
//! ```

mod config;
mod deletion;
mod embedded;
mod error;
mod folder;
#[allow(unsafe_code)] // Speaks to the C library's allocator.
pub mod heap;
mod init;
#[allow(unsafe_code)] // Makes system calls.
mod sys;
mod tools;
mod wire;

pub use config::{Config, Limits};
pub use embedded::{Embedded, Protection, ProtectionState, Sandbox, SetAside};
pub use error::Error;
pub use init::run_init_if_asked;
pub use tools::{ToolCall, ToolDefinition, ToolOutput, tool_definitions};
