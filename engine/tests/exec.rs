//! Further instances in a running container: their streams, their ends, and clients that do not keep to the protocol.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/guests.rs"]
mod guests;
mod support;

use frames::{CLOSE, EXIT, RESIZE, STDIN, STDOUT, all, frame, receive};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{Engine, Program};

/// A running container that does nothing, and an engine around it.
fn container(id: &str) -> Engine {
    let engine = Engine::start();
    let spec = engine.spec(id, &engine.program(guests::SLEEPS));
    assert_eq!(engine.put(id, &spec).status, 201);
    engine
}

fn ask(engine: &Engine, id: &str, spec: &str) -> (u16, Value, UnixStream) {
    frames::ask(engine, id, "exec", spec)
}

fn open(engine: &Engine, id: &str, spec: &Value) -> UnixStream {
    frames::open(engine, id, "exec", spec)
}

fn spec(program: &Program, stdin: bool) -> Value {
    json!({
        "args": ["guest.wasm"], "stdin": stdin,
        "artifact": {"path": program.path, "sha256": program.sha256},
    })
}

/// Waits until the engine's guests compute no more.
fn wait_until_quiet(engine: &Engine, id: &str) {
    let used = || {
        let usage = engine.get(&format!("/sandboxes/{id}")).body["usage"].clone();
        usage["cpuNanoseconds"].as_u64().expect("number")
    };
    let begin = Instant::now();
    loop {
        let before = used();
        std::thread::sleep(Duration::from_millis(100));
        if used() == before {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it computes on");
    }
}

#[test]
fn what_goes_in_comes_out_until_the_end_of_stdin() {
    let engine = container("box");
    let mut stream = open(&engine, "box", &spec(&engine.program(guests::ECHOES), true));
    stream.write_all(&frame(STDIN, b"one\n")).expect("write");
    assert_eq!(
        receive(&mut stream),
        Some((STDOUT, b"one\n".to_vec())),
        "at once"
    );
    let size = frame(RESIZE, br#"{"width":80,"height":24}"#);
    let rest = [size, frame(STDIN, b"two"), frame(CLOSE, &[STDIN])].concat();
    for byte in rest {
        stream.write_all(&[byte]).expect("write");
    }
    let (stdout, stderr, exit) = all(&mut stream);
    assert_eq!((stdout, stderr.as_str()), (b"two".to_vec(), ""));
    assert_eq!(
        exit,
        json!({"exitCode": 0, "reason": "Completed", "fault": null, "message": ""})
    );
    assert_eq!(engine.log("box"), b"", "an exec's output is its client's");
}

/// Sleeps when it has one argument; ends with their number when it has more.
const COUNTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 2)
    (data (i32.const 16) "\01\00\00\00")
    (func (export "_start")
        (drop (call $sizes (i32.const 512) (i32.const 516)))
        (if (i32.gt_u (i32.load (i32.const 512)) (i32.const 1)) (then
            (call $exit (i32.load (i32.const 512)))))
        (i64.store (i32.const 24) (i64.const 86400000000000))
        (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"#;

#[test]
fn the_containers_own_program_or_another_runs_in_its_environment_and_mounts() {
    let engine = Engine::start();
    let mut container = engine.spec("box", &engine.program(COUNTS));
    container["env"] = json!([{"name": "A", "value": "b"}]);
    let shared = engine.path("shared");
    std::fs::create_dir(&shared).expect("directory");
    container["mounts"] = json!([{"hostPath": shared, "guestPath": "/"}]);
    assert_eq!(engine.put("box", &container).status, 201);
    let mut stream = open(&engine, "box", &json!({"args": ["count", "me", "please"]}));
    assert_eq!(all(&mut stream).2["exitCode"], 3);
    let mut other = spec(&engine.program(guests::SHOWS), false);
    other["args"] = json!(["show", "me"]);
    let (stdout, _, _) = all(&mut open(&engine, "box", &other));
    assert_eq!(String::from_utf8_lossy(&stdout), "show\nme\nA=b\n");
    let creates = spec(&engine.program(guests::CREATES), false);
    assert_eq!(all(&mut open(&engine, "box", &creates)).2["exitCode"], 0);
    assert!(shared.join("made").exists());
    assert_eq!(engine.get("/sandboxes/box").body["state"], "running");
}

#[test]
fn exit_codes_and_traps_are_told() {
    let engine = container("box");
    for code in [7, 0, 300] {
        let mut stream = open(
            &engine,
            "box",
            &spec(&engine.program(&guests::exits(code)), false),
        );
        assert_eq!(all(&mut stream).2["exitCode"], code);
    }
    let mut stream = open(&engine, "box", &spec(&engine.program(guests::TRAPS), false));
    let (_, stderr, exit) = all(&mut stream);
    assert_eq!(
        (&exit["exitCode"], &exit["fault"]),
        (&json!(134), &json!("guest"))
    );
    assert!(
        stderr.contains("unreachable") && stderr.contains("boom"),
        "{stderr}"
    );
    let component = engine.program(&guests::component("(i32.const 1)"));
    let mut stream = open(&engine, "box", &spec(&component, false));
    assert_eq!(all(&mut stream).2["exitCode"], 1, "a component");
    assert_eq!(engine.get("/sandboxes/box").body["state"], "running");
}

#[test]
fn other_modules_run_in_a_server_and_servers_nowhere() {
    let engine = Engine::start();
    let guest = include_bytes!("../../tests/http-guest/http-guest.wasm");
    let serves = Program::compile(engine.directory.path(), guest);
    let mut container = engine.spec("web", &serves);
    container["kind"] = json!("http");
    // An address that only this process uses.
    let (high, low) = (std::process::id() / 256 % 100, std::process::id() % 256);
    let address = format!("127.{}.{low}.200", 128 + high);
    container["http"] = json!({"addresses": [address], "ports": [8080]});
    assert_eq!(engine.put("web", &container).status, 201);
    let own = json!({"args": ["web"]}).to_string();
    let (status, refusal, _) = ask(&engine, "web", &own);
    assert_eq!(
        (status, &refusal["reason"]),
        (422, &json!("NoEntryPoint")),
        "{refusal}"
    );
    let (status, refusal, _) = ask(&engine, "web", &spec(&serves, false).to_string());
    assert_eq!((status, &refusal["reason"]), (422, &json!("Artifact")));
    let p0 = guests::writes_with("wasi_unstable", 1, "p0\n", "(call $exit (i32.const 4))");
    let mut stream = open(&engine, "web", &spec(&engine.program(&p0), false));
    let (stdout, _, exit) = all(&mut stream);
    assert_eq!((stdout, &exit["exitCode"]), (b"p0\n".to_vec(), &json!(4)));
    assert_eq!(engine.stop("web", 0.1).status, 202);
    assert_eq!(engine.exit("web")["exitCode"], 0);
}

#[test]
fn a_client_that_leaves_ends_its_guest() {
    let engine = container("box");
    let spins = engine.program(guests::SPINS);
    drop(open(&engine, "box", &spec(&spins, false)));
    wait_until_quiet(&engine, "box");
    // Also when more of its bytes wait than the guest will ever read.
    let mut stream = open(&engine, "box", &spec(&spins, true));
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    let full = frame(STDIN, &[7; 64 * 1024]);
    while stream.write_all(&full).is_ok() {}
    drop(stream);
    wait_until_quiet(&engine, "box");
    assert_eq!(engine.get("/sandboxes/box").body["state"], "running");
}

#[test]
fn execs_end_with_their_container() {
    let engine = container("box");
    let spins = engine.program(guests::SPINS);
    let mut streams = [
        open(&engine, "box", &spec(&spins, false)),
        open(&engine, "box", &spec(&engine.program(guests::ECHOES), true)),
    ];
    assert_eq!(engine.stop("box", 5.0).status, 202);
    assert_eq!(engine.exit("box")["exitCode"], 143);
    for stream in &mut streams {
        let (_, stderr, exit) = all(stream);
        assert_eq!(exit["exitCode"], 137);
        assert_eq!(stderr, "the container has ended\n");
    }
    let (status, refusal, _) = ask(&engine, "box", &spec(&spins, false).to_string());
    assert_eq!(
        (status, &refusal["reason"]),
        (409, &json!("Conflict")),
        "{refusal}"
    );
}

#[test]
fn what_cannot_be_run_is_refused_before_the_stream() {
    let engine = container("box");
    let program = engine.program(guests::ECHOES);
    let absent = json!({"args": ["x"], "artifact": {"path": "/nothing.cwasm", "sha256": "00"}});
    let start =
        engine.program(r#"(module (func $f unreachable) (start $f) (func (export "_start")))"#);
    let nul = json!({"args": ["a\0b"]});
    for (id, body, status, reason) in [
        ("nobody", spec(&program, false).to_string(), 404, "NotFound"),
        ("box", absent.to_string(), 422, "Artifact"),
        ("box", spec(&start, false).to_string(), 422, "Start"),
        ("box", json!({"args": []}).to_string(), 400, "BadRequest"),
        ("box", nul.to_string(), 400, "BadRequest"),
        ("box", "{".to_owned(), 400, "BadRequest"),
    ] {
        let (answered, refusal, _) = ask(&engine, id, &body);
        assert_eq!(
            (answered, &refusal["reason"]),
            (status, &json!(reason)),
            "{refusal}"
        );
    }
    let plain = engine.request(
        "POST",
        "/sandboxes/box/exec",
        &spec(&program, false).to_string(),
    );
    assert_eq!(plain.status, 400, "{plain:?}");
}

#[test]
fn ten_megabytes_go_each_way_at_once() {
    let engine = container("box");
    let mut stream = open(&engine, "box", &spec(&engine.program(guests::ECHOES), true));
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|it| (it * 7 % 251) as u8).collect();
    let mut writer = stream.try_clone().expect("clone");
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        for chunk in sent.chunks(50_000) {
            writer.write_all(&frame(STDIN, chunk)).expect("write");
        }
        writer.write_all(&frame(CLOSE, &[STDIN])).expect("write");
    });
    let (stdout, _, exit) = all(&mut stream);
    writing.join().expect("writer");
    assert!(stdout == bytes, "byte for byte");
    assert_eq!(exit["exitCode"], 0);
}

#[test]
fn a_client_that_does_not_read_holds_its_guest_and_nobody_else() {
    let engine = container("box");
    let floods = engine.program(&guests::floods(60_000, ""));
    let mut slow = open(&engine, "box", &spec(&floods, false));
    wait_until_quiet(&engine, "box");
    assert!(engine.memory_kib("VmRSS") < 200_000);
    let mut other = open(
        &engine,
        "box",
        &spec(&engine.program(&guests::exits(7)), false),
    );
    assert_eq!(all(&mut other).2["exitCode"], 7);
    assert_eq!(all(&mut slow).0.len(), 60_000_000, "and nothing is lost");
}

#[test]
fn malformed_frames_end_the_exec() {
    let engine = container("box");
    let spins = engine.program(guests::SPINS);
    for bytes in [
        frame(9, b"x"),
        frame(STDOUT, b"x"),
        frame(EXIT, b"{}"),
        frame(RESIZE, b"[80,24"),
        frame(CLOSE, &[STDOUT]),
        frame(CLOSE, b""),
        vec![STDIN, 0, 1, 0, 1],
        vec![STDIN, 255, 255, 255, 255],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = open(&engine, "box", &spec(&spins, true));
        stream.write_all(&bytes).expect("write");
        let (_, stderr, exit) = all(&mut stream);
        assert_eq!(
            (&exit["exitCode"], &exit["fault"]),
            (&json!(128), &json!(null))
        );
        assert!(stderr.contains("the client is at fault"), "{stderr}");
    }
    wait_until_quiet(&engine, "box");
}

#[test]
fn there_is_an_end_to_execs_and_to_their_memory() {
    let engine = Engine::start();
    let mut container = engine.spec("box", &engine.program(guests::SLEEPS));
    // Two pages are the container's own.
    container["memoryLimitBytes"] = json!(20 * 65536);
    container["cpuQuotaMillicores"] = json!(100);
    assert_eq!(engine.put("box", &container).status, 201);
    let grows = spec(&engine.program(guests::GROWS), false);
    for _ in 0..2 {
        let (_, stderr, exit) = all(&mut open(&engine, "box", &grows));
        assert_eq!(
            (&exit["exitCode"], &exit["reason"]),
            (&json!(137), &json!("OOMKilled"))
        );
        let wanted = format!("{} bytes", 21 * 65536);
        assert!(stderr.contains(&wanted), "given back, and shared: {stderr}");
    }
    let idle = spec(&engine.program(guests::ECHOES), true);
    let held: Vec<_> = (0..18).map(|_| open(&engine, "box", &idle)).collect();
    let (status, refusal, _) = ask(&engine, "box", &idle.to_string());
    assert_eq!(
        (status, &refusal["reason"]),
        (422, &json!("Start")),
        "no memory is left"
    );
    drop(held);
    let small = spec(&engine.program(guests::SPINS), false);
    let begin = Instant::now();
    let mut spinning = Vec::new();
    while spinning.len() < 32 {
        // Those before may still be on their way out.
        match ask(&engine, "box", &small.to_string()) {
            (101, _, stream) => spinning.push(stream),
            (503, ..) if begin.elapsed() < Duration::from_secs(20) => {}
            (status, refusal, _) => panic!("{status} {refusal}"),
        }
    }
    let (status, refusal, _) = ask(&engine, "box", &small.to_string());
    assert_eq!(
        (status, &refusal["reason"]),
        (503, &json!("Busy")),
        "{refusal}"
    );
    let used = || {
        let usage = engine.get("/sandboxes/box").body["usage"].clone();
        usage["cpuNanoseconds"].as_u64().expect("number")
    };
    let (before, begin) = (used(), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    let share = (used() - before) as f64 / begin.elapsed().as_nanos() as f64;
    assert!(
        share > 0.0 && share < 0.3,
        "32 spinning execs take {share} of a core, not a tenth"
    );
}

#[test]
fn a_terminal_is_between_keys_and_a_guest_that_reads_lines() {
    let engine = container("box");
    let mut typing = spec(&engine.program(guests::ECHOES), true);
    typing["tty"] = json!(true);
    let mut stream = open(&engine, "box", &typing);
    let mut shown = Vec::new();
    let mut until = |stream: &mut UnixStream, end: &[u8]| {
        while !shown.ends_with(end) {
            let (channel, payload) = receive(stream).expect("frame");
            assert_eq!(channel, STDOUT);
            shown.extend(payload);
        }
    };
    stream.write_all(&frame(STDIN, b"onx\x7fe")).expect("write");
    until(&mut stream, b"onx\x08 \x08e");
    stream.write_all(&frame(STDIN, b"\r")).expect("write");
    until(&mut stream, b"\r\none\r\n");
    stream.write_all(&frame(STDIN, b"\x04")).expect("write");
    assert_eq!(
        all(&mut stream).2["exitCode"],
        0,
        "Ctrl-D is its end of file"
    );
    let mut spinning = spec(&engine.program(guests::SPINS), true);
    spinning["tty"] = json!(true);
    let mut stream = open(&engine, "box", &spinning);
    // It reads nothing, and Ctrl-C is heard all the same.
    for _ in 0..3 {
        let keys = b"0123456\r".repeat(4096);
        stream.write_all(&frame(STDIN, &keys)).expect("write");
    }
    stream.write_all(&frame(STDIN, b"\x03")).expect("write");
    let (_, stderr, exit) = all(&mut stream);
    assert_eq!((stderr.as_str(), &exit["exitCode"]), ("", &json!(130)));
    wait_until_quiet(&engine, "box");
}
