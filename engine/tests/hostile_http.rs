//! Clients that mean no good, or are broken: bounded in time, in memory and in number, and nobody else's business.

#[path = "support/http2.rs"]
mod http2;
#[path = "support/site.rs"]
mod site;
mod support;

use http2::{Http2, frame};
use serde_json::json;
use site::{PATIENCE, Site, eventually, reply};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::Engine;

/// Everything that comes until the connection's end.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

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
fn slow_clients_are_closed_in_time() {
    let site = Site::start(json!({"requestTimeoutSeconds": 2}));
    let begin = Instant::now();
    let silent = site.connect();
    let mut drips = site.connect();
    drips
        .write_all(b"GET / HTTP/1.1\r\nHost: g\r\nX: ")
        .expect("send");
    let mut idle = site.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
        .expect("send");
    assert_eq!(
        reply(&mut BufReader::new(idle.try_clone().expect("clone"))).status,
        200
    );
    let mut half_preface = site.connect();
    half_preface.write_all(b"PRI * HTTP/2.0\r\n").expect("send");
    let mut half_head = Http2::connect(&site);
    half_head.send(&frame(1, 0, 1, &http2::head("GET", "/")));
    let mut idle2 = Http2::connect(&site);
    idle2.send(&frame(1, 5, 1, &http2::head("GET", "/")));
    assert!(drips.set_nonblocking(true).is_ok());
    let dripping = std::thread::spawn(move || {
        // A byte each half second, until nobody takes it.
        while begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(500));
            match drips.read(&mut [0; 100]) {
                Ok(0) => break,
                Err(error) if error.kind() != ErrorKind::WouldBlock => break,
                _ => {}
            }
            if drips.write_all(b"x").is_err() {
                break;
            }
        }
        begin.elapsed()
    });
    let waiting = [silent, idle, half_preface, half_head.stream].map(|mut stream| {
        std::thread::spawn(move || {
            stream
                .set_read_timeout(Some(3 * PATIENCE))
                .expect("timeout");
            rest(&mut stream);
            begin.elapsed()
        })
    });
    let talking = [idle2].map(|mut client| {
        std::thread::spawn(move || {
            client
                .stream
                .set_read_timeout(Some(3 * PATIENCE))
                .expect("timeout");
            client.talk(|_, _, _| true);
            begin.elapsed()
        })
    });
    for (number, it) in [dripping]
        .into_iter()
        .chain(waiting)
        .chain(talking)
        .enumerate()
    {
        let elapsed = it.join().expect("client").as_secs();
        assert!((29..45).contains(&elapsed), "{number}: {elapsed} s");
    }
    site.is_well();
}

