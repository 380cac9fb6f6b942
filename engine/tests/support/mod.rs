//! Drives the real binary: an engine in its own directory, guests from text, a small HTTP client.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes; only a defect meets it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What happens at once does so within this, also on a machine that stalls; what does not happen at once takes longer.
pub const AT_ONCE: Duration = Duration::from_secs(10);

pub const BINARY: &str = env!("CARGO_BIN_EXE_wasmlet-engine");

pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The status of an answer with this head.
pub fn status(head: &str) -> u16 {
    let status = head.split(' ').nth(1).expect("status");
    status.parse().expect("status")
}

/// Has a program start with room for so many descriptors.
pub fn limit_descriptors(command: &mut Command, most: u64) {
    let limit = move || {
        let limit = rustix::process::Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).map_err(Into::into)
    };
    // Safe: one system call between fork and exec.
    unsafe { command.pre_exec(limit) };
}

/// A running engine; killed when dropped.
pub struct Engine {
    pub directory: tempfile::TempDir,
    pub process: Child,
}

/// An answer of the control socket.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Engine {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let process = launch(directory.path(), change);
        let engine = Self { directory, process };
        engine.wait_until_up();
        engine
    }

    /// Ends this process by force and starts another one in the same directory.
    pub fn restart(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
        self.process = launch(self.directory.path(), |_| {});
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        let begin = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(begin.elapsed() < PATIENCE, "the engine does not come up");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.path("engine.sock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        // An engine that refuses a body early does not read it; its answer tells.
        let _ = write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("receive");
        let (head, body) = text.split_once("\r\n\r\n").expect("head");
        let status = status(head);
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body).expect("JSON")
        };
        Answer { status, body }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub fn put(&self, id: &str, spec: &Value) -> Answer {
        self.request("PUT", &format!("/sandboxes/{id}"), &spec.to_string())
    }

    pub fn stop(&self, id: &str, grace_seconds: f64) -> Answer {
        self.request(
            "POST",
            &format!("/sandboxes/{id}/stop"),
            &json!({"graceSeconds": grace_seconds}).to_string(),
        )
    }

    /// A spec that runs this program; its log and exit file are named after `id`.
    pub fn spec(&self, id: &str, program: &Program) -> Value {
        json!({
            "podUid": "u", "podNamespace": "default", "podName": "p", "container": "c", "attempt": 0,
            "artifact": {"path": program.path, "sha256": program.sha256},
            "args": ["guest.wasm"],
            "log": {"path": self.path(&format!("{id}.log"))},
            "exitFile": self.path(&format!("{id}.json")),
        })
    }

    /// Compiles text into this engine's directory.
    pub fn program(&self, wat: &str) -> Program {
        Program::compile(self.directory.path(), &wat::parse_str(wat).expect("wat"))
    }

    /// Starts a program with this id and waits for its exit.
    pub fn run(&self, id: &str, program: &Program) -> Value {
        self.run_spec(id, &self.spec(id, program))
    }

    pub fn run_spec(&self, id: &str, spec: &Value) -> Value {
        let answer = self.put(id, spec);
        assert_eq!(answer.status, 201, "{answer:?}");
        self.exit(id)
    }

    /// Waits for a sandbox's exit and returns it.
    pub fn exit(&self, id: &str) -> Value {
        let event = self.events("").wait("exited", id);
        event["sandbox"]["exit"].clone()
    }

    pub fn events(&self, query: &str) -> Events {
        let mut stream = self.connect();
        write!(
            stream,
            "GET /events{query} HTTP/1.1\r\nHost: engine\r\n\r\n"
        )
        .expect("send");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("head");
        }
        Events {
            reader,
            lines: VecDeque::new(),
        }
    }

    /// What is in a log; nothing when there is none, since its first line makes it.
    pub fn log(&self, id: &str) -> Vec<u8> {
        match fs::read(self.path(&format!("{id}.log"))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            content => content.expect("log"),
        }
    }

    /// A log's lines without their times.
    pub fn log_lines(&self, id: &str) -> Vec<String> {
        String::from_utf8_lossy(&self.log(id))
            .lines()
            .map(|line| line.split_once(' ').expect("time").1.to_owned())
            .collect()
    }

    /// Waits until a log has these lines.
    pub fn wait_for_log(&self, id: &str, lines: &[&str]) {
        let begin = Instant::now();
        while self.log_lines(id) != lines {
            assert!(begin.elapsed() < PATIENCE, "{:?}", self.log_lines(id));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A figure of /proc/PID/status in KiB.
    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.process.id()));
        open.expect("descriptors").count()
    }

    pub fn memory_kib(&self, name: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("status");
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("line");
        line.split_whitespace()
            .nth(1)
            .expect("number")
            .parse()
            .expect("number")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(directory: &Path, change: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(BINARY);
    command
        .arg("serve")
        .arg("--directory")
        .arg(directory)
        .arg("--write")
        .arg(directory)
        .env("HOST_SECRET", "seen");
    let stderr = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("engine.stderr"));
    command.stderr(stderr.expect("stderr"));
    change(&mut command);
    command.spawn().expect("engine")
}

