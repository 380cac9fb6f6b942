//! What the host gives to guests, and guests with all their imports found. One linker a kind.

use crate::command::{Command, ENTRY_POINT, Function};
use crate::exit::ProcessExit;
use crate::files;
use crate::guest::Guest;
use crate::protocol::Kind;
use crate::settings::Flavour;
use crate::traffic;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, Linker, Module, Result, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{p0, p1, p2, p3};
use wasmtime_wasi_http::{p2 as http2, p3 as http3};

/// The import modules of the two first WASI releases.
pub const P0: &str = "wasi_unstable";
/// See [`P0`].
pub const P1: &str = "wasi_snapshot_preview1";

/// A guest that can be instantiated many times.
pub enum Program {
    /// Runs once until it returns.
    Command(Command),
    /// Serves requests.
    Http(Handler),
}

/// A guest that serves requests.
#[derive(Clone)]
pub enum Handler {
    /// Of WASI 0.2: one request after the other.
    P2(http2::bindings::ProxyPre<Guest>),
    /// Of WASI 0.3: several requests at once.
    P3(http3::bindings::ServicePre<Guest>),
}

impl Handler {
    /// Where its instances are made.
    pub fn engine(&self) -> &Engine {
        match self {
            Self::P2(program) => program.engine(),
            Self::P3(program) => program.engine(),
        }
    }
}

/// What the guests of one wasmtime engine can import.
pub struct Linkers {
    module: Linker<Guest>,
    component: component::Linker<Guest>,
}

impl Linkers {
    /// All of WASI p0, p1 and p2, `wasi:http` and `wasi:config`; in concurrent engines p3, too.
    pub fn new(engine: &Engine, flavour: Flavour) -> Result<Self> {
        let mut module = Linker::new(engine);
        p0::add_to_linker_async(&mut module, Guest::p1)?;
        p1::add_to_linker_async(&mut module, Guest::p1)?;
        module.allow_shadowing(true);
        for wasi in [P0, P1] {
            module.func_wrap(wasi, "proc_exit", |code: u32| -> Result<()> {
                Err(ProcessExit(code).into())
            })?;
        }
        files::add_to_module_linker(&mut module)?;
        let mut component = component::Linker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        http2::add_only_http_to_linker_async(&mut component)?;
        wasmtime_wasi_config::add_to_linker(&mut component, Guest::config)?;
        traffic::add_to_linker(&mut component)?;
        component.allow_shadowing(true);
        files::add_to_component_linker(&mut component)?;
        component.allow_shadowing(false);
        if flavour == Flavour::Concurrent {
            p3::add_to_linker(&mut component)?;
            http3::add_to_linker(&mut component)?;
            traffic::p3::add_to_linker(&mut component)?;
            component.allow_shadowing(true);
            files::add_to_concurrent_linker(&mut component)?;
            component.allow_shadowing(false);
        }
        Ok(Self { module, component })
    }

    /// Finds a module's imports; `function` is the export that it begins with, if that is not the usual one.
    pub fn module(&self, module: &Module, function: Option<&str>) -> Result<Program> {
        let found = self.module.instantiate_pre(module)?;
        let entry = function.unwrap_or(ENTRY_POINT).to_owned();
        Ok(Program::Command(Command::Module(found, entry)))
    }

    /// Finds a component's imports and what its kind exports, or this function of it.
    pub fn component(
        &self,
        component: &Component,
        kind: Kind,
        function: Option<&str>,
    ) -> Result<Program> {
        let found = self.component.instantiate_pre(component)?;
        if let Some(name) = function {
            let found = Function::new(found, name);
            let found = found.ok_or_else(|| wasmtime::Error::msg(format!("no function {name}")));
            return found.map(Command::Function).map(Program::Command);
        }
        // One of both is stable. A component that has neither is told what it lacks of that one.
        let newer = found.clone();
        match kind {
            Kind::Command => CommandPre::new(found)
                .map(Command::P2)
                .or_else(|error| {
                    let found = p3::bindings::CommandPre::new(newer);
                    found.map(Command::P3).map_err(|_| error)
                })
                .map(Program::Command),
            Kind::Http => http2::bindings::ProxyPre::new(found)
                .map(Handler::P2)
                .or_else(|error| {
                    let found = http3::bindings::ServicePre::new(newer);
                    found.map(Handler::P3).map_err(|_| error)
                })
                .map(Program::Http),
        }
    }

    /// Whether core modules can import this.
    pub fn defines(&self, store: &mut Store<Guest>, module: &str, name: &str) -> bool {
        self.module.get(store, module, name).is_ok()
    }
}
