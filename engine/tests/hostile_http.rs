//! Clients that mean no good, or are broken: bounded in time, in memory and in number, and nobody else's business.

#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::json;
use site::{AT_ONCE, Site, eventually, reply, rest};
use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::Engine;

/// All answers to these bytes. (A client that ends its half at once counts as gone, and may get none.)
fn answers(site: &Site, request: &[u8]) -> String {
    let mut stream = site.connect();
    let _ = stream.write_all(request);
    let patience = Some(Duration::from_secs(3));
    stream.set_read_timeout(patience).expect("timeout");
    rest(&mut stream)
}

/// The statuses of all answers.
fn statuses(text: &str) -> Vec<&str> {
    let heads = text.split("HTTP/1.").skip(1);
    heads.map(|head| head.get(2..5).unwrap_or(head)).collect()
}

#[test]
fn ten_thousand_connections_are_answered_or_refused() {
    const CLIENTS: usize = 10_000;
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
        },
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let clients = CLIENTS.min(limit.map_or(CLIENTS, |it| it as usize - 200));
    let site = Site::start(json!({}));
    let other = site.neighbour("other", json!({}));
    let before = site.engine.memory_kib("VmRSS:");
    let mut flood: Vec<TcpStream> = (0..clients).map(|_| site.connect()).collect();
    let calm = other.get("/");
    assert_eq!(calm.status, 200, "{}", calm.head);
    for stream in &mut flood {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n");
    }
    let begin = Instant::now();
    assert_eq!(other.get("/").status, 200);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    for stream in &mut flood {
        let mut head = [0; 12];
        match stream.read_exact(&mut head) {
            Ok(()) if &head == b"HTTP/1.1 200" => served += 1,
            Ok(()) if &head == b"HTTP/1.1 503" => refused += 1,
            Ok(()) => panic!("{}", String::from_utf8_lossy(&head)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("neither answered nor refused")
            }
            Err(_) => closed += 1,
        }
    }
    assert_eq!(served + refused + closed, clients);
    assert!(served > 500, "{served} {refused} {closed}");
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 256 * 1024, "{before} {after}");
    println!(
        "{served} served, {refused} refused, {closed} closed, {} KiB more",
        after - before
    );
    drop(flood);
    eventually("it is as before", || site.get("/").status == 200);
}

#[test]
fn what_is_no_request_is_refused() {
    let site = Site::start(json!({}));
    let long = "x".repeat(128 * 1024);
    let many: String = (0..200).map(|number| format!("h{number}: x\r\n")).collect();
    for (request, expected) in [
        ("\u{1}\u{2}garbage\r\n\r\n".to_owned(), "400"),
        ("GET /\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/0.9\r\nHost: g\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/3.0\r\nHost: g\r\n\r\n".to_owned(), "400"),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
            "400",
        ),
        ("GET / HTTP/1.1\r\nHost : g\r\n\r\n".to_owned(), "400"),
        (
            "GET / HTTP/1.1\r\nHost: g\r\n folded\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nHost: g\r\nA: \0\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nHost: g\r\nA b: c\r\n\r\n".to_owned(),
            "400",
        ),
        ("GE(T / HTTP/1.1\r\nHost: g\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1 extra\r\nHost: g\r\n\r\n".to_owned(), "400"),
        (format!("GET /{long} HTTP/1.1\r\nHost: g\r\n\r\n"), "4"),
        (
            format!("GET / HTTP/1.1\r\nHost: g\r\nLarge: {long}\r\n\r\n"),
            "431",
        ),
        (format!("GET / HTTP/1.1\r\nHost: g\r\n{many}\r\n"), "431"),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            "501",
        ),
        (
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: x\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: +1\r\n\r\nx".to_owned(),
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let text = answers(&site, request.as_bytes());
        let found = statuses(&text);
        let shown = &request[..request.len().min(60)];
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{shown:?}: {found:?}"
        );
    }
    assert_eq!(site.usage()["requests"], 0, "no guest was asked");
    site.is_well();
}

