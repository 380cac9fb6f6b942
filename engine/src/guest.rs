//! A container's world, and a guest's own state in its store: its WASI and its memory account.

use crate::exit::OutOfMemory;
use crate::files;
use crate::frame;
use crate::log::Log;
use crate::memory::{Memory, Share};
use crate::meter;
use crate::outbox::Outbox;
use crate::output::Output;
use crate::protocol::{Component, EnvVar, Error, ErrorReason, Mount, SandboxSpec};
use crate::stdin::{Input, Stdin};
use crate::traffic::{Heads, Network, Outgoing, Shared, Sockets};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::sync::Arc;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Streams, futures, tasks and resources that a guest of WASI 0.3 may have at once: they cost the host, not its own memory.
pub const HANDLES: usize = 10_000;

/// What host functions and the limiter work on.
pub struct Guest {
    /// Serves p0, p1 and, through [`WasiView`], p2.
    wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    heads: Heads,
    sockets: Sockets,
    config: Config,
    /// Its part of the container's linear memory.
    memory: Share,
}

/// `wasi:config`: the environment, made into a map when a guest asks for it.
#[derive(Default)]
struct Config {
    env: Arc<[EnvVar]>,
    made: Option<WasiConfigVariables>,
}

/// A container's world, which each of its instances sees: made once, with its directories open.
pub struct World {
    args: Vec<String>,
    env: Arc<[EnvVar]>,
    working_dir: String,
    files: WasiFilesystemCtx,
    log: Arc<Log>,
    stdin: Option<Arc<Stdin>>,
    memory: Arc<Memory>,
    network: Option<Arc<Network>>,
}

impl World {
    /// The world as the spec says, with nothing of the host's own environment in it. May block.
    pub fn new(
        spec: SandboxSpec,
        log: &Arc<Log>,
        stdin: Option<&Arc<Stdin>>,
        memory: Arc<Memory>,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        Ok(Self {
            files: open(&spec.mounts)?,
            network: spec.network.map(|network| Network::new(network, shared)),
            args: spec.args,
            env: spec.env.into(),
            working_dir: spec.working_dir,
            log: Arc::clone(log),
            stdin: stdin.map(Arc::clone),
            memory,
        })
    }

    /// The world of another part of the same application: with files and an environment of its own. May block.
    pub fn beside(&self, component: &Component) -> Result<Self, Error> {
        Ok(Self {
            files: open(&component.mounts)?,
            args: vec![component.name.clone()],
            env: component.env.clone().into(),
            working_dir: "/".to_owned(),
            log: Arc::clone(&self.log),
            stdin: self.stdin.clone(),
            memory: Arc::clone(&self.memory),
            network: self.network.clone(),
        })
    }

    /// A new instance's state: the one place where WASI contexts are made.
    pub fn guest(&self) -> Guest {
        let mut wasi = WasiCtx::builder();
        let [stdout, stderr] = self.log.voices();
        wasi.args(&self.args)
            .stdout(Output::new(&self.log, stdout))
            .stderr(Output::new(&self.log, stderr));
        if let Some(stdin) = &self.stdin {
            wasi.stdin(Input::new(stdin, Some(&self.log)));
        }
        self.with(wasi)
    }

    /// The state of an instance with arguments and streams of its own.
    pub fn exec_guest(&self, args: &[String], stdin: &Arc<Stdin>, outbox: &Arc<Outbox>) -> Guest {
        let mut wasi = WasiCtx::builder();
        wasi.args(args)
            .stdin(Input::new(stdin, None))
            .stdout(Output::new(outbox, frame::STDOUT))
            .stderr(Output::new(outbox, frame::STDERR));
        self.with(wasi)
    }

    fn with(&self, mut wasi: WasiCtxBuilder) -> Guest {
        wasi.initial_cwd(&self.working_dir);
        for variable in self.env.iter() {
            wasi.env(&variable.name, &variable.value);
        }
        let mut guest = Guest::new(&mut wasi, Arc::clone(&self.env), &self.memory);
        guest.outgoing = Outgoing::new(self.network.clone(), &self.memory);
        guest.sockets = Sockets::new(self.network.clone());
        *guest.wasi.ctx().ctx.filesystem() = self.files.clone();
        guest
    }

    /// Where its own instances' output goes.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The container's network; `None` is none.
    pub fn network(&self) -> Option<&Arc<Network>> {
        self.network.as_ref()
    }

    /// What one container's instances may have in all.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory.limit()
    }
}

fn open(mounts: &[Mount]) -> Result<WasiFilesystemCtx, Error> {
    let mut wasi = WasiCtx::builder();
    for mount in mounts {
        let permissions = if mount.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        // The mount's own descriptor is a mere path to the kernel, and opens whatever the rules are.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(&mount.host_path, flags, Mode::empty())
            .map_err(|error| unusable(mount, &error.into()))?;
        wasi.preopened_dir(&mount.host_path, &mount.guest_path, permissions)
            .map_err(|error| unusable(mount, &io::Error::other(error)))?;
    }
    Ok(wasi.build().filesystem().clone())
}

fn unusable(mount: &Mount, error: &io::Error) -> Error {
    let why = if error.kind() == io::ErrorKind::PermissionDenied {
        "; the engine may not use it"
    } else {
        ""
    };
    let (host, guest) = (mount.host_path.display(), &mount.guest_path);
    let message = format!("cannot open {host} for {guest}: {error}{why}");
    Error::new(ErrorReason::Mount, message)
}

impl Guest {
    fn new(wasi: &mut WasiCtxBuilder, env: Arc<[EnvVar]>, memory: &Arc<Memory>) -> Self {
        let mut wasi = wasi.build_p1();
        wasi.ctx().table.set_max_capacity(files::HANDLES);
        Self {
            wasi,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(None, memory),
            heads: Heads::new(memory.hold()),
            sockets: Sockets::new(None),
            config: Config { env, made: None },
            memory: memory.share(),
        }
    }

    /// Nobody's world, for looking things up in a linker.
    pub fn empty() -> Self {
        Self::new(&mut WasiCtx::builder(), Arc::default(), &Arc::default())
    }

    /// Its p0 and p1.
    pub fn p1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Its sockets.
    pub fn traffic(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Its `wasi:config`.
    pub fn config(&mut self) -> WasiConfig<'_> {
        let Config { env, made } = &mut self.config;
        WasiConfig::new(made.get_or_insert_with(|| {
            env.iter()
                .map(|variable| (variable.name.as_str(), variable.value.as_str()))
                .collect()
        }))
    }

    /// It has made its header fields so many bytes larger.
    pub fn add_fields(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.heads.add(bytes, self.wasi.ctx().table)
    }

    /// Linear memory of its instances in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// A store that gives way to others when its turn is over and holds the guest to its limits.
    pub fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter_async(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| {
            Ok(if meter::gives_way() {
                UpdateDeadline::Yield(1)
            } else {
                UpdateDeadline::Continue(1)
            })
        });
        store
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outgoing,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}
