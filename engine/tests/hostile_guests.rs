//! Guests that mean no good: each ends as its file in `hostile/` says, and nobody else is the worse for it.
//!
//! A file's comments say what it does, how it has to end, and the memory limit that it runs with. Beside each lies its
//! binary, for the tests of other languages; `HOSTILE_WRITE=1 cargo test` makes them anew.

#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::{Value, json};
use site::{AT_ONCE, Site, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Engine, Program, compile, limit_descriptors};

/// A compilation of what is in the corpus takes little; this is what a bomb may have.
const COMPILE_BYTES: &str = "--memory-limit=536870912";

/// How long one runs that would never end.
const WHILE: Duration = Duration::from_millis(300);

/// One file of the corpus.
struct Case {
    name: String,
    text: String,
    /// One of the words that [`Case::check`] knows, and what it is told with.
    end: (String, String),
    memory: Option<u64>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder())
            .expect("folder")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|it| it == "wat"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn named(name: &str) -> Self {
        Self::read(&folder().join(format!("{name}.wat")))
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().expect("name").to_string_lossy().into();
        let text = fs::read_to_string(path).expect("text");
        let said = |what: &str| {
            let mut lines = text.lines().map_while(|it| it.strip_prefix(";; "));
            lines.find_map(|it| it.strip_prefix(what)?.strip_prefix(": "))
        };
        let end = said("end").expect("a file says how it ends");
        let (word, told) = end.split_once(' ').unwrap_or((end, ""));
        Self {
            name,
            end: (word.to_owned(), told.to_owned()),
            memory: said("memory").map(|it| it.parse().expect("bytes")),
            text: text.clone(),
        }
    }

    fn wasm(&self) -> Vec<u8> {
        wat::parse_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// A spec of its own, with an empty directory of its own.
    fn spec(&self, engine: &Engine, id: &str, program: &Program) -> Value {
        let root = engine.path(&format!("{id}.d/root"));
        fs::create_dir_all(&root).expect("directory");
        let mut spec = engine.spec(id, program);
        spec["mounts"] = json!([{"hostPath": root, "guestPath": "/"}]);
        spec["memoryLimitBytes"] = json!(self.memory);
        spec
    }

    /// Compiles and runs it; true when its end is the one it says.
    fn check(&self, engine: &Engine) {
        let name = &self.name;
        let output = engine.path(&format!("{name}.cwasm"));
        let (code, document) = compile(&self.wasm(), &output, &[COMPILE_BYTES]);
        let told = |text: &Value| {
            let wanted = self.end.1.split('"').nth(1).unwrap_or_default();
            assert!(
                text.as_str().is_some_and(|it| it.contains(wanted)),
                "{name}: {text}"
            );
        };
        if self.end.0 == "refused" {
            let reason = self.end.1.split(' ').next();
            assert_eq!((code, document["reason"].as_str()), (1, reason), "{name}");
            return told(&document["message"]);
        }
        assert_eq!(code, 0, "{name}: {document}");
        let program = Program {
            path: output,
            sha256: document["sha256"].as_str().expect("sha256").to_owned(),
            document,
        };
        let spec = self.spec(engine, name, &program);
        if self.end.0 == "not-started" {
            let answer = std::thread::scope(|scope| {
                let put = scope.spawn(|| engine.put(name, &spec));
                std::thread::sleep(WHILE);
                engine.stop(name, 10.0);
                put.join().expect("put")
            });
            assert_eq!(answer.status, 422, "{name}: {answer:?}");
            return told(&answer.body["message"]);
        }
        let answer = engine.put(name, &spec);
        assert_eq!(answer.status, 201, "{name}: {answer:?}");
        if self.end.0 == "runs" {
            std::thread::sleep(WHILE);
            assert_eq!(engine.get(&path(name)).body["state"], "running", "{name}");
            let begin = Instant::now();
            engine.stop(name, 10.0);
            let exit = ended(engine, name);
            assert_eq!(exit["exitCode"], 143, "{name}: {exit}");
            assert!(begin.elapsed() < AT_ONCE, "{name}");
        } else {
            let exit = ended(engine, name);
            let (code, reason) = match self.end.0.as_str() {
                "code" => (self.end.1.parse().expect("code"), ""),
                "trap" => (134, "Error"),
                "oom" => (137, "OOMKilled"),
                other => panic!("{name}: no such end as {other}"),
            };
            assert_eq!(exit["exitCode"], code, "{name}: {exit}");
            if !reason.is_empty() {
                assert_eq!(exit["reason"], reason, "{name}: {exit}");
                assert_eq!(exit["fault"], "guest", "{name}: {exit}");
                told(&exit["message"]);
            }
        }
        assert_eq!(engine.request("DELETE", &path(name), "").status, 204);
        fs::remove_dir_all(engine.path(&format!("{name}.d"))).expect("remove");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile")
}

fn path(id: &str) -> String {
    format!("/sandboxes/{id}")
}

/// The exit of a sandbox, however long a busy machine takes.
fn ended(engine: &Engine, id: &str) -> Value {
    let begin = Instant::now();
    loop {
        let document = engine.get(&path(id)).body;
        if document["state"] == "exited" {
            return document["exit"].clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{id}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks a site again and again meanwhile; the slowest answer.
fn slowest_answer_during(site: &Site, work: impl FnOnce()) -> Duration {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                assert_eq!(site.get("/").status, 200);
                slowest = slowest.max(begin.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        // Also when it panics, so that the scope can end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        let slowest = asking.join().expect("a neighbour is answered");
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        slowest
    })
}

/// Checks cases, some at once, while the site goes on answering.
fn check_beside(site: &Site, cases: Vec<Case>) {
    let cases = Mutex::new(cases);
    let slowest = slowest_answer_during(site, || {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(case) = { cases.lock().expect("lock").pop() } {
                        let begin = Instant::now();
                        case.check(&site.engine);
                        println!("{}: {:?}", case.name, begin.elapsed());
                    }
                });
            }
        });
    });
    println!("the neighbour's slowest answer: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn every_guest_ends_as_its_file_says() {
    let site = Site::start(json!({}));
    site.is_well();
    let before = site.engine.memory_kib("VmRSS:");
    // Single instructions that take seconds, and as much longer as the machine has other things to do.
    let is_bulk = |case: &Case| ["copy", "fill"].contains(&case.name.as_str());
    let (bulk, others) = Case::all().into_iter().partition(is_bulk);
    check_beside(&site, others);
    eventually("the memory comes back", || {
        site.engine.memory_kib("VmRSS:") < before + 96 * 1024
    });
    check_beside(&site, bulk);
    assert_eq!(site.engine.get("/engine").body["running"], 1);
    let own = fs::read_to_string(site.engine.path("engine.stderr")).expect("log");
    assert!(!own.contains("panicked"), "{own}");
}

