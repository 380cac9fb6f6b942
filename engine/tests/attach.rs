//! Clients at a running container's own streams.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/guests.rs"]
mod guests;
mod support;

use frames::{
    CLOSE, DISMISSAL, EXIT, RESIZE, STDERR, STDIN, STDOUT, all, ask, frame, open, receive,
};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::Engine;

/// A running container that echoes its stdin.
fn echo(change: &Value) -> Engine {
    let engine = Engine::start();
    let mut spec = engine.spec("echo", &engine.program(guests::ECHOES));
    spec["stdin"] = json!(true);
    for (name, value) in change.as_object().expect("object") {
        spec[name] = value.clone();
    }
    assert_eq!(engine.put("echo", &spec).status, 201);
    engine
}

fn write(stream: &mut UnixStream, channel: u8, payload: &[u8]) {
    stream.write_all(&frame(channel, payload)).expect("write");
}

fn attach(engine: &Engine, stdin: bool) -> UnixStream {
    open(engine, "echo", "attach", &json!({"stdin": stdin}))
}

/// The stream of a client that writes, as soon as the engine has noticed that the one before it left.
fn attach_when_free(engine: &Engine) -> UnixStream {
    let begin = Instant::now();
    loop {
        match ask(engine, "echo", "attach", r#"{"stdin":true}"#) {
            (101, _, stream) => return stream,
            (status, refusal, _) => assert_eq!(status, 409, "{refusal}"),
        }
        let patience = Duration::from_secs(20);
        assert!(begin.elapsed() < patience, "its stdin is free again");
    }
}

