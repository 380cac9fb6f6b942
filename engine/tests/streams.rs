//! stdin, and the log file as it grows.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use support::Engine;

/// Connects to a sandbox's stdin; the status line and the stream.
fn open_stdin(engine: &Engine, id: &str) -> (String, UnixStream) {
    let mut stream = engine.connect();
    write!(
        stream,
        "POST /sandboxes/{id}/stdin HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: wasmlet-stream\r\n\r\n"
    )
    .expect("send");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut status = String::new();
    reader.read_line(&mut status).expect("status");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("head");
    }
    (status.trim().to_owned(), stream)
}

/// What a reader of the log makes of it: parts joined, lines ended.
fn content(log: &[u8]) -> Vec<u8> {
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

/// Waits until a log's content is this.
fn wait_for_content(engine: &Engine, id: &str, expected: &[u8]) {
    let begin = Instant::now();
    while content(&engine.log(id)) != expected {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{:?}",
            String::from_utf8_lossy(&engine.log(id))
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stdin_is_echoed_until_its_client_half_closes() {
    let engine = Engine::start();
    let mut spec = engine.spec("echo", &engine.program(guests::ECHOES));
    spec["stdin"] = json!(true);
    spec["stdinOnce"] = json!(true);
    assert_eq!(engine.put("echo", &spec).status, 201);
    let (status, mut stream) = open_stdin(&engine, "echo");
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    assert!(
        open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "),
        "one client at a time"
    );
    stream.write_all(b"first\n").expect("write");
    wait_for_content(&engine, "echo", b"first\n");
    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|number| (number * 7 % 251) as u8)
        .collect();
    stream.write_all(&bytes).expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(engine.exit("echo")["exitCode"], 0);
    assert_eq!(
        content(&engine.log("echo")),
        [b"first\n".as_slice(), &bytes].concat(),
        "byte for byte"
    );
    assert_eq!(
        stream.read(&mut [0]).expect("read"),
        0,
        "the engine closes its side"
    );
    assert!(
        open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "),
        "ended"
    );
}

#[test]
fn the_next_client_takes_over_a_stdin_that_is_not_once() {
    let engine = Engine::start();
    let mut spec = engine.spec("echo", &engine.program(guests::ECHOES));
    spec["stdin"] = json!(true);
    assert_eq!(engine.put("echo", &spec).status, 201);
    for (text, so_far) in [("one\n", "one\n"), ("two\n", "one\ntwo\n")] {
        let begin = Instant::now();
        let mut stream = loop {
            let (status, stream) = open_stdin(&engine, "echo");
            if status.contains(" 101 ") {
                break stream;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "the first client's hold is not let go"
            );
        };
        stream.write_all(text.as_bytes()).expect("write");
        wait_for_content(&engine, "echo", so_far.as_bytes());
    }
    assert_eq!(engine.stop("echo", 1.0).status, 202);
    assert_eq!(engine.exit("echo")["exitCode"], 143);
}

#[test]
fn a_guest_without_stdin_reads_its_end() {
    let engine = Engine::start();
    let exit = engine.run("echo", &engine.program(guests::ECHOES));
    assert_eq!(exit["exitCode"], 0);
    assert!(open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "));
    assert!(open_stdin(&engine, "nobody").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_prompt_is_shown_before_its_answer() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, "name? ", "(loop $again (br $again))"));
    assert_eq!(
        engine.put("asks", &engine.spec("asks", &program)).status,
        201
    );
    wait_for_content(&engine, "asks", b"name? ");
    assert_eq!(engine.log_lines("asks"), ["stdout P name? "]);
    assert_eq!(engine.stop("asks", 0.0).status, 202);
    assert_eq!(engine.exit("asks")["exitCode"], 137);
}

#[test]
fn an_unterminated_end_is_kept_to_the_byte() {
    let engine = Engine::start();
    engine.run(
        "rest",
        &engine.program(&guests::writes(1, "a\nb", "(call $exit (i32.const 7))")),
    );
    assert_eq!(engine.log_lines("rest"), ["stdout F a", "stdout P b"]);
}

#[test]
fn the_log_is_complete_before_the_exit_file_is_there() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, &"0123456789\n".repeat(3000), ""));
    for number in 0..20 {
        let id = format!("x{number}");
        let exit_file = engine.path(&format!("{id}.json"));
        assert_eq!(engine.put(&id, &engine.spec(&id, &program)).status, 201);
        while !exit_file.exists() {
            std::hint::spin_loop();
        }
        let log = engine.log(&id);
        let exit: Value =
            serde_json::from_slice(&fs::read(&exit_file).expect("exit file")).expect("whole JSON");
        assert_eq!(exit["exitCode"], 0);
        assert_eq!(content(&log), "0123456789\n".repeat(3000).as_bytes());
    }
}

