//! The client's end of an exec's or an attach's connection.
#![allow(dead_code)]

use crate::support::{Engine, status};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const EXIT: u8 = 3;
pub const RESIZE: u8 = 4;
pub const DISMISSAL: u8 = 5;
pub const CLOSE: u8 = 255;

/// Asks for an exec or an attach: the status, the document of a refusal, and the stream.
pub fn ask(engine: &Engine, id: &str, verb: &str, spec: &str) -> (u16, Value, UnixStream) {
    let mut stream = engine.connect();
    write!(
        stream,
        "POST /sandboxes/{id}/{verb} HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: wasmlet-exec\r\n\
         Content-Length: {}\r\n\r\n{spec}",
        spec.len()
    )
    .expect("send");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let length = head.split_once("content-length: ").map_or(0, |(_, rest)| {
        let (length, _) = rest.split_once("\r\n").expect("line");
        length.parse().expect("length")
    });
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    (status(&head), body, stream)
}

pub fn open(engine: &Engine, id: &str, verb: &str, spec: &Value) -> UnixStream {
    let (status, refusal, stream) = ask(engine, id, verb, &spec.to_string());
    assert_eq!(status, 101, "{refusal}");
    stream
}

pub fn frame(channel: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
    [&[channel], &length[..], payload].concat()
}

/// The next frame; `None` at the end.
pub fn receive(stream: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes(head[1..].try_into().expect("length"));
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).expect("payload");
    Some((head[0], payload))
}

/// Everything until the end: stdout, stderr and the exit, which is the last frame.
pub fn all(stream: &mut UnixStream) -> (Vec<u8>, String, Value) {
    let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), Value::Null);
    while let Some((channel, payload)) = receive(stream) {
        assert_eq!(exit, Value::Null, "a frame after the exit");
        match channel {
            STDOUT => stdout.extend(payload),
            STDERR => stderr.extend(payload),
            EXIT => exit = serde_json::from_slice(&payload).expect("JSON"),
            other => panic!("channel {other}"),
        }
    }
    (stdout, String::from_utf8(stderr).expect("text"), exit)
}