#[test]
fn the_binaries_are_those_of_the_texts() {
    let writes = std::env::var_os("HOSTILE_WRITE").is_some();
    for case in Case::all() {
        let binary = folder().join(format!("{}.wasm", case.name));
        if writes {
            fs::write(&binary, case.wasm()).expect("write");
        }
        let same = fs::read(&binary).is_ok_and(|it| it == case.wasm());
        assert!(same, "{}: run this test with HOSTILE_WRITE=1", case.name);
    }
}

#[test]
fn nobody_climbs_out_of_a_mount_by_racing() {
    let engine = Engine::start();
    let root = engine.path("d/root");
    let outside = engine.path("d/outside");
    fs::create_dir_all(&root).expect("directory");
    fs::create_dir_all(&outside).expect("directory");
    fs::write(outside.join("secret"), "kept").expect("write");
    let climb = Case::named("climb");
    let mounts = json!([{"hostPath": root, "guestPath": "/"}]);
    let start = |id: &str, case: &Case| {
        let mut spec = case.spec(&engine, id, &engine.program(&case.text));
        spec["mounts"] = mounts.clone();
        assert_eq!(engine.put(id, &spec).status, 201);
    };
    start("climb", &climb);
    let exit = ended(&engine, "climb");
    assert_eq!(exit["exitCode"], 0, "so many names lead out");
    let (swap, open) = (Case::named("race-swap"), Case::named("race-open"));
    let racers = ["swap-0", "swap-1", "open-0", "open-1", "open-2"];
    for id in racers {
        start(id, if id.starts_with("swap") { &swap } else { &open });
    }
    std::thread::sleep(Duration::from_secs(2));
    for id in racers {
        assert_eq!(engine.get(&path(id)).body["state"], "running", "{id}");
        engine.stop(id, 10.0);
    }
    for id in racers {
        assert_eq!(ended(&engine, id)["exitCode"], 143, "{id}");
    }
    let left: Vec<_> = fs::read_dir(&outside).expect("list").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        fs::read(outside.join("secret")).expect("read"),
        b"kept".to_vec()
    );
}