/// A stream of events.
pub struct Events {
    reader: BufReader<UnixStream>,
    lines: VecDeque<String>,
}

impl Events {
    /// The next event; `None` at the stream's end.
    pub fn next(&mut self) -> Option<Value> {
        while self.lines.is_empty() {
            let mut size = String::new();
            self.reader.read_line(&mut size).expect("chunk");
            let size = usize::from_str_radix(size.trim(), 16).expect("chunk size");
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk).expect("chunk");
            if size == 0 {
                return None;
            }
            let text = String::from_utf8(chunk).expect("text");
            self.lines
                .extend(text.lines().filter(|it| !it.is_empty()).map(str::to_owned));
        }
        self.lines
            .pop_front()
            .map(|line| serde_json::from_str(&line).expect("event"))
    }

    /// The first event of this type about this sandbox.
    pub fn wait(&mut self, event_type: &str, id: &str) -> Value {
        loop {
            let event = self.next().expect("stream ended");
            if event["type"] == event_type && event["sandbox"]["id"] == id {
                return event;
            }
        }
    }
}

/// A compiled guest.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub sha256: String,
    pub document: Value,
}

impl Program {
    pub fn compile(directory: &Path, wasm: &[u8]) -> Self {
        // One name per input and process: tests share no directory.
        let path = directory.join(format!(
            "{}.cwasm",
            fs::read_dir(directory).expect("list").count()
        ));
        let (code, document) = compile(wasm, &path, &[]);
        assert_eq!(code, 0, "{document}");
        Self {
            path,
            sha256: document["sha256"].as_str().expect("sha256").to_owned(),
            document,
        }
    }
}

/// Runs the compile helper; its exit code and its document.
pub fn compile(wasm: &[u8], output: &Path, arguments: &[&str]) -> (i32, Value) {
    let mut child = Command::new(BINARY)
        .arg("compile")
        .arg("--output")
        .arg(output)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("compile");
    let mut stdin = child.stdin.take().expect("stdin");
    // A helper that refuses early does not read everything.
    let _ = stdin.write_all(wasm);
    drop(stdin);
    let output = child.wait_with_output().expect("compile");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "one document: {text:?}");
    (
        output.status.code().expect("exit code"),
        serde_json::from_str(&text).expect("JSON"),
    )
}

/// What a reader of the log makes of it: parts joined, lines ended.
pub fn content(log: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let tag = fields.nth(2).expect("tag");
        let text = fields.next().expect("content");
        let (text, newline) = text.split_at(text.len() - 1);
        assert_eq!(newline, b"\n");
        bytes.extend_from_slice(text);
        if tag == b"F" {
            bytes.push(b'\n');
        }
    }
    bytes
}
