//! Before the start: everything that has to be opened is opened, on a thread that may block.

use crate::disk;
use crate::guest::World;
use crate::http;
use crate::life::{STOPPED, not_running};
use crate::log::Log;
use crate::log_file;
use crate::meter::Account;
use crate::parts::Parts;
use crate::program::Program;
use crate::protocol::{self, Error, ErrorReason, SandboxSpec};
use crate::sandbox::{Meters, Sandbox};
use std::path::Path;
use std::sync::Arc;

/// What a start needs besides the spec; everything that had to be opened is open.
pub struct Prepared {
    /// What runs.
    pub program: Arc<Program>,
    /// What it sees.
    pub world: Arc<World>,
    /// Where and how it serves, if it does.
    pub http: Option<protocol::Http>,
    /// The other parts of its application.
    pub components: Vec<http::Component>,
    /// Where its output goes.
    pub log: Arc<Log>,
    /// What counts its use.
    pub meters: Meters,
}

/// Opens everything, on a thread that may block: the files may lie on a slow or dead file system, from which a
/// stop frees the sandbox, if not the thread.
pub async fn prepare(
    parts: &Arc<Parts>,
    sandbox: &Arc<Sandbox>,
    spec: SandboxSpec,
) -> Result<Prepared, Error> {
    let (its, shared) = (Arc::clone(sandbox), Arc::clone(parts));
    let opened = (parts.opener).spawn_blocking(move || open(&shared, &its, spec));
    tokio::select! {
        biased;
        opened = opened => {
            opened.unwrap_or_else(|error| Err(Error::new(ErrorReason::Internal, error.to_string())))
        }
        _ = sandbox.stopped() => Err(not_running(sandbox, STOPPED)),
    }
}

fn open(parts: &Parts, sandbox: &Arc<Sandbox>, mut spec: SandboxSpec) -> Result<Prepared, Error> {
    let program = parts.artifacts.load(&spec.artifact, spec.kind)?;
    let log = log_of(parts, &spec)?;
    let meters = Meters {
        cpu: Account::new(spec.cpu_quota_millicores),
        requests: Arc::default(),
    };
    sandbox.set_meters(meters.clone());
    let (request, limit) = (spec.memory_request_bytes, spec.memory_limit_bytes);
    let memory = (parts.budgets.memory).container(sandbox, request, limit);
    let mut http = spec.http.take();
    let stdin = sandbox.stdin.as_ref();
    let world = Arc::new(World::new(spec, &log, stdin, memory, &parts.traffic)?);
    let components = http.as_mut().map(|it| std::mem::take(&mut it.components));
    let components = components.into_iter().flatten();
    let components = components.map(|it| open_component(parts, it, &world));
    Ok(Prepared {
        program,
        components: components.collect::<Result<_, _>>()?,
        world,
        http,
        log,
        meters,
    })
}

/// A part of an application, ready to be instantiated.
fn open_component(
    parts: &Parts,
    component: protocol::Component,
    world: &World,
) -> Result<http::Component, Error> {
    let program = (parts.artifacts).load(&component.artifact, protocol::Kind::Http)?;
    let world = world.beside(&component)?;
    Ok(http::Component {
        name: component.name,
        routes: component.routes,
        program,
        world: Arc::new(world),
    })
}

fn log_of(parts: &Parts, spec: &SandboxSpec) -> Result<Arc<Log>, Error> {
    let refuse = |path: &Path, error: std::io::Error| {
        Error::new(
            ErrorReason::Log,
            format!("cannot write {}: {error}", path.display()),
        )
    };
    log_file::check(&spec.log.path).map_err(|error| refuse(&spec.log.path, error))?;
    disk::can_make(&spec.exit_file).map_err(|error| refuse(&spec.exit_file, error))?;
    Ok(Log::new(spec.log.clone(), parts.disk.clone(), spec.tty))
}
