//! The fence around an agent's tools: namespaces, limits, the init inside, the built-in tools.
//!
//! [`Embedded`] opens one [`Sandbox`] a session. Process 1 of a sandbox is a program of its own, `rota-init`: this crate
//! without its feature `host`, which `build.rs` builds and [`Embedded`] carries inside.
//!
//! ```no_run
//! use rota_sandbox::{Config, Embedded, ToolCall};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let embedded = Embedded::new(Config::new("/var/lib/rota"))?;
//! let sandbox = embedded.open("sesn_1").await?;
//! let call = ToolCall::bash("echo hello");
//! println!("{}", sandbox.call("toolu_1", &call).await?.content);
//! # Ok(())
//! # }
//! ```

// The init uses a part of what both sides share.
#![cfg_attr(not(feature = "host"), allow(dead_code))]

mod config;
#[cfg(feature = "host")]
mod containers;
mod deletion;
#[cfg(feature = "host")]
mod embedded;
mod error;
mod folder;
#[cfg(feature = "host")]
#[allow(unsafe_code)] // Speaks to the C library's allocator.
pub mod heap;
mod init;
#[allow(unsafe_code)] // Makes system calls.
mod sys;
mod tools;
mod wire;

pub use config::{Config, Containers, Engine, Limits};
#[cfg(feature = "host")]
pub use embedded::{
    About, Area, Bounds, Contents, Counts, Embedded, Entry, Found, Layer, Layers, Listeners, Listing, NewFile,
    NewLayer, NewTree, NotRemoved, Part, Protection, ProtectionState, Reach, Root, Sandbox, SessionFiles, SetAside,
    Setup, UnpackBounds, UnpackError, Unpacking, What, host_addresses, is_name, open_images, path_inside, pieces,
    state_of,
};
pub use error::Error;
pub use folder::FileState;
pub use init::run_init;
pub use tools::{Media, ToolCall, ToolOutput};
pub use wire::Authorities;
