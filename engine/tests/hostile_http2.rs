//! Clients of HTTP/2 that mean no good, and much that goes over one connection.

#[path = "support/http2.rs"]
mod http2;
#[path = "support/site.rs"]
mod site;
mod support;

use http2::{Http2, frame};
use serde_json::json;
use site::Site;
use std::io::Write as _;
use std::time::{Duration, Instant};

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
