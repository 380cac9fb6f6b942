//! Commands: guests that run once until they return.

use crate::exit::{Ending, OutOfMemory};
use crate::guest::{Guest, HANDLES};
use crate::protocol::{Error, ErrorReason};
use wasmtime::{InstancePre, Result};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;

/// What a core module begins with.
pub const ENTRY_POINT: &str = "_start";

/// A command with all its imports found, ready to be instantiated many times.
pub enum Command {
    /// A core module.
    Module(InstancePre<Guest>),
    /// A component of WASI 0.2.
    P2(CommandPre<Guest>),
    /// A component of WASI 0.3.
    P3(p3::bindings::CommandPre<Guest>),
}

/// What became of a run.
pub enum Outcome {
    /// It was never a guest.
    Refused(Error),
    /// It was one, and is over.
    Ended(Ending),
}

impl Command {
    /// Makes an instance, calls `started`, runs it to its end.
    pub async fn run(&self, guest: Guest, started: impl FnOnce()) -> Outcome {
        match self {
            Self::Module(program) => {
                let mut store = guest.into_store(program.module().engine());
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                let entry = match instance.get_typed_func::<(), ()>(&mut store, ENTRY_POINT) {
                    Ok(entry) => entry,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                announce(started).await;
                ended(entry.call_async(&mut store, ()).await.map(|()| 0))
            }
            Self::P2(program) => {
                let mut store = guest.into_store(program.engine());
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                announce(started).await;
                let returned = instance.wasi_cli_run().call_run(&mut store).await;
                ended(returned.map(|result| u32::from(result.is_err())))
            }
            Self::P3(program) => {
                let mut store = guest.into_store(program.engine());
                store.set_max_component_handles(HANDLES);
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                announce(started).await;
                let run = store
                    .run_concurrent(async |store| instance.wasi_cli_run().call_run(store).await);
                let returned = run.await.flatten();
                ended(returned.map(|result| u32::from(result.is_err())))
            }
        }
    }
}

/// Lets those who wait for the start hear of it before the guest takes the thread for up to a tick.
async fn announce(started: impl FnOnce()) {
    started();
    tokio::task::yield_now().await;
}

/// Why an instance could not be made.
pub fn not_started(error: &wasmtime::Error) -> Error {
    let message = if let Some(memory) = error.downcast_ref::<OutOfMemory>() {
        let what = match memory {
            OutOfMemory::Container { .. } => "limit",
            OutOfMemory::Engine { .. } => "request",
        };
        format!("cannot make the instance: {memory}; raise the container's memory {what}")
    } else {
        match Ending::from_error(error) {
            Ending::Trap(message) | Ending::Failed(message) => {
                format!("cannot make the instance: {message}")
            }
            other => format!("cannot make the instance: its start function ended it ({other:?})"),
        }
    };
    Error::new(ErrorReason::Start, message)
}

fn ended(returned: Result<u32>) -> Outcome {
    Outcome::Ended(match returned {
        Ok(code) => Ending::Code(code),
        Err(error) => Ending::from_error(&error),
    })
}
