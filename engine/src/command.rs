//! Commands: guests that run once until they return.

use crate::exit::{Ending, OutOfMemory};
use crate::guest::{Guest, HANDLES};
use crate::protocol::{Error, ErrorReason};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{self, Component, ComponentExportIndex, Type, Val};
use wasmtime::{InstancePre, Result, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;

/// What a core module begins with.
pub const ENTRY_POINT: &str = "_start";

/// A command with all its imports found, ready to be instantiated many times.
pub enum Command {
    /// A core module, and the export that it begins with.
    Module(InstancePre<Guest>, String),
    /// A component of WASI 0.2.
    P2(CommandPre<Guest>),
    /// A component of WASI 0.3.
    P3(p3::bindings::CommandPre<Guest>),
    /// A component of which one function is called.
    Function(Function),
}

/// A component's function, which is called as if it were a program.
pub struct Function {
    program: component::InstancePre<Guest>,
    index: ComponentExportIndex,
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
            Self::Module(program, entry) => {
                let mut store = guest.into_store(program.module().engine());
                let instance = match program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                let entry = match instance.get_typed_func::<(), ()>(&mut store, entry) {
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
            Self::Function(function) => {
                let mut store = guest.into_store(function.program.engine());
                store.set_max_component_handles(HANDLES);
                let instance = match function.program.instantiate_async(&mut store).await {
                    Ok(instance) => instance,
                    Err(error) => return Outcome::Refused(not_started(&error)),
                };
                announce(started).await;
                ended(function.call(&mut store, instance).await)
            }
        }
    }
}

impl Function {
    /// The function of this name, if it is one that can be called: without parameters, and what it returns is nothing, a
    /// `result` as that of `wasi:cli/run`, or an integer.
    pub fn find(component: &Component, name: &str) -> Option<ComponentExportIndex> {
        let (ComponentItem::ComponentFunc(found), index) = component.get_export(None, name)? else {
            return None;
        };
        let mut results = found.results();
        let fits = match (results.next(), results.next()) {
            (None, _) => true,
            (Some(result), None) => is_code(&result),
            (Some(_), Some(_)) => false,
        };
        (fits && found.params().len() == 0).then_some(index)
    }

    /// Of a component with all its imports found.
    pub fn new(program: component::InstancePre<Guest>, name: &str) -> Option<Self> {
        let index = Self::find(program.component(), name)?;
        Some(Self { program, index })
    }

    async fn call(&self, store: &mut Store<Guest>, instance: component::Instance) -> Result<u32> {
        let function = instance.get_func(&mut *store, self.index);
        let function = function.ok_or_else(|| wasmtime::Error::msg("the function is not there"))?;
        let count = function.ty(&*store).results().len();
        let mut results = vec![Val::Bool(false); count];
        function.call_async(store, &[], &mut results).await?;
        Ok(results.first().map_or(0, code))
    }
}

fn is_code(result: &Type) -> bool {
    matches!(
        result,
        Type::Result(_)
            | Type::U8
            | Type::S8
            | Type::U16
            | Type::S16
            | Type::U32
            | Type::S32
            | Type::U64
            | Type::S64
    )
}

/// Of an integer the lowest eight bits, as `exit` of a Linux program has it.
fn code(result: &Val) -> u32 {
    let byte = match *result {
        Val::Result(Err(_)) => 1,
        Val::U8(value) => value,
        Val::S8(value) => value.to_le_bytes()[0],
        Val::U16(value) => value.to_le_bytes()[0],
        Val::S16(value) => value.to_le_bytes()[0],
        Val::U32(value) => value.to_le_bytes()[0],
        Val::S32(value) => value.to_le_bytes()[0],
        Val::U64(value) => value.to_le_bytes()[0],
        Val::S64(value) => value.to_le_bytes()[0],
        _ => 0,
    };
    u32::from(byte)
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
