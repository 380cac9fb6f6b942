//! The control socket: idempotent steps, events, ends.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Barrier;
use support::{Engine, limit_descriptors};

#[test]
fn the_engine_tells_who_it_is() {
    let engine = Engine::start();
    let answer = engine.get("/engine");
    assert_eq!(answer.status, 200);
    assert_eq!(
        (&answer.body["protocol"], &answer.body["pid"]),
        (&json!(1), &json!(engine.process.id()))
    );
    assert!(
        answer.body["descriptors"]["used"].as_u64() < answer.body["descriptors"]["limit"].as_u64()
    );
    let mode = fs::metadata(engine.socket())
        .expect("socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    println!("idle: VmRSS {} KiB", engine.memory_kib("VmRSS"));
    assert!(
        engine.memory_kib("VmRSS") < 15 * 1024,
        "{} KiB",
        engine.memory_kib("VmRSS")
    );
}

#[test]
fn what_is_not_there_is_404() {
    let engine = Engine::start();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("POST", "/engine"),
        ("GET", "/sandboxes/x/y"),
        ("GET", "/sandboxes/x"),
        ("DELETE", "/events"),
        ("PUT", "/sandboxes"),
    ] {
        let answer = engine.request(method, path, "");
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (404, &json!("NotFound")),
            "{method} {path}"
        );
    }
    assert_eq!(engine.stop("x", 1.0).status, 404);
    assert_eq!(
        engine.request("DELETE", "/sandboxes/x", "").status,
        204,
        "never known is forgotten"
    );
}

#[test]
fn garbage_is_400_and_says_what() {
    let engine = Engine::start();
    let spec = engine.spec("x", &engine.program(guests::SPINS));
    let without = |name: &str| {
        let mut spec = spec.clone();
        spec.as_object_mut().expect("object").remove(name);
        spec.to_string()
    };
    let with = |name: &str, value: Value| {
        let mut spec = spec.clone();
        spec[name] = value;
        spec.to_string()
    };
    for (body, words) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "body is wrong"),
        ("\u{fffd}".to_owned(), "body is wrong"),
        (without("podUid"), "podUid"),
        (with("attempt", json!(-1)), "-1"),
        (with("args", json!([])), "args is empty"),
        (
            with("exitFile", json!("exit.json")),
            "exit.json is not an absolute path",
        ),
        (
            with("workingDir", json!("here")),
            "here is not an absolute path",
        ),
        (with("env", json!([{"name": "A=B", "value": ""}])), "env"),
        (
            with("log", json!({"path": "/l", "maxBytes": 1})),
            "maxBytes",
        ),
    ] {
        let answer = engine.request("PUT", "/sandboxes/x", &body);
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (400, &json!("BadRequest")),
            "{answer:?}"
        );
        assert!(
            answer.body["message"]
                .as_str()
                .expect("message")
                .contains(words),
            "{words}: {answer:?}"
        );
    }
    assert_eq!(
        engine
            .request("PUT", "/sandboxes/Not-An-Id", &spec.to_string())
            .status,
        400
    );
    assert_eq!(engine.stop("x", -1.0).status, 400);
    assert_eq!(engine.get("/events?after=x").status, 400);
}

#[test]
fn a_body_that_is_too_large_is_413_and_says_what_may_be() {
    let engine = Engine::start();
    for size in [(4 << 20) + 1, 40 << 20] {
        let answer = engine.request("PUT", "/sandboxes/x", &"x".repeat(size));
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (413, &json!("BadRequest")),
            "{answer:?}"
        );
        let message = answer.body["message"].as_str().expect("message");
        assert!(message.contains("4194304 bytes"), "{message}");
    }
    assert_eq!(
        engine
            .request("PUT", "/sandboxes/x", &"x".repeat(4 << 20))
            .status,
        400,
        "as large as may be"
    );
    // A client that asks first is told before it sends anything.
    let mut stream = engine.connect();
    write!(
        stream,
        "PUT /sandboxes/x HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
    )
    .expect("send");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("receive");
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[test]
fn the_same_put_again_changes_nothing_and_another_is_409() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, "once\n", ""));
    let spec = engine.spec("once", &program);
    assert_eq!(engine.put("once", &spec).status, 201);
    engine.exit("once");
    let again = engine.put("once", &spec);
    assert_eq!(
        (again.status, &again.body["state"]),
        (200, &json!("exited"))
    );
    let mut other = spec.clone();
    other["attempt"] = json!(1);
    let answer = engine.put("once", &other);
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (409, &json!("Conflict"))
    );
    assert_eq!(engine.log_lines("once"), ["stdout F once"]);
    assert_eq!(
        engine.get("/sandboxes").body["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(engine.request("DELETE", "/sandboxes/once", "").status, 204);
    assert_eq!(engine.put("once", &other).status, 201, "forgotten");
}

#[test]
fn concurrent_puts_start_one_guest() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, "once\n", "(loop $again (br $again))"));
    for round in 0..10 {
        let id = format!("round-{round}");
        let spec = engine.spec(&id, &program);
        let barrier = Barrier::new(8);
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let put = || {
                barrier.wait();
                engine.put(&id, &spec).status
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(put)).collect();
            threads
                .into_iter()
                .map(|it| it.join().expect("join"))
                .collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 7].as_slice(), &[201]].concat());
        engine.wait_for_log(&id, &["stdout F once"]);
        assert_eq!(engine.stop(&id, 1.0).status, 202);
        engine.exit(&id);
        assert_eq!(engine.log_lines(&id), ["stdout F once"]);
    }
}

