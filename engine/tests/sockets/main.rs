//! Sockets of guests: whom they reach, who reaches them, and by what addresses they know each other.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/peers.rs"]
mod peers;

/// Each of these holds for guests of WASI 0.2 and 0.3.
macro_rules! of_both {
    ($($name:ident),* $(,)?) => {
        mod p2 {
            $(#[test] fn $name() { super::$name(crate::peers::GUEST) })*
        }
        mod p3 {
            $(#[test] fn $name() { super::$name(crate::GUEST_P3) })*
        }
    };
}

mod names;
mod policy;
mod tcp;
mod udp;

use peers::Peer;
use std::io::{Read as _, Write as _};
use support::{Engine, Program};

/// The guest of WASI 0.3 that does and says the same.
const GUEST_P3: &[u8] = include_bytes!("../../../tests/p3-traffic-guest/p3-traffic-guest.wasm");

fn start(guest: &[u8]) -> (Engine, Program) {
    let engine = Engine::start();
    let program = Program::compile(engine.directory.path(), guest);
    (engine, program)
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

fn port_of(line: &str) -> u16 {
    let (_, port) = line.rsplit_once(':').expect("port");
    port.parse().expect("port")
}
