//! The golden documents of `protocol/examples` mean the same to this engine as to everyone.

#![allow(dead_code)]

#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/protocol.rs"]
mod protocol;
#[path = "../src/time.rs"]
mod time;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::Path;

fn reemit<T: DeserializeOwned + Serialize>(text: &str) -> Value {
    let document: T = serde_json::from_str(text).expect("parse");
    serde_json::to_value(document).expect("emit")
}

/// Frames are made from their parts, and their parts taken from them again.
fn reframe(text: &str) -> Value {
    let document: Value = serde_json::from_str(text).expect("parse");
    let frames = document["items"].as_array().expect("items").iter();
    let items: Vec<Value> = frames
        .map(|item| {
            let channel = u8::try_from(item["channel"].as_u64().expect("channel")).expect("byte");
            let payload = item["payload"].as_str().expect("payload");
            let mut bytes = bytes::BytesMut::new();
            frame::encode(&mut bytes, channel, payload.as_bytes());
            let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let taken = frame::decode(&mut bytes).expect("short").expect("whole");
            let payload = std::str::from_utf8(&taken.payload).expect("text");
            serde_json::json!({"channel": taken.channel, "payload": payload, "frame": hexadecimal})
        })
        .collect();
    serde_json::json!({ "items": items })
}

#[test]
fn every_example_goes_there_and_back() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("examples") {
        let path = entry.expect("entry").path();
        let name = path
            .file_name()
            .and_then(|it| it.to_str())
            .expect("name")
            .to_owned();
        let text = std::fs::read_to_string(&path).expect("read");
        let emitted = match name.split('.').next().expect("schema") {
            "Engine" => reemit::<protocol::Engine>(&text),
            "SandboxSpec" => reemit::<protocol::SandboxSpec>(&text),
            "Sandbox" => reemit::<protocol::Sandbox>(&text),
            "SandboxList" => reemit::<protocol::SandboxList>(&text),
            "Exit" => reemit::<protocol::Exit>(&text),
            "AttachSpec" => reemit::<protocol::AttachSpec>(&text),
            "Stop" => reemit::<protocol::Stop>(&text),
            "Event" => reemit::<protocol::Event>(&text),
            "Compiled" => reemit::<protocol::Compiled>(&text),
            "Inspected" => reemit::<protocol::Inspected>(&text),
            "ExecSpec" => reemit::<protocol::ExecSpec>(&text),
            "ExecExit" => reemit::<protocol::ExecExit>(&text),
            "TerminalSize" => reemit::<protocol::TerminalSize>(&text),
            "ExecFrames" => reframe(&text),
            "Error" => reemit::<protocol::Error>(&text),
            other => panic!("{name}: no schema {other}"),
        };
        assert_eq!(
            emitted,
            serde_json::from_str::<Value>(&text).expect("JSON"),
            "{name}"
        );
        count += 1;
    }
    assert!(count >= 9, "{count} examples");
}

#[test]
fn absent_fields_take_their_defaults_and_unknown_ones_are_ignored() {
    let spec: protocol::SandboxSpec = serde_json::from_str(
        r#"{"podUid":"u","podNamespace":"n","podName":"p","container":"c","attempt":0,"future":{"a":1},
            "artifact":{"path":"/a","sha256":"00"},"args":["c"],"log":{"path":"/l"},"exitFile":"/e"}"#,
    )
    .expect("parse");
    assert_eq!(
        (
            spec.working_dir.as_str(),
            spec.log.max_bytes,
            spec.log.max_files
        ),
        ("/", 10_485_760, 5)
    );
    assert!(
        !spec.stdin && !spec.stdin_once && spec.env.is_empty() && spec.memory_limit_bytes.is_none()
    );
}