#[test]
fn a_client_that_dies_in_the_middle_loses_and_leaks_nothing() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    let spec = engine.spec("x", &program).to_string();
    let mut half = engine.connect();
    write!(
        half,
        "PUT /sandboxes/x HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{}",
        spec.len(),
        &spec[..20]
    )
    .expect("send");
    drop(half);
    // A client that dies after its last byte cannot know; asking again makes it one guest in any case.
    let mut whole = engine.connect();
    write!(
        whole,
        "PUT /sandboxes/y HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{spec}",
        spec.len()
    )
    .expect("send");
    drop(whole);
    assert!([200, 201].contains(&engine.request("PUT", "/sandboxes/y", &spec).status));
    assert_eq!(engine.get("/sandboxes/x").status, 404);
    assert_eq!(
        engine.get("/sandboxes").body["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    for _ in 0..2000 {
        drop(engine.connect());
    }
    assert_eq!(engine.get("/engine").body["running"], 1);
}

#[test]
fn a_running_sandbox_is_neither_forgotten_nor_left_alone() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    assert_eq!(
        engine.put("x", &engine.spec("x", &program)).body["state"],
        "running"
    );
    assert_eq!(engine.request("DELETE", "/sandboxes/x", "").status, 409);
    assert_eq!(engine.request("DELETE", "/engine", "").status, 409);
    assert_eq!(engine.get("/engine").body["running"], 1);
    assert_eq!(engine.stop("x", 1.0).status, 202);
    engine.exit("x");
}

#[test]
fn an_engine_without_sandboxes_ends_when_asked() {
    let mut engine = Engine::start();
    let mut events = engine.events("");
    assert_eq!(engine.request("DELETE", "/engine", "").status, 202);
    assert!(events.next().is_none(), "the stream ends");
    assert!(engine.process.wait().expect("wait").success());
    assert!(!engine.socket().exists());
}

#[test]
fn sigterm_ends_every_guest_with_143() {
    let mut engine = Engine::start();
    let spin = engine.program(guests::SPINS);
    let sleep = engine.program(guests::SLEEPS);
    let mut events = engine.events("");
    for (id, program) in [("spin", &spin), ("sleep", &sleep)] {
        assert_eq!(engine.put(id, &engine.spec(id, program)).status, 201);
        events.wait("started", id);
    }
    let status = Command::new("kill")
        .arg(engine.process.id().to_string())
        .status()
        .expect("kill");
    assert!(status.success());
    let mut ended: Vec<Value> = std::iter::from_fn(|| events.next())
        .map(|it| it["sandbox"]["exit"]["exitCode"].clone())
        .collect();
    ended.dedup();
    assert_eq!(ended, [143], "told before the stream's end");
    assert!(engine.process.wait().expect("wait").success());
    for id in ["spin", "sleep"] {
        let exit: Value = serde_json::from_slice(
            &fs::read(engine.path(&format!("{id}.json"))).expect("exit file"),
        )
        .expect("JSON");
        assert_eq!(exit["exitCode"], 143);
    }
}

#[test]
fn one_directory_has_one_engine_and_a_dead_ones_socket_is_taken_over() {
    let mut engine = Engine::start();
    let second = Command::new(support::BINARY)
        .arg("serve")
        .arg("--directory")
        .arg(engine.directory.path())
        .output()
        .expect("run");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another engine serves"));
    assert_eq!(engine.get("/engine").status, 200, "the first is unharmed");
    engine.restart();
    assert_eq!(engine.get("/engine").status, 200);
}

#[test]
fn a_long_directory_name_is_no_obstacle() {
    let outer = tempfile::tempdir().expect("directory");
    let long = outer.path().join("x".repeat(200));
    fs::create_dir(&long).expect("directory");
    let mut process = Command::new(support::BINARY)
        .arg("serve")
        .arg("--directory")
        .arg(&long)
        .spawn()
        .expect("engine");
    let begin = std::time::Instant::now();
    while !long.join("engine.sock").exists() {
        assert!(begin.elapsed().as_secs() < 20 && process.try_wait().expect("wait").is_none());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    process.kill().expect("kill");
    process.wait().expect("wait");
}

#[test]
fn a_full_descriptor_budget_refuses_before_the_limit() {
    let engine = Engine::start_with(|command| limit_descriptors(command, 64));
    let program = engine.program(guests::SLEEPS);
    let mounts: Vec<Value> =
        (0..10).map(|number| json!({"hostPath": engine.directory.path(), "guestPath": format!("/{number}")})).collect();
    let mut statuses = Vec::new();
    for number in 0..6 {
        let id = format!("x{number}");
        let mut spec = engine.spec(&id, &program);
        spec["mounts"] = json!(mounts);
        let answer = engine.put(&id, &spec);
        if answer.status == 503 {
            assert_eq!(answer.body["reason"], "Busy");
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses[0], 201);
    assert_eq!(statuses[5], 503);
    assert_eq!(engine.get("/engine").status, 200);
}

#[test]
fn a_stream_without_upgrade_is_400() {
    let engine = Engine::start();
    let program = engine.program(guests::ECHOES);
    let mut spec = engine.spec("x", &program);
    spec["stdin"] = json!(true);
    assert_eq!(engine.put("x", &spec).status, 201);
    let mut stream = engine.connect();
    write!(
        stream,
        "POST /sandboxes/x/stdin HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n"
    )
    .expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("receive");
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}
