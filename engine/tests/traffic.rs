//! Requests that guests send, and the names in them: where they may go, what they get, how they fail.

mod support;

#[path = "support/peers.rs"]
mod peers;

use peers::{GUEST, NameServer, Peer, Pod, pod_address, read_head, request};
use serde_json::json;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::eventually;

#[test]
fn requests_come_from_the_pods_address_and_share_a_connection() {
    peers::requests_come_from_the_pods_address(GUEST, 100_000);
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let peer = Peer::says(
        &pod_address(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    );
    for _ in 0..5 {
        let answer = pod.text(&format!("/fetch?GET,http://{}/", peer.address));
        assert_eq!(answer, "200\nhi");
    }
    assert_eq!(peer.count(), 5);
}

#[test]
fn a_request_that_a_closing_connection_took_is_sent_again_if_that_is_safe() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    // Each connection answers once, and closes when the second request has come.
    let peer = Peer::start(&pod_address(), |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        request(&mut reader);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        request(&mut reader);
    });
    let url = format!("http://{}/", peer.address);
    for count in 1..4 {
        assert_eq!(pod.text(&format!("/fetch?GET,{url}")), "200\nhi");
        assert_eq!(peer.count(), count);
    }
    let answer = pod.post(&format!("/fetch?POST,{url}"), b"once").rest();
    assert_eq!(answer.trim_end(), "error: ErrorCode::ConnectionTerminated");
    assert_eq!(peer.count(), 3, "nothing is done twice");
}

#[test]
fn a_pod_without_a_network_sends_nothing() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({"none": true}));
    let peer = Peer::http(&pod_address());
    let url = format!("http://{}/", peer.address);
    assert_eq!(pod.fetch_error(&url), "HttpRequestDenied");
    assert_eq!(peer.count(), 0);
}

#[test]
fn what_is_closed_is_closed_by_address_and_by_name() {
    let (engine, program) = peers::start(GUEST);
    let names = NameServer::start(&[
        ("metadata.test", &["169.254.169.254"]),
        ("node.test", &["127.0.0.53"]),
        ("own.test", &["127.0.0.1"]),
        ("both.test", &["169.254.169.254", "127.0.0.53"]),
    ]);
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": names.resolv_conf(), "hosts": "169.254.169.254 alias\n"}),
    );
    let node = Peer::http("127.0.0.1");
    let port = node.address.port();
    for host in [
        "169.254.169.254",
        "127.0.0.53",
        "[::ffff:127.0.0.53]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "metadata.test",
        "node.test",
        "both.test",
        "alias",
    ] {
        let error = pod.fetch_error(&format!("http://{host}:{port}/"));
        assert_eq!(error, "DestinationIpProhibited", "{host}");
    }
    // The pod's own localhost, where nobody listens.
    for host in ["127.0.0.1", "localhost", "own.test", "[::ffff:127.0.0.1]"] {
        let error = pod.fetch_error(&format!("http://{host}:{port}/"));
        assert_eq!(error, "ConnectionRefused", "{host}");
    }
    let error = pod.fetch_error(&format!("http://[::1]:{port}/"));
    assert_eq!(error, "DestinationIpUnroutable");
    assert_eq!(node.count(), 0, "nobody came to the node's loopback");
}

#[test]
fn an_answer_that_changes_its_mind_is_checked_again() {
    let (engine, program) = peers::start(GUEST);
    let peer = Peer::says(
        &pod_address(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    );
    let node = Peer::http("127.0.0.2");
    let names = NameServer::start(&[]);
    let set = |address: &str| {
        let address = vec![address.parse().expect("address")];
        (names.names.lock().expect("lock")).insert("rebind.test".to_owned(), address);
    };
    set(&peer.address.ip().to_string());
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": names.resolv_conf()}),
    );
    let url = format!("http://rebind.test:{}/", peer.address.port());
    assert_eq!(pod.text(&format!("/fetch?GET,{url}")), "200\nhi");
    set("127.0.0.2");
    let url = format!("http://rebind.test:{}/", node.address.port());
    // The old answer counts for a second, and leads to nobody.
    eventually("the new answer is refused", || {
        let error = pod.fetch_error(&url);
        assert!(
            ["ConnectionRefused", "DestinationIpProhibited"].contains(&&*error),
            "{error}"
        );
        error == "DestinationIpProhibited"
    });
    assert_eq!(node.count(), 0);
}

