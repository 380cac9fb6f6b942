//! Commands: guests that run once until they return.

use crate::exit::{Ending, OutOfMemory, ProcessExit};
use crate::guest::Guest;
use crate::protocol::{Error, ErrorReason};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, InstancePre, Linker, Module, Result, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{p0, p1, p2};

/// What a core module begins with.
pub const ENTRY_POINT: &str = "_start";

/// The import modules of the two first WASI releases.
pub const P0: &str = "wasi_unstable";
/// See [`P0`].
pub const P1: &str = "wasi_snapshot_preview1";

/// A program with all its imports found, ready to be instantiated many times.
pub enum Program {
    /// A core module.
    Module(InstancePre<Guest>),
    /// A component.
    Component(CommandPre<Guest>),
}

/// What the host gives to guests.
pub struct Linkers {
    module: Linker<Guest>,
    component: component::Linker<Guest>,
}

/// What became of a run.
pub enum Outcome {
    /// It was never a guest.
    Refused(Error),
    /// It was one, and is over.
    Ended(Ending),
}

impl Linkers {
    /// All of WASI p0, p1 and p2.
    pub fn new(engine: &Engine) -> Result<Self> {
        let mut module = Linker::new(engine);
        p0::add_to_linker_async(&mut module, |guest: &mut Guest| &mut guest.wasi)?;
        p1::add_to_linker_async(&mut module, |guest: &mut Guest| &mut guest.wasi)?;
        module.allow_shadowing(true);
        for wasi in [P0, P1] {
            module.func_wrap(wasi, "proc_exit", |code: u32| -> Result<()> {
                Err(ProcessExit(code).into())
            })?;
        }
        let mut component = component::Linker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        Ok(Self { module, component })
    }

    /// Finds a module's imports.
    pub fn module(&self, module: &Module) -> Result<Program> {
        self.module.instantiate_pre(module).map(Program::Module)
    }

    /// Finds a component's imports and its `wasi:cli/run`.
    pub fn component(&self, component: &Component) -> Result<Program> {
        CommandPre::new(self.component.instantiate_pre(component)?).map(Program::Component)
    }

    /// Whether core modules can import this.
    pub fn defines(&self, store: &mut Store<Guest>, module: &str, name: &str) -> bool {
        self.module.get(store, module, name).is_ok()
    }
}

impl Program {
    /// Makes an instance, calls `started`, runs it to its end.
    pub async fn run(&self, mut store: Store<Guest>, started: impl FnOnce()) -> Outcome {
        match self {
            Self::Module(program) => {
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return not_started(&error),
                };
                let entry = match instance.get_typed_func::<(), ()>(&mut store, ENTRY_POINT) {
                    Ok(entry) => entry,
                    Err(error) => return not_started(&error),
                };
                announce(started).await;
                ended(entry.call_async(&mut store, ()).await.map(|()| 0))
            }
            Self::Component(program) => {
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return not_started(&error),
                };
                announce(started).await;
                let returned = instance.wasi_cli_run().call_run(&mut store).await;
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

fn not_started(error: &wasmtime::Error) -> Outcome {
    let message = if let Some(memory) = error.downcast_ref::<OutOfMemory>() {
        format!("cannot make the instance: {memory}; raise the container's memory limit")
    } else {
        match Ending::from_error(error) {
            Ending::Trap(message) | Ending::Failed(message) => {
                format!("cannot make the instance: {message}")
            }
            other => format!("cannot make the instance: its start function ended it ({other:?})"),
        }
    };
    Outcome::Refused(Error::new(ErrorReason::Start, message))
}

fn ended(returned: Result<u32>) -> Outcome {
    Outcome::Ended(match returned {
        Ok(code) => Ending::Code(code),
        Err(error) => Ending::from_error(&error),
    })
}
