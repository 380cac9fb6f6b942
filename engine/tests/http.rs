//! Guests that serve HTTP: their answers, their limits, their end.

#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::json;
use site::{AT_ONCE, GUEST, PATIENCE, Site, eventually, own_address, reply};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Engine, Program, limit_descriptors};

#[test]
fn the_compiler_tells_the_kind() {
    let directory = tempfile::tempdir().expect("directory");
    let document = Program::compile(directory.path(), GUEST).document;
    assert_eq!(
        (&document["kind"], &document["format"], &document["wasi"]),
        (&json!("http"), &json!("component"), &json!("p2"))
    );
}

#[test]
fn requests_are_answered() {
    let second = own_address();
    let site = Site::start_with(json!({"ports": [8080, 9090]}), |spec| {
        let addresses = spec["http"]["addresses"].as_array_mut().expect("addresses");
        addresses.push(json!(second));
    });
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
    for (address, port) in [(&site.address, 9090), (&second, 8080), (&second, 9090)] {
        assert!(TcpStream::connect((address.as_str(), port)).is_ok());
    }
    let mut kept = BufReader::new(site.connect());
    // Two at once, and the answers come in order.
    write!(
        kept.get_mut(),
        "GET /count HTTP/1.1\r\nHost: g\r\n\r\nGET /env HTTP/1.1\r\nHost: g\r\n\r\n"
    )
    .expect("send");
    assert_eq!(reply(&mut kept).text(), "1");
    assert_eq!(reply(&mut kept).text(), "");
    write!(kept.get_mut(), "HEAD /count HTTP/1.1\r\nHost: g\r\n\r\n").expect("send");
    let mut line = String::new();
    kept.read_line(&mut line).expect("line");
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    let usage = site.usage();
    assert_eq!(
        (&usage["requests"], &usage["failures"]),
        (&json!(4), &json!(0))
    );
    assert!(usage["cpuNanoseconds"].as_u64().expect("number") > 0);
}

#[test]
fn the_guests_world_is_the_containers() {
    let site = Site::start_with(json!({}), site::give_a_world);
    site::the_guests_world_is_the_containers(&site);
}

#[test]
fn bodies_stream_both_ways() {
    site::bodies_stream_both_ways(&Site::start(json!({})));
}

#[test]
fn large_bodies_take_no_memory() {
    const BYTES: usize = 256 << 20;
    let site = Site::start(json!({}));
    assert_eq!(site.get("/").status, 200);
    let before = site.engine.memory_kib("VmRSS:");
    let mut stream = site.connect();
    write!(
        stream,
        "POST /drain HTTP/1.1\r\nHost: g\r\nContent-Length: {BYTES}\r\n\r\n"
    )
    .expect("send");
    let part = vec![b'x'; 1 << 20];
    for _ in 0..BYTES / part.len() {
        stream.write_all(&part).expect("send");
    }
    assert_eq!(reply(&mut BufReader::new(stream)).text(), BYTES.to_string());
    // A client that takes nothing for a while.
    let slow = site.ask(&format!("/stream?{BYTES}"));
    std::thread::sleep(Duration::from_millis(300));
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 32 * 1024, "{before} {after}");
    assert_eq!(reply(&mut BufReader::new(slow)).body.len(), BYTES);
}

#[test]
fn failures_are_answered_and_logged() {
    let site = Site::start(json!({"requestTimeoutSeconds": 1}));
    assert_eq!(site.get("/trap").status, 500);
    site.wait_for_log("stderr F wasmlet: GET /trap failed: ");
    site.wait_for_log("wasm `unreachable` instruction executed");
    assert!(site.log().contains("boom"), "{}", site.log());
    assert_eq!(site.get("/silent").status, 502);
    site.wait_for_log("GET /silent failed: the guest returned without an answer");
    assert_eq!(site.get("/refuse").status, 500);
    site.wait_for_log("GET /refuse failed: the guest answered with an error");
    let begin = Instant::now();
    assert_eq!(site.get("/spin?60000").status, 504);
    assert_eq!(site.get("/sleep?60000").status, 504);
    assert!(begin.elapsed() < AT_ONCE);
    site.wait_for_log("GET /sleep failed: the guest took longer than 1 s");
    // Half an answer is seen to be half an answer.
    for (path, begin) in [("/broken", ""), ("/stuck", "HTTP/1.1 200 OK")] {
        let mut text = String::new();
        site.ask(path).read_to_string(&mut text).expect("receive");
        assert!(
            text.starts_with(begin) && !text.ends_with("0\r\n\r\n"),
            "{path}: {text}"
        );
    }
    // Nobody is too late whose answer goes on.
    assert_eq!(site.get("/drip?100").body.len(), 20);
    assert_eq!(site.usage()["failures"], 7);
}

