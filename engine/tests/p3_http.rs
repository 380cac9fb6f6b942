//! Guests that serve HTTP by WASI 0.3: several requests in one instance, streams both ways, limits, their end.

#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::{Value, json};
use site::{AT_ONCE, Reply, Site, eventually, reply};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Engine, Program};

const GUEST: &[u8] = include_bytes!("../../tests/p3-http-guest/p3-http-guest.wasm");

fn start(http: Value) -> Site {
    start_with(http, |_| {})
}

fn start_with(http: Value, change: impl FnOnce(&mut Value)) -> Site {
    Site::start_guest(Engine::start(), GUEST, http, change)
}

fn answer(stream: TcpStream) -> Reply {
    reply(&mut BufReader::new(stream))
}

#[test]
fn the_compiler_tells_the_kind() {
    let directory = tempfile::tempdir().expect("directory");
    let document = Program::compile(directory.path(), GUEST).document;
    assert_eq!(
        (&document["kind"], &document["format"], &document["wasi"]),
        (&json!("http"), &json!("component"), &json!("p3"))
    );
}

#[test]
fn requests_are_answered_in_the_containers_world() {
    let site = start_with(json!({}), site::give_a_world);
    let hello = site.get("/");
    assert_eq!(
        (hello.status, hello.text().as_str()),
        (200, "Hello from wasmlet!\n")
    );
    assert!(
        hello.head.contains("content-type: text/plain"),
        "{}",
        hello.head
    );
    site::the_guests_world_is_the_containers(&site);
    let mut kept = BufReader::new(site.connect());
    write!(
        kept.get_mut(),
        "HEAD / HTTP/1.1\r\nHost: g\r\n\r\nGET / HTTP/1.1\r\nHost: g\r\n\r\n"
    )
    .expect("send");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        kept.read_line(&mut head).expect("line");
    }
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(reply(&mut kept).text(), "Hello from wasmlet!\n");
    let usage = site.usage();
    assert_eq!(
        (&usage["requests"], &usage["failures"]),
        (&json!(6), &json!(0))
    );
    assert!(usage["cpuNanoseconds"].as_u64().expect("number") > 0);
}

