//! Connections: whom guests reach, who reaches guests that listen, and how many.

use crate::peers::{Peer, Pod, pod_address};
use crate::support::{Engine, PATIENCE, Program, eventually, limit_descriptors};
use crate::{GUEST_P3, ponging, port_of, start};
use serde_json::json;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The demo's server.
const ECHO: &[u8] = include_bytes!("../../../demos/tcp-echo/tcp-echo.wasm");

of_both! {
    connections_come_from_the_pods_address,
    a_guest_that_listens_anywhere_is_reached_at_its_pods_address_alone,
    each_pod_has_a_localhost_of_its_own,
    the_hosts_network_is_the_hosts,
    a_thousand_clients_one_after_the_other_and_all_at_once,
}

/// Everything that the other side says to `text`.
fn exchange(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn connections_come_from_the_pods_address(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let peer = ponging(&pod_address());
    for bind in ["", ",0.0.0.0:0"] {
        let answer = pod.text(&format!("/connect?{}{bind}", peer.address));
        let lines: Vec<&str> = answer.lines().collect();
        assert!(
            lines[0].starts_with(&format!("local {}:", pod.address)),
            "{answer}"
        );
        assert_eq!(lines[1], format!("remote {}", peer.address));
        assert_eq!(lines[2], format!("pong {} ping", pod.address));
    }
    let free = TcpListener::bind((pod_address(), 0)).expect("bind");
    let nobody = free.local_addr().expect("address");
    drop(free);
    assert_eq!(
        pod.text(&format!("/connect?{nobody}")),
        "error: connection-refused"
    );
}

fn a_guest_that_listens_anywhere_is_reached_at_its_pods_address_alone(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let other = Pod::start(&engine, &program, json!({}));
    let mut lines = pod.ask("/echo?0.0.0.0:7001,3");
    assert_eq!(lines.next(), "listening 0.0.0.0:7001");
    let at = |address: &str| SocketAddr::new(address.parse().expect("address"), 7001);
    assert_eq!(exchange(at(&pod.address), "hello").expect("echo"), "hello");
    for from in [&other, &pod] {
        let to = if from.address == pod.address {
            "127.0.0.1"
        } else {
            &pod.address
        };
        let answer = from.text(&format!("/connect?{to}:7001"));
        assert!(
            answer.ends_with(&format!("remote {to}:7001\nping")),
            "{answer}"
        );
    }
    assert_eq!(lines.next(), "served 3");
    for elsewhere in ["127.0.0.1", &other.address] {
        let error = TcpStream::connect(at(elsewhere)).expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{elsewhere}");
    }
}

fn each_pod_has_a_localhost_of_its_own(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pods = [(); 2].map(|()| Pod::start(&engine, &program, json!({})));
    let mut listening = pods.each_ref().map(|pod| pod.ask("/listen?127.0.0.1:8081"));
    for lines in &mut listening {
        assert_eq!(lines.next(), "listening 127.0.0.1:8081");
    }
    // Nobody but the pod itself comes through, neither another pod nor the machine.
    let answer = pods[0].text(&format!("/connect?{}:8081", pods[1].address));
    assert!(!answer.contains("pong"), "{answer}");
    let address = SocketAddr::new(pods[1].address.parse().expect("address"), 8081);
    let answer = exchange(address, "ping");
    assert!(!answer.is_ok_and(|it| it.contains("pong")));
    for (pod, lines) in pods.iter().zip(&mut listening) {
        let answer = pod.text("/connect?127.0.0.1:8081");
        assert!(answer.starts_with("local 127.0.0.1:"), "{answer}");
        assert!(answer.ends_with("remote 127.0.0.1:8081\npong"), "{answer}");
        let client = answer
            .lines()
            .next()
            .expect("line")
            .replace("local", "remote");
        assert_eq!(lines.next(), "local 127.0.0.1:8081");
        assert_eq!(lines.next(), client);
    }
}

fn the_hosts_network_is_the_hosts(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({"host": true}));
    let node = ponging("127.0.0.1");
    let answer = pod.text(&format!("/connect?{}", node.address));
    assert!(answer.ends_with("pong 127.0.0.1 ping"), "{answer}");
    let mut lines = pod.ask("/echo?127.0.0.1:0,1");
    let address = lines.next();
    let address = address.strip_prefix("listening ").expect("address");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let said = exchange(address.parse().expect("address"), "hello");
    assert_eq!(said.expect("echo"), "hello");
    let answer = pod.text("/connect?169.254.169.254:80");
    assert_eq!(answer, "error: access-denied");
}

