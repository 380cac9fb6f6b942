//! Commands: what they are given, how they end, what is kept of it.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use support::Engine;

#[test]
fn a_p1_command_writes_its_log_and_completes() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, "hello\nwörld\n", ""));
    assert_eq!(program.document["wasi"], "p1");
    let exit = engine.run("hello", &program);
    assert_eq!(
        (&exit["exitCode"], &exit["reason"], &exit["fault"]),
        (&json!(0), &json!("Completed"), &Value::Null)
    );
    let log = String::from_utf8(engine.log("hello")).expect("text");
    let times: Vec<&str> = log
        .lines()
        .map(|line| line.split_once(' ').expect("time").0)
        .collect();
    assert_eq!(
        log,
        format!("{} stdout F hello\n{} stdout F wörld\n", times[0], times[1])
    );
    assert!(
        times[0].len() == 30 && times[0].ends_with('Z'),
        "{}",
        times[0]
    );
    let file: Value =
        serde_json::from_slice(&fs::read(engine.path("hello.json")).expect("exit file"))
            .expect("JSON");
    assert_eq!(file, exit);
}

#[test]
fn a_p0_command_runs() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes_with(
        "wasi_unstable",
        2,
        "old\n",
        "(call $exit (i32.const 130))",
    ));
    assert_eq!(program.document["wasi"], "p0");
    assert_eq!(engine.run("old", &program)["exitCode"], 130);
    assert_eq!(engine.log_lines("old"), ["stderr F old"]);
}

