//! HTTP/2 frame by frame, for what no client would send.
#![allow(dead_code)]

use crate::site::Site;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// One connection.
pub struct Http2 {
    pub stream: TcpStream,
}

/// Kind, flags, stream.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

fn text(text: &str) -> Vec<u8> {
    // HPACK's numbers with a prefix of seven bits.
    let mut out = Vec::new();
    let mut length = text.len();
    if length < 127 {
        out.push(length as u8);
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push((length % 128 + 128) as u8);
            length /= 128;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(text.as_bytes());
    out
}

/// A header that is not kept in the table.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

/// A header that is number 62 of the table from now on.
pub fn indexed_header(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

/// The head of a request.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let method = if method == "GET" { 0x82 } else { 0x83 };
    [
        vec![method, 0x86, 0x04],
        text(path),
        vec![0x01],
        text("guest"),
    ]
    .concat()
}

impl Http2 {
    pub fn connect(site: &Site) -> Self {
        Self::connect_with(site, &[])
    }

    pub fn connect_with(site: &Site, settings: &[(u16, u32)]) -> Self {
        let mut this = Self::of(site.connect());
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        this.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        this.send(&frame(4, 0, 0, &payload));
        this
    }

    pub fn of(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// What the server takes no more does not matter.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads frames (kind, stream, payload), and answers settings and pings, until the connection's end or as long as
    /// it is told to.
    pub fn talk(&mut self, mut go_on: impl FnMut(u8, u32, &[u8]) -> bool) {
        let mut head = [0; 9];
        while self.stream.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if self.stream.read_exact(&mut payload).is_err() {
                return;
            }
            let (kind, flags) = (head[3], head[4]);
            match (kind, flags & 1) {
                (4, 0) => self.send(&frame(4, 1, 0, &[])),
                (6, 0) => self.send(&frame(6, 1, 0, &payload)),
                _ => {}
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if !go_on(kind, stream, &payload) {
                return;
            }
        }
    }
}