#[test]
fn two_pods_call_each_other_and_the_hosts_network_has_the_hosts_loopback() {
    let (engine, program) = peers::start(GUEST);
    let one = Pod::start(&engine, &program, json!({}));
    let two = Pod::start(&engine, &program, json!({}));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let answer = from.text(&format!("/fetch?GET,http://{}:8080/", to.address));
        assert_eq!(answer, "200\nready");
    }
    assert_eq!(one.text("/fetch?GET,http://localhost:8080/"), "200\nready");
    let node = Peer::http("127.0.0.1");
    let host = Pod::start(&engine, &program, json!({"host": true}));
    let url = format!("http://localhost:{}/", node.address.port());
    assert!(
        host.text(&format!("/fetch?GET,{url}"))
            .starts_with("200\nGET / ")
    );
    assert_eq!(
        host.fetch_error("http://169.254.169.254/"),
        "DestinationIpProhibited"
    );
}

#[test]
fn names_are_looked_up_as_the_pods_files_say() {
    let (engine, program) = peers::start(GUEST);
    let peer = Peer::http(&pod_address());
    let address = peer.address.ip().to_string();
    let names = NameServer::start(&[
        ("db.shop.svc.test", &[address.as_str()]),
        ("a.b.svc.test", &[address.as_str()]),
        ("a.b", &["169.254.1.1"]),
    ]);
    let resolv_conf = format!(
        "{}search shop.svc.test svc.test\noptions ndots:2\n",
        names.resolv_conf()
    );
    let hosts = format!("{address} alias Alias.test\n");
    let network = json!({"resolvConf": resolv_conf, "hosts": hosts});
    let pod = Pod::start(&engine, &program, network);
    let port = peer.address.port();
    for name in ["db", "a.b", "alias.TEST", "ALIAS"] {
        let answer = pod.text(&format!("/fetch?GET,http://{name}:{port}/"));
        assert!(answer.starts_with("200\n"), "{name}: {answer}");
    }
    let error = pod.fetch_error(&format!("http://a.b.:{port}/"));
    assert_eq!(error, "DestinationIpProhibited");
    let error = pod.fetch_error("http://nobody.test/");
    assert!(
        error.contains("DnsError") && error.contains("NXDOMAIN"),
        "{error}"
    );
    let bare = Pod::start(&engine, &program, json!({}));
    let error = bare.fetch_error("http://db/");
    assert!(error.contains("no name server"), "{error}");
}

#[test]
fn https_trusts_the_machines_authorities() {
    let (engine, program) = peers::start(GUEST);
    let address = pod_address();
    let hosts = format!("{address} server.test other.test\n");
    let pod = Pod::start(&engine, &program, json!({ "hosts": hosts }));
    let (known, stranger) = (
        Peer::https(&address, "server"),
        Peer::https(&address, "stranger"),
    );
    let plain = Peer::says(&address, b"no TLS\r\n");
    let url = |host: &str, peer: &Peer| format!("https://{host}:{}/x", peer.address.port());
    let answer = pod.text(&format!("/fetch?GET,{}", url("server.test", &known)));
    assert!(
        answer.starts_with("200\nGET /x HTTP/1.1\nserver.test:"),
        "{answer}"
    );
    for wrong in [
        url("server.test", &stranger),
        url("other.test", &known),
        url(&address, &known),
    ] {
        assert_eq!(pod.fetch_error(&wrong), "TlsCertificateError", "{wrong}");
    }
    assert_eq!(
        pod.fetch_error(&url("server.test", &plain)),
        "TlsProtocolError"
    );
}

#[test]
fn http2_is_spoken_with_servers_that_know_it_and_requests_share_a_connection() {
    let (engine, program) = peers::start(GUEST);
    let address = pod_address();
    let hosts = format!("{address} server.test\n");
    let pod = Pod::start(&engine, &program, json!({ "hosts": hosts }));
    let peer = Peer::http2(&address);
    let authority = format!("server.test:{}", peer.address.port());
    let url = |path: &str| format!("https://{authority}{path}");
    let answer = pod.text(&format!("/fetch?GET,{}", url("/x")));
    let expected = format!("200\nHTTP/2.0 GET /x\nSome(\"{authority}\") None");
    assert_eq!(answer, expected);
    // Held open, the connection is shared all the same.
    let mut held = pod.ask(&format!("/fetch?GET,{}", url("/endless")));
    assert_eq!(held.next(), "200");
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (pod, url) = (&pod, url(&format!("/{number}")));
            scope.spawn(move || {
                let body = number.to_string().repeat(50_000);
                let answer = pod.post(&format!("/fetch?POST,{url}"), body.as_bytes());
                let answer = { answer }.rest();
                assert!(answer.trim_end().ends_with(&body), "{answer:.100}");
            });
        }
    });
    assert_eq!(peer.count(), 1, "one connection for all");
    drop(held);
    assert_eq!(pod.text(&format!("/fetch?GET,{}", url("/x"))), expected);
    // What its server has closed is replaced.
    for count in 1..4 {
        assert_eq!(peer.count(), count);
        let answer = pod.text(&format!("/fetch?GET,{}", url("/last")));
        assert!(answer.starts_with("200\nHTTP/2.0 GET /last"), "{answer}");
        eventually("the next one has another connection", || {
            assert_eq!(pod.text(&format!("/fetch?GET,{}", url("/x"))), expected);
            peer.count() == count + 1
        });
    }
    let error = pod.fetch_error(&url("/cut"));
    assert_eq!(error, "HttpResponseIncomplete");
    assert_eq!(pod.text(&format!("/fetch?GET,{}", url("/x"))), expected);
}

