//! The golden documents of `protocol/examples` mean the same to this engine as to everyone.

#![allow(dead_code, unused_imports)]

#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/protocol/mod.rs"]
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

/// Documents like the examples with one part replaced: understood, and then the same again, or refused.
fn survives<T: DeserializeOwned + Serialize>(document: &Value) {
    if let Ok(understood) = serde_json::from_value::<T>(document.clone()) {
        let emitted = serde_json::to_value(&understood).expect("emit");
        let again: T = serde_json::from_value(emitted.clone()).expect("parse what was emitted");
        assert_eq!(serde_json::to_value(again).expect("emit"), emitted);
    }
}

fn replace(document: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *document = with.clone();
        return;
    }
    *at -= 1;
    let parts: Vec<&mut Value> = match document {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    for part in parts {
        replace(part, at, with);
        if *at == 0 {
            // It is done; what follows must not be counted down again.
            *at = usize::MAX;
        }
        if *at == usize::MAX {
            return;
        }
    }
}

fn strange() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
    ]
}

proptest::proptest! {
    #[test]
    fn no_document_is_too_strange(at in 0..60_usize, with in strange()) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/examples");
        for entry in std::fs::read_dir(directory).expect("examples") {
            let text = std::fs::read_to_string(entry.expect("entry").path()).expect("read");
            let mut document: Value = serde_json::from_str(&text).expect("JSON");
            let mut at = at;
            replace(&mut document, &mut at, &with);
            survives::<protocol::Engine>(&document);
            survives::<protocol::SandboxSpec>(&document);
            survives::<protocol::SandboxList>(&document);
            survives::<protocol::Exit>(&document);
            survives::<protocol::Stop>(&document);
            survives::<protocol::Event>(&document);
            survives::<protocol::Compiled>(&document);
            survives::<protocol::Inspected>(&document);
            survives::<protocol::ExecSpec>(&document);
            survives::<protocol::ExecExit>(&document);
            survives::<protocol::TerminalSize>(&document);
            survives::<protocol::Error>(&document);
        }
    }
}