/// Names of a log's rotated files, oldest first.
fn rotated(engine: &Engine, id: &str) -> Vec<std::path::PathBuf> {
    let prefix = format!("{id}.log.");
    let mut files: Vec<_> = fs::read_dir(engine.directory.path())
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| {
            path.file_name()
                .and_then(|it| it.to_str())
                .is_some_and(|it| it.starts_with(&prefix))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_log_is_rotated_by_size_without_loss() {
    let engine = Engine::start();
    let program = engine.program(&counts(400));
    let mut spec = engine.spec("loud", &program);
    spec["log"]["maxBytes"] = json!(4096);
    spec["log"]["maxFiles"] = json!(100);
    assert_eq!(engine.run_spec("loud", &spec)["exitCode"], 0);
    let files = rotated(&engine, "loud");
    assert!(files.len() >= 4, "{files:?}");
    let mut all = Vec::new();
    for file in &files {
        let bytes = fs::read(file).expect("read");
        assert!((4096..4096 + 100).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(suffix_shape(file), "dddddddd-dddddd");
        all.extend(bytes);
    }
    all.extend(engine.log("loud"));
    let expected: String = (0..400).map(|number| format!("{number:04}\n")).collect();
    assert_eq!(String::from_utf8(content(&all)).expect("text"), expected);
    spec["log"]["maxFiles"] = json!(3);
    spec["log"]["path"] = json!(engine.path("few.log"));
    assert_eq!(engine.run_spec("few", &spec)["exitCode"], 0);
    assert_eq!(rotated(&engine, "few").len(), 2);
}

/// The kubelet's suffix, digits as d; what makes it unique within a second is left out.
fn suffix_shape(path: &Path) -> String {
    let name = path.file_name().and_then(|it| it.to_str()).expect("name");
    let suffix = name.rsplit('.').next().expect("suffix");
    suffix
        .chars()
        .take(15)
        .map(|it| if it.is_ascii_digit() { 'd' } else { it })
        .collect()
}

/// A p1 command that writes the numbers below `count` with four digits, one a line and a write.
fn counts(count: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\05\00\00\00")
            (func $digit (param $at i32) (param $value i32)
                (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10)))))
            (func (export "_start") (local $n i32)
                (i32.store8 (i32.const 20) (i32.const 10))
                (loop $again
                    (call $digit (i32.const 16) (i32.div_u (local.get $n) (i32.const 1000)))
                    (call $digit (i32.const 17) (i32.div_u (local.get $n) (i32.const 100)))
                    (call $digit (i32.const 18) (i32.div_u (local.get $n) (i32.const 10)))
                    (call $digit (i32.const 19) (local.get $n))
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $n) (i32.const {count}))))))"#
    )
}

#[test]
fn a_log_that_cannot_be_written_stops_nobody() {
    let engine = Engine::start();
    let program = engine.program(&counts(20_000));
    let mut spec = engine.spec("full", &program);
    spec["log"]["path"] = json!("/dev/full");
    let exit = engine.run_spec("full", &spec);
    assert_eq!(exit["exitCode"], 0, "the guest goes on");
    assert!(engine.path("full.json").exists());
    let own = fs::read_to_string(engine.path("engine.stderr")).expect("log");
    assert_eq!(own.matches("log failed").count(), 1, "{own}");
}

#[test]
fn an_exit_file_that_cannot_be_written_is_told_by_event() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    let directory = engine.path("facts");
    fs::create_dir(&directory).expect("directory");
    let mut spec = engine.spec("x", &program);
    spec["exitFile"] = json!(directory.join("exit.json"));
    assert_eq!(engine.put("x", &spec).status, 201);
    fs::remove_dir(&directory).expect("remove");
    assert_eq!(engine.stop("x", 1.0).status, 202);
    assert_eq!(engine.exit("x")["exitCode"], 143);
    assert_eq!(engine.get("/sandboxes/x").body["exit"]["exitCode"], 143);
}
