//! The way of a sandbox: prepared, started, run, written down.
//!
//! - `preparation`: what is opened before the start; `end`: what is written down and told after it

mod end;
mod preparation;

use crate::command::Outcome;
use crate::exec::Inside;
use crate::exit::Ending;
use crate::http;
use crate::parts::Parts;
use crate::program::Program;
use crate::protocol::{Error, ErrorReason, SandboxSpec};
use crate::sandbox::{Moment, Sandbox, Stop};
use crate::time::Timestamp;
use crate::traffic::Network;
use preparation::Prepared;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a start function may take. It initialises memory, which takes milliseconds; the agent waits for the answer
/// meanwhile, and cannot know whether one will come.
pub const START: Duration = Duration::from_secs(10);

/// How long an interrupted guest may take to be unwound: many times a tick, and little of the 2 seconds in which a
/// signal has to end the engine.
pub const UNWIND: Duration = Duration::from_millis(500);

/// How long a command that listens goes on when it is told to end: endpoints of Services lag about so much.
const LAME_DUCK: Duration = Duration::from_secs(1);

/// Why a start came to nothing that was stopped meanwhile.
const STOPPED: &str = "it was stopped while it was starting";

/// A sandbox's whole life, from its preparation to its exit's event; a refusal when it was never a guest.
pub async fn live(
    parts: &Arc<Parts>,
    sandbox: &Arc<Sandbox>,
    spec: SandboxSpec,
) -> Result<(), Error> {
    // Of the spec only this is needed later, and a thousand specs are a megabyte.
    let exit_file = spec.exit_file.clone();
    let prepared = preparation::prepare(parts, sandbox, spec).await?;
    let log = Arc::clone(&prepared.log);
    let outcome = run(parts, sandbox, prepared).await;
    sandbox.execs.close(UNWIND).await;
    match outcome {
        Outcome::Refused(refusal) => Err(refusal),
        Outcome::Ended(ending) => {
            end::finish(parts, sandbox, &exit_file, log, ending).await;
            Ok(())
        }
    }
}

/// From the start to the guest's last instruction, or to its interruption.
async fn run(parts: &Arc<Parts>, sandbox: &Arc<Sandbox>, prepared: Prepared) -> Outcome {
    let inside = Inside {
        program: Arc::clone(&prepared.program),
        world: Arc::clone(&prepared.world),
        account: Arc::clone(&prepared.meters.cpu),
    };
    match (&*prepared.program, prepared.http) {
        (Program::Command(_), _) => run_command(parts, sandbox, inside).await,
        (Program::Http(program), Some(settings)) => {
            let server = http::Parts {
                program: program.clone(),
                world: prepared.world,
                settings,
                log: prepared.log,
                account: prepared.meters.cpu,
                requests: prepared.meters.requests,
                threads: parts.guests.clone(),
                connections: parts.connections.clone(),
            };
            run_server(parts, sandbox, inside, server, prepared.components).await
        }
        // The spec's check has seen to it.
        (Program::Http(_), None) => Outcome::Refused(not_running(sandbox, "it has no http")),
    }
}

async fn run_server(
    parts: &Parts,
    sandbox: &Arc<Sandbox>,
    inside: Inside,
    server: http::Parts,
    components: Vec<http::Component>,
) -> Outcome {
    let made = tokio::select! {
        biased;
        _ = sandbox.stopped() => Err(not_running(sandbox, STOPPED)),
        made = http::Server::start(server, components) => made,
        why = overdue(sandbox) => Err(not_running(sandbox, &why)),
    };
    match made {
        Err(refusal) => Outcome::Refused(refusal),
        Ok((server, listeners)) => {
            sandbox.execs.open(inside);
            record_start(parts, sandbox);
            Outcome::Ended(server.serve(listeners, sandbox).await)
        }
    }
}

async fn run_command(parts: &Arc<Parts>, sandbox: &Arc<Sandbox>, inside: Inside) -> Outcome {
    let (shared, its) = (Arc::clone(parts), Arc::clone(sandbox));
    let (program, guest) = (Arc::clone(&inside.program), inside.world.guest());
    let account = Arc::clone(&inside.account);
    let network = inside.world.network().map(Arc::clone);
    let started = move || {
        its.execs.open(inside);
        record_start(&shared, &its);
    };
    let mut task = parts.spawn(&account, program, guest, started);
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

/// The guest's first instruction is about to run.
fn record_start(parts: &Parts, sandbox: &Arc<Sandbox>) {
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
    parts.events.publish(sandbox, Moment::Started);
}

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
