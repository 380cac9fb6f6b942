//! Every sandbox of the engine, and the way each of them goes: prepared, started, run, written down.

use crate::artifact::Artifacts;
use crate::budget::Budgets;
use crate::command::Outcome;
use crate::disk::Disk;
use crate::events::Events;
use crate::exec::Inside;
use crate::exit::Ending;
use crate::guest::{Guest, World};
use crate::http::{self, Connections};
use crate::log::{Log, Place};
use crate::log_file;
use crate::meter::{Account, Owned, Threads};
use crate::program::Program;
use crate::protocol::{self, Error, ErrorReason, Exit, SandboxSpec, State};
use crate::sandbox::{Meters, Moment, Sandbox, Stop};
use crate::sync::lock;
use crate::time::Timestamp;
use crate::traffic::{Network, Shared};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Execs and attached clients at once.
const CLIENTS: usize = 256;

/// How long an exit waits for a disk that does not answer before its event goes out all the same.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// What a start function may take. It initialises memory, which takes milliseconds; the agent waits for the answer
/// meanwhile, and cannot know whether one will come.
pub const START: Duration = Duration::from_secs(10);

/// The grace of those that serve when a signal ends the engine, within the 2 seconds that it has.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// How long an interrupted guest may take to be unwound: many times a tick, and little of the 2 seconds in which a
/// signal has to end the engine.
const UNWIND: Duration = Duration::from_millis(500);

/// How long a command that listens goes on when it is told to end: endpoints of Services lag about so much.
const LAME_DUCK: Duration = Duration::from_secs(1);

/// What all sandboxes share.
pub struct Parts {
    /// Writes their files.
    pub disk: Disk,
    /// Their programs.
    pub artifacts: Arc<Artifacts>,
    /// Tells of them.
    pub events: Arc<Events>,
    /// Bounds them.
    pub budgets: Budgets,
    /// The threads that they compute on; what must go on whatever they do has another.
    pub guests: Threads,
    /// Bounds the connections of those that serve.
    pub connections: Connections,
    /// What guests' ways into the network share.
    pub traffic: Arc<Shared>,
    /// Blocks for the engine's own sake, on threads that no guest's file operations can take.
    pub opener: Handle,
    /// This start of the engine.
    pub incarnation: Arc<str>,
}

/// The sandboxes by id.
pub struct Registry {
    /// What they share.
    pub parts: Parts,
    known: Mutex<Known>,
    /// Rights to a connection for an exec, or to one that is attached.
    clients: Arc<Semaphore>,
    /// Wakes who waits for the last sandbox to end.
    quiet: Notify,
}

#[derive(Default)]
struct Known {
    sandboxes: BTreeMap<String, Arc<Sandbox>>,
    running: usize,
    closing: bool,
}

/// What a put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// This request started it.
    Created,
    /// It was there, with this body.
    Present,
}

/// What a start needs besides the spec; everything that had to be opened is open.
struct Prepared {
    program: Arc<Program>,
    world: Arc<World>,
    http: Option<protocol::Http>,
    components: Vec<http::Component>,
    log: Arc<Log>,
    meters: Meters,
}

