//! Log files: rotated, lossless, and what cannot be written.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{AT_ONCE, Engine, content};

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
    let engine = Engine::start_with(|command| {
        command.arg("--write=/dev/full");
    });
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

/// Reads a log as a terminal does: rotated files in the order of their names, deleting each that was read.
struct Consumer<'a> {
    engine: &'a Engine,
    id: &'a str,
    lines: u32,
    /// A line's begin that was shown before its end.
    rest: Vec<u8>,
}

impl Consumer<'_> {
    fn take_rotated(&mut self) -> usize {
        let files = rotated(self.engine, self.id);
        for file in &files {
            self.check(&fs::read(file).expect("read"));
            fs::remove_file(file).expect("remove");
        }
        files.len()
    }

    fn check(&mut self, log: &[u8]) {
        let all = [std::mem::take(&mut self.rest), content(log)].concat();
        for line in all.split_inclusive(|&byte| byte == b'\n') {
            if line.last() != Some(&b'\n') {
                self.rest = line.to_vec();
            } else if line[0].is_ascii_digit() {
                assert_eq!(line.len(), 1000);
                let number = std::str::from_utf8(&line[..8]).expect("text");
                assert_eq!(number, format!("{:08}", self.lines));
                self.lines += 1;
            }
        }
    }

    /// Until the exit file is there.
    fn consume(&mut self, mut most: usize) -> usize {
        let begin = Instant::now();
        let exit_file = self.engine.path(&format!("{}.json", self.id));
        loop {
            let is_over = exit_file.exists();
            most = most.max(self.take_rotated());
            if is_over {
                self.check(&self.engine.log(self.id));
                return most;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{}", self.lines);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn lossless(engine: &Engine, id: &str, program: &support::Program) -> Value {
    let mut spec = engine.spec(id, program);
    spec["log"]["maxBytes"] = json!(1 << 20);
    spec["log"]["maxFiles"] = json!(3);
    spec["log"]["lossless"] = json!(true);
    spec
}

/// Waits until all of a lossless log's files are full.
fn wait_until_held(engine: &Engine, id: &str) {
    let begin = Instant::now();
    while rotated(engine, id).len() < 2 || engine.log(id).len() < 1 << 20 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_lossless_log_loses_nothing_however_slow_its_reader_is() {
    let engine = Engine::start();
    let program = engine.program(&guests::floods(60_000, ""));
    let spec = lossless(&engine, "all", &program);
    assert_eq!(engine.put("all", &spec).status, 201);
    let mut consumer = Consumer {
        engine: &engine,
        id: "all",
        lines: 0,
        rest: Vec::new(),
    };
    wait_until_held(&engine, "all");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rotated(&engine, "all").len(), 2, "it waits");
    assert!(engine.log("all").len() < (1 << 20) + 2000);
    assert_eq!(
        engine.run("other", &engine.program(guests::ECHOES))["exitCode"],
        0,
        "nobody else waits"
    );
    assert_eq!(consumer.consume(0), 2, "never more files");
    assert_eq!(consumer.lines, 60_000, "every line once");
    assert_eq!(engine.exit("all")["exitCode"], 0);
    let peak = engine.memory_kib("VmHWM");
    assert!(peak < 48 * 1024, "{peak} KiB");
}

#[test]
fn a_lossless_log_in_files_of_a_few_lines_is_whole_and_bounded() {
    let engine = Engine::start();
    let program = engine.program(&guests::floods(1200, ""));
    let mut spec = lossless(&engine, "small", &program);
    spec["log"]["maxBytes"] = json!(40_000);
    spec["log"]["maxFiles"] = json!(2);
    assert_eq!(engine.put("small", &spec).status, 201);
    let mut consumer = Consumer {
        engine: &engine,
        id: "small",
        lines: 0,
        rest: Vec::new(),
    };
    assert_eq!(consumer.consume(0), 1);
    assert_eq!(consumer.lines, 1200);
}

#[test]
fn a_stop_ends_a_guest_whose_log_is_held_at_once() {
    let engine = Engine::start();
    let program = engine.program(&guests::floods(60_000, ""));
    for (id, grace, code) in [("notice", 30.0, 143), ("kill", 0.0, 137)] {
        let spec = lossless(&engine, id, &program);
        assert_eq!(engine.put(id, &spec).status, 201);
        wait_until_held(&engine, id);
        let begin = Instant::now();
        assert_eq!(engine.stop(id, grace).status, 202);
        assert_eq!(engine.exit(id)["exitCode"], code);
        assert!(begin.elapsed() < AT_ONCE, "{begin:?}");
        let mut consumer = Consumer {
            engine: &engine,
            id,
            lines: 0,
            rest: Vec::new(),
        };
        assert!(consumer.take_rotated() <= 3);
        for line in content(&engine.log(id)).chunks(1000) {
            assert!(line.starts_with(b"0000"), "what was queued is there");
        }
    }
}

#[test]
fn an_exit_waits_for_the_reader_of_a_lossless_log_until_a_stop() {
    let engine = Engine::start();
    // Three files are full to the byte; then there is the trap's message.
    let program = engine.program(&guests::floods(3060, "unreachable"));
    for id in ["read", "stopped"] {
        let mut spec = lossless(&engine, id, &program);
        spec["log"]["maxBytes"] = json!(1020 * 1040);
        assert_eq!(engine.put(id, &spec).status, 201);
        wait_until_held(&engine, id);
        std::thread::sleep(Duration::from_millis(300));
        let state = engine.get(&format!("/sandboxes/{id}")).body["state"].clone();
        assert_eq!(state, "running");
        assert!(!engine.path(&format!("{id}.json")).exists());
        let mut consumer = Consumer {
            engine: &engine,
            id,
            lines: 0,
            rest: Vec::new(),
        };
        let begin = Instant::now();
        if id == "stopped" {
            assert_eq!(engine.stop(id, 0.0).status, 202);
            engine.exit(id);
            consumer.take_rotated();
            consumer.check(&engine.log(id));
        } else {
            consumer.consume(0);
            assert_eq!(engine.exit(id)["exitCode"], 134);
        }
        assert!(begin.elapsed() < AT_ONCE);
        assert_eq!(consumer.lines, 3060);
        let last = engine.log_lines(id);
        assert!(last.iter().any(|it| it.contains("unreachable")), "{last:?}");
    }
}

#[test]
fn an_ordinary_log_never_waits_and_its_memory_is_bounded() {
    let engine = Engine::start();
    let program = engine.program(&guests::floods(240_000, ""));
    let mut spec = engine.spec("flood", &program);
    spec["log"]["maxBytes"] = json!(1 << 20);
    spec["log"]["maxFiles"] = json!(3);
    assert_eq!(engine.run_spec("flood", &spec)["exitCode"], 0);
    let files = rotated(&engine, "flood");
    assert_eq!(files.len(), 2);
    let mut all: Vec<u8> = Vec::new();
    for file in &files {
        all.extend(fs::read(file).expect("read"));
    }
    all.extend(engine.log("flood"));
    let all = content(&all);
    let first: u32 = std::str::from_utf8(&all[..8])
        .expect("text")
        .parse()
        .expect("number");
    let mut consumer = Consumer {
        engine: &engine,
        id: "flood",
        lines: first,
        rest: Vec::new(),
    };
    for line in all.split_inclusive(|&byte| byte == b'\n') {
        assert_eq!(&line[..8], format!("{:08}", consumer.lines).as_bytes());
        consumer.lines += 1;
    }
    assert_eq!(consumer.lines, 240_000, "the newest are kept, in order");
    let peak = engine.memory_kib("VmHWM");
    println!("peak of a flood: {peak} KiB");
    assert!(peak < 48 * 1024, "{peak} KiB");
}
