//! Artifacts mapped into memory: each content once, however many sandboxes run it.
//!
//! What runs is held by its sandboxes; the last few used are held besides, so that a restart finds them.

use crate::epoch::Epoch;
use crate::program::{Linkers, Program};
use crate::protocol::{Artifact, Error, ErrorReason, Kind};
use crate::settings::{self, Flavour, hexadecimal};
use crate::sync::lock;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// Programs kept though no sandbox runs them. They cost address space and page tables, no timer.
const RECENT: usize = 32;

/// The artifacts of one engine.
pub struct Artifacts {
    epoch: Arc<Epoch>,
    sequential: Engines,
    concurrent: Engines,
    kept: Mutex<Kept>,
}

/// Where guests of one flavour run.
struct Engines {
    flavour: Flavour,
    /// Instances that are made one by one, for guests that stay.
    single: Made,
    /// Instances from a pool, for guests that come and go.
    pooled: Made,
}

/// Made when the first artifact comes that needs it: an engine that waits does without.
type Made = OnceLock<(Engine, Linkers)>;

impl Engines {
    fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            single: Made::new(),
            pooled: Made::new(),
        }
    }
}

#[derive(Default)]
struct Kept {
    /// Newest last.
    recent: Vec<(Key, Arc<Program>)>,
    running: HashMap<Key, Weak<Program>>,
}

/// An artifact's SHA-256, as what it runs, and which function of it.
type Key = (String, Kind, Option<String>);

/// As what an artifact runs, and which function of it.
type Run<'a> = (Kind, Option<&'a str>);

impl Artifacts {
    /// Holds nothing yet; `epoch` will interrupt the guests.
    pub fn new(epoch: Arc<Epoch>) -> Self {
        Self {
            epoch,
            sequential: Engines::new(Flavour::Sequential),
            concurrent: Engines::new(Flavour::Concurrent),
            kept: Mutex::default(),
        }
    }

    /// The artifact's program; reads and maps the file when its content is not mapped yet. May block.
    pub fn load(&self, artifact: &Artifact, kind: Kind) -> Result<Arc<Program>, Error> {
        let function = artifact.function.clone();
        let key = (artifact.sha256.clone(), kind, function);
        if let Some(program) = lock(&self.kept).find(&key) {
            return Ok(program);
        }
        let refuse = |what: &str, error: &dyn std::fmt::Display| {
            let path = artifact.path.display();
            Error::new(
                ErrorReason::Artifact,
                format!("{what} {path}: {error}; compile the module again"),
            )
        };
        let mut file = File::open(&artifact.path).map_err(|error| refuse("cannot open", &error))?;
        let found = sha256(&mut file).map_err(|error| refuse("cannot read", &error))?;
        if found != artifact.sha256 {
            return Err(refuse(
                "changed content of",
                &format!("its SHA-256 is {found}"),
            ));
        }
        let program = self
            .map(&file, (kind, artifact.function.as_deref()))
            .map_err(|error| refuse("cannot map", &error.root_cause()))?;
        Ok(lock(&self.kept).insert(key, program))
    }

    fn map(&self, file: &File, run: Run<'_>) -> wasmtime::Result<Program> {
        let mapped = self.map_in(&self.sequential, file, run);
        // The artifact says itself for which flavour it is; of one that is for neither the first error tells more.
        mapped.or_else(|error| {
            let mapped = self.map_in(&self.concurrent, file, run);
            mapped.map_err(|_| error)
        })
    }

    fn map_in(&self, engines: &Engines, file: &File, run: Run<'_>) -> wasmtime::Result<Program> {
        let single = || self.made(&engines.single, settings::serving, engines.flavour);
        if run.0 == Kind::Http {
            let mapped = self
                .made(&engines.pooled, settings::pooled, engines.flavour)
                .and_then(|made| map(file, run, made));
            // A guest that is larger than the pool's slots runs slower, but runs.
            return mapped.or_else(|_| map(file, run, single()?));
        }
        map(file, run, single()?)
    }

    fn made<'a>(
        &self,
        place: &'a Made,
        engine: fn(Flavour) -> wasmtime::Result<Engine>,
        flavour: Flavour,
    ) -> wasmtime::Result<&'a (Engine, Linkers)> {
        if let Some(made) = place.get() {
            return Ok(made);
        }
        let engine = engine(flavour)?;
        let linkers = Linkers::new(&engine, flavour)?;
        // Of two that were made at once one is dropped, and with it its clock.
        self.epoch.add(&engine);
        Ok(place.get_or_init(|| (engine, linkers)))
    }
}

fn map(file: &File, run: Run<'_>, made: &(Engine, Linkers)) -> wasmtime::Result<Program> {
    let ((engine, linkers), (kind, function)) = (made, run);
    // By descriptor, so that it is the file whose content was just checked.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the content is what our compile helper wrote, as its SHA-256 proves, and the cache's files are
    // replaced by rename and never written again.
    match Engine::detect_precompiled_file(&path)? {
        Some(Precompiled::Module) => linkers.module(
            &unsafe { Module::deserialize_file(engine, &path)? },
            function,
        ),
        Some(Precompiled::Component) => linkers.component(
            &unsafe { Component::deserialize_file(engine, &path)? },
            kind,
            function,
        ),
        None => Err(wasmtime::Error::msg(
            "it is not an artifact of wasmlet-engine compile",
        )),
    }
}

impl Kept {
    fn find(&mut self, key: &Key) -> Option<Arc<Program>> {
        if let Some(at) = self.recent.iter().position(|(other, _)| other == key) {
            let entry = self.recent.remove(at);
            let program = Arc::clone(&entry.1);
            self.recent.push(entry);
            return Some(program);
        }
        let program = self.running.get(key)?.upgrade()?;
        self.keep(key.clone(), &program);
        Some(program)
    }

    /// Keeps a program; another one with the same content, mapped meanwhile, wins.
    fn insert(&mut self, key: Key, program: Program) -> Arc<Program> {
        if let Some(program) = self.find(&key) {
            return program;
        }
        let program = Arc::new(program);
        self.running.retain(|_, program| program.strong_count() > 0);
        self.running.insert(key.clone(), Arc::downgrade(&program));
        self.keep(key, &program);
        program
    }

    fn keep(&mut self, key: Key, program: &Arc<Program>) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((key, Arc::clone(program)));
    }
}

/// The SHA-256 of what is left to read, in hexadecimal.
pub fn sha256(file: &mut impl io::Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hexadecimal(&hasher.finalize())),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