#[test]
fn a_module_without_imports_runs() {
    let engine = Engine::start();
    let program = engine.program(r#"(module (func (export "_start")))"#);
    assert_eq!(program.document["wasi"], "none");
    assert_eq!(engine.run("none", &program)["exitCode"], 0);
    assert!(
        !engine.path("none.log").exists(),
        "it wrote nothing, and has no log file"
    );
}

#[test]
fn components_end_as_they_say() {
    let engine = Engine::start();
    for (id, body, code) in [
        ("returns-ok", "i32.const 0", 0),
        ("returns-err", "i32.const 1", 1),
        ("exits-ok", "(call $exit (i32.const 0)) unreachable", 0),
        ("exits-err", "(call $exit (i32.const 1)) unreachable", 1),
        ("traps", "unreachable", 134),
    ] {
        let program = engine.program(&guests::component(body));
        assert_eq!(
            (&program.document["format"], &program.document["wasi"]),
            (&json!("component"), &json!("p2"))
        );
        assert_eq!(engine.run(id, &program)["exitCode"], code, "{id}");
    }
}

#[test]
fn exit_codes_are_kept_exactly() {
    let engine = Engine::start();
    for code in [0, 1, 3, 126, 255, 300, u32::MAX] {
        let id = format!("code-{code}");
        let exit = engine.run(&id, &engine.program(&guests::exits(code)));
        assert_eq!(exit["exitCode"], code);
        assert_eq!(
            exit["reason"],
            if code == 0 { "Completed" } else { "Error" }
        );
    }
}

#[test]
fn a_trap_names_its_functions() {
    let engine = Engine::start();
    let exit = engine.run("trap", &engine.program(guests::TRAPS));
    assert_eq!(
        (&exit["exitCode"], &exit["reason"], &exit["fault"]),
        (&json!(134), &json!("Error"), &json!("guest"))
    );
    let message = exit["message"].as_str().expect("message");
    assert!(
        message.starts_with("wasm trap: wasm `unreachable` instruction executed\n"),
        "{message}"
    );
    assert!(
        message.contains("app!boom") && message.contains("app!middle") && message.len() <= 4096,
        "{message}"
    );
    let log = engine.log_lines("trap");
    assert_eq!(
        log[0],
        "stderr F wasm trap: wasm `unreachable` instruction executed"
    );
    assert!(
        log.iter()
            .any(|line| line.starts_with("stderr F ") && line.ends_with("app!boom")),
        "{log:?}"
    );
}

#[test]
fn deep_recursion_is_a_trap() {
    let engine = Engine::start();
    let program = engine.program(r#"(module (func $deep (export "_start") (call $deep)))"#);
    let exit = engine.run("deep", &program);
    assert_eq!(exit["exitCode"], 134);
    assert!(
        exit["message"].as_str().expect("message").contains("stack"),
        "{exit}"
    );
}

#[test]
fn memory_over_the_limit_is_oom() {
    let engine = Engine::start();
    let program = engine.program(guests::GROWS);
    let mut spec = engine.spec("oom", &program);
    spec["memoryLimitBytes"] = json!(1 << 20);
    let exit = engine.run_spec("oom", &spec);
    assert_eq!(
        (&exit["exitCode"], &exit["reason"], &exit["fault"]),
        (&json!(137), &json!("OOMKilled"), &json!("guest"))
    );
    assert!(
        exit["message"]
            .as_str()
            .expect("message")
            .contains("1048576"),
        "{exit}"
    );
    let mut small = engine.spec("small", &program);
    small["memoryLimitBytes"] = json!(1000);
    let answer = engine.put("small", &small);
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (422, &json!("Start")),
        "{answer:?}"
    );
    assert_eq!(
        engine.get("/sandboxes/small").status,
        404,
        "nothing of it remains"
    );
}

#[test]
fn a_trapping_start_function_refuses_the_start() {
    let engine = Engine::start();
    let program = engine
        .program(r#"(module (func $init unreachable) (start $init) (func (export "_start")))"#);
    let answer = engine.put("init", &engine.spec("init", &program));
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (422, &json!("Start")),
        "{answer:?}"
    );
}

#[test]
fn a_guest_sees_its_arguments_and_environment_and_nothing_else() {
    let engine = Engine::start();
    let mut spec = engine.spec("shows", &engine.program(guests::SHOWS));
    spec["args"] = json!(["app.wasm", "--name", "world"]);
    spec["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "open sesame", "secret": true}]);
    assert_eq!(engine.run_spec("shows", &spec)["exitCode"], 0);
    let expected =
        ["app.wasm", "--name", "world", "A=1", "B=open sesame"].map(|it| format!("stdout F {it}"));
    assert_eq!(engine.log_lines("shows"), expected);
    let own = fs::read_to_string(engine.path("engine.stderr")).expect("log");
    assert!(
        own.contains("sandbox started") && !own.contains("sesame"),
        "{own}"
    );
}

#[test]
fn a_read_only_mount_refuses_writes() {
    let engine = Engine::start();
    let program = engine.program(guests::CREATES);
    for (id, read_only, made) in [("read-write", false, true), ("read-only", true, false)] {
        let directory = engine.path(&format!("{id}.d"));
        fs::create_dir(&directory).expect("directory");
        let mut spec = engine.spec(id, &program);
        spec["mounts"] = json!([{"hostPath": directory, "guestPath": "/", "readOnly": read_only}]);
        let exit = engine.run_spec(id, &spec);
        assert_eq!(exit["exitCode"] == 0, made, "{exit}");
        assert_eq!(directory.join("made").exists(), made);
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let engine = Engine::start();
    let program = engine.program(guests::SPINS);
    let good = engine.spec("x", &program);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let wrong_sha = "0".repeat(64);
    for (spec, reason, named) in [
        (
            changed(&|it| it["mounts"] = json!([{"hostPath": "/no/such", "guestPath": "/x"}])),
            "Mount",
            "/no/such",
        ),
        (
            changed(&|it| it["log"]["path"] = json!("/no/such/0.log")),
            "Log",
            "/no/such/0.log",
        ),
        (
            changed(&|it| it["exitFile"] = json!("/no/such/exit.json")),
            "Log",
            "/no/such/exit.json",
        ),
        (
            changed(&|it| it["artifact"] = json!({"path": "/no/such.cwasm", "sha256": wrong_sha})),
            "Artifact",
            "/no/such.cwasm",
        ),
        (
            changed(&|it| it["artifact"]["sha256"] = json!(wrong_sha)),
            "Artifact",
            "SHA-256",
        ),
    ] {
        let answer = engine.put("x", &spec);
        assert_eq!(
            (answer.status, &answer.body["reason"]),
            (422, &json!(reason)),
            "{answer:?}"
        );
        assert!(
            answer.body["message"]
                .as_str()
                .expect("message")
                .contains(named),
            "{answer:?}"
        );
        assert_eq!(engine.get("/sandboxes/x").status, 404);
    }
    assert_eq!(
        engine.put("x", &good).status,
        201,
        "the id is free after refusals"
    );
}
