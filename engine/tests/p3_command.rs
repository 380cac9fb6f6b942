//! Commands of WASI 0.3: what they are given, their streams, their limits, their end.

mod support;

use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{AT_ONCE, Engine, Program};

const GUEST: &[u8] = include_bytes!("../../tests/p3-command-guest/p3-command-guest.wasm");

fn program(engine: &Engine) -> Program {
    Program::compile(engine.directory.path(), GUEST)
}

fn spec(engine: &Engine, id: &str, program: &Program, words: &[&str]) -> Value {
    let mut spec = engine.spec(id, program);
    let words: Vec<&str> = [&["guest.wasm"], words].concat();
    spec["args"] = json!(words);
    spec
}

/// Its exit code and the lines of its log.
fn run(engine: &Engine, id: &str, spec: &Value) -> (Value, Vec<String>) {
    let exit = engine.run_spec(id, spec);
    (exit["exitCode"].clone(), engine.log_lines(id))
}

#[test]
fn it_is_told_from_other_components() {
    let engine = Engine::start();
    let document = program(&engine).document;
    assert_eq!(
        (&document["kind"], &document["format"], &document["wasi"]),
        (&json!("command"), &json!("component"), &json!("p3"))
    );
}

#[test]
fn it_sees_its_world_and_ends_as_it_says() {
    let engine = Engine::start();
    let program = program(&engine);
    let data = engine.path("data");
    std::fs::create_dir(&data).expect("directory");
    std::fs::write(data.join("file"), "content\n").expect("file");
    let hello = ["stdout F Hello from WASI 0.3!"];
    let cases: [(&[&str], u32, &[&str]); 10] = [
        (&[], 0, &hello),
        (&["fail"], 1, &[]),
        (&["exit", "0"], 0, &[]),
        (&["exit", "42"], 42, &[]),
        (&["environment"], 0, &["stdout F A=1", "stdout F B=two"]),
        (&["clocks"], 0, &["stdout F true true"]),
        (
            &["sleep", "10"],
            0,
            &["stdout F sleeping", "stdout F slept"],
        ),
        (&["read", "/data/file"], 0, &["stdout F content"]),
        (&["write", "/data/new", "text"], 0, &["stdout F Ok(())"]),
        (&["read", "/data/new"], 0, &["stdout P text"]),
    ];
    for (number, (words, code, lines)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}");
        let mut spec = spec(&engine, &id, &program, words);
        spec["env"] = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "two"}]);
        spec["mounts"] = json!([{"hostPath": data, "guestPath": "/data"}]);
        let (ended, log) = run(&engine, &id, &spec);
        assert_eq!(ended, code, "{words:?} {log:?}");
        assert_eq!(log, lines, "{words:?}");
    }
}

#[test]
fn what_is_closed_says_so() {
    let engine = Engine::start();
    let program = program(&engine);
    let data = engine.path("data");
    std::fs::create_dir(&data).expect("directory");
    std::fs::write(engine.path("secret"), "secret\n").expect("file");
    let cases: [(&[&str], &str); 4] = [
        (&["connect", "80"], "ErrorCode::AccessDenied"),
        (
            &["resolve", "localhost"],
            "ErrorCode::PermanentResolverFailure",
        ),
        (&["read", "/data/../secret"], "ErrorCode::NotPermitted"),
        (&["write", "/data/file", "text"], "ErrorCode::"),
    ];
    for (number, (words, told)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}");
        let mut spec = spec(&engine, &id, &program, words);
        spec["mounts"] = json!([{"hostPath": data, "guestPath": "/data", "readOnly": true}]);
        let (code, log) = run(&engine, &id, &spec);
        assert!(code == 0 && log[0].contains(told), "{words:?}: {log:?}");
    }
    assert!(!data.join("file").exists());
}