#[test]
fn five_traps_are_the_end() {
    let site = Site::start(json!({}));
    for path in [
        "/trap", "/trap", "/trap", "/trap", "/", "/trap", "/trap", "/trap", "/trap",
    ] {
        let _ = site.get(path);
    }
    assert_eq!(site.engine.get("/sandboxes/web").body["state"], "running");
    assert_eq!(site.get("/trap").status, 500);
    let exit = site.engine.exit("web");
    assert_eq!(
        (&exit["exitCode"], &exit["fault"]),
        (&json!(134), &json!("guest"))
    );
    assert!(
        exit["message"].as_str().expect("message").contains("boom"),
        "{exit}"
    );
    assert!(TcpStream::connect((site.address.as_str(), 8080)).is_err());
}

#[test]
fn an_instance_serves_as_often_as_it_may() {
    let site = Site::start(json!({}));
    assert_eq!(
        [site.get("/count").text(), site.get("/count").text()],
        ["1", "1"]
    );
    Site::start(json!({"reuse": 3})).serves_by_turns(3);
    // One that waits too long goes.
    let site = Site::start(json!({"reuse": 1000}));
    eventually("it serves again", || site.get("/count").text() != "1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(site.get("/count").text(), "1");
}

#[test]
fn too_many_requests_are_refused() {
    let site = Site::start(json!({"maxInstances": 1, "maxQueued": 1}));
    site::too_many_requests_are_refused(&site);
}

#[test]
fn a_client_that_goes_takes_its_guest_along() {
    let site = Site::start(json!({"maxInstances": 1}));
    for path in ["/sleep?60000", "/spin?60000", "/stuck"] {
        drop(site.begin(path));
        site.is_well();
    }
    // One that has its answer does not.
    assert_eq!(site.get("/after?100").text(), "answered");
    site.wait_for_log("after the answer");
}

#[test]
fn a_stop_lets_requests_finish() {
    let site = Site::start(json!({"lameDuckSeconds": 2}));
    let mut idle = site.connect();
    let running = site.begin("/sleep?4000");
    let begin = Instant::now();
    assert_eq!(site.engine.stop("web", 20.0).status, 202);
    // Still served, and told that it is the last time, as soon as the server has heard of it.
    eventually("it is the last request", || {
        let mut late = BufReader::new(site.connect());
        write!(late.get_mut(), "GET / HTTP/1.1\r\nHost: g\r\n\r\n").expect("send");
        let answer = reply(&mut late);
        assert_eq!(answer.status, 200, "{}", answer.head);
        answer.head.contains("connection: close")
    });
    eventually("the listener closes", || {
        TcpStream::connect((site.address.as_str(), 8080)).is_err()
    });
    assert_eq!(reply(&mut BufReader::new(running)).text(), "slept");
    let exit = site.engine.exit("web");
    assert_eq!(
        (&exit["exitCode"], &exit["reason"]),
        (&json!(0), &json!("Completed"))
    );
    assert!(begin.elapsed() < AT_ONCE);
    assert_eq!(idle.read(&mut [0; 1]).expect("end"), 0);
}

#[test]
fn what_is_left_at_the_end_of_the_grace_is_interrupted() {
    let site = Site::start(json!({}));
    let _spinning = site.begin("/spin?60000");
    let begin = Instant::now();
    site.engine.stop("web", 0.5);
    let exit = site.engine.exit("web");
    assert_eq!(
        (&exit["exitCode"], &exit["reason"]),
        (&json!(137), &json!("Error"))
    );
    assert!(begin.elapsed() < AT_ONCE);
    // Its port is free again.
    site.engine.request("DELETE", "/sandboxes/web", "");
    assert_eq!(site.engine.put("web", &site.spec(json!({}))).status, 201);
    site.engine.stop("web", 0.0);
    assert_eq!(site.engine.exit("web")["exitCode"], 137);
}

#[test]
fn a_port_in_use_is_told() {
    let site = Site::start(json!({}));
    let mut spec = site.spec(json!({}));
    spec["container"] = json!("other");
    let answer = site.engine.put("other", &spec);
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (422, &json!("Address"))
    );
    let message = answer.body["message"].as_str().expect("message");
    assert!(
        message.contains(":8080: address already in use"),
        "{message}"
    );
    assert_eq!(site.get("/").status, 200);
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let site = Site::start(json!({}));
    for (name, value) in [
        ("ports", json!([])),
        ("ports", json!([0])),
        ("reuse", json!(0)),
        ("requestTimeoutSeconds", json!(-1)),
        ("addresses", json!(["nowhere"])),
        ("addresses", json!([])),
    ] {
        let answer = site.engine.put("other", &site.spec(json!({name: value})));
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    let mut spec = site.spec(json!({}));
    spec["kind"] = json!("command");
    assert_eq!(site.engine.put("other", &spec).status, 400);
}

#[test]
fn what_is_no_request_harms_nobody() {
    let site = Site::start(json!({}));
    let ask = |request: &str| {
        let mut stream = site.connect();
        let _ = stream.write_all(request.as_bytes());
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(ask("\u{1}\u{2}garbage\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    assert_eq!(
        ask("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
        "HTTP/1.1 400 Bad Request"
    );
    assert_eq!(
        ask("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        "HTTP/1.1 501 Not Implemented"
    );
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nLarge: {}\r\n\r\n",
        "x".repeat(128 * 1024)
    );
    assert_eq!(ask(&large), "HTTP/1.1 431 Request Header Fields Too Large");
    let _ = ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame");
    assert_eq!(site.get("/").status, 200);
}

#[test]
fn http2_is_served() {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let site = Site::start(json!({}));
    let stream = site.connect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async move {
        stream.set_nonblocking(true).expect("stream");
        let stream = tokio::net::TcpStream::from_std(stream).expect("stream");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("handshake");
        tokio::spawn(connection);
        let slow = client.send_request(
            hyper::Request::get("http://guest/sleep?300")
                .body(Full::<Bytes>::default())
                .expect("request"),
        );
        let echo = client.send_request(
            hyper::Request::post("http://guest/echo")
                .body(Full::from("over one connection"))
                .expect("request"),
        );
        let body = echo
            .await
            .expect("answer")
            .into_body()
            .collect()
            .await
            .expect("body");
        assert_eq!(body.to_bytes(), "over one connection");
        assert_eq!(slow.await.expect("answer").status(), 200);
    });
}

#[test]
fn a_quota_is_kept() {
    let site = Site::start_with(json!({}), |spec| spec["cpuQuotaMillicores"] = json!(200));
    let _spinning = [site.ask("/spin?60000"), site.ask("/spin?60000")];
    let used = || site.usage()["cpuNanoseconds"].as_u64().expect("number");
    site.wait_until_it_computes(Duration::from_millis(100));
    // On a machine that has other things to do it gets less for a while.
    eventually("a fifth of a core is what they use", || {
        let (begin, before) = (Instant::now(), used());
        std::thread::sleep(Duration::from_secs(2));
        let share = (used() - before) as f64 / begin.elapsed().as_nanos() as f64;
        assert!(share < 0.3, "{share}");
        (0.15..0.25).contains(&share)
    });
}

#[test]
fn guests_that_compute_leave_room_for_others() {
    let site = Site::start(json!({}));
    let median = || {
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(site.get("/").status, 200);
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[25]
    };
    let quiet = median();
    let _spinning: Vec<TcpStream> = (0..8).map(|_| site.begin("/spin?60000")).collect();
    site.wait_until_it_computes(Duration::from_millis(300));
    let busy = median();
    let bearable = Duration::from_millis(40).max(4 * quiet);
    assert!(busy < bearable, "{quiet:?} {busy:?}");
}

#[test]
fn a_flood_of_connections_stays_one_containers() {
    let engine = Engine::start_with(|command| limit_descriptors(command, 400));
    let program = Program::compile(engine.directory.path(), GUEST);
    let mut sites = Vec::new();
    for id in ["web", "other"] {
        let address = own_address();
        let mut spec = engine.spec(id, &program);
        spec["kind"] = json!("http");
        spec["http"] = json!({"addresses": [address], "ports": [8080]});
        assert_eq!(engine.put(id, &spec).status, 201);
        sites.push(address);
    }
    let _flood: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect((sites[0].as_str(), 8080)).expect("connect"))
        .collect();
    let mut calm = TcpStream::connect((sites[1].as_str(), 8080)).expect("connect");
    calm.set_read_timeout(Some(PATIENCE)).expect("timeout");
    write!(
        calm,
        "GET /log HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    )
    .expect("send");
    assert_eq!(reply(&mut BufReader::new(calm)).text(), "logged");
    let descriptors = &engine.get("/engine").body["descriptors"]["used"];
    assert!(descriptors.as_u64().expect("number") < 200, "{descriptors}");
}
