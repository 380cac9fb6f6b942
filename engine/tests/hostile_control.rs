//! The control socket and those who use it wrongly: nobody is harmed but themselves.

#[path = "support/guests.rs"]
mod guests;
mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{AT_ONCE, Engine, PATIENCE};

/// The status of the first answer to these bytes; none when the connection is closed without one.
fn status(engine: &Engine, request: &[u8]) -> Option<u16> {
    let mut stream = engine.connect();
    let _ = stream.write_all(request);
    // A client that ends its half at once counts as gone, and may get no answer.
    let patience = Some(Duration::from_secs(3));
    stream.set_read_timeout(patience).expect("timeout");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}

fn is_well(engine: &Engine) {
    let begin = Instant::now();
    assert_eq!(engine.get("/engine").status, 200);
    assert!(begin.elapsed() < AT_ONCE);
}

fn upgrade(engine: &Engine, path: &str, protocol: &str, body: &str) -> UnixStream {
    let mut stream = engine.connect();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("send");
    stream
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let engine = Engine::start();
    for request in [
        "\0\u{1}\r\n\r\n",
        "GET /engine\r\n\r\n",
        "GET /engine HTTP/1.1\r\nA b: c\r\n\r\n",
        "PUT /sandboxes/x HTTP/1.1\r\nHost: e\r\nContent-Length: -1\r\n\r\n",
        "PUT /sandboxes/x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let found = status(&engine, request.as_bytes());
        assert!(matches!(found, None | Some(400)), "{request:?}: {found:?}");
    }
    let large = format!("GET /engine HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(status(&engine, large.as_bytes()), Some(431));
    // What a body is said to be does not matter; what it is does.
    let spec = engine
        .spec("x", &engine.program(&guests::exits(0)))
        .to_string();
    let typed = format!(
        "PUT /sandboxes/x HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{spec}",
        spec.len()
    );
    assert_eq!(status(&engine, typed.as_bytes()), Some(201));
    let deep = "[".repeat(1 << 20);
    let answer = engine.request("PUT", "/sandboxes/y", &deep);
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (400, &json!("BadRequest"))
    );
    is_well(&engine);
}

#[test]
fn steps_in_the_wrong_order_are_told() {
    let engine = Engine::start();
    let program = engine.program(&guests::exits(0));
    let exec = json!({"args": ["x"]}).to_string();
    for path in [
        "/sandboxes/x/stdin",
        "/sandboxes/x/stop",
        "/sandboxes/x/exec",
    ] {
        assert!(
            [400, 404].contains(&engine.request("POST", path, &exec).status),
            "{path}"
        );
    }
    engine.run("x", &program);
    // An end is told once; asking for it again is no fault.
    assert_eq!(engine.stop("x", 1.0).status, 202);
    let mut late = upgrade(&engine, "/sandboxes/x/exec", "wasmlet-exec", &exec);
    let mut head = [0; 12];
    late.read_exact(&mut head).expect("answer");
    assert_eq!(&head, b"HTTP/1.1 409");
    assert_eq!(engine.request("DELETE", "/sandboxes/x", "").status, 204);
    assert_eq!(engine.request("DELETE", "/sandboxes/x", "").status, 204);
    assert_eq!(engine.stop("x", 1.0).status, 404);
    is_well(&engine);
}

#[test]
fn of_two_specs_for_one_id_one_is_run() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    for round in 0..10 {
        let id = format!("round-{round}");
        let specs: Vec<Value> = (0..8)
            .map(|number| {
                let mut spec = engine.spec(&id, &program);
                spec["attempt"] = json!(number % 2);
                spec
            })
            .collect();
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let engine = &engine;
            let puts = specs
                .iter()
                .map(|spec| scope.spawn(|| engine.put(&id, spec).status));
            let puts: Vec<_> = puts.collect();
            puts.into_iter().map(|it| it.join().expect("put")).collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 200, 201, 409, 409, 409, 409]);
        engine.stop(&id, 0.0);
    }
}

#[test]
fn clients_that_die_in_the_middle_of_a_stream_leave_nothing() {
    let engine = Engine::start();
    let program = engine.program(guests::ECHOES);
    let mut spec = engine.spec("x", &program);
    spec["stdin"] = json!(true);
    assert_eq!(engine.put("x", &spec).status, 201);
    let used = || {
        engine.get("/engine").body["descriptors"]["used"]
            .as_u64()
            .expect("number")
    };
    is_well(&engine);
    let before = used();
    let exec = json!({"args": ["x"], "stdin": true}).to_string();
    for round in 0..40 {
        let mut events = engine.connect();
        events
            .write_all(b"GET /events HTTP/1.1\r\nHost: e\r\n\r\n")
            .expect("send");
        let mut running = upgrade(&engine, "/sandboxes/x/exec", "wasmlet-exec", &exec);
        let mut stdin = upgrade(&engine, "/sandboxes/x/stdin", "wasmlet-stream", "");
        if round % 2 == 0 {
            // Heard, and gone in the middle of a frame.
            let _ = running.read(&mut [0; 100]);
            let _ = running.write_all(&[0, 0, 0, 1]);
            let _ = stdin.read(&mut [0; 100]);
            let _ = stdin.write_all(b"half a line");
        }
        drop((events, running, stdin));
    }
    let begin = Instant::now();
    while used() > before + 1 {
        assert!(begin.elapsed() < PATIENCE, "{before} {}", used());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(engine.get("/sandboxes/x").body["state"], "running");
    is_well(&engine);
}

#[test]
fn a_thousand_connections_leave_room() {
    let engine = Engine::start();
    let before = engine.memory_kib("VmRSS");
    let mut silent: Vec<UnixStream> = (0..1000).map(|_| engine.connect()).collect();
    is_well(&engine);
    for stream in &mut silent {
        stream
            .write_all(b"GET /events HTTP/1.1\r\nHost: e\r\n\r\n")
            .expect("send");
    }
    for stream in &mut silent {
        let mut head = [0; 15];
        stream.read_exact(&mut head).expect("answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    is_well(&engine);
    engine.run("x", &engine.program(&guests::exits(0)));
    let after = engine.memory_kib("VmRSS");
    assert!(after < before + 64 * 1024, "{before} {after}");
    drop(silent);
    is_well(&engine);
}

/// JSON of any shape.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map("[a-zA-Z]{0,8}", inner, 0..5)
                .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

#[test]
fn no_document_is_too_strange() {
    const FIELDS: [&str; 16] = [
        "podUid",
        "attempt",
        "artifact",
        "kind",
        "http",
        "args",
        "env",
        "workingDir",
        "mounts",
        "stdin",
        "log",
        "exitFile",
        "memoryLimitBytes",
        "cpuQuotaMillicores",
        "stdinOnce",
        "future",
    ];
    let engine = Engine::start();
    let spec = engine.spec("x", &engine.program(&guests::exits(0)));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let changes = proptest::collection::vec((0..FIELDS.len(), document()), 1..3);
    runner
        .run(&(changes, document()), |(changes, other)| {
            let mut spec = spec.clone();
            for (field, value) in changes {
                spec[FIELDS[field]] = value;
            }
            for body in [spec, other] {
                let found = engine.put("x", &body);
                prop_assert!(
                    [200, 201, 400, 409, 422].contains(&found.status),
                    "{found:?} {body}"
                );
                prop_assert_eq!(engine.get("/engine").status, 200);
            }
            Ok(())
        })
        .expect("the engine answers");
}
