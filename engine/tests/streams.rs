//! stdin, prompts, and a log that is whole when its container has ended.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{Engine, content};

/// Connects to a sandbox's stdin; the status line and the stream.
fn open_stdin(engine: &Engine, id: &str) -> (String, UnixStream) {
    let mut stream = engine.connect();
    write!(
        stream,
        "POST /sandboxes/{id}/stdin HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: wasmlet-stream\r\n\r\n"
    )
    .expect("send");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut status = String::new();
    reader.read_line(&mut status).expect("status");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("head");
    }
    (status.trim().to_owned(), stream)
}

/// Waits until a log's content is this.
fn wait_for_content(engine: &Engine, id: &str, expected: &[u8]) {
    let begin = Instant::now();
    while content(&engine.log(id)) != expected {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{:?}",
            String::from_utf8_lossy(&engine.log(id))
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stdin_is_echoed_until_its_client_half_closes() {
    let engine = Engine::start();
    let mut spec = engine.spec("echo", &engine.program(guests::ECHOES));
    spec["stdin"] = json!(true);
    spec["stdinOnce"] = json!(true);
    assert_eq!(engine.put("echo", &spec).status, 201);
    let (status, mut stream) = open_stdin(&engine, "echo");
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    assert!(
        open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "),
        "one client at a time"
    );
    stream.write_all(b"first\n").expect("write");
    wait_for_content(&engine, "echo", b"first\n");
    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|number| (number * 7 % 251) as u8)
        .collect();
    stream.write_all(&bytes).expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(engine.exit("echo")["exitCode"], 0);
    assert_eq!(
        content(&engine.log("echo")),
        [b"first\n".as_slice(), &bytes].concat(),
        "byte for byte"
    );
    assert_eq!(
        stream.read(&mut [0]).expect("read"),
        0,
        "the engine closes its side"
    );
    assert!(
        open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "),
        "ended"
    );
}

#[test]
fn the_next_client_takes_over_a_stdin_that_is_not_once() {
    let engine = Engine::start();
    let mut spec = engine.spec("echo", &engine.program(guests::ECHOES));
    spec["stdin"] = json!(true);
    assert_eq!(engine.put("echo", &spec).status, 201);
    for (text, so_far) in [("one\n", "one\n"), ("two\n", "one\ntwo\n")] {
        let begin = Instant::now();
        let mut stream = loop {
            let (status, stream) = open_stdin(&engine, "echo");
            if status.contains(" 101 ") {
                break stream;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "the first client's hold is not let go"
            );
        };
        stream.write_all(text.as_bytes()).expect("write");
        wait_for_content(&engine, "echo", so_far.as_bytes());
    }
    assert_eq!(engine.stop("echo", 1.0).status, 202);
    assert_eq!(engine.exit("echo")["exitCode"], 143);
}

#[test]
fn a_guest_without_stdin_reads_its_end() {
    let engine = Engine::start();
    let exit = engine.run("echo", &engine.program(guests::ECHOES));
    assert_eq!(exit["exitCode"], 0);
    assert!(open_stdin(&engine, "echo").0.starts_with("HTTP/1.1 409 "));
    assert!(open_stdin(&engine, "nobody").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_prompt_is_shown_before_its_answer() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, "name? ", "(loop $again (br $again))"));
    assert_eq!(
        engine.put("asks", &engine.spec("asks", &program)).status,
        201
    );
    wait_for_content(&engine, "asks", b"name? ");
    assert_eq!(engine.log_lines("asks"), ["stdout P name? "]);
    assert_eq!(engine.stop("asks", 0.0).status, 202);
    assert_eq!(engine.exit("asks")["exitCode"], 137);
}

#[test]
fn an_unterminated_end_is_kept_to_the_byte() {
    let engine = Engine::start();
    engine.run(
        "rest",
        &engine.program(&guests::writes(1, "a\nb", "(call $exit (i32.const 7))")),
    );
    assert_eq!(engine.log_lines("rest"), ["stdout F a", "stdout P b"]);
}

#[test]
fn the_log_is_complete_before_the_exit_file_is_there() {
    let engine = Engine::start();
    let program = engine.program(&guests::writes(1, &"0123456789\n".repeat(3000), ""));
    for number in 0..20 {
        let id = format!("x{number}");
        let exit_file = engine.path(&format!("{id}.json"));
        assert_eq!(engine.put(&id, &engine.spec(&id, &program)).status, 201);
        while !exit_file.exists() {
            std::hint::spin_loop();
        }
        let log = engine.log(&id);
        let exit: Value =
            serde_json::from_slice(&fs::read(&exit_file).expect("exit file")).expect("whole JSON");
        assert_eq!(exit["exitCode"], 0);
        assert_eq!(content(&log), "0123456789\n".repeat(3000).as_bytes());
    }
}

#[test]
fn a_component_that_does_not_ask_what_it_may_write_is_ended() {
    let engine = Engine::start();
    let program = engine.program(
        r#"(component
            (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
            (alias export $error "error" (type $e))
            (import "wasi:io/streams@0.2.0" (instance $streams
                (alias outer 1 $e (type $outer))
                (export "error" (type $error (eq $outer)))
                (export "output-stream" (type $out (sub resource)))
                (type $failure' (variant (case "last-operation-failed" (own $error)) (case "closed")))
                (export "stream-error" (type $failure (eq $failure')))
                (export "[method]output-stream.write"
                    (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $failure)))))))
            (alias export $streams "output-stream" (type $out))
            (import "wasi:cli/stdout@0.2.0" (instance $stdout
                (alias outer 1 $out (type $outer))
                (export "output-stream" (type $o (eq $outer)))
                (export "get-stdout" (func (result (own $o))))))
            (core module $memory (memory (export "memory") 2))
            (core instance $memory (instantiate $memory))
            (core func $get (canon lower (func $stdout "get-stdout")))
            (core func $write (canon lower (func $streams "[method]output-stream.write")
                (memory (core memory $memory "memory"))))
            (core module $main
                (import "host" "get" (func $get (result i32)))
                (import "host" "write" (func $write (param i32 i32 i32 i32)))
                (func (export "run") (result i32) (local $out i32)
                    (local.set $out (call $get))
                    (loop $again
                        (call $write (local.get $out) (i32.const 1024) (i32.const 65536) (i32.const 0))
                        (br $again))
                    (i32.const 0)))
            (core instance $main (instantiate $main
                (with "host" (instance (export "get" (func $get)) (export "write" (func $write))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
    );
    let exit = engine.run("rude", &program);
    assert_eq!(exit["exitCode"], 134, "{exit}");
    let message = exit["message"].as_str().expect("message");
    assert!(message.contains("more than the stream takes"), "{message}");
}
