//! A guest's own state in its store: its WASI and its memory account.

use crate::exit::OutOfMemory;
use crate::log::{Log, Output, Stream};
use crate::protocol::{Error, ErrorReason, SandboxSpec};
use crate::stdin::{Input, Stdin};
use std::sync::Arc;
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

/// Bounds what a guest's tables cost the host: 8 MiB, fifty times the largest table seen in a published module.
const TABLE_ELEMENTS: usize = 1 << 20;

/// Bounds what an artifact's own declarations cost the host.
const INSTANCES: usize = 1_000;

/// What host functions and the limiter work on.
pub struct Guest {
    /// Serves p0, p1 and, through [`WasiView`], p2.
    pub wasi: WasiP1Ctx,
    /// Linear memory of all instances.
    pub memory: Memory,
}

/// An account of linear memory.
pub struct Memory {
    used: u64,
    limit: Option<u64>,
}

impl Guest {
    /// The guest's world as the spec says, with nothing of the host's own environment in it.
    pub fn new(
        spec: &SandboxSpec,
        log: &Arc<Log>,
        stdin: Option<&Arc<Stdin>>,
    ) -> Result<Self, Error> {
        let mut wasi = WasiCtx::builder();
        wasi.args(&spec.args)
            .initial_cwd(&spec.working_dir)
            .stdout(Output::new(log, Stream::Stdout))
            .stderr(Output::new(log, Stream::Stderr));
        for variable in &spec.env {
            wasi.env(&variable.name, &variable.value);
        }
        if let Some(stdin) = stdin {
            wasi.stdin(Input::new(stdin, log));
        }
        for mount in &spec.mounts {
            let permissions = if mount.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            wasi.preopened_dir(&mount.host_path, &mount.guest_path, permissions)
                .map_err(|error| {
                    Error::new(
                        ErrorReason::Mount,
                        format!(
                            "cannot open {} for {}: {error}",
                            mount.host_path.display(),
                            mount.guest_path
                        ),
                    )
                })?;
        }
        let memory = Memory {
            used: 0,
            limit: spec.memory_limit_bytes,
        };
        Ok(Self {
            wasi: wasi.build_p1(),
            memory,
        })
    }

    /// Nobody's world, for looking things up in a linker.
    pub fn empty() -> Self {
        Self {
            wasi: WasiCtx::builder().build_p1(),
            memory: Memory {
                used: 0,
                limit: Some(0),
            },
        }
    }

    /// A store that gives way to others at each tick and holds the guest to its limits.
    pub fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.used + desired.saturating_sub(current) as u64;
        if let Some(limit) = self.limit.filter(|&limit| wanted > limit) {
            return Err(OutOfMemory { wanted, limit }.into());
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }
}
