//! Whom guests talk to: servers of a thread for each connection, a name server, and pods in an engine.
#![allow(dead_code)]

#[path = "name_server.rs"]
mod name_server;

pub use name_server::NameServer;

use crate::support::{Engine, PATIENCE, Program};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const GUEST: &[u8] = include_bytes!("../../../tests/traffic-guest/traffic-guest.wasm");

/// An address among those of pods without a cluster, nobody else's.
pub fn pod_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let block = 128 + std::process::id() % 128;
    format!("127.88.{block}.{count}")
}

/// An engine that trusts the authority of `tests/tls`, and this guest.
pub fn start(guest: &[u8]) -> (Engine, Program) {
    let engine = Engine::start_with(|command| {
        command.env("SSL_CERT_FILE", tls("authority.pem"));
    });
    let program = Program::compile(engine.directory.path(), guest);
    (engine, program)
}

/// What this guest sends comes from its pod's address, by one connection, and a body of so many bytes arrives.
pub fn requests_come_from_the_pods_address(guest: &[u8], bytes: usize) {
    let (engine, program) = start(guest);
    let pod = Pod::start(&engine, &program, json!({}));
    let peer = Peer::http(&pod_address());
    let (url, host) = (format!("http://{}/a?b", peer.address), peer.address);
    for _ in 0..3 {
        let answer = pod.text(&format!("/fetch?GET,{url}"));
        assert_eq!(answer, format!("200\nGET /a?b HTTP/1.1\n{host}"));
    }
    assert_eq!(peer.count(), 1, "one connection for all");
    let client = peer.clients.lock().expect("lock")[0];
    assert_eq!(client.ip().to_string(), pod.address);
    let body = "x".repeat(bytes);
    let answer = pod
        .post(&format!("/fetch?POST,{url}"), body.as_bytes())
        .rest();
    assert_eq!(answer, format!("200\nPOST /a?b HTTP/1.1\n{host}\n{body}"));
}

/// A pod whose guest does what it is asked by HTTP.
pub struct Pod {
    pub address: String,
}

impl Pod {
    /// One of `engine`'s, with these parts of its network changed.
    pub fn start(engine: &Engine, program: &Program, network: Value) -> Self {
        Self::at(engine, program, &pod_address(), network)
    }

    /// One at this address.
    pub fn at(engine: &Engine, program: &Program, address: &str, network: Value) -> Self {
        let mut spec = engine.spec(&address.replace('.', "-"), program);
        spec["kind"] = json!("http");
        spec["http"] = json!({"addresses": [address], "ports": [8080]});
        spec["network"] = json!({"addresses": [address], "hosts": "127.0.0.1 localhost\n"});
        for (name, value) in network.as_object().expect("object") {
            spec["network"][name] = value.clone();
        }
        if network.get("none").is_some() {
            spec["network"] = Value::Null;
        }
        let answer = engine.put(&address.replace('.', "-"), &spec);
        assert_eq!(answer.status, 201, "{answer:?}");
        Self {
            address: address.to_owned(),
        }
    }

    /// Asks the guest; its answer is read line by line.
    pub fn ask(&self, path: &str) -> Lines {
        self.post(path, b"")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Lines {
        let mut stream = TcpStream::connect((self.address.as_str(), 8080)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: guest\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .expect("send");
        let mut sender = stream.try_clone().expect("clone");
        let body = body.to_owned();
        std::thread::spawn(move || sender.write_all(&body));
        let mut lines = Lines(BufReader::new(stream));
        while !lines.next().is_empty() {}
        lines
    }

    /// Everything that the guest answers, without the last newline.
    pub fn text(&self, path: &str) -> String {
        self.ask(path).rest().trim_end().to_owned()
    }

    /// The error that a request of the guest ends with.
    pub fn fetch_error(&self, url: &str) -> String {
        let text = self.text(&format!("/fetch?GET,{url}"));
        let error = text.split_once("error: ErrorCode::");
        error.map_or(text.clone(), |(_, error)| error.to_owned())
    }
}

pub struct Lines(pub BufReader<TcpStream>);

impl Lines {
    /// The next line without its end; empty at the end.
    pub fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("line");
        line.trim_end().to_owned()
    }

    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).expect("text");
        text
    }
}