#[test]
fn failures_have_the_names_that_the_interface_gives_them() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let on = pod_address();
    let free = TcpListener::bind((&*on, 0))
        .expect("bind")
        .local_addr()
        .expect("address");
    assert_eq!(
        pod.fetch_error(&format!("http://{free}/")),
        "ConnectionRefused"
    );
    let long: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(400_000)).into_boxed_str(),
    );
    for (says, error) in [
        ("", "ConnectionTerminated"),
        ("garbage\r\n\r\n", "HttpProtocolError"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            "HttpResponseIncomplete",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HttpResponseIncomplete",
        ),
        (long, "HttpResponseHeaderSectionSize(None)"),
    ] {
        let peer = Peer::says(&on, says.as_bytes());
        let found = pod.fetch_error(&format!("http://{}/", peer.address));
        assert_eq!(found, error, "{:.30}", says);
    }
    let peer = Peer::http(&on);
    let connect = pod.text(&format!("/fetch?CONNECT,http://{}/", peer.address));
    assert_eq!(connect, "error: ErrorCode::HttpRequestMethodInvalid");
    let deceiving = pod.fetch_error(&format!("http://good.test@{}/", peer.address));
    assert_eq!(deceiving, "HttpRequestUriInvalid");
    assert_eq!(peer.count(), 0);
}

#[test]
fn time_limits_of_a_request_are_kept() {
    let (engine, program) = peers::start(GUEST);
    let names = NameServer::start(&[]);
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": names.resolv_conf()}),
    );
    let silent = Peer::start(&pod_address(), |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let halting = Peer::start(&pod_address(), |mut stream| {
        read_head(&mut BufReader::new(&stream));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    for (query, error) in [
        ("http://silent.test/,150".to_owned(), "ConnectionTimeout"),
        (
            format!("http://{}/,,150", silent.address),
            "ConnectionReadTimeout",
        ),
        (
            format!("http://{}/,,,150", halting.address),
            "ConnectionReadTimeout",
        ),
    ] {
        let begin = Instant::now();
        let answer = pod.text(&format!("/fetch?GET,{query}"));
        assert!(
            answer.ends_with(&format!("error: ErrorCode::{error}")),
            "{query}: {answer}"
        );
        let taken = begin.elapsed();
        assert!(
            taken >= Duration::from_millis(150) && taken < Duration::from_secs(5),
            "{taken:?}"
        );
    }
}

#[test]
fn a_request_that_nobody_waits_for_frees_its_connection() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let peer = Peer::start(&pod_address(), move |mut stream| {
        read_head(&mut BufReader::new(&stream));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        let _ = stream.read_to_end(&mut Vec::new());
        count.fetch_add(1, Ordering::SeqCst);
    });
    let mut lines = pod.ask(&format!("/fetch?GET,http://{}/", peer.address));
    assert_eq!(lines.next(), "200");
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    drop(lines);
    eventually("the peer's connection ends", || {
        closed.load(Ordering::SeqCst) == 1
    });
    // So does the sandbox's end.
    let mut lines = pod.ask(&format!("/fetch?GET,http://{}/", peer.address));
    assert_eq!(lines.next(), "200");
    engine.stop(&pod.address.replace('.', "-"), 0.0);
    eventually("the peer's connection ends", || {
        closed.load(Ordering::SeqCst) == 2
    });
}

#[test]
fn a_slow_reader_holds_the_peer_back() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let peer = Peer::start(&pod_address(), move |mut stream| {
        read_head(&mut BufReader::new(&stream));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while let Ok(bytes) = stream.write(&[b'x'; 65536]) {
            count.fetch_add(bytes as u64, Ordering::SeqCst);
        }
    });
    let before = engine.memory_kib("VmRSS");
    let lines = pod.ask(&format!("/fetch?GET,http://{}/", peer.address));
    let mut last = u64::MAX;
    eventually("the peer stops sending", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = sent.load(Ordering::SeqCst);
        std::mem::replace(&mut last, now) == now
    });
    assert!(last < 64 << 20, "{last} bytes");
    let grown = engine.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
    drop(lines);
}
