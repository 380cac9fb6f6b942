//! What is closed or translated, how many sockets there may be, and which errors guests get.

use crate::peers::{GUEST, Pod, pod_address};
use crate::{GUEST_P3, ponging, port_of, start};
use serde_json::json;
use std::net::{IpAddr, TcpListener, UdpSocket};

of_both! {
    what_is_closed_to_requests_is_closed_to_sockets,
    sockets_of_version_6_are_translated_as_well,
    a_client_of_other_machines_gets_the_machines_address,
    a_container_has_so_many_sockets_and_gets_them_back,
}

fn what_is_closed_to_requests_is_closed_to_sockets(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let node = ponging("127.0.0.1");
    let port = node.address.port();
    let other = ponging("127.0.0.2");
    for (address, error) in [
        (
            format!("127.0.0.2:{}", other.address.port()),
            "access-denied",
        ),
        ("169.254.169.254:80".to_owned(), "access-denied"),
        ("100.100.100.200:80".to_owned(), "access-denied"),
        ("127.0.0.53:53".to_owned(), "access-denied"),
        ("0.0.0.0:80".to_owned(), "invalid-argument"),
        ("[fe80::1]:80".to_owned(), "access-denied"),
        ("[64:ff9b::a9fe:a9fe]:80".to_owned(), "access-denied"),
        (format!("[::ffff:127.0.0.1]:{port}"), "invalid-argument"),
        (format!("[::127.0.0.1]:{port}"), "invalid-argument"),
        (format!("[::1]:{port}"), "remote-unreachable"),
        // Its own, where nobody listens.
        (format!("127.0.0.1:{port}"), "connection-refused"),
    ] {
        let answer = pod.text(&format!("/connect?{address}"));
        assert_eq!(answer, format!("error: {error}"), "{address}");
    }
    assert_eq!((node.count(), other.count()), (0, 0));
    let without = Pod::start(&engine, &program, json!({"none": true}));
    for path in [
        format!("/connect?{}", node.address),
        "/listen?0.0.0.0:7002".to_owned(),
        "/receive?0.0.0.0:7002".to_owned(),
        "/hoard".to_owned(),
    ] {
        let answer = without.text(&path);
        assert!(answer.ends_with("error: access-denied"), "{path}: {answer}");
    }
    assert_eq!(
        without.text("/resolve?localhost"),
        "error: permanent-resolver-failure"
    );
}

fn sockets_of_version_6_are_translated_as_well(guest: &[u8]) {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let (engine, program) = start(guest);
    // The machine's localhost stands for an address of the pod.
    let own = pod_address();
    let pod = Pod::at(&engine, &program, &own, json!({"addresses": [own, "::1"]}));
    let mut lines = pod.ask("/listen?[::]:0");
    let port = port_of(&lines.next());
    let answer = pod.text(&format!("/connect?[::1]:{port}"));
    assert!(answer.starts_with("local [::1]:"), "{answer}");
    assert!(
        answer.ends_with(&format!("remote [::1]:{port}\npong")),
        "{answer}"
    );
    for (path, error) in [
        ("/connect?[fe80::1]:80", "access-denied"),
        ("/connect?[fd00:ec2::254]:80", "access-denied"),
        ("/listen?[::2]:0", "address-not-bindable"),
        ("/listen?[::ffff:127.0.0.1]:0", "invalid-argument"),
    ] {
        assert_eq!(pod.text(path), format!("error: {error}"), "{path}");
    }
}

/// The machine's own address beside loopback ones; none on a machine without a network.
fn address_of_the_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    // Nothing is sent.
    socket.connect("192.0.2.77:9").ok()?;
    let address = socket.local_addr().expect("address").ip();
    (!address.is_loopback()).then_some(address)
}

fn a_client_of_other_machines_gets_the_machines_address(guest: &[u8]) {
    let Some(machine) = address_of_the_machine() else {
        return;
    };
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let peer = ponging(&machine.to_string());
    for bind in ["", ",0.0.0.0:0"] {
        let answer = pod.text(&format!("/connect?{}{bind}", peer.address));
        assert!(
            answer.ends_with(&format!("pong {machine} ping")),
            "{answer}"
        );
    }
    let answer = pod.text(&format!("/connect?{},0.0.0.0:7006", peer.address));
    assert_eq!(answer, "error: remote-unreachable");
    let server = UdpSocket::bind((machine, 0)).expect("bind");
    let there = server.local_addr().expect("address");
    for (bind, connected) in [("0.0.0.0:0", ""), ("0.0.0.0:0", ",connected")] {
        let mut lines = pod.ask(&format!("/send?{there},{bind}{connected}"));
        assert!(lines.next().starts_with("local "));
        let mut bytes = [0; 16];
        let (length, client) = server.recv_from(&mut bytes).expect("datagram");
        assert_eq!((&bytes[..length], client.ip()), (&b"ping"[..], machine));
        // Whom the guest has not sent anything is not heard.
        let stranger = UdpSocket::bind((machine, 0)).expect("bind");
        stranger.send_to(b"stranger", client).expect("send");
        server.send_to(b"pong", client).expect("send");
        if !connected.is_empty() {
            assert_eq!(lines.next(), format!("remote {there}"));
        }
        assert_eq!(lines.next(), format!("pong from {there}"));
    }
    let answer = pod.text(&format!("/send?{there},127.0.0.1:0"));
    assert!(answer.ends_with("error: remote-unreachable"), "{answer}");
    let answer = pod.text(&format!("/send?{there},0.0.0.0:7007"));
    assert!(answer.ends_with("error: remote-unreachable"), "{answer}");
}

fn a_container_has_so_many_sockets_and_gets_them_back(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    for _ in 0..2 {
        let answer = pod.text("/hoard");
        assert_eq!(answer, "256\nerror: new-socket-limit");
    }
}

#[test]
fn calls_that_make_no_sense_have_the_errors_that_the_interface_gives_them() {
    let (engine, program) = start(GUEST);
    let pod = Pod::start(&engine, &program, json!({}));
    let answer = pod.text("/misuse");
    let expected = include_str!("../support/misuse.txt");
    assert_eq!(answer, expected.trim_end(), "{answer}");
}

#[test]
fn calls_of_the_newer_interface_have_its_errors() {
    let (engine, program) = start(GUEST_P3);
    let pod = Pod::start(&engine, &program, json!({}));
    let answer = pod.text("/misuse");
    let expected = include_str!("../support/misuse-p3.txt");
    assert_eq!(answer, expected.trim_end(), "{answer}");
}