#[test]
fn files_of_guests_leave_descriptors_for_the_others() {
    let engine = Engine::start_with(|command| limit_descriptors(command, 200));
    let site = Site::start_in(engine, json!({}), |_| {});
    let greedy = Case::named("files-open-on");
    let program = site.engine.program(&greedy.text);
    for id in ["greedy-0", "greedy-1"] {
        let spec = greedy.spec(&site.engine, id, &program);
        assert_eq!(site.engine.put(id, &spec).status, 201);
    }
    let used = || {
        let document = site.engine.get("/engine").body;
        document["descriptors"]["used"].as_u64().expect("used")
    };
    eventually("they take what they get", || used() >= 99);
    // Whatever they go on to do, and who comes after them sees it said.
    std::thread::sleep(WHILE);
    assert!(used() < 130, "{}", used());
    let late = Case::named("files-open");
    let spec = late.spec(&site.engine, "late", &site.engine.program(&late.text));
    assert_eq!(site.engine.run_spec("late", &spec)["exitCode"], 33);
    site.is_well();
    for id in ["greedy-0", "greedy-1"] {
        site.engine.stop(id, 10.0);
        assert_eq!(ended(&site.engine, id)["exitCode"], 143);
    }
    eventually("they are given back", || used() < 60);
}

/// Writes a numbered line each ten milliseconds.
const TICKS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 512) "line 000\n")
    (func (export "_start") (local $n i32)
        (i32.store (i32.const 144) (i32.const 1))
        (i64.store (i32.const 152) (i64.const 10000000))
        (i32.store (i32.const 0) (i32.const 512))
        (i32.store (i32.const 4) (i32.const 9))
        (loop $again
            (i32.store8 (i32.const 517) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 100))))
            (i32.store8 (i32.const 518)
                (i32.add (i32.const 48) (i32.rem_u (i32.div_u (local.get $n) (i32.const 10)) (i32.const 10))))
            (i32.store8 (i32.const 519) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 384)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 100))))))"#;

#[test]
fn without_a_free_descriptor_a_log_waits_and_loses_nothing() {
    let engine = Engine::start_with(|command| limit_descriptors(command, 64));
    let program = engine.program(TICKS);
    assert_eq!(
        engine.put("ticks", &engine.spec("ticks", &program)).status,
        201
    );
    eventually("it writes", || !engine.log("ticks").is_empty());
    // All that the process may have, and as many that wait for more.
    let clients: Vec<_> = (0..128).map(|_| engine.connect()).collect();
    std::thread::sleep(Duration::from_millis(1500));
    let exit_file = engine.path("ticks.json");
    assert!(!exit_file.exists(), "it had a descriptor after all");
    drop(clients);
    eventually("its exit is written", || exit_file.exists());
    let lines: Vec<String> = (0..100).map(|n| format!("stdout F line {n:03}")).collect();
    assert_eq!(engine.log_lines("ticks"), lines);
}

#[test]
fn a_call_that_does_not_return_keeps_nobody_from_ending_it() {
    let mut engine = Engine::start();
    let opens = Case::named("files-open");
    let program = engine.program(&opens.text);
    for id in ["pipe", "pipe-too"] {
        let spec = opens.spec(&engine, id, &program);
        // Its one file is a pipe that nobody reads.
        let pipe = engine.path(&format!("{id}.d/root/f"));
        let made = std::process::Command::new("mkfifo").arg(pipe).status();
        assert!(made.expect("mkfifo").success());
        assert_eq!(engine.put(id, &spec).status, 201);
    }
    std::thread::sleep(WHILE);
    let begin = Instant::now();
    engine.stop("pipe", 0.0);
    assert_eq!(ended(&engine, "pipe")["exitCode"], 137);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    let next = engine.program(&Case::named("files-10000").text);
    let spec = opens.spec(&engine, "next", &next);
    assert_eq!(engine.put("next", &spec).status, 201);
    eventually("others' files go on", || {
        engine.path("next.d/root/f00100").exists()
    });
    let begin = Instant::now();
    let killed = std::process::Command::new("kill")
        .arg(engine.process.id().to_string())
        .status();
    assert!(killed.expect("kill").success());
    assert!(engine.process.wait().expect("wait").success());
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
}

#[test]
fn arguments_and_environment_have_an_end() {
    let engine = Engine::start();
    let program = engine.program(support_shows());
    let mut spec = engine.spec("large", &program);
    spec["args"] = json!(vec!["a".repeat(1000); 200]);
    spec["env"] = json!([{"name": "E", "value": "e".repeat(200_000)}]);
    // More than the guest has memory for is the guest's fault.
    let exit = engine.run_spec("large", &spec);
    assert_eq!(exit["exitCode"], 134, "{exit}");
    spec["env"] = json!([{"name": "E", "value": "e".repeat(9 << 20)}]);
    let answer = engine.put("larger", &spec);
    assert_eq!(answer.status, 413, "{:?}", answer.body["reason"]);
}

/// Asks for its arguments and environment, and has a page for them.
fn support_shows() -> &'static str {
    r#"(module
        (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (if (call $args (i32.const 0) (i32.const 1024)) (then unreachable))
            (if (call $env (i32.const 0) (i32.const 1024)) (then unreachable))))"#
}