#[test]
fn a_slow_body_has_the_requests_time() {
    let site = Site::start(json!({"requestTimeoutSeconds": 1, "maxInstances": 1}));
    let mut slow = site.connect();
    slow.write_all(b"POST /drain HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n")
        .expect("send");
    let begin = Instant::now();
    let mut sender = slow.try_clone().expect("clone");
    let dripping = std::thread::spawn(move || {
        while sender.write_all(b"x").is_ok() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(
        reply(&mut BufReader::new(slow.try_clone().expect("clone"))).status,
        504
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
    site.is_well();
    let _ = slow.shutdown(std::net::Shutdown::Both);
    dripping.join().expect("client");
}

#[test]
fn a_guest_that_reads_nothing_holds_its_client_back() {
    let site = Site::start(json!({}));
    site.is_well();
    let before = site.engine.memory_kib("VmRSS:");
    let mut stream = site.connect();
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("timeout");
    stream
        .write_all(b"POST /sleep?4000 HTTP/1.1\r\nHost: g\r\nContent-Length: 1073741824\r\n\r\n")
        .expect("send");
    let part = vec![b'x'; 1 << 16];
    let mut taken = 0;
    while let Ok(count) = stream.write(&part) {
        taken += count;
    }
    assert!(taken < 64 << 20, "{taken}");
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 16 * 1024, "{before} {after}");
}

#[test]
fn answers_that_nobody_takes_end() {
    let site = Site::start(json!({"requestTimeoutSeconds": 1, "maxInstances": 2, "maxQueued": 8}));
    site.is_well();
    let before = site.engine.memory_kib("VmRSS:");
    let mut unread = site.ask("/stream?1073741824");
    // A window of nothing, for each stream.
    let mut shut = Http2::connect_with(&site, &[(4, 0)]);
    for stream in 0..30 {
        shut.send(&frame(
            1,
            5,
            2 * stream + 1,
            &http2::head("GET", "/stream?100000"),
        ));
    }
    let begin = Instant::now();
    shut.talk(|_, _, _| true);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    eventually("the unread answer is cut", || {
        unread.set_nonblocking(true).expect("socket");
        unread.peek(&mut [0]).is_ok() && site.usage()["failures"].as_u64() >= Some(1)
    });
    unread.set_nonblocking(false).expect("socket");
    let mut taken = 0;
    let mut part = vec![0; 1 << 20];
    while let Ok(count @ 1..) = unread.read(&mut part) {
        taken += count;
    }
    assert!(taken < 64 << 20, "{taken}");
    site.is_well();
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 16 * 1024, "{before} {after}");
}

#[test]
fn a_gigabyte_goes_each_way_over_http2() {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    const PARTS: usize = 256;
    let site = Site::start(json!({}));
    site.is_well();
    let before = site.engine.memory_kib("VmRSS:");
    let stream = site.connect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        stream.set_nonblocking(true).expect("stream");
        let stream = tokio::net::TcpStream::from_std(stream).expect("stream");
        let mut handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        handshake.initial_stream_window_size(1 << 20);
        let (mut client, connection) = handshake
            .handshake(TokioIo::new(stream))
            .await
            .expect("handshake");
        tokio::spawn(connection);
        let part = Bytes::from(vec![b'x'; 4 << 20]);
        let parts = futures::stream::iter(
            (0..PARTS).map(move |_| Ok::<_, std::io::Error>(Frame::data(part.clone()))),
        );
        let request = hyper::Request::post("http://guest/drain")
            .body(StreamBody::new(parts))
            .expect("request");
        let answer = client.send_request(request).await.expect("answer");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body, (PARTS << 22).to_string());
    });
    let after = site.engine.memory_kib("VmRSS:");
    assert!(after < before + 16 * 1024, "{before} {after}");
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
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
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
fn a_client_that_goes_is_noticed_though_its_body_is_not_read() {
    let site = Site::start(json!({"maxInstances": 1}));
    for path in ["/sleep?60000", "/spin?60000"] {
        let mut gone = site.connect();
        write!(
            gone,
            "POST {path} HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\n"
        )
        .expect("send");
        gone.write_all(&vec![b'x'; 30_000]).expect("send");
        std::thread::sleep(Duration::from_millis(100));
        drop(gone);
        let begin = Instant::now();
        assert_eq!(site.get("/").status, 200);
        assert!(begin.elapsed() < Duration::from_secs(3), "{path}");
    }
    // Over HTTP/2: the stream alone, and then the connection.
    let mut client = Http2::connect(&site);
    client.send(&frame(1, 5, 1, &http2::head("GET", "/sleep?60000")));
    std::thread::sleep(Duration::from_millis(100));
    client.send(&frame(3, 0, 1, &8_u32.to_be_bytes()));
    site.is_well();
    client.send(&frame(1, 5, 3, &http2::head("GET", "/spin?60000")));
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    site.is_well();
}

/// What one HTTP/2 client sends as fast as it can, for some seconds at most; it reads what comes, too.
fn flood(site: &Site, what: &str, mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut client = Http2::connect(site);
    let mut reader = Http2::of(client.stream.try_clone().expect("clone"));
    let reading = std::thread::spawn(move || reader.talk(|_, _, _| true));
    client
        .stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("timeout");
    let before = site.engine.memory_kib("VmRSS:");
    let begin = Instant::now();
    let mut sent = 0;
    for number in 0.. {
        if begin.elapsed() > Duration::from_secs(2)
            || client.stream.write_all(&next(number)).is_err()
        {
            break;
        }
        sent = number;
    }
    let after = site.engine.memory_kib("VmRSS:");
    println!(
        "{what}: {sent} in {:?}, {before} KiB -> {after} KiB",
        begin.elapsed()
    );
    assert!(after < before + 48 * 1024, "{what}: {before} {after}");
    site.is_well();
    drop(client.stream.shutdown(std::net::Shutdown::Both));
    reading.join().expect("reader");
}

