//! Requests that guests of WASI 0.3 send: by the same way, under the same policy as those of 0.2.

mod support;

#[path = "support/peers.rs"]
mod peers;

use peers::{NameServer, Peer, Pod, pod_address};
use serde_json::json;

const GUEST: &[u8] = include_bytes!("../../tests/p3-http-guest/p3-http-guest.wasm");

#[test]
fn requests_come_from_the_pods_address_and_share_a_connection() {
    peers::requests_come_from_the_pods_address(GUEST, 300_000);
}

#[test]
fn names_are_the_pods_and_tls_is_checked() {
    let (engine, program) = peers::start(GUEST);
    let peer = Peer::https(&pod_address(), "server");
    let address = peer.address.ip().to_string();
    let names = NameServer::start(&[("server.test", &[&address]), ("other.test", &[&address])]);
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": names.resolv_conf()}),
    );
    let port = peer.address.port();
    let answer = pod.text(&format!("/fetch?GET,https://server.test:{port}/"));
    assert!(answer.starts_with("200\nGET / HTTP/1.1"), "{answer}");
    let error = pod.fetch_error(&format!("https://other.test:{port}/"));
    assert_eq!(error, "TlsCertificateError");
}

#[test]
fn what_is_closed_is_closed() {
    let (engine, program) = peers::start(GUEST);
    let names = NameServer::start(&[("metadata.test", &["169.254.169.254"])]);
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": names.resolv_conf()}),
    );
    let node = Peer::http("127.0.0.1");
    let port = node.address.port();
    for host in [
        "169.254.169.254",
        "127.0.0.53",
        "[fe80::1]",
        "metadata.test",
    ] {
        let error = pod.fetch_error(&format!("http://{host}:{port}/"));
        assert_eq!(error, "DestinationIpProhibited", "{host}");
    }
    // The pod's own localhost, where nobody listens.
    let error = pod.fetch_error(&format!("http://localhost:{port}/"));
    assert_eq!(error, "ConnectionRefused");
    assert_eq!(node.count(), 0, "nobody came to the node's loopback");
    let alone = Pod::start(&engine, &program, json!({"none": true}));
    let peer = Peer::http(&pod_address());
    let error = alone.fetch_error(&format!("http://{}/", peer.address));
    assert_eq!(error, "HttpRequestDenied");
    assert_eq!(peer.count(), 0);
}

#[test]
fn late_and_broken_answers_are_told() {
    let (engine, program) = peers::start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let silent = Peer::start(&pod_address(), |stream| {
        std::thread::sleep(std::time::Duration::from_secs(5));
        drop(stream);
    });
    let text = pod.text(&format!("/fetch?GET,http://{}/,300", silent.address));
    assert_eq!(text, "error: ErrorCode::ConnectionReadTimeout");
    let broken = Peer::says(
        &pod_address(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    );
    let text = pod.text(&format!("/fetch?GET,http://{}/", broken.address));
    assert_eq!(text, "200\nhalferror: ErrorCode::HttpResponseIncomplete");
}
