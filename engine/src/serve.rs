//! `wasmlet-engine serve`: builds every part, serves the control socket, ends in order.

use crate::artifact::Artifacts;
use crate::budget::Budgets;
use crate::control::{Control, Identity};
use crate::disk::Disk;
use crate::epoch::Epoch;
use crate::events::Events;
use crate::http::Connections;
use crate::meter::Threads;
use crate::parts::Parts;
use crate::protocol::Confinement;
use crate::registry::Registry;
use crate::settings;
use crate::time::Timestamp;
use crate::traffic::Shared;
use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The socket's name in the engine's directory.
const SOCKET: &str = "engine.sock";

/// Starts that can wait for a slow file system at once.
const OPENERS: usize = 4;

/// How long the sandboxes' last words may take after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long open answers may take to be sent at the end.
const DRAIN: Duration = Duration::from_secs(1);

/// The engine's directory, which no other engine serves, and the socket in it.
pub struct Place {
    lock: OwnedFd,
    listener: UnixListener,
}

/// Takes `directory` and binds `engine.sock` in it.
pub fn bind(directory: &Path) -> Result<Place> {
    let lock = lock_directory(directory)?;
    let listener = bind_socket(&lock)?;
    Ok(Place { lock, listener })
}

/// Serves until a signal or a client ends the engine.
pub fn serve(place: Place, memory_budget: Option<u64>, confinement: Confinement) -> Result<()> {
    let Place { lock, listener } = place;
    let budgets = Budgets::new(memory_budget).context("cannot read the process's limits")?;
    // Two runtimes: a guest that keeps a thread keeps it from other guests, never from the socket and the signals.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let guests = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(16)
        .thread_name("guests")
        .enable_all()
        .build()
        .context("cannot start the guests' runtime")?;
    // For those that compute on: a thread per core, and everything else goes before it.
    let busy = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(16)
        .thread_name("busy")
        .on_thread_start(|| {
            let _ = rustix::process::nice(19);
        })
        .enable_all()
        .build()
        .context("cannot start the busy guests' runtime")?;
    // Driven by nobody: it only lends its threads, which come when needed and go when idle.
    let opener = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(OPENERS)
        .thread_name("opener")
        .build()
        .context("cannot start the opener")?;
    let threads = Threads {
        fast: guests.handle().clone(),
        busy: busy.handle().clone(),
        epoch: Epoch::start().context("cannot start the epoch thread")?,
    };
    let ended = runtime.block_on(run(
        listener,
        budgets,
        threads,
        opener.handle().clone(),
        confinement,
    ));
    let _ = rustix::fs::unlinkat(&lock, SOCKET, rustix::fs::AtFlags::empty());
    // Guests and host calls that do not return are left to the process's end.
    guests.shutdown_background();
    busy.shutdown_background();
    runtime.shutdown_background();
    opener.shutdown_background();
    ended
}

async fn run(
    listener: UnixListener,
    budgets: Budgets,
    guests: Threads,
    opener: Handle,
    confinement: Confinement,
) -> Result<()> {
    // Before anything can be started that the signals have to end.
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear SIGINT")?;
    // An engine outlives the terminal that its agent was started from.
    let _hangup = signal(SignalKind::hangup()).context("cannot hear SIGHUP")?;
    listener
        .set_nonblocking(true)
        .context("cannot prepare the socket")?;
    let listener =
        tokio::net::UnixListener::from_std(listener).context("cannot prepare the socket")?;
    let control = build(budgets, guests, opener, confinement)?;
    let registry = Arc::clone(&control.registry);
    let mut shutdown = control.shutdown.subscribe();
    let confinement = &control.identity.confinement;
    tracing::info!(
        incarnation = &*registry.parts.incarnation,
        user = confinement.user,
        landlock = confinement.landlock,
        seccomp = confinement.seccomp,
        "engine started"
    );
    for missing in &confinement.missing {
        tracing::warn!(missing, "engine is not wholly confined");
    }
    let serving = tokio::spawn(Arc::clone(&control).serve(listener));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = shutdown.wait_for(|it| *it) => {}
    }
    serving.abort();
    let end = async {
        registry.close(PATIENCE).await;
        registry.parts.events.close();
        control.shutdown.send_replace(true);
        // Each connection holds a receiver; when all are gone the answers are sent.
        drop(shutdown);
        let _ = tokio::time::timeout(DRAIN, control.shutdown.closed()).await;
    };
    tokio::select! {
        () = end => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("engine completed");
    Ok(())
}

fn build(
    budgets: Budgets,
    guests: Threads,
    opener: Handle,
    confinement: Confinement,
) -> Result<Arc<Control>> {
    let compatibility = settings::compatibility().map_err(anyhow_from)?;
    let incarnation: Arc<str> = incarnation().context("cannot make an incarnation")?.into();
    let connections = Connections::new(budgets.connections());
    let parts = Parts {
        disk: Disk::start().context("cannot start the disk thread")?,
        artifacts: Arc::new(Artifacts::new(Arc::clone(&guests.epoch))),
        traffic: Shared::new(budgets.sockets(), connections.free(), guests.fast.clone()),
        connections,
        events: Arc::new(Events::new(Arc::clone(&incarnation))),
        budgets,
        guests,
        opener,
        incarnation,
    };
    Ok(Arc::new(Control {
        registry: Registry::new(parts),
        identity: Identity {
            compatibility,
            started_at: Timestamp::now(),
            confinement,
        },
        shutdown: watch::Sender::new(false),
    }))
}

/// Wasmtime's errors keep their chain as text; nobody asks them for more at start.
fn anyhow_from(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot set up WebAssembly: {error:?}")
}

/// Opens the engine's directory for this process alone.
fn lock_directory(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).with_context(|| {
        format!(
            "cannot open {}; make the directory first",
            directory.display()
        )
    })?;
    rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another engine serves {}", directory.display()))?;
    Ok(opened)
}

/// Binds through the open directory, since a socket's path may have 107 bytes at most.
fn bind_socket(directory: &OwnedFd) -> Result<UnixListener> {
    // The lock says that whoever left the socket is gone.
    let _ = rustix::fs::unlinkat(directory, SOCKET, rustix::fs::AtFlags::empty());
    // The socket is never open to others, not even between two calls. No thread runs yet.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    // From here on files are made with modes of their own, and a guest's ones are as in any container,
    // whatever the agent's mask is.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    listener.context("cannot bind the control socket")
}

/// Sixteen hexadecimal digits that no other start has.
fn incarnation() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(settings::hexadecimal(&bytes))
}
