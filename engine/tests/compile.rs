//! The compile helper: what it accepts, what it refuses and how, and what it leaves behind.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{BINARY, compile};

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("wat")
}

/// Nothing but these names is in the directory.
fn assert_files(directory: &Path, names: &[&str]) {
    let mut found: Vec<String> = fs::read_dir(directory)
        .expect("list")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("name")
        })
        .collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn what_cannot_run_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    let good = wasm(&guests::exits(0));
    let truncated = good[..good.len() - 3].to_vec();
    let mut invalid = wasm(r#"(module (func (export "_start") (drop (i32.const 1))))"#);
    let constant = invalid
        .windows(2)
        .position(|it| it == [0x41, 0x01])
        .expect("i32.const 1");
    invalid[constant] = 0x42;
    invalid[constant + 2] = 0x6a;
    for (bytes, reason, words) in [
        (Vec::new(), "NotWasm", "empty"),
        (b"\x7fELF\x02\x01\x01".to_vec(), "NotWasm", "ELF executable"),
        (b"#!/bin/sh\necho\n".to_vec(), "NotWasm", "script"),
        (b"(module)".to_vec(), "NotWasm", "WebAssembly text"),
        (b"hello\n".to_vec(), "NotWasm", "text"),
        (vec![0xff; 100], "NotWasm", "does not begin"),
        (b"\0asm\x09\0\0\0".to_vec(), "Malformed", "version"),
        (truncated, "Malformed", "truncated or invalid"),
        (invalid, "Malformed", "invalid"),
        (wasm(r#"(module (func (export "add")) (func (export "_initialize")))"#), "NoEntryPoint", "exports add, _initialize"),
        (wasm(r#"(module (func (export "_start") (param i32)))"#), "NoEntryPoint", "without parameters"),
        (wasm(r#"(module (memory (export "_start") 1))"#), "NoEntryPoint", "no function"),
        (wasm("(component)"), "NoEntryPoint", "wasi:cli/run@0.2"),
        (
            wasm(
                r#"(module (import "env" "greet" (func)) (import "a" "b" (memory 1))
                    (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                    (import "wasi_snapshot_preview1" "no_such" (func)) (func (export "_start")))"#,
            ),
            "MissingImport",
            "imports a.b, env.greet, wasi_snapshot_preview1.no_such, which",
        ),
        (
            wasm(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (func (export "_start")))"#),
            "MissingImport",
            "proc_exit",
        ),
        (wasm(r#"(module (import "wapc" "__guest_request" (func (param i32 i32))))"#), "NoEntryPoint", "actor"),
        (wasm(r#"(module (import "wasmbus" "__guest_request" (func (param i32 i32))))"#), "NoEntryPoint", "actor"),
        (
            wasm(
                r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                    (func $f (canon lift (core func $i "f"))) (instance $h (export "handle" (func $f)))
                    (export "wasi:http/handler@0.3.0-rc-2025-09-16" (instance $h)))"#,
            ),
            "NoEntryPoint",
            "a draft of WASI 0.3 and exports wasi:http/handler@0.3.0-rc-2025-09-16",
        ),
        (
            wasm(&guests::component("i32.const 0").replacen(
                "(component",
                r#"(component (import "my:own/thing@1.0.0" (instance (export "f" (func))))
                    (import "wasi:http/types@0.3.0-rc-2025-09-16" (instance (export "fields" (type (sub resource)))))"#,
                1,
            )),
            "MissingImport",
            "imports my:own/thing@1.0.0, wasi:http/types@0.3.0-rc-2025-09-16, which",
        ),
        (
            wasm(&guests::component("i32.const 0").replacen(
                "(component",
                r#"(component (import "wasi:cli/stdin@0.2.9" (instance (export "no-such" (func))))"#,
                1,
            )),
            "MissingImport",
            "no-such",
        ),
    ] {
        let (code, document) = compile(&bytes, &output, &[]);
        assert_eq!((code, &document["reason"]), (1, &json!(reason)), "{document}");
        assert!(document["message"].as_str().expect("message").contains(words), "{words}: {document}");
        assert_files(directory.path(), &[]);
    }
}

fn inspect(bytes: &[u8]) -> (i32, Value) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("input");
    fs::write(&path, bytes).expect("write");
    let output = Command::new(BINARY)
        .arg("inspect")
        .stdin(fs::File::open(&path).expect("open"))
        .output()
        .expect("inspect");
    let document = serde_json::from_slice(&output.stdout).expect("document");
    (output.status.code().expect("exit code"), document)
}

#[test]
fn a_file_can_be_looked_at_without_compiling_it() {
    let (code, document) = inspect(include_bytes!("../../tests/http-guest/http-guest.wasm"));
    assert_eq!(
        (code, &document["kind"], &document["problem"]),
        (0, &json!("http"), &json!(""))
    );
    assert!(
        document["wasiVersion"]
            .as_str()
            .expect("version")
            .starts_with("0.2."),
        "{document}"
    );
    assert!(
        document["exports"]
            .to_string()
            .contains("wasi:http/incoming-handler@0.2"),
        "{document}"
    );
    assert!(
        document["imports"]
            .to_string()
            .contains("wasi:clocks/monotonic-clock@0.2"),
        "{document}"
    );
    let (code, document) = inspect(&wasm(
        r#"(module (import "env" "greet" (func)) (func (export "_start")))"#,
    ));
    assert_eq!(
        (code, &document["kind"], &document["missing"]),
        (0, &json!("command"), &json!(["env.greet"]))
    );
    assert_eq!(document["functions"], json!(["_start"]));
    let (_, component) = inspect(&wasm(
        r#"(component (core module $m (func (export "f")) (func (export "i") (result i32) i32.const 0))
            (core instance $i (instantiate $m)) (type $r (result))
            (func (export "plain") (canon lift (core func $i "f")))
            (func (export "code") (result u8) (canon lift (core func $i "i")))
            (func (export "may-fail") (result $r) (canon lift (core func $i "i")))
            (func (export "letter") (result char) (canon lift (core func $i "i"))))"#,
    ));
    assert_eq!(component["functions"], json!(["plain", "code", "may-fail"]));
    assert!(
        document["problem"]
            .as_str()
            .expect("problem")
            .contains("env.greet"),
        "{document}"
    );
    let (code, document) = inspect(b"\x7fELF");
    assert_eq!((code, &document["reason"]), (1, &json!("NotWasm")));
}

#[test]
fn an_artifact_is_whole_and_described() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    fs::write(&output, "an older one").expect("write");
    let (code, document) = compile(&wasm(&guests::exits(0)), &output, &[]);
    assert_eq!(code, 0, "{document}");
    assert_files(directory.path(), &["artifact"]);
    let metadata = fs::metadata(&output).expect("artifact");
    assert_eq!(
        (
            document["bytes"].as_u64(),
            metadata.permissions().mode() & 0o777
        ),
        (Some(metadata.len()), 0o644)
    );
    let sums = Command::new("sha256sum")
        .arg(&output)
        .output()
        .expect("sha256sum");
    let sha256 = document["sha256"].as_str().expect("sha256");
    assert!(String::from_utf8_lossy(&sums.stdout).starts_with(sha256));
    let version = Command::new(support::BINARY)
        .arg("version")
        .output()
        .expect("version");
    let version: serde_json::Value = serde_json::from_slice(&version.stdout).expect("JSON");
    assert_eq!(document["compatibility"], version["compatibility"]);
    assert_eq!(version["protocol"], 1);
}

#[test]
fn a_file_is_as_good_as_a_pipe() {
    let directory = tempfile::tempdir().expect("directory");
    let input = directory.path().join("input.wasm");
    fs::write(&input, wasm(&guests::exits(0))).expect("write");
    let output = directory.path().join("artifact");
    let status = Command::new(support::BINARY)
        .args(["compile", "--output"])
        .arg(&output)
        .stdin(File::open(&input).expect("open"))
        .stdout(Stdio::null())
        .status()
        .expect("compile");
    assert!(status.success() && output.exists());
}

#[test]
fn the_memory_cap_is_a_clean_refusal() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    let functions: String = (0..20_000)
        .map(|number| {
            format!("(func (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))")
        })
        .collect();
    let large = wasm(&format!(r#"(module {functions} (func (export "_start")))"#));
    for limit in [4 << 20, 12 << 20, 20 << 20, 28 << 20, 36 << 20] {
        let (code, document) = compile(&large, &output, &["--memory-limit", &limit.to_string()]);
        assert_eq!(
            (code, &document["reason"]),
            (1, &json!("CompileMemory")),
            "{limit}: {document}"
        );
        assert!(
            document["message"]
                .as_str()
                .expect("message")
                .contains(&limit.to_string()),
            "{document}"
        );
        assert_files(directory.path(), &[]);
    }
    let (code, document) = compile(
        &large,
        &output,
        &["--memory-limit", &(1_u64 << 30).to_string()],
    );
    assert_eq!(code, 0, "{document}");
}

#[test]
fn a_cap_too_small_for_the_compilers_threads_is_one_too() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    let small = wasm(&guests::exits(0));
    for limit in [1, 100_000, 1 << 20, 2 << 20, 3 << 20, 4_000_000] {
        let mut child = Command::new(support::BINARY)
            .args(["compile", "--memory-limit", &limit.to_string(), "--output"])
            .arg(&output)
            // A backtrace takes memory, too, which would hide the panic.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("compile");
        let _ = child.stdin.take().expect("stdin").write_all(&small);
        let answer = child.wait_with_output().expect("compile");
        let document: serde_json::Value =
            serde_json::from_slice(&answer.stdout).expect("one document");
        assert_eq!(document["reason"], "CompileMemory", "{limit}: {document}");
        assert_files(directory.path(), &[]);
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let (code, document) = compile(
        &wasm(&guests::exits(0)),
        Path::new("/no/such/artifact"),
        &[],
    );
    assert_eq!((code, &document["reason"]), (1, &json!("Internal")));
    assert!(
        document["message"]
            .as_str()
            .expect("message")
            .contains("/no/such/artifact"),
        "{document}"
    );
}