#[test]
fn bodies_stream_both_ways() {
    let site = start(json!({}));
    site::bodies_stream_both_ways(&site);
    assert_eq!(site.get("/stream?3000000").body.len(), 3_000_000);
    assert_eq!(site.get("/drip?1").text(), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

#[test]
fn a_body_that_is_passed_on_is_whole_when_its_last_byte_is_sent() {
    let site = start(json!({"maxInstances": 1}));
    for number in 0..3 {
        let mut stream = site.connect();
        let body = "x".repeat(number * 40_000);
        write!(
            stream,
            "POST /pass HTTP/1.1\r\nHost: g\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("send");
        assert_eq!(answer(stream).text(), body);
    }
    // None of them was given up: it is the same instance.
    assert_eq!(site.get("/count").text(), "4");
}

#[test]
fn who_reads_slowly_makes_the_other_side_wait() {
    let site = start(json!({}));
    // The client does not read; the guest would write half a gigabyte.
    let mut slow = site.ask("/stream?500000000");
    std::thread::sleep(Duration::from_millis(500));
    assert!(site.engine.memory_kib("VmRSS:") < 200_000);
    let mut part = vec![0; 1_000_000];
    slow.read_exact(&mut part).expect("part");
    drop(slow);
    // The guest does not read; the client would send as much.
    let mut sender = site.connect();
    write!(
        sender,
        "POST /sleep?1000 HTTP/1.1\r\nHost: g\r\nContent-Length: 500000000\r\n\r\n"
    )
    .expect("send");
    sender
        .set_write_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    let mut sent = 0;
    while let Ok(count) = sender.write(&part) {
        sent += count;
        assert!(sent < 100_000_000, "nobody waits");
    }
    assert!(site.engine.memory_kib("VmRSS:") < 200_000);
}

#[test]
fn an_instance_serves_many_requests_and_several_at_once() {
    let site = start(json!({"maxInstances": 1}));
    let waiting: Vec<TcpStream> = (0..20).map(|_| site.ask("/together?1500")).collect();
    let most: Vec<u32> = waiting
        .into_iter()
        .map(|it| answer(it).text().parse().expect("number"))
        .collect();
    assert_eq!(most.iter().max(), Some(&16), "{most:?}");
    site.serves_by_turns(128);
    let site = start(json!({"reuse": 1}));
    assert_eq!(
        [site.get("/count").text(), site.get("/count").text()],
        ["1", "1"]
    );
    let site = start(json!({}));
    eventually("it serves again", || site.get("/count").text() != "1");
    // One that waits too long goes.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(site.get("/count").text(), "1");
}

#[test]
fn one_that_computes_gets_no_more_requests() {
    let site = start(json!({}));
    let computing = site.begin("/spin?3000");
    site.wait_until_it_computes(Duration::from_millis(200));
    assert_eq!(site.get("/count").text(), "1", "another instance");
    assert_eq!(answer(computing).text(), "spun");
    // One that has waited before it began to compute, too.
    let site = start(json!({"requestTimeoutSeconds": 3}));
    let mut stuck = site.begin("/stuck");
    site.wait_until_it_computes(Duration::from_millis(200));
    for _ in 0..3 {
        assert_eq!(site.get("/").status, 200);
    }
    let mut text = String::new();
    stuck.read_to_string(&mut text).expect("text");
}

#[test]
fn failures_are_told_to_client_and_log() {
    let site = start(json!({"requestTimeoutSeconds": 1}));
    let trap = site.get("/trap");
    assert_eq!(
        (trap.status, trap.text().as_str()),
        (500, "the guest failed\n")
    );
    site.wait_for_log(
        "wasmlet: GET /trap failed: wasm trap: wasm `unreachable` instruction executed",
    );
    assert_eq!(site.get("/refuse").status, 500);
    site.wait_for_log(
        "GET /refuse failed: the guest answered with an error: ErrorCode::InternalError",
    );
    for path in ["/sleep?60000", "/spin?60000"] {
        let begin = Instant::now();
        assert_eq!(site.get(path).status, 504, "{path}");
        assert!(begin.elapsed() < AT_ONCE);
    }
    site.wait_for_log("GET /spin failed: the guest took longer than 1 s");
    // Half an answer is no whole one.
    for path in ["/broken", "/stuck"] {
        let mut text = String::new();
        let mut stream = site.ask(path);
        stream.read_to_string(&mut text).expect("text");
        assert!(
            text.contains("half") && !text.ends_with("0\r\n\r\n"),
            "{path}: {text}"
        );
    }
    assert_eq!(site.usage()["failures"], 6);
    site.is_well();
}

#[test]
fn a_trap_ends_the_requests_beside_it_and_counts_once() {
    let site = start(json!({"maxInstances": 1}));
    let beside: Vec<TcpStream> = (0..8).map(|_| site.begin("/sleep?60000")).collect();
    assert_eq!(site.get("/trap").status, 500);
    for stream in beside {
        assert_eq!(answer(stream).status, 500);
    }
    // Nine requests failed of one trap; five traps would be the end.
    site.is_well();
    for _ in 0..5 {
        let _ = site.ask("/trap").read(&mut [0; 100]);
    }
    let exit = site.engine.exit("web");
    assert_eq!(
        (&exit["exitCode"], &exit["fault"]),
        (&json!(134), &json!("guest"))
    );
}

#[test]
fn a_client_that_goes_takes_its_request_along() {
    let site = start(json!({"maxInstances": 1}));
    for path in ["/sleep?60000", "/spin?60000"] {
        drop(site.begin(path));
        site.is_well();
    }
    // Before it computes, another request would share its instance and its fate.
    let stuck = site.begin("/stuck");
    site.wait_until_it_computes(Duration::from_millis(200));
    drop(stuck);
    site.is_well();
    // Those beside it are served to their end.
    let beside = site.begin("/sleep?2000");
    drop(site.begin("/sleep?60000"));
    assert_eq!(answer(beside).text(), "slept");
    // One that has its answer has nothing to do with what follows.
    assert_eq!(site.get("/after?100").text(), "answered");
    site.wait_for_log("after the answer");
}

#[test]
fn limits_are_the_containers() {
    let site = start_with(json!({}), |spec| {
        spec["memoryLimitBytes"] = json!(30_000_000)
    });
    let large = site.get("/allocate?50000000");
    assert_eq!(
        (large.status, large.text().as_str()),
        (500, "the guest ran out of memory\n")
    );
    site.is_well();
    let site = start(json!({"maxInstances": 1, "maxQueued": 1, "reuse": 1}));
    site::too_many_requests_are_refused(&site);
    let site = start(json!({"maxInstances": 1, "reuse": 1, "requestTimeoutSeconds": 1}));
    let first = site.begin("/drip?200");
    // It waits for its own time, and has not cost the one before it anything.
    assert_eq!(site.get("/").status, 503);
    assert_eq!(answer(first).text().len(), 20);
}

#[test]
fn a_stop_lets_requests_finish() {
    let site = start(json!({"lameDuckSeconds": 0.3}));
    site.is_well();
    let running = site.begin("/sleep?2000");
    let begin = Instant::now();
    assert_eq!(site.engine.stop("web", 20.0).status, 202);
    eventually("the listener closes", || {
        TcpStream::connect((site.address.as_str(), 8080)).is_err()
    });
    assert_eq!(answer(running).text(), "slept");
    let exit = site.engine.exit("web");
    assert_eq!(
        (&exit["exitCode"], &exit["reason"]),
        (&json!(0), &json!("Completed"))
    );
    assert!(begin.elapsed() < AT_ONCE);
    let site = start(json!({}));
    let _spinning = site.begin("/spin?60000");
    let begin = Instant::now();
    site.engine.stop("web", 0.5);
    assert_eq!(site.engine.exit("web")["exitCode"], 137);
    assert!(begin.elapsed() < AT_ONCE);
}