#[test]
fn traps_and_limits_end_it() {
    let engine = Engine::start();
    let program = program(&engine);
    let trap = engine.run_spec("trap", &spec(&engine, "trap", &program, &["trap"]));
    assert_eq!(
        (&trap["exitCode"], &trap["fault"]),
        (&json!(134), &json!("guest"))
    );
    let message = trap["message"].as_str().expect("message");
    assert!(message.contains("unreachable"), "{message}");
    let mut large = spec(&engine, "large", &program, &["allocate", "50000000"]);
    large["memoryLimitBytes"] = json!(20_000_000);
    let large = engine.run_spec("large", &large);
    assert_eq!(
        (&large["exitCode"], &large["reason"]),
        (&json!(137), &json!("OOMKilled")),
        "{large}"
    );
}

#[test]
fn streams_are_bounded() {
    let engine = Engine::start();
    let program = program(&engine);
    let hoard = engine.run_spec("hoard", &spec(&engine, "hoard", &program, &["hoard"]));
    assert_eq!(
        (&hoard["exitCode"], &hoard["fault"]),
        (&json!(134), &json!("guest")),
        "{hoard}"
    );
    assert!(engine.memory_kib("VmHWM:") < 150_000);
}

#[test]
fn computing_is_counted_held_to_its_quota_and_interrupted() {
    let engine = Engine::start();
    let program = program(&engine);
    for (id, quota) in [("free", None), ("held", Some(100))] {
        let mut spin = spec(&engine, id, &program, &["spin"]);
        if let Some(quota) = quota {
            spin["cpuQuotaMillicores"] = json!(quota);
        }
        let milliseconds = || {
            let usage = &engine.get(&format!("/sandboxes/{id}")).body["usage"];
            usage["cpuNanoseconds"].as_u64().expect("number") / 1_000_000
        };
        let begin = Instant::now();
        assert_eq!(engine.put(id, &spin).status, 201);
        // It gives way to everything else on the machine.
        while milliseconds() < 150 {
            assert!(begin.elapsed() < Duration::from_secs(20), "{id}");
            std::thread::sleep(Duration::from_millis(10));
        }
        if quota.is_some() {
            assert!(
                begin.elapsed() > Duration::from_millis(1200),
                "{:?}",
                begin.elapsed()
            );
        }
        let begin = Instant::now();
        assert_eq!(engine.stop(id, 30.0).status, 202);
        let exit = engine.exit(id);
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        assert_eq!(exit["exitCode"], 143, "{exit}");
    }
}

#[test]
fn output_waits_for_the_log() {
    let engine = Engine::start();
    let program = program(&engine);
    let mut flood = spec(&engine, "flood", &program, &["flood", "3000000"]);
    flood["log"] = json!({
        "path": engine.path("flood.log"), "maxBytes": 1_000_000, "maxFiles": 2, "lossless": true,
    });
    assert_eq!(engine.put("flood", &flood).status, 201);
    // Two files are full, and nobody takes one away.
    let begin = Instant::now();
    let size = || std::fs::metadata(engine.path("flood.log")).map_or(0, |it| it.len());
    while size() < 500_000 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(engine.get("/sandboxes/flood").body["state"], "running");
    assert!(engine.memory_kib("VmRSS:") < 200_000);
    engine.stop("flood", 0.0);
    engine.exit("flood");
}

#[test]
fn stdin_is_read_until_its_end() {
    let engine = Engine::start();
    let program = program(&engine);
    let mut cat = spec(&engine, "cat", &program, &["cat"]);
    cat["stdin"] = json!(true);
    cat["stdinOnce"] = json!(true);
    assert_eq!(engine.put("cat", &cat).status, 201);
    let mut stream: UnixStream = engine.connect();
    write!(
        stream,
        "POST /sandboxes/cat/stdin HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: wasmlet-stream\r\n\r\n"
    )
    .expect("send");
    stream.write_all(b"one\n").expect("send");
    engine.wait_for_log("cat", &["stdout F one"]);
    stream.write_all(b"two\n").expect("send");
    stream.shutdown(std::net::Shutdown::Write).expect("end");
    assert_eq!(engine.exit("cat")["exitCode"], 0);
    assert_eq!(engine.log_lines("cat"), ["stdout F one", "stdout F two"]);
}
