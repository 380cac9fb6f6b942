//! Artifacts mapped into memory: each content once, however many sandboxes run it.
//!
//! What runs is held by its sandboxes; the last few used are held besides, so that a restart finds them.

use crate::command::{Linkers, Program};
use crate::protocol::{Artifact, Error, ErrorReason};
use crate::settings::hexadecimal;
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
    engine: Engine,
    /// Made when the first artifact comes: an engine that waits does without.
    linkers: OnceLock<Linkers>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Newest last.
    recent: Vec<(String, Arc<Program>)>,
    running: HashMap<String, Weak<Program>>,
}

impl Artifacts {
    /// Holds nothing yet.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            linkers: OnceLock::new(),
            kept: Mutex::default(),
        }
    }

    /// A program that is mapped already.
    pub fn cached(&self, sha256: &str) -> Option<Arc<Program>> {
        lock(&self.kept).find(sha256)
    }

    /// The artifact's program; reads and maps the file when its content is not mapped yet. May block.
    pub fn load(&self, artifact: &Artifact) -> Result<Arc<Program>, Error> {
        if let Some(program) = self.cached(&artifact.sha256) {
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
            .map(&file)
            .map_err(|error| refuse("cannot map", &error.root_cause()))?;
        Ok(lock(&self.kept).insert(&artifact.sha256, program))
    }

    fn map(&self, file: &File) -> wasmtime::Result<Program> {
        let linkers = match self.linkers.get() {
            Some(linkers) => linkers,
            None => {
                let made = Linkers::new(&self.engine)?;
                self.linkers.get_or_init(|| made)
            }
        };
        // By descriptor, so that it is the file whose content was just checked.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the content is what our compile helper wrote, as its SHA-256 proves, and the cache's files are
        // replaced by rename and never written again.
        match Engine::detect_precompiled_file(&path)? {
            Some(Precompiled::Module) => {
                linkers.module(&unsafe { Module::deserialize_file(&self.engine, &path)? })
            }
            Some(Precompiled::Component) => {
                linkers.component(&unsafe { Component::deserialize_file(&self.engine, &path)? })
            }
            None => Err(wasmtime::Error::msg(
                "it is not an artifact of wasmlet-engine compile",
            )),
        }
    }
}

impl Kept {
    fn find(&mut self, sha256: &str) -> Option<Arc<Program>> {
        if let Some(at) = self.recent.iter().position(|(key, _)| key == sha256) {
            let entry = self.recent.remove(at);
            let program = Arc::clone(&entry.1);
            self.recent.push(entry);
            return Some(program);
        }
        let program = self.running.get(sha256)?.upgrade()?;
        self.keep(sha256, &program);
        Some(program)
    }

    /// Keeps a program; another one with the same content, mapped meanwhile, wins.
    fn insert(&mut self, sha256: &str, program: Program) -> Arc<Program> {
        if let Some(program) = self.find(sha256) {
            return program;
        }
        let program = Arc::new(program);
        self.running.retain(|_, program| program.strong_count() > 0);
        self.running
            .insert(sha256.to_owned(), Arc::downgrade(&program));
        self.keep(sha256, &program);
        program
    }

    fn keep(&mut self, sha256: &str, program: &Arc<Program>) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((sha256.to_owned(), Arc::clone(program)));
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
