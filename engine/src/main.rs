//! `wasmlet-engine` hosts WebAssembly sandboxes for the node agent of wasmlet, which decides everything and speaks
//! to it over a Unix socket. In come specs and compiled artifacts; out go log lines, exit files and events.
//!
//! - `serve`: builds the parts, owns signals and the order of the end; `network`: where its guests' sockets are
//! - `control`: the socket's routes; `protocol`: their documents; `spec`: what is demanded of them; `time`: their
//!   times
//! - `registry`: all sandboxes, and `parts`: what they share; `sandbox`: one, with the table of its life; `life`: the way
//!   that it goes; `events`: what happened to them; `budget`: how many there can be; `memory`: what their memories take
//! - `guest`: a guest's own state; `program`: what it can import; `files`: how many it
//!   may have open; `command`: guests that run once; `http`: guests that
//!   serve requests; `exit`: what their end means; `meter`: what they compute, and where; `epoch`: the clock that
//!   interrupts them; `artifact`: their mapped programs; `settings`: what artifacts are compiled for
//! - `exec`: further instances in a container, with a client each; `attach`: clients at a container's own streams;
//!   `frame`: what their connections carry; `client`: what they send; `outbox`: what they get; `audience`: who is
//!   attached; `terminal`: what is between keys and a guest that reads lines
//! - `log` and `stdin`: their streams; `output`: the guest's end of those that it writes; `disk`: the thread that writes log
//!   and exit files
//! - `confine` and `syscalls`: what the process gives up before it starts
//! - `compile`: the helper process that makes artifacts; `inspect`: what a file is; `allocator`: its memory cap
//! - `trace`: the engine's own log; `sync`: how locks are taken

#![deny(missing_docs)]

mod allocator;
mod answer;
mod artifact;
mod attach;
mod audience;
mod budget;
mod client;
mod command;
mod compile;
mod confine;
mod control;
mod disk;
mod epoch;
mod events;
mod exec;
mod exit;
mod files;
mod frame;
mod guest;
mod http;
mod inspect;
mod life;
mod lines;
mod log;
mod log_file;
mod memory;
mod meter;
mod network;
mod outbox;
mod output;
mod parts;
mod program;
mod protocol;
mod registry;
mod sandbox;
mod serve;
mod settings;
mod spec;
mod stdin;
mod sync;
mod syscalls;
mod terminal;
mod time;
mod trace;
mod traffic;

use lexopt::{Arg, ValueExt as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

const USAGE: &str = "\
usage: wasmlet-engine serve --directory DIRECTORY [--network-namespace FILE] [--memory-budget BYTES]
                            [--user UID:GID[,GID…]] [--read PATH]… [--write PATH]…
       wasmlet-engine compile --output FILE [--function NAME] [--memory-limit BYTES] [--cpu-seconds SECONDS] < FILE
       wasmlet-engine inspect < FILE
       wasmlet-engine version";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Serve {
        directory: PathBuf,
        network: Option<PathBuf>,
        memory_budget: Option<u64>,
        rules: confine::Rules,
    },
    Compile(compile::Task),
    CompileInner(compile::Task),
    Inspect,
    Version,
    Help,
}

fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()) {
        Ok(Request::Serve {
            directory,
            network,
            memory_budget,
            rules,
        }) => report(start(&directory, network.as_deref(), memory_budget, &rules)),
        Ok(Request::Compile(task)) => compile::outer(&task),
        Ok(Request::CompileInner(task)) => compile::inner(&task),
        Ok(Request::Inspect) => print_inspected(),
        Ok(Request::Version) => report(print_version()),
        Ok(Request::Help) => report(print_line(USAGE)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "wasmlet-engine: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Every step before the first thread holds for all of them: the network, the user, the rules.
fn start(
    directory: &Path,
    network: Option<&Path>,
    memory_budget: Option<u64>,
    rules: &confine::Rules,
) -> anyhow::Result<()> {
    network.map_or(Ok(()), network::join)?;
    // While the directory may still be written: it is the agent's, and holds what the agent believes.
    let place = serve::bind(directory)?;
    let confinement = confine::engine(rules)?;
    trace::start();
    serve::serve(place, memory_budget, confinement)
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "wasmlet-engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_version() -> anyhow::Result<()> {
    let version = protocol::Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: protocol::PROTOCOL,
        compatibility: settings::compatibility().map_err(|error| anyhow::anyhow!("{error:?}"))?,
    };
    print_line(&serde_json::to_string(&version)?)
}

/// What the file on standard input is, or why it is nothing: one document.
fn print_inspected() -> ExitCode {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Err(error) = confine::helper(None) {
        return report(Err(error));
    }
    compile::print(&match std::io::stdin().lock().read_to_end(&mut bytes) {
        Ok(_) => inspect::describe(&bytes),
        Err(error) => Err(protocol::Error::new(
            protocol::ErrorReason::Internal,
            format!("cannot read the input: {error}"),
        )),
    })
}

fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn parse(mut arguments: lexopt::Parser) -> Result<Request, lexopt::Error> {
    let mut verb = None;
    let (mut directory, mut output, mut function) = (None, None, None);
    let (mut memory_limit, mut cpu_seconds) = (None, None);
    let (mut network, mut memory_budget) = (None, None);
    let mut rules = confine::Rules::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(Request::Help),
            Arg::Long("directory") => directory = Some(PathBuf::from(arguments.value()?)),
            Arg::Long("network-namespace") => network = Some(PathBuf::from(arguments.value()?)),
            Arg::Long("memory-budget") => memory_budget = Some(arguments.value()?.parse()?),
            Arg::Long("read") => rules.read.push(PathBuf::from(arguments.value()?)),
            Arg::Long("write") => rules.write.push(PathBuf::from(arguments.value()?)),
            Arg::Long("user") => rules.user = Some(arguments.value()?.parse()?),
            Arg::Long("output") => output = Some(PathBuf::from(arguments.value()?)),
            Arg::Long("function") => function = Some(arguments.value()?.string()?),
            Arg::Long("memory-limit") => memory_limit = Some(arguments.value()?.parse()?),
            Arg::Long("cpu-seconds") => cpu_seconds = Some(arguments.value()?.parse()?),
            Arg::Value(value) if verb.is_none() => verb = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let task = |output: Option<PathBuf>| {
        let output = output.ok_or("--output is missing")?;
        Ok::<_, lexopt::Error>(compile::Task {
            output,
            function,
            memory_limit,
            cpu_seconds,
        })
    };
    match verb.as_deref() {
        Some("serve") => Ok(Request::Serve {
            directory: directory.ok_or("--directory is missing")?,
            network,
            memory_budget,
            rules,
        }),
        Some("compile") => Ok(Request::Compile(task(output)?)),
        Some(compile::INNER) => Ok(Request::CompileInner(task(output)?)),
        Some("inspect") => Ok(Request::Inspect),
        Some("version") => Ok(Request::Version),
        Some(other) => Err(format!("there is no subcommand {other}").into()),
        None => Err("a subcommand is missing".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Request, lexopt::Error> {
        parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn every_verb_parses() {
        let serve = |network: Option<&str>| Request::Serve {
            directory: "/run/x".into(),
            network: network.map(PathBuf::from),
            memory_budget: None,
            rules: confine::Rules::default(),
        };
        assert_eq!(
            parsed(&["serve", "--directory", "/run/x"]).ok(),
            Some(serve(None))
        );
        let joining = ["serve", "--directory=/run/x", "--network-namespace=/run/n"];
        assert_eq!(parsed(&joining).ok(), Some(serve(Some("/run/n"))));
        let confined = [
            "serve",
            "--directory=/run/x",
            "--read=/a",
            "--write=/b",
            "--write=/c",
            "--user=1:2,3",
        ];
        let Ok(Request::Serve { rules, .. }) = parsed(&confined) else {
            panic!("a confined engine");
        };
        let expected = confine::Rules {
            read: vec!["/a".into()],
            write: vec!["/b".into(), "/c".into()],
            user: Some(confine::User {
                user: 1,
                group: 2,
                groups: vec![3],
            }),
        };
        assert_eq!(rules, expected);
        assert!(parsed(&["serve", "--directory=/run/x", "--user=me"]).is_err());
        let task = compile::Task {
            output: "a".into(),
            function: None,
            memory_limit: Some(5),
            cpu_seconds: None,
        };
        assert_eq!(
            parsed(&["compile", "--output=a", "--memory-limit=5"]).ok(),
            Some(Request::Compile(task))
        );
        assert_eq!(parsed(&["version"]).ok(), Some(Request::Version));
        assert!(
            parsed(&["serve"]).is_err()
                && parsed(&[]).is_err()
                && parsed(&["compile", "--output=a", "x"]).is_err()
        );
    }
}