fn a_thousand_clients_one_after_the_other_and_all_at_once(guest: &[u8]) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let before = engine.descriptors();
    let mut lines = pod.ask("/echo?0.0.0.0:0,1000");
    let own = pod.address.parse().expect("address");
    let address = SocketAddr::new(own, port_of(&lines.next()));
    for number in 0..1000 {
        let text = format!("hello {number}");
        assert_eq!(exchange(address, &text).expect("echo"), text);
    }
    assert_eq!(lines.next(), "served 1000");
    let mut lines = pod.ask("/echo?0.0.0.0:0,1000,together");
    let address = SocketAddr::new(own, port_of(&lines.next()));
    let clients = [(); 1000].map(|()| TcpStream::connect(address).expect("connect"));
    assert_eq!(lines.next(), "all there");
    drop(clients);
    assert_eq!(lines.next(), "served 1000");
    drop(lines);
    eventually("all sockets are closed", || {
        engine.descriptors() <= before + 8
    });
}

/// A server that is a command; where it listens.
fn echo_server(engine: &Engine, program: &Program, id: &str) -> SocketAddr {
    let address = pod_address();
    let mut spec = engine.spec(id, program);
    spec["args"] = json!(["tcp-echo", "serve", "7000"]);
    spec["network"] = json!({"addresses": [address]});
    let answer = engine.put(id, &spec);
    assert_eq!(answer.status, 201, "{answer:?}");
    engine.wait_for_log(id, &["stdout F listening on port 7000"]);
    SocketAddr::new(address.parse().expect("address"), 7000)
}

#[test]
fn a_flood_of_clients_leaves_room_for_others() {
    let engine = Engine::start_with(|command| limit_descriptors(command, 400));
    let program = Program::compile(engine.directory.path(), ECHO);
    let [one, other] = ["one", "other"].map(|id| echo_server(&engine, &program, id));
    let flood: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(one).expect("connect"))
        .collect();
    let answered = |mut stream: &TcpStream| {
        let mut byte = [0];
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
    };
    let served = flood.iter().filter(|it| answered(it)).count();
    // Of the hundred for clients half is left.
    assert!((1..=50).contains(&served), "{served}");
    assert_eq!(exchange(other, "hello").expect("echo"), "hello");
    drop(flood);
    eventually("it is as before", || {
        exchange(one, "hello").is_ok_and(|it| it == "hello")
    });
}

/// A server stopped with so much grace once it listens; how long it took to end, and as what.
fn stopped(engine: &Engine, program: &Program, id: &str, grace: f64) -> (Duration, i64) {
    let there = echo_server(engine, program, id);
    assert_eq!(exchange(there, "hello").expect("echo"), "hello");
    let begin = Instant::now();
    assert_eq!(engine.stop(id, grace).status, 202);
    if grace > 1.0 {
        assert_eq!(exchange(there, "late").expect("echo"), "late");
    }
    let exit = engine.exit(id);
    let error = TcpStream::connect(there).expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    (begin.elapsed(), exit["exitCode"].as_i64().expect("code"))
}

#[test]
fn a_command_that_listens_goes_on_for_a_moment_when_it_is_stopped() {
    let engine = Engine::start();
    let program = Program::compile(engine.directory.path(), ECHO);
    let (taken, code) = stopped(&engine, &program, "long", 30.0);
    assert!(
        taken >= Duration::from_secs(1) && taken < Duration::from_secs(10),
        "{taken:?}"
    );
    assert_eq!(code, 143);
    // Half of a shorter grace: at its end it would be 137.
    let (_, code) = stopped(&engine, &program, "short", 0.4);
    assert_eq!(code, 143);
    let (_, code) = stopped(&engine, &program, "none", 0.0);
    assert!([137, 143].contains(&code), "{code}");
}

#[test]
fn a_stream_holds_the_place_of_its_socket() {
    let (engine, program) = start(GUEST_P3);
    let pod = Pod::start(&engine, &program, json!({}));
    // It says nothing, and closes nothing.
    let peer = Peer::start(&pod_address(), std::mem::forget);
    let before = engine.descriptors();
    for _ in 0..2 {
        let answer = pod.text(&format!("/hoard-streams?{}", peer.address));
        assert_eq!(answer, "256\nerror: new-socket-limit");
        eventually("all sockets are closed", || {
            engine.descriptors() <= before + 8
        });
    }
}
