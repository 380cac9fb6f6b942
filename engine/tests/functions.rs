//! An export in the place of the usual one: of core modules and of components, as programs.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::json;
use support::{Engine, Program, compile};

/// A component that exports this function, whose core function is `body` of core type `core`.
fn component(kind: &str, core: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $m (func (export "f") {core} {body}))
            (core instance $i (instantiate $m))
            (func (export "run-it") {kind} (canon lift (core func $i "f"))))"#
    );
    wat::parse_str(text).expect("wat")
}

fn exit_code(bytes: &[u8], function: &str) -> u64 {
    let engine = Engine::start();
    let output = engine.path("function");
    let (code, document) = compile(bytes, &output, &["--function", function]);
    assert_eq!(
        (code, &document["kind"]),
        (0, &json!("command")),
        "{document}"
    );
    let program = Program {
        path: output,
        sha256: document["sha256"].as_str().expect("sha256").to_owned(),
        document,
    };
    let mut spec = engine.spec("it", &program);
    spec["artifact"]["function"] = json!(function);
    engine.run_spec("it", &spec)["exitCode"]
        .as_u64()
        .expect("code")
}

#[test]
fn a_function_of_a_component_is_a_program() {
    for (kind, core, body, code) in [
        ("", "", "", 0),
        ("(result (result))", "(result i32)", "(i32.const 0)", 0),
        ("(result (result))", "(result i32)", "(i32.const 1)", 1),
        ("(result u8)", "(result i32)", "(i32.const 7)", 7),
        ("(result s32)", "(result i32)", "(i32.const -1)", 255),
        ("(result u64)", "(result i64)", "(i64.const 259)", 3),
        ("", "", "unreachable", 134),
    ] {
        assert_eq!(
            exit_code(&component(kind, core, body), "run-it"),
            code,
            "{kind} {body}"
        );
    }
}

#[test]
fn a_function_of_a_module_is_a_program() {
    let text = guests::exits(9).replace("_start", "other");
    let module = wat::parse_str(text).expect("wat");
    assert_eq!(exit_code(&module, "other"), 9);
}

#[test]
fn what_cannot_be_called_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    let module =
        wat::parse_str(r#"(module (func (export "f") (param i32)) (memory (export "m") 1))"#);
    let module = module.expect("wat");
    let takes = component("(param \"x\" u32)", "(param i32)", "");
    let gives = component("(result bool)", "(result i32)", "(i32.const 0)");
    for (bytes, function, words) in [
        (
            &module,
            "g",
            "the module exports no function g; it exports f, m",
        ),
        (&module, "f", "without parameters"),
        (&module, "m", "no function"),
        (
            &takes,
            "g",
            "the component exports no function g; it exports run-it",
        ),
        (
            &takes,
            "run-it",
            "no function that can be called as a program",
        ),
        (
            &gives,
            "run-it",
            "no function that can be called as a program",
        ),
    ] {
        let (code, document) = compile(bytes, &output, &["--function", function]);
        assert_eq!(
            (code, &document["reason"]),
            (1, &json!("NoEntryPoint")),
            "{document}"
        );
        assert!(
            document["message"]
                .as_str()
                .expect("message")
                .contains(words),
            "{words}: {document}"
        );
    }
}

#[test]
fn one_artifact_can_be_two_programs() {
    let engine = Engine::start();
    let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start"))
        (func (export "four") (call $exit (i32.const 4))))"#;
    let program = engine.program(text);
    assert_eq!(engine.run("usual", &program)["exitCode"], 0);
    let mut spec = engine.spec("four", &program);
    spec["artifact"]["function"] = json!("four");
    assert_eq!(engine.run_spec("four", &spec)["exitCode"], 4);
}
