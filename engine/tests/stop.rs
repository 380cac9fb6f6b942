//! Ends that guests do not choose: of those that compute, sleep or never come out of their start, and of the engine.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};
use support::{AT_ONCE, Answer, Engine};

fn assert_not_started(answer: &Answer, why: &str) {
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (422, &json!("Start")),
        "{answer:?}"
    );
    let message = answer.body["message"].as_str().expect("message");
    assert!(message.contains(why), "{message}");
}

#[test]
fn a_spinning_guest_stops_at_once() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    for (id, grace, code) in [("notice", 30.0, 143), ("now", 0.0, 137)] {
        assert_eq!(engine.put(id, &engine.spec(id, &program)).status, 201);
        let begin = Instant::now();
        assert_eq!(engine.stop(id, grace).status, 202);
        let exit = engine.exit(id);
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        assert_eq!(
            (&exit["exitCode"], &exit["reason"], &exit["fault"]),
            (&json!(code), &json!("Error"), &Value::Null)
        );
        assert_eq!(
            engine.stop(id, 0.0).status,
            202,
            "an ended sandbox stays as it is"
        );
        assert_eq!(
            engine.get(&format!("/sandboxes/{id}")).body["exit"]["exitCode"],
            code
        );
    }
}

#[test]
fn more_spinning_guests_than_threads_leave_the_socket_alive() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    for number in 0..8 {
        let id = format!("spin-{number}");
        assert_eq!(engine.put(&id, &engine.spec(&id, &program)).status, 201);
    }
    for number in 0..8 {
        assert_eq!(engine.stop(&format!("spin-{number}"), 1.0).status, 202);
        assert_eq!(engine.exit(&format!("spin-{number}"))["exitCode"], 143);
    }
}

#[test]
fn a_sleeping_guest_stops_at_once() {
    let engine = Engine::start();
    let program = engine.program(guests::SLEEPS);
    assert_eq!(
        engine.put("sleep", &engine.spec("sleep", &program)).status,
        201
    );
    assert_eq!(engine.stop("sleep", 5.0).status, 202);
    assert_eq!(engine.exit("sleep")["exitCode"], 143);
}

/// Programs that never come out of their instantiation.
fn endless_starts(engine: &Engine) -> Vec<support::Program> {
    let module = r#"(module (func $f (export "_start") (loop br 0)) (start $f))"#;
    let component = guests::component("i32.const 0").replacen(
        "(component",
        r#"(component (core module $spins (func $f (loop br 0)) (start $f)) (core instance (instantiate $spins))"#,
        1,
    );
    vec![engine.program(module), engine.program(&component)]
}

#[test]
fn a_start_function_that_does_not_return_can_be_stopped() {
    let engine = Engine::start();
    for program in endless_starts(&engine) {
        let answer = std::thread::scope(|scope| {
            let put = scope.spawn(|| engine.put("init", &engine.spec("init", &program)));
            while engine.get("/sandboxes/init").status != 200 {}
            // A client that goes away changes nothing.
            let spec = engine.spec("init", &program).to_string();
            let mut gone = engine.connect();
            let length = spec.len();
            write!(
                gone,
                "PUT /sandboxes/init HTTP/1.1\r\nHost: e\r\nContent-Length: {length}\r\n\r\n{spec}"
            )
            .expect("send");
            drop(gone);
            assert_eq!(engine.get("/sandboxes/init").body["state"], "starting");
            assert_eq!(engine.request("DELETE", "/sandboxes/init", "").status, 409);
            assert_eq!(engine.stop("init", 1.0).status, 202);
            put.join().expect("join")
        });
        assert_not_started(&answer, "was stopped while it was starting");
        assert_eq!(engine.get("/sandboxes/init").status, 404);
        assert_eq!(engine.get("/engine").body["running"], 0);
    }
}

#[test]
fn a_start_function_that_does_not_return_is_refused_after_a_while() {
    let engine = Engine::start();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (number, program) in endless_starts(&engine).into_iter().enumerate() {
            let engine = &engine;
            scope.spawn(move || {
                let id = format!("init-{number}");
                let answer = engine.put(&id, &engine.spec(&id, &program));
                assert_not_started(&answer, "its start function did not end within 10 s");
            });
        }
    });
    assert!((10..15).contains(&begin.elapsed().as_secs()));
    assert_eq!(
        engine.run("next", &engine.program(&guests::exits(0)))["exitCode"],
        0
    );
}

#[test]
fn sigterm_ends_the_engine_soon_whatever_guests_do() {
    let mut engine = Engine::start();
    // Fills 4 GiB in one instruction, which cannot be interrupted: takes about a second of a thread each time.
    let stuck = engine.program(
        r#"(module (memory 65536) (func (export "_start")
            (loop $again
                (memory.fill (i32.const 0) (i32.const 0) (i32.const 0xffffffff))
                (br $again))))"#,
    );
    let spins = engine.program(guests::SPINS);
    let start = endless_starts(&engine).remove(0);
    for (id, program) in [("spin-0", &spins), ("spin-1", &spins), ("spin-2", &spins)] {
        assert_eq!(engine.put(id, &engine.spec(id, program)).status, 201);
    }
    let answer = std::thread::scope(|scope| {
        let put = scope.spawn(|| engine.put("init", &engine.spec("init", &start)));
        while engine.get("/sandboxes/init").status != 200 {}
        assert_eq!(
            engine.put("stuck", &engine.spec("stuck", &stuck)).status,
            201
        );
        std::thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        let status = std::process::Command::new("kill")
            .arg(engine.process.id().to_string())
            .status()
            .expect("kill");
        assert!(status.success());
        let answer = put.join().expect("join");
        while engine.socket().exists() {
            assert!(begin.elapsed() < AT_ONCE);
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("ended in {:?}", begin.elapsed());
        answer
    });
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(engine.process.wait().expect("wait").success());
    for id in ["spin-0", "spin-1", "spin-2", "stuck"] {
        let file = fs::read(engine.path(&format!("{id}.json"))).expect("exit file");
        let exit: Value = serde_json::from_slice(&file).expect("JSON");
        assert_eq!(exit["exitCode"], 143, "{id}");
    }
}
