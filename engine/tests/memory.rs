//! The engine's memory budget: who ends when all guests together have more, and what is said of it.

#[path = "support/guests.rs"]
mod guests;
#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::{Value, json};
use site::{Site, eventually};
use support::{Engine, Program};

const MIB: u64 = 1 << 20;

fn start() -> Engine {
    Engine::start_with(|command| {
        command.arg(format!("--memory-budget={}", 64 * MIB));
    })
}

/// Has so much memory from its start on, and sleeps.
fn holds(engine: &Engine, mebibytes: u64) -> Program {
    let text = format!("(memory (export \"memory\") {})", mebibytes * 16);
    engine.program(&guests::SLEEPS.replace("(memory (export \"memory\") 2)", &text))
}

fn spec(engine: &Engine, id: &str, program: &Program, request: u64) -> Value {
    let mut spec = engine.spec(id, program);
    spec["memoryRequestBytes"] = json!(request);
    spec
}

fn state(engine: &Engine, id: &str) -> Value {
    engine.get(&format!("/sandboxes/{id}")).body["state"].clone()
}

fn assert_budget_ended(exit: &Value) {
    assert_eq!(exit["exitCode"], 137, "{exit}");
    assert_eq!(exit["reason"], "OOMKilled", "{exit}");
    let message = exit["message"].as_str().expect("message");
    assert!(
        message.contains("budget of 67108864 bytes"),
        "whose limit it was: {message}"
    );
}

#[test]
fn the_one_most_above_its_request_ends() {
    let engine = start();
    let (small, large) = (holds(&engine, 20), holds(&engine, 30));
    for (id, program, request) in [("within", &large, 30 * MIB), ("above", &small, 5 * MIB)] {
        let answer = engine.put(id, &spec(&engine, id, program, request));
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    assert_eq!(
        engine.get("/engine").body["memory"],
        json!({"used": 50 * MIB, "limit": 64 * MIB})
    );
    let answer = engine.put("next", &spec(&engine, "next", &small, 10 * MIB));
    assert_eq!(answer.status, 201, "{answer:?}");
    let exit = engine.exit("above");
    assert_budget_ended(&exit);
    let message = exit["message"].as_str().expect("message");
    assert!(
        message.contains("20971520 bytes, 5242880 requested"),
        "{message}"
    );
    assert_eq!(state(&engine, "within"), "running");
    assert_eq!(state(&engine, "next"), "running");
    eventually("its memory is back", || {
        engine.get("/engine").body["memory"]["used"] == 50 * MIB
    });
}

#[test]
fn a_guest_that_grows_without_end_ends_itself() {
    let engine = start();
    let quiet = holds(&engine, 30);
    assert_eq!(
        engine
            .put("quiet", &spec(&engine, "quiet", &quiet, 0))
            .status,
        201
    );
    let grows = engine.program(guests::GROWS);
    for id in ["first", "second"] {
        assert_budget_ended(&engine.run_spec(id, &spec(&engine, id, &grows, 0)));
    }
    assert_eq!(state(&engine, "quiet"), "running");
}

#[test]
fn what_can_never_fit_is_refused() {
    let engine = start();
    let answer = engine.put("x", &spec(&engine, "x", &holds(&engine, 65), MIB));
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (422, &json!("Start"))
    );
    let message = answer.body["message"].as_str().expect("message");
    assert!(
        message.contains("raise the container's memory request"),
        "{message}"
    );
    assert_eq!(engine.get("/engine").body["memory"]["used"], 0);
}

#[test]
fn a_server_that_keeps_instances_ends_too() {
    let site = Site::start_in(start(), json!({"reuse": 100}), |_| {});
    site.is_well();
    let connections = site.engine.get("/engine").body["connections"].clone();
    assert!(
        connections["used"].as_u64() < connections["limit"].as_u64(),
        "{connections}"
    );
    let held = site.engine.get("/engine").body["memory"]["used"]
        .as_u64()
        .expect("bytes");
    assert!(held > 0, "an instance is kept");
    let large = holds(&site.engine, 64);
    let answer = site
        .engine
        .put("large", &spec(&site.engine, "large", &large, 64 * MIB));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_budget_ended(&site.engine.exit("web"));
    assert_eq!(state(&site.engine, "large"), "running");
}
