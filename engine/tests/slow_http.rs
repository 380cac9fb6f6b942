//! Slow clients and slow guests: closed in time, held back, and nobody else's business.

#[path = "support/http2.rs"]
mod http2;
#[path = "support/site.rs"]
mod site;
mod support;

use http2::{Http2, frame};
use serde_json::json;
use site::{AT_ONCE, PATIENCE, Site, eventually, reply, rest};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

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
        assert!((29..50).contains(&elapsed), "{number}: {elapsed} s");
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
    assert!(begin.elapsed() < AT_ONCE);
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
fn a_client_that_goes_is_noticed_though_its_body_is_not_read() {
    let site = Site::start(json!({"maxInstances": 1}));
    for path in ["/sleep?60000", "/spin?60000"] {
        let gone = site.taken(|| {
            let mut gone = site.connect();
            write!(
                gone,
                "POST {path} HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\n"
            )
            .expect("send");
            gone.write_all(&vec![b'x'; 30_000]).expect("send");
            gone
        });
        drop(gone);
        site.is_well();
    }
    // Over HTTP/2: the stream alone, and then the connection.
    let mut client = Http2::connect(&site);
    site.taken(|| client.send(&frame(1, 5, 1, &http2::head("GET", "/sleep?60000"))));
    client.send(&frame(3, 0, 1, &8_u32.to_be_bytes()));
    site.is_well();
    site.taken(|| client.send(&frame(1, 5, 3, &http2::head("GET", "/spin?60000"))));
    drop(client);
    site.is_well();
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
