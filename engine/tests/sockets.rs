//! Sockets of guests: whom they reach, who reaches them, and by what addresses they know each other.

mod support;

#[path = "support/peers.rs"]
mod peers;

use peers::{GUEST, NameServer, Peer, Pod, pod_address};
use serde_json::json;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use support::{Engine, PATIENCE, Program, eventually, limit_descriptors};

/// The demo's server.
const ECHO: &[u8] = include_bytes!("../../demos/tcp-echo/tcp-echo.wasm");

/// The guest of WASI 0.3 that does and says the same.
const GUEST_P3: &[u8] = include_bytes!("../../tests/p3-traffic-guest/p3-traffic-guest.wasm");

fn start(guest: &[u8]) -> (Engine, Program) {
    let engine = Engine::start();
    let program = Program::compile(engine.directory.path(), guest);
    (engine, program)
}

/// Each of these holds for guests of WASI 0.2 and 0.3.
macro_rules! of_both {
    ($($name:ident),* $(,)?) => {
        mod p2 {
            $(#[test] fn $name() { super::$name(super::GUEST) })*
        }
        mod p3 {
            $(#[test] fn $name() { super::$name(super::GUEST_P3) })*
        }
    };
}

of_both! {
    connections_come_from_the_pods_address,
    a_guest_that_listens_anywhere_is_reached_at_its_pods_address_alone,
    each_pod_has_a_localhost_of_its_own,
    what_is_closed_to_requests_is_closed_to_sockets,
    sockets_of_version_6_are_translated_as_well,
    the_hosts_network_is_the_hosts,
    a_thousand_clients_one_after_the_other_and_all_at_once,
    datagrams_go_both_ways_and_show_the_addresses_that_the_guest_used,
    programs_of_the_machine_get_answers_to_their_datagrams,
    names_are_looked_up_as_the_pods_files_say,
    a_container_has_so_many_sockets_and_gets_them_back,
    a_client_of_other_machines_gets_the_machines_address,
}

/// A peer that answers all that it is sent with `pong` and where it comes from.
fn ponging(on: &str) -> Peer {
    Peer::start(on, |mut stream| {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let client = stream.peer_addr().expect("peer").ip();
        let _ = write!(stream, "pong {client} {text}");
    })
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

fn port_of(line: &str) -> u16 {
    let (_, port) = line.rsplit_once(':').expect("port");
    port.parse().expect("port")
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

fn names_are_looked_up_as_the_pods_files_say(guest: &[u8]) {
    let (engine, program) = start(guest);
    let names = NameServer::start(&[
        ("db.shop.svc.test", &["10.9.8.7", "10.9.8.6"]),
        ("a.b.shop.svc.test", &["10.9.8.5"]),
        ("a.b", &["10.9.8.4"]),
    ]);
    let resolv_conf = format!(
        "{}search shop.svc.test svc.test\noptions ndots:2\n",
        names.resolv_conf()
    );
    let hosts = "127.0.0.1 localhost\n::1 localhost\n10.1.1.1 alias Alias.test\n";
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": resolv_conf, "hosts": hosts}),
    );
    for (name, addresses) in [
        ("db", "10.9.8.7\n10.9.8.6"),
        ("a.b", "10.9.8.5"),
        ("a.b.", "10.9.8.4"),
        ("alias.TEST", "10.1.1.1"),
        ("localhost", "127.0.0.1\n::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        let answer = pod.text(&format!("/resolve?{name}"));
        assert_eq!(sorted(&answer), sorted(addresses), "{name}");
    }
    for (name, error) in [
        ("nobody.test.", "name-unresolvable"),
        ("a..b", "invalid-argument"),
        ("", "invalid-argument"),
        (".", "invalid-argument"),
        (&"x".repeat(300), "invalid-argument"),
    ] {
        let answer = pod.text(&format!("/resolve?{name}"));
        assert_eq!(answer, format!("error: {error}"), "{name}");
    }
    let bare = Pod::start(&engine, &program, json!({}));
    assert_eq!(
        bare.text("/resolve?db"),
        "error: permanent-resolver-failure"
    );
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
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
    let expected = include_str!("support/misuse.txt");
    assert_eq!(answer, expected.trim_end(), "{answer}");
}

#[test]
fn calls_of_the_newer_interface_have_its_errors() {
    let (engine, program) = start(GUEST_P3);
    let pod = Pod::start(&engine, &program, json!({}));
    let answer = pod.text("/misuse");
    let expected = include_str!("support/misuse-p3.txt");
    assert_eq!(answer, expected.trim_end(), "{answer}");
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
