//! The stream of events: counted, kept, asked for again, and its gaps.

#[path = "support/guests.rs"]
mod guests;
mod support;

use serde_json::{Value, json};
use support::{Engine, Events, eventually};

#[test]
fn events_are_counted_kept_and_asked_for_again() {
    let engine = Engine::start();
    let program = engine.program(&guests::exits(0));
    let mut live = engine.events("");
    for id in ["a", "b"] {
        engine.run(id, &program);
    }
    let all: Vec<Value> = (0..4).map(|_| live.next().expect("event")).collect();
    let told: Vec<_> = all
        .iter()
        .map(|it| {
            (
                it["sequence"].as_u64(),
                it["type"].as_str(),
                it["sandbox"]["id"].as_str(),
            )
        })
        .collect();
    let expected = [
        (1, "started", "a"),
        (2, "exited", "a"),
        (3, "started", "b"),
        (4, "exited", "b"),
    ];
    assert_eq!(
        told,
        expected.map(|(number, what, id)| (Some(number), Some(what), Some(id)))
    );
    assert_eq!(
        (&all[0]["sandbox"]["state"], &all[0]["sandbox"]["exit"]),
        (&json!("running"), &Value::Null)
    );
    assert_eq!(all[1]["sandbox"]["exit"]["exitCode"], 0);
    let incarnation = engine.get("/engine").body["incarnation"]
        .as_str()
        .expect("incarnation")
        .to_owned();
    let mut later = engine.events(&format!("?after=3&incarnation={incarnation}"));
    assert_eq!(later.next(), Some(all[3].clone()));
}

#[test]
fn a_new_incarnation_is_a_gap() {
    let mut engine = Engine::start();
    let program = engine.program(&guests::exits(0));
    engine.run("a", &program);
    let old = engine.get("/engine").body["incarnation"]
        .as_str()
        .expect("incarnation")
        .to_owned();
    engine.restart();
    engine.run("b", &program);
    for query in [
        format!("?after=2&incarnation={old}"),
        "?after=77".to_owned(),
    ] {
        let mut events = engine.events(&query);
        let gap = events.next().expect("gap");
        assert_eq!(
            (&gap["type"], &gap["sequence"], &gap["sandbox"]),
            (&json!("gap"), &json!(0), &Value::Null)
        );
        assert_ne!(gap["incarnation"], json!(old));
        assert_eq!(events.wait("exited", "b")["sequence"], 2);
    }
}

#[test]
fn older_events_than_are_kept_are_a_gap_and_a_slow_client_is_dropped() {
    let engine = Engine::start();
    let program = engine.program(&guests::exits(0));
    let mut slow = engine.events("");
    for number in 0..2100 {
        let id = format!("n{number}");
        let mut spec = engine.spec(&id, &program);
        spec["podName"] = json!("p".repeat(600));
        assert_eq!(engine.put(&id, &spec).status, 201);
    }
    // The last one may end before others do.
    eventually("all have ended", || {
        engine.get("/engine").body["running"] == 0
    });
    let mut late = engine.events("?after=4199");
    assert_eq!(late.next().expect("event")["sequence"], 4200);
    let mut events = engine.events("?after=50");
    let gap = events.next().expect("gap");
    assert_eq!(
        (&gap["type"], &gap["sequence"]),
        (&json!("gap"), &json!(4200 - 4096))
    );
    assert_eq!(events.next().expect("event")["sequence"], 4200 - 4096 + 1);
    // What the socket's buffers held is in order; then the stream ends or goes on without a hole.
    assert_no_hole(&mut slow);
    assert!(
        engine.memory_kib("VmRSS") < 64 * 1024,
        "{} KiB",
        engine.memory_kib("VmRSS")
    );
}

fn assert_no_hole(events: &mut Events) {
    let mut expected = 1;
    while let Some(event) = events.next() {
        assert_eq!(event["sequence"], expected);
        if expected == 4200 {
            return;
        }
        expected += 1;
    }
    assert!(expected > 1);
}