#[test]
fn http2_floods_harm_nobody() {
    let site = Site::start(json!({}));
    site.is_well();
    let get = http2::head("GET", "/sleep?1000");
    flood(&site, "rapid reset", |number| {
        let stream = 2 * number + 1;
        [
            frame(1, 5, stream, &get),
            frame(3, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    });
    flood(&site, "settings", |_| frame(4, 0, 0, &[]).repeat(100));
    flood(&site, "pings", |_| frame(6, 0, 0, &[7; 8]).repeat(100));
    flood(&site, "continuations", |number| match number {
        0 => frame(1, 1, 1, &get),
        _ => frame(9, 0, 1, &http2::header("x", "y")),
    });
    flood(&site, "empty continuations", |number| match number {
        0 => frame(1, 1, 1, &get),
        _ => frame(9, 0, 1, &[]),
    });
    flood(&site, "streams", |number| frame(1, 5, 2 * number + 1, &get));
    flood(&site, "priorities", |number| {
        frame(2, 0, 2 * number + 1, &[0, 0, 0, 0, 1]).repeat(10)
    });
    flood(&site, "empty data", |number| match number {
        0 => frame(1, 4, 1, &http2::head("POST", "/sleep?3000")),
        _ => frame(0, 0, 1, &[]).repeat(100),
    });
    flood(&site, "window updates", |_| {
        frame(8, 0, 0, &1_u32.to_be_bytes()).repeat(100)
    });
    flood(&site, "unknown frames", |_| {
        frame(77, 0, 0, &[0; 100]).repeat(100)
    });
    flood(&site, "garbage", |number| vec![number as u8; 1000]);
    assert_eq!(site.engine.get("/sandboxes/web").body["state"], "running");
}

#[test]
fn a_header_bomb_is_refused() {
    let site = Site::start(json!({}));
    let mut client = Http2::connect(&site);
    // One large header in the dynamic table, and then a byte each for many more of it.
    let mut head = http2::head("GET", "/");
    head.extend(http2::indexed_header("x", &"y".repeat(3000)));
    head.extend(std::iter::repeat_n(0xbe, 10_000));
    client.send(&frame(1, 5, 1, &head));
    let mut status = None;
    client
        .stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    client.talk(|kind, _, payload| {
        status = status.or(match kind {
            1 => Some(payload.to_vec().len()),
            3 | 7 => Some(0),
            _ => None,
        });
        status.is_none()
    });
    assert!(status.is_some(), "answered with 431, reset, or closed");
    assert_eq!(site.usage()["requests"], 0);
    site.is_well();
}

#[test]
fn an_engine_with_a_flood_ends_as_it_should() {
    let site = Site::start_in(Engine::start(), json!({"lameDuckSeconds": 0}), |_| {});
    let _flood: Vec<TcpStream> = (0..500).map(|_| site.ask("/sleep?60000")).collect();
    let _half: Vec<TcpStream> = (0..200).map(|_| site.connect()).collect();
    site.engine.stop("web", 1.0);
    let begin = Instant::now();
    assert_eq!(site.engine.exit("web")["exitCode"], 137);
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_gigabyte_is_answered_to_its_end_however_slowly_it_is_read() {
    const BYTES: usize = 1 << 30;
    let site = Site::start(json!({}));
    site.is_well();
    let before = site.engine.memory_kib("VmRSS:");
    let mut stream = BufReader::new(site.ask(&format!("/stream?{BYTES}")));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).expect("head");
    }
    let (mut taken, mut parts, mut most) = (0, 0, 0);
    let mut part = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).expect("size");
        let size = usize::from_str_radix(size.trim(), 16).expect("size");
        part.resize(size + 2, 0);
        stream.read_exact(&mut part).expect("part");
        taken += size;
        parts += 1;
        // A part each twentieth of a second at first, then as fast as it comes.
        if parts <= 40 {
            std::thread::sleep(Duration::from_millis(50));
        }
        if parts % 1000 == 40 {
            most = most.max(site.engine.memory_kib("VmRSS:"));
        }
        if size == 0 {
            break;
        }
    }
    assert_eq!(taken, BYTES);
    assert!(most < before + 16 * 1024, "{before} {most}");
    assert_eq!(site.usage()["failures"], 0);
    site.is_well();
}