#[test]
fn everybody_hears_and_one_writes_until_the_container_ends() {
    let engine = echo(&json!({"stdinOnce": true}));
    let mut writer = attach(&engine, true);
    let mut deaf = open(&engine, "echo", "attach", &json!({"stdout": false}));
    write(&mut writer, STDIN, b"one\n");
    assert_eq!(receive(&mut writer), Some((STDOUT, b"one\n".to_vec())));
    let mut late = attach(&engine, false);
    let (status, refusal, _) = ask(&engine, "echo", "attach", r#"{"stdin":true}"#);
    assert_eq!((status, &refusal["reason"]), (409, &json!("Conflict")));
    write(&mut writer, RESIZE, br#"{"width":80,"height":24}"#);
    write(&mut writer, STDIN, b"two\n");
    write(&mut writer, CLOSE, &[STDIN]);
    let ended = json!({"exitCode": 0, "reason": "Completed", "fault": null, "message": ""});
    for stream in [&mut writer, &mut late] {
        assert_eq!(
            all(stream),
            (b"two\n".to_vec(), String::new(), ended.clone())
        );
    }
    assert_eq!(all(&mut deaf), (Vec::new(), String::new(), ended));
    assert_eq!(engine.exit("echo")["exitCode"], 0);
    assert_eq!(engine.log_lines("echo"), ["stdout F one", "stdout F two"]);
    let (status, ..) = ask(&engine, "echo", "attach", "{}");
    assert_eq!(status, 409, "it has ended");
}

#[test]
fn a_client_that_leaves_changes_nothing() {
    let engine = echo(&json!({}));
    for round in 0..3 {
        let mut stream = attach_when_free(&engine);
        let line = format!("{round}\n");
        write(&mut stream, STDIN, line.as_bytes());
        assert_eq!(receive(&mut stream), Some((STDOUT, line.into_bytes())));
        // In the middle of a frame.
        stream.write_all(&[STDIN, 0, 0]).expect("write");
    }
    attach_when_free(&engine);
    assert_eq!(engine.get("/sandboxes/echo").body["state"], "running");
}

#[test]
fn with_stdin_once_the_first_that_leaves_ends_the_guests_input() {
    let engine = echo(&json!({"stdinOnce": true}));
    drop(attach(&engine, true));
    assert_eq!(engine.exit("echo")["exitCode"], 0);
}

#[test]
fn faults_and_traps_are_told() {
    let engine = Engine::start();
    let spec = engine.spec("box", &engine.program(guests::SLEEPS));
    assert_eq!(engine.put("box", &spec).status, 201);
    let mut stream = open(&engine, "box", "attach", &json!({}));
    assert_eq!(engine.stop("box", 5.0).status, 202);
    assert_eq!(all(&mut stream).2["exitCode"], 143);
    let trapping = engine.spec("trap", &engine.program(guests::TRAPS));
    assert_eq!(engine.put("trap", &trapping).status, 201);
    assert_eq!(engine.exit("trap")["exitCode"], 134);
    for (id, body, status) in [
        ("nobody", "{}", 404),
        ("trap", "{}", 409),
        ("box", "{}", 409),
        ("box", "{", 400),
    ] {
        assert_eq!(ask(&engine, id, "attach", body).0, status, "{id} {body}");
    }
    assert_eq!(
        engine.request("POST", "/sandboxes/box/attach", "{}").status,
        400
    );
    let quiet = engine.spec("quiet", &engine.program(guests::SLEEPS));
    assert_eq!(engine.put("quiet", &quiet).status, 201);
    let (status, refusal, _) = ask(&engine, "quiet", "attach", r#"{"stdin":true}"#);
    assert_eq!((status, &refusal["reason"]), (409, &json!("Conflict")));
    let mut stream = open(&engine, "quiet", "attach", &json!({}));
    write(&mut stream, 9, b"x");
    let (channel, payload) = receive(&mut stream).expect("frame");
    let why: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!((channel, &why["reason"]), (DISMISSAL, &json!("BadRequest")));
    assert_eq!(receive(&mut stream), None);
    assert_eq!(engine.get("/sandboxes/quiet").body["state"], "running");
}

#[test]
fn who_does_not_read_is_waited_for_and_then_let_go() {
    let engine = Engine::start();
    let mut relay = engine.spec("echo", &engine.program(guests::ECHOES));
    relay["stdin"] = json!(true);
    relay["log"]["maxBytes"] = json!(200_000_000);
    assert_eq!(engine.put("echo", &relay).status, 201);
    let mut slow = attach(&engine, false);
    let mut quick = attach(&engine, true);
    let mut writer = quick.try_clone().expect("clone");
    let writing = std::thread::spawn(move || {
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..5_000 {
            writer.write_all(&frame(STDIN, &line)).expect("write");
        }
    });
    let mut heard = 0;
    while heard < 5_000_000 {
        heard += receive(&mut quick).expect("frame").1.len();
    }
    writing.join().expect("writer");
    let (mut kept, mut end) = (0, Value::Null);
    while let Some((channel, payload)) = receive(&mut slow) {
        match channel {
            STDOUT => kept += payload.len(),
            DISMISSAL => end = serde_json::from_slice(&payload).expect("JSON"),
            other => panic!("channel {other}"),
        }
    }
    assert_eq!(end["reason"], "TooSlow");
    assert!(kept > 0 && kept < 2_000_000, "{kept}");
    let begin = Instant::now();
    while engine.log("echo").len() < 5_000_000 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the log has all of it"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(engine.memory_kib("VmRSS") < 200_000);
}

#[test]
fn there_is_an_end_to_clients() {
    let engine = echo(&json!({}));
    let held: Vec<_> = (0..32).map(|_| attach(&engine, false)).collect();
    let (status, refusal, _) = ask(&engine, "echo", "attach", "{}");
    assert_eq!(
        (status, &refusal["reason"]),
        (503, &json!("Busy")),
        "{refusal}"
    );
    drop(held);
    let begin = Instant::now();
    while ask(&engine, "echo", "attach", "{}").0 == 503 {
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_terminal_is_shared_and_survives_who_leaves_it() {
    let engine = echo(&json!({"tty": true, "stdinOnce": true}));
    let mut watcher = attach(&engine, false);
    let mut typist = attach(&engine, true);
    write(&mut typist, STDIN, b"one\r\x03");
    let (mut shown, mut end) = (Vec::new(), Value::Null);
    while let Some((channel, payload)) = receive(&mut typist) {
        match channel {
            STDOUT => shown.extend(payload),
            DISMISSAL => end = serde_json::from_slice(&payload).expect("JSON"),
            other => panic!("channel {other}"),
        }
    }
    assert_eq!(end["reason"], "Interrupted", "Ctrl-C ends the attach");
    assert!(shown.starts_with(b"one\r\n"), "{shown:?}");
    let mut seen = Vec::new();
    while !seen.ends_with(b"one\r\n") || seen.len() < 12 {
        let (channel, payload) = receive(&mut watcher).expect("frame");
        assert_eq!(channel, STDOUT);
        seen.extend(payload);
    }
    assert_eq!(engine.get("/sandboxes/echo").body["state"], "running");
    engine.wait_for_log("echo", &["stdout F one"]);
    let mut typist = attach(&engine, true);
    write(&mut typist, STDIN, b"\x04");
    loop {
        let (channel, payload) = receive(&mut watcher).expect("frame");
        assert_ne!(channel, STDERR);
        if channel == EXIT {
            let exit: Value = serde_json::from_slice(&payload).expect("JSON");
            assert_eq!(exit["exitCode"], 0, "Ctrl-D is the guest's end of file");
            break;
        }
    }
}