/// A server that does the same with each connection, and counts them.
pub struct Peer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub clients: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Peer {
    pub fn start(on: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((on, 0)).expect("bind");
        let address = listener.local_addr().expect("address");
        let (connections, clients) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let (count, seen, serve) = (
            Arc::clone(&connections),
            Arc::clone(&clients),
            Arc::new(serve),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accept");
                count.fetch_add(1, Ordering::SeqCst);
                seen.lock()
                    .expect("lock")
                    .push(stream.peer_addr().expect("peer"));
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self {
            address,
            connections,
            clients,
        }
    }

    /// Answers each request of a connection with its method, target, host and body.
    pub fn http(on: &str) -> Self {
        Self::start(on, |stream| while answer(&stream, &stream).is_some() {})
    }

    /// Answers with these bytes whatever is asked, then closes.
    pub fn says(on: &str, bytes: &'static [u8]) -> Self {
        Self::start(on, move |mut stream| {
            read_head(&mut BufReader::new(&stream));
            let _ = stream.write_all(bytes);
        })
    }

    /// The same as [`Peer::http`] by TLS, with this certificate of `tests/tls`.
    pub fn https(on: &str, certificate: &str) -> Self {
        let config = Arc::new(server_config(certificate));
        Self::start(on, move |stream| {
            let server = rustls::ServerConnection::new(Arc::clone(&config)).expect("server");
            let mut stream = rustls::StreamOwned::new(server, stream);
            let mut reply = Vec::new();
            {
                let mut both = BufReader::new(&mut stream);
                let Some(text) = request(&mut both) else {
                    return;
                };
                reply.extend_from_slice(&response(&text));
            }
            let _ = stream.write_all(&reply);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    /// HTTP/2 by TLS: answers with version, method, path, authority, host and body. `/cut` breaks the connection off inside
    /// the answer, `/last` is the last one that a connection answers.
    pub fn http2(on: &str) -> Self {
        let mut config = server_config("server");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        Self::start(on, move |stream| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            let _ = runtime.block_on(serve_http2(Arc::clone(&config), stream));
        })
    }

    pub fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn server_config(certificate: &str) -> rustls::ServerConfig {
    let file = |end: &str| tls(&format!("{certificate}.{end}"));
    let certificates = vec![CertificateDer::from_pem_file(file("pem")).expect("certificate")];
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("config")
}

type Parts = std::pin::Pin<
    Box<dyn futures::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send>,
>;

async fn serve_http2(config: Arc<rustls::ServerConfig>, stream: TcpStream) -> Option<()> {
    stream.set_nonblocking(true).ok()?;
    let stream = tokio::net::TcpStream::from_std(stream).ok()?;
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let stream = acceptor.accept(stream).await.ok()?;
    let ends = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let [cut, last] = &ends;
    let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let [cut, last] = ends.clone();
        async move {
            let (head, body) = request.into_parts();
            let text = format!(
                "{:?} {} {}\n{:?} {:?}\n",
                head.version,
                head.method,
                head.uri.path(),
                head.uri.authority().map(ToString::to_string),
                head.headers.get("host"),
            );
            let body = body.collect().await?.to_bytes();
            let first = Ok(Frame::data(Bytes::from([text.as_bytes(), &body].concat())));
            let first = futures::stream::once(std::future::ready(first));
            let parts: Parts = match head.uri.path() {
                "/cut" => {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        cut.notify_one();
                    });
                    Box::pin(first.chain(futures::stream::pending()))
                }
                "/endless" => Box::pin(first.chain(futures::stream::pending())),
                "/last" => {
                    last.notify_one();
                    Box::pin(first)
                }
                _ => Box::pin(first),
            };
            Ok::<_, hyper::Error>(hyper::Response::new(StreamBody::new(parts)))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return Some(()),
            () = cut.notified() => return None,
            () = last.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}

pub fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls")
        .join(name)
}

fn answer(reader: impl Read, mut writer: impl Write) -> Option<()> {
    let text = request(&mut BufReader::new(reader))?;
    writer.write_all(&response(&text)).ok()
}

fn response(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

pub fn read_head(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

pub fn request(reader: &mut impl std::io::BufRead) -> Option<String> {
    let head = read_head(reader)?;
    let lower = head.to_lowercase();
    let field = |name: &str| {
        let line = lower
            .lines()
            .find(|it| it.starts_with(&format!("{name}: ")))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    let mut body = Vec::new();
    if field("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = field("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    let first = head.lines().next()?.to_owned();
    let host = field("host").unwrap_or_default();
    Some(format!(
        "{first}\n{host}\n{}",
        String::from_utf8_lossy(&body)
    ))
}