/// Of each of these a proxy in front may believe something else than we do; there is one answer, and its connection ends.
#[test]
fn nothing_is_smuggled() {
    let site = Site::start(json!({}));
    let smuggled = "GET /count HTTP/1.1\r\nHost: smuggled\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!("POST /drain HTTP/1.1\r\nHost: g\r\n{headers}\r\n\r\n{body}{smuggled}")
    };
    for (request, expected) in [
        // The chunked body is the one that counts, and the connection is not used again.
        (
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
            vec!["200"],
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 4",
                "0\r\n\r\n",
            ),
            vec!["200"],
        ),
        (
            post("Content-Length: 3\r\nContent-Length: 4", ""),
            vec!["400"],
        ),
        (post("Content-Length: 3, 4", ""), vec!["400"]),
        (
            post("Transfer-Encoding: xchunked", "0\r\n\r\n"),
            vec!["400"],
        ),
        (
            post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
            vec!["400"],
        ),
        (post("Transfer-Encoding: identity", ""), vec!["400"]),
        (
            post("Transfer-Encoding : chunked", "0\r\n\r\n"),
            vec!["400"],
        ),
        (
            post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"),
            vec!["400"],
        ),
    ] {
        let text = answers(&site, request.as_bytes());
        assert_eq!(statuses(&text), expected, "{request}");
    }
    // A body that is no body: the guest's answer may have begun, but nothing after it is a request.
    for body in [
        "x\r\n\r\n",
        "-1\r\n\r\n",
        "0x1\r\nx\r\n",
        "ffffffffffffffffff\r\n",
        "1 \n\r\n",
        "2\r\nabcd\r\n",
        "\r\n\r\n",
    ] {
        let request = post("Transfer-Encoding: chunked", body);
        let text = answers(&site, request.as_bytes());
        assert!(statuses(&text).len() <= 1, "{body:?}: {text}");
    }
    // HTTP/1.0 has no chunks.
    let text = answers(
        &site,
        format!("POST /drain HTTP/1.0\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}").as_bytes(),
    );
    assert_eq!(statuses(&text), ["400"], "{text}");
    site.is_well();
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let site = Site::start(json!({}));
    let mut stream = site.connect();
    let paths = ["/", "/count", "/env"];
    let requests: String = (0..600)
        .map(|number| format!("GET {} HTTP/1.1\r\nHost: g\r\n\r\n", paths[number % 3]))
        .collect();
    let mut sender = stream.try_clone().expect("clone");
    let sending = std::thread::spawn(move || sender.write_all(requests.as_bytes()));
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    for number in 0..600 {
        let expected = ["Hello from wasmlet!\n", "1", ""][number % 3];
        assert_eq!(reply(&mut reader).text(), expected, "{number}");
    }
    sending.join().expect("join").expect("send");
    // Who sends without end and reads nothing is not read.
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("timeout");
    let before = site.engine.memory_kib("VmRSS:");
    let requests = "GET / HTTP/1.1\r\nHost: g\r\n\r\n".repeat(1000);
    let begin = Instant::now();
    while stream.write_all(requests.as_bytes()).is_ok() && begin.elapsed() < Duration::from_secs(8)
    {
    }
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 16 * 1024, "{before} {after}");
    site.is_well();
}

#[test]
fn http_1_0_is_served() {
    let site = Site::start(json!({}));
    let mut stream = site.connect();
    stream
        .write_all(b"GET /count HTTP/1.0\r\n\r\n")
        .expect("send");
    let text = rest(&mut stream);
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\n1"),
        "{text}"
    );
}

#[test]
fn an_engine_with_a_flood_ends_as_it_should() {
    let site = Site::start_in(Engine::start(), json!({"lameDuckSeconds": 0}), |_| {});
    let _flood: Vec<TcpStream> = (0..500).map(|_| site.ask("/sleep?60000")).collect();
    let _half: Vec<TcpStream> = (0..200).map(|_| site.connect()).collect();
    site.engine.stop("web", 1.0);
    let begin = Instant::now();
    assert_eq!(site.engine.exit("web")["exitCode"], 137);
    assert!(begin.elapsed() < AT_ONCE);
}