impl Registry {
    /// No sandboxes yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            known: Mutex::default(),
            clients: Arc::new(Semaphore::new(CLIENTS)),
            quiet: Notify::new(),
        })
    }

    /// Creates and starts a sandbox, or finds the same one; waits until its start has settled.
    pub async fn put(
        self: &Arc<Self>,
        id: &str,
        spec: SandboxSpec,
    ) -> Result<(Put, Arc<Sandbox>), Error> {
        let (put, sandbox) = self.insert(id, spec)?;
        sandbox.settled().await?;
        Ok((put, sandbox))
    }

    fn insert(self: &Arc<Self>, id: &str, spec: SandboxSpec) -> Result<(Put, Arc<Sandbox>), Error> {
        let mut known = lock(&self.known);
        if let Some(sandbox) = known.sandboxes.get(id) {
            if sandbox.is_of(&spec) {
                return Ok((Put::Present, Arc::clone(sandbox)));
            }
            return Err(Error::new(
                ErrorReason::Conflict,
                format!("sandbox {id} exists with another spec"),
            ));
        }
        if known.closing {
            return Err(Error::new(
                ErrorReason::Busy,
                "the engine is shutting down; use another one",
            ));
        }
        self.parts
            .budgets
            .admit(spec.mounts.len() + spec.http.as_ref().map_or(0, protocol::Http::descriptors))
            .map_err(|text| Error::new(ErrorReason::Busy, text))?;
        let sandbox = Arc::new(Sandbox::new(id.to_owned(), &spec));
        known.sandboxes.insert(id.to_owned(), Arc::clone(&sandbox));
        known.running += 1;
        // The sandbox's own task: a client that goes away in the middle changes nothing.
        tokio::spawn(Arc::clone(self).live(Arc::clone(&sandbox), spec));
        Ok((Put::Created, sandbox))
    }

    /// A right to one of the connections for execs and attached clients.
    pub fn client(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.clients).try_acquire_owned().map_err(|_| {
            let text =
                format!("{CLIENTS} execs and attached clients are in this engine; end one of them");
            Error::new(ErrorReason::Busy, text)
        })
    }

    /// One sandbox.
    pub fn get(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let known = lock(&self.known);
        known.sandboxes.get(id).cloned().ok_or_else(|| {
            Error::new(
                ErrorReason::NotFound,
                format!("no sandbox {id} in this engine"),
            )
        })
    }

    /// All sandboxes, sorted by id.
    pub fn list(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.known).sandboxes.values().cloned().collect()
    }

    /// How many are known, and how many of them have not ended.
    pub fn counts(&self) -> (usize, usize) {
        let known = lock(&self.known);
        (known.sandboxes.len(), known.running)
    }

    /// Forgets an ended sandbox; an unknown one is forgotten already.
    pub fn delete(&self, id: &str) -> Result<(), Error> {
        let mut known = lock(&self.known);
        if known
            .sandboxes
            .get(id)
            .is_some_and(|it| it.state() != State::Exited)
        {
            return Err(Error::new(
                ErrorReason::Conflict,
                format!("sandbox {id} is running; stop it first"),
            ));
        }
        known.sandboxes.remove(id);
        Ok(())
    }

    /// Takes no new sandboxes, if none is running.
    pub fn close_if_quiet(&self) -> Result<(), Error> {
        let mut known = lock(&self.known);
        if known.running > 0 {
            let text = format!("{} sandboxes are running; stop them first", known.running);
            return Err(Error::new(ErrorReason::Conflict, text));
        }
        known.closing = true;
        Ok(())
    }

    /// Takes no new sandboxes, ends all, and waits until their exits are written, at most `patience`.
    pub async fn close(&self, patience: Duration) {
        let all: Vec<_> = {
            let mut known = lock(&self.known);
            known.closing = true;
            known.sandboxes.values().cloned().collect()
        };
        for sandbox in all {
            sandbox.stop(Stop::notice(Some(LAST_GRACE)));
        }
        let quiet = async {
            loop {
                let quiet = self.quiet.notified();
                if lock(&self.known).running == 0 {
                    return;
                }
                quiet.await;
            }
        };
        if tokio::time::timeout(patience, quiet).await.is_err() {
            tracing::error!(
                running = self.counts().1,
                "shutdown failed to wait for all sandboxes"
            );
        }
    }

    /// A sandbox's whole life.
    async fn live(self: Arc<Self>, sandbox: Arc<Sandbox>, spec: SandboxSpec) {
        // Of the spec only this is needed later, and a thousand specs are a megabyte.
        let exit_file = spec.exit_file.clone();
        let outcome = match self.prepare(&sandbox, spec).await {
            Err(refusal) => Err(refusal),
            Ok(prepared) => {
                let log = Arc::clone(&prepared.log);
                let outcome = self.run(&sandbox, prepared).await;
                sandbox.execs.close(UNWIND).await;
                match outcome {
                    Outcome::Refused(refusal) => Err(refusal),
                    Outcome::Ended(ending) => Ok((log, ending)),
                }
            }
        };
        match outcome {
            Ok((log, ending)) => self.finish(&sandbox, &exit_file, log, ending).await,
            Err(refusal) => {
                tracing::warn!(sandbox = sandbox.id, pod = sandbox.pod(), %refusal, "sandbox failed to start");
                lock(&self.known).sandboxes.remove(&sandbox.id);
                sandbox.set_refused(refusal);
            }
        }
        lock(&self.known).running -= 1;
        self.quiet.notify_waiters();
    }

    /// Opens everything, on a thread that may block: the files may lie on a slow or dead file system, from which a
    /// stop frees the sandbox, if not the thread.
    async fn prepare(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        spec: SandboxSpec,
    ) -> Result<Prepared, Error> {
        let (its, registry, sandbox) = (sandbox, Arc::clone(self), Arc::clone(sandbox));
        let opened = self.parts.opener.spawn_blocking(move || {
            let program = registry.parts.artifacts.load(&spec.artifact, spec.kind)?;
            let log = registry.log_of(&spec)?;
            let mut http = spec.http.clone();
            let meters = Meters {
                cpu: Account::new(spec.cpu_quota_millicores),
                requests: Arc::default(),
            };
            sandbox.set_meters(meters.clone());
            let (request, limit) = (spec.memory_request_bytes, spec.memory_limit_bytes);
            let world = Arc::new(World::new(
                spec,
                &log,
                sandbox.stdin.as_ref(),
                registry
                    .parts
                    .budgets
                    .memory
                    .container(&sandbox, request, limit),
                &registry.parts.traffic,
            )?);
            let parts = http.as_mut().map(|it| std::mem::take(&mut it.components));
            let components = parts.into_iter().flatten();
            let components = components.map(|it| registry.component(it, &world));
            Ok(Prepared {
                program,
                components: components.collect::<Result<_, _>>()?,
                world,
                http,
                log,
                meters,
            })
        });
        tokio::select! {
            biased;
            opened = opened => {
                opened.unwrap_or_else(|error| Err(Error::new(ErrorReason::Internal, error.to_string())))
            }
            _ = its.stopped() => {
                Err(not_running(its, STOPPED))
            }
        }
    }

    /// A part of an application, ready to be instantiated.
    fn component(
        &self,
        component: protocol::Component,
        world: &World,
    ) -> Result<http::Component, Error> {
        let program = (self.parts.artifacts).load(&component.artifact, protocol::Kind::Http)?;
        let world = world.beside(&component)?;
        Ok(http::Component {
            name: component.name,
            routes: component.routes,
            program,
            world: Arc::new(world),
        })
    }

    fn log_of(&self, spec: &SandboxSpec) -> Result<Arc<Log>, Error> {
        let refuse = |path: &Path, error: std::io::Error| {
            Error::new(
                ErrorReason::Log,
                format!("cannot write {}: {error}", path.display()),
            )
        };
        log_file::check(&spec.log.path).map_err(|error| refuse(&spec.log.path, error))?;
        if let Some(directory) = spec.exit_file.parent() {
            rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)
                .map_err(|error| refuse(&spec.exit_file, error.into()))?;
        }
        let place = Place {
            path: spec.log.path.clone(),
            max_bytes: spec.log.max_bytes,
            max_files: spec.log.max_files,
            lossless: spec.log.lossless,
        };
        Ok(Log::new(place, self.parts.disk.clone(), spec.tty))
    }

    /// From the start to the guest's last instruction, or to its interruption.
    async fn run(self: &Arc<Self>, sandbox: &Arc<Sandbox>, prepared: Prepared) -> Outcome {
        let program = Arc::clone(&prepared.program);
        let inside = Inside {
            program: Arc::clone(&program),
            world: Arc::clone(&prepared.world),
            account: Arc::clone(&prepared.meters.cpu),
        };
        match (&*program, prepared.http.clone()) {
            (Program::Command(_), _) => self.run_command(sandbox, inside).await,
            (Program::Http(program), Some(http)) => {
                let parts = http::Parts {
                    program: program.clone(),
                    world: prepared.world,
                    settings: http,
                    log: prepared.log,
                    account: prepared.meters.cpu,
                    requests: prepared.meters.requests,
                    threads: self.parts.guests.clone(),
                    connections: self.parts.connections.clone(),
                };
                self.run_server(sandbox, inside, parts, prepared.components)
                    .await
            }
            // The spec's check has seen to it.
            (Program::Http(_), None) => Outcome::Refused(not_running(sandbox, "it has no http")),
        }
    }

    async fn run_server(
        &self,
        sandbox: &Arc<Sandbox>,
        inside: Inside,
        parts: http::Parts,
        components: Vec<http::Component>,
    ) -> Outcome {
        let made = tokio::select! {
            biased;
            _ = sandbox.stopped() => Err(not_running(sandbox, STOPPED)),
            made = http::Server::start(parts, components) => made,
            why = overdue(sandbox) => Err(not_running(sandbox, &why)),
        };
        match made {
            Err(refusal) => Outcome::Refused(refusal),
            Ok((server, listeners)) => {
                sandbox.execs.open(inside);
                self.record_start(sandbox);
                Outcome::Ended(server.serve(listeners, sandbox).await)
            }
        }
    }

    async fn run_command(self: &Arc<Self>, sandbox: &Arc<Sandbox>, inside: Inside) -> Outcome {
        let (registry, its) = (Arc::clone(self), Arc::clone(sandbox));
        let (program, guest) = (Arc::clone(&inside.program), inside.world.guest());
        let account = Arc::clone(&inside.account);
        let network = inside.world.network().map(Arc::clone);
        let started = move || {
            its.execs.open(inside);
            registry.record_start(&its);
        };
        let mut task = self.spawn(&account, program, guest, started);
        let (ending, why) = tokio::select! {
            biased;
            stop = told_to_end(sandbox, network.as_deref()) => (Ending::from(stop), STOPPED.to_owned()),
            outcome = &mut task => match outcome {
                Ok(Outcome::Ended(ending)) => {
                    let why = format!("it ended while it was starting: {ending:?}");
                    (ending, why)
                }
                Ok(refused) => return refused,
                Err(_) => {
                    let why = "the engine panicked in a host call of this guest".to_owned();
                    (Ending::Failed(why.clone()), why)
                }
            },
            why = overdue(sandbox) => (Ending::Failed(why.clone()), why),
        };
        // A spinning guest yields at each tick; dropping its future unwinds it, and a host call that does not return
        // is left behind on its thread.
        if !task.is_finished() {
            task.abort();
            if tokio::time::timeout(UNWIND, task).await.is_err() {
                tracing::warn!(
                    sandbox = sandbox.id,
                    pod = sandbox.pod(),
                    "guest does not yield, abandoned"
                );
            }
        }
        if sandbox.give_up() {
            return Outcome::Refused(not_running(sandbox, &why));
        }
        Outcome::Ended(ending)
    }

    /// Runs a command on threads that only guests compute on, so that whatever they do, its owner's task goes on.
    pub fn spawn(
        &self,
        account: &Arc<Account>,
        program: Arc<Program>,
        guest: Guest,
        started: impl FnOnce() + Send + 'static,
    ) -> Owned<Outcome> {
        let running = async move {
            match &*program {
                Program::Command(command) => command.run(guest, started).await,
                Program::Http(_) => Outcome::Refused(Error::new(
                    ErrorReason::NoEntryPoint,
                    "it serves HTTP and has nothing to run",
                )),
            }
        };
        self.parts.guests.spawn(account, running)
    }

    /// The guest's first instruction is about to run.
    fn record_start(&self, sandbox: &Arc<Sandbox>) {
        if let Err(illegal) = sandbox.set_started(Timestamp::now()) {
            tracing::error!(sandbox = sandbox.id, %illegal, "start failed to be recorded");
            return;
        }
        tracing::info!(
            sandbox = sandbox.id,
            pod = sandbox.pod(),
            container = sandbox.container(),
            "sandbox started"
        );
        self.parts.events.publish(sandbox, Moment::Started);
    }

    /// Log, exit file, facts, event: in this order.
    async fn finish(&self, sandbox: &Arc<Sandbox>, path: &Path, log: Arc<Log>, ending: Ending) {
        let finished_at = Timestamp::now();
        if let Some(stdin) = &sandbox.stdin {
            stdin.close();
        }
        let verdict = ending.verdict();
        log.close(&verdict.message);
        log.audience().end(&verdict.clone().into());
        let exit = Arc::new(Exit {
            id: sandbox.id.clone(),
            exit_code: verdict.code,
            reason: verdict.reason,
            fault: verdict.fault,
            message: verdict.message,
            started_at: sandbox.started_at().unwrap_or(finished_at),
            finished_at,
            incarnation: self.parts.incarnation.to_string(),
        });
        let written = self
            .parts
            .disk
            .finish(Arc::clone(&log), path.to_owned(), Arc::clone(&exit));
        if !is_written(sandbox, &log, written).await {
            tracing::error!(sandbox = sandbox.id, path = %path.display(), "exit file failed: the disk does not answer");
        }
        tracing::info!(
            sandbox = sandbox.id,
            pod = sandbox.pod(),
            container = sandbox.container(),
            exit_code = exit.exit_code,
            reason = ?exit.reason,
            "sandbox completed"
        );
        if let Err(illegal) = sandbox.set_exited(exit) {
            tracing::error!(sandbox = sandbox.id, %illegal, "exit failed to be recorded");
        }
        self.parts.events.publish(sandbox, Moment::Exited);
    }
}

