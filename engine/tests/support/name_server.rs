//! A name server whose names a test says.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// It knows IPv4 addresses of names, answers NXDOMAIN for others, and nothing at all for `silent.test`.
pub struct NameServer {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<String>>>,
    pub names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
}

impl NameServer {
    pub fn start(names: &[(&str, &[&str])]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("address");
        let names = names.iter().map(|(name, addresses)| {
            let addresses = addresses.iter().map(|it| it.parse().expect("address"));
            ((*name).to_owned(), addresses.collect())
        });
        let names: Arc<Mutex<HashMap<_, _>>> = Arc::new(Mutex::new(names.collect()));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, seen) = (Arc::clone(&names), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let (name, is_a, question) = question(&buffer[..length]);
                seen.lock().expect("lock").push(name.clone());
                if name == "silent.test" {
                    continue;
                }
                let found = known.lock().expect("lock").get(&name).cloned();
                let reply = reply(&buffer[..2], question, found.as_deref(), is_a);
                let _ = socket.send_to(&reply, client);
            }
        });
        Self {
            address,
            asked,
            names,
        }
    }

    /// A resolv.conf of this server.
    pub fn resolv_conf(&self) -> String {
        format!(
            "nameserver [{}]:{}\n",
            self.address.ip(),
            self.address.port()
        )
    }
}

/// The name, whether it asks for IPv4, and the question's bytes.
fn question(message: &[u8]) -> (String, bool, &[u8]) {
    let (mut at, mut labels) = (12, Vec::new());
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let is_a = message[at + 2] == 1;
    (labels.join("."), is_a, &message[12..at + 5])
}

fn reply(id: &[u8], question: &[u8], found: Option<&[Ipv4Addr]>, is_a: bool) -> Vec<u8> {
    let code = if found.is_some() { 0 } else { 3 };
    let addresses = if is_a { found.unwrap_or_default() } else { &[] };
    let mut bytes = id.to_vec();
    bytes.extend_from_slice(&[
        0x81,
        0x80 | code,
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    bytes.extend_from_slice(question);
    for address in addresses {
        // The question's name, A, IN, one second, four bytes.
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        bytes.extend_from_slice(&address.octets());
    }
    bytes
}
