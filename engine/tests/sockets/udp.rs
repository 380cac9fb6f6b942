//! Datagrams.

use crate::peers::Pod;
use crate::support::PATIENCE;
use crate::{GUEST_P3, start};
use serde_json::json;
use std::io::ErrorKind;
use std::net::UdpSocket;

of_both! {
    datagrams_go_both_ways_and_show_the_addresses_that_the_guest_used,
    programs_of_the_machine_get_answers_to_their_datagrams,
}

fn datagrams_go_both_ways_and_show_the_addresses_that_the_guest_used(guest: &[u8]) {
    let (engine, program) = start(guest);
    let [one, two] = [(); 2].map(|()| Pod::start(&engine, &program, json!({})));
    // From pod to pod.
    let mut lines = two.ask("/receive?0.0.0.0:7003");
    assert_eq!(lines.next(), "local 0.0.0.0:7003");
    let answer = one.text(&format!("/send?{}:7003,0.0.0.0:0", two.address));
    assert!(
        answer.ends_with(&format!("pong from {}:7003", two.address)),
        "{answer}"
    );
    let from = format!("ping from {}:", one.address);
    assert!(lines.next().starts_with(&from));
    // Inside a pod, by its localhost; connected and not.
    for connected in ["", ",connected"] {
        let mut lines = one.ask("/receive?127.0.0.1:7004");
        assert_eq!(lines.next(), "local 127.0.0.1:7004");
        // What others send is not heard.
        let stranger = UdpSocket::bind((two.address.as_str(), 0)).expect("bind");
        let there = (one.address.as_str(), 7004);
        stranger.send_to(b"stranger", there).expect("send");
        let answer = one.text(&format!("/send?127.0.0.1:7004,0.0.0.0:0{connected}"));
        assert!(answer.ends_with("pong from 127.0.0.1:7004"), "{answer}");
        if !connected.is_empty() {
            assert!(answer.starts_with("local 127.0.0.1:"), "{answer}");
            assert!(answer.contains("\nremote 127.0.0.1:7004\n"), "{answer}");
        }
        assert!(lines.next().starts_with("ping from 127.0.0.1:"));
    }
}

fn programs_of_the_machine_get_answers_to_their_datagrams(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let mut lines = pod.ask("/receive?0.0.0.0:7005");
    assert_eq!(lines.next(), "local 0.0.0.0:7005");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client
        .connect((pod.address.as_str(), 7005))
        .expect("connect");
    client.send(b"hello").expect("send");
    let mut bytes = [0; 16];
    let length = client.recv(&mut bytes).expect("answer");
    assert_eq!(&bytes[..length], b"pong");
    let address = client.local_addr().expect("address");
    assert_eq!(lines.next(), format!("hello from {address}"));
    // Unasked it sends nothing there.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("bind");
    silent.set_nonblocking(true).expect("nonblocking");
    let port = silent.local_addr().expect("address").port();
    drop(pod.ask(&format!("/send?127.0.0.1:{port},0.0.0.0:0")));
    assert_eq!(
        silent.recv(&mut bytes).expect_err("nothing").kind(),
        ErrorKind::WouldBlock
    );
}

#[test]
fn a_datagram_of_an_unbound_socket_comes_from_the_pods_address() {
    let (engine, program) = start(GUEST_P3);
    let [one, two] = [(); 2].map(|()| Pod::start(&engine, &program, json!({})));
    for connected in ["", ",connected"] {
        let mut lines = two.ask("/receive?0.0.0.0:7008");
        assert_eq!(lines.next(), "local 0.0.0.0:7008");
        let answer = one.text(&format!("/send?{}:7008,{connected}", two.address));
        let expected = format!("pong from {}:7008", two.address);
        assert!(answer.ends_with(&expected), "{answer}");
        let from = format!("ping from {}:", one.address);
        let line = lines.next();
        assert!(line.starts_with(&from), "{line}");
    }
}