/// Why a start came to nothing that was stopped meanwhile.
const STOPPED: &str = "it was stopped while it was starting";

fn not_running(sandbox: &Sandbox, why: &str) -> Error {
    Error::new(ErrorReason::Start, format!("sandbox {}: {why}", sandbox.id))
}

/// Says why when the start has taken too long, and nothing ever when it did not.
async fn overdue(sandbox: &Sandbox) -> String {
    if tokio::time::timeout(START, sandbox.settled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
    format!(
        "cannot make the instance: its start function did not end within {} s",
        START.as_secs()
    )
}

/// Waits until a command has to end: at once when it is told so, since it cannot hear it. One that others connect to goes on
/// for a moment, until they have heard that it ends.
async fn told_to_end(sandbox: &Sandbox, network: Option<&Network>) -> Stop {
    let stop = sandbox.stopped().await;
    if let Stop::Notice(until) = stop
        && network.is_some_and(Network::is_listening)
    {
        let grace = until.saturating_duration_since(Instant::now());
        tokio::select! {
            stop = sandbox.out_of_grace() => return stop,
            () = tokio::time::sleep(LAME_DUCK.min(grace / 2)) => {}
        }
    }
    stop
}

/// Waits for a log and its exit file: as long as a disk may take, and while the log waits for its reader and nobody
/// has asked the sandbox to end.
async fn is_written(sandbox: &Sandbox, log: &Log, written: oneshot::Receiver<()>) -> bool {
    let released = async {
        sandbox.stopped().await;
        log.release();
        std::future::pending::<()>().await;
    };
    let impatient = async {
        loop {
            tokio::time::sleep(DISK_PATIENCE).await;
            if !log.is_held() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = released => false,
        _ = written => true,
        () = impatient => false,
    }
}
