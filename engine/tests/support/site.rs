//! One engine with one http guest, and a client that reads answers.
#![allow(dead_code)]

pub use crate::support::{AT_ONCE, PATIENCE, eventually};
use crate::support::{Engine, Program, status};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const GUEST: &[u8] = include_bytes!("../../../tests/http-guest/http-guest.wasm");

/// One engine with one http sandbox, whose id is `web`.
pub struct Site {
    pub engine: Engine,
    pub program: Program,
    pub address: String,
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// Nobody else's: tests of one process count, processes differ.
pub fn own_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!(
        "127.{}.{}.{count}",
        128 + process / 256 % 100,
        process % 256
    )
}

impl Site {
    pub fn start(http: Value) -> Self {
        Self::start_with(http, |_| {})
    }

    pub fn start_with(http: Value, change: impl FnOnce(&mut Value)) -> Self {
        Self::start_in(Engine::start(), http, change)
    }

    pub fn start_in(engine: Engine, http: Value, change: impl FnOnce(&mut Value)) -> Self {
        Self::start_guest(engine, GUEST, http, change)
    }

    pub fn start_guest(
        engine: Engine,
        guest: &[u8],
        http: Value,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let program = Program::compile(engine.directory.path(), guest);
        let address = own_address();
        let site = Self {
            engine,
            program,
            address,
        };
        let mut spec = site.spec(http);
        change(&mut spec);
        let answer = site.engine.put("web", &spec);
        assert_eq!(answer.status, 201, "{answer:?}");
        site
    }

    /// Where another http guest of the same engine serves.
    pub fn neighbour(&self, id: &str, http: Value) -> Neighbour {
        let address = own_address();
        let mut spec = self.spec(http);
        spec["container"] = json!(id);
        spec["http"]["addresses"] = json!([address]);
        spec["log"]["path"] = json!(self.engine.path(&format!("{id}.log")));
        spec["exitFile"] = json!(self.engine.path(&format!("{id}.json")));
        assert_eq!(self.engine.put(id, &spec).status, 201);
        Neighbour { address }
    }

    pub fn spec(&self, http: Value) -> Value {
        let mut spec = self.engine.spec("web", &self.program);
        spec["kind"] = json!("http");
        spec["http"] = json!({"addresses": [self.address], "ports": [8080]});
        for (name, value) in http.as_object().expect("object") {
            spec["http"][name] = value.clone();
        }
        spec
    }

    pub fn connect(&self) -> TcpStream {
        connect(&self.address)
    }

    pub fn ask(&self, path: &str) -> TcpStream {
        ask(&self.address, path)
    }

    pub fn get(&self, path: &str) -> Reply {
        reply(&mut BufReader::new(self.ask(path)))
    }

    /// A request that the guest has by now, if there is an instance for it; its answer is to come.
    pub fn begin(&self, path: &str) -> TcpStream {
        self.taken(|| self.ask(path))
    }

    /// What `send` gives, as soon as the engine has taken the request that it sends.
    pub fn taken<T>(&self, send: impl FnOnce() -> T) -> T {
        let requests = || self.usage()["requests"].as_u64().expect("number");
        let before = requests();
        let sent = send();
        eventually("the request is taken", || requests() > before);
        sent
    }

    /// Waits until the guest has computed for so long.
    pub fn wait_until_it_computes(&self, time: Duration) {
        let used = || self.usage()["cpuNanoseconds"].as_u64().expect("number");
        let until = used() + u64::try_from(time.as_nanos()).expect("short");
        eventually("it computes", || used() >= until);
    }

    /// An instance serves so many requests and then gives way. It may go before, when the next request is late.
    pub fn serves_by_turns(&self, most: u32) {
        let mut last = 0;
        eventually("one gives way to the next", || {
            let count = self.get("/count").text().parse().expect("number");
            assert!(count <= most, "{count}");
            std::mem::replace(&mut last, count) == most && count == 1
        });
    }

    pub fn usage(&self) -> Value {
        self.engine.get("/sandboxes/web").body["usage"].clone()
    }

    /// It serves, at once.
    pub fn is_well(&self) {
        let begin = Instant::now();
        assert_eq!(self.get("/").status, 200);
        assert!(begin.elapsed() < AT_ONCE);
    }

    pub fn log(&self) -> String {
        self.engine.log_lines("web").join("\n")
    }

    pub fn wait_for_log(&self, part: &str) {
        eventually(part, || self.log().contains(part));
    }
}

/// Another http guest.
pub struct Neighbour {
    pub address: String,
}

impl Neighbour {
    pub fn get(&self, path: &str) -> Reply {
        reply(&mut BufReader::new(ask(&self.address, path)))
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect((address, 8080)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

fn ask(address: &str, path: &str) -> TcpStream {
    let mut stream = connect(address);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n"
    )
    .expect("send");
    stream
}

/// Reads one answer; an answer that breaks off has what came of its body.
pub fn reply(reader: &mut BufReader<TcpStream>) -> Reply {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("head") > 0, "{head:?}");
    }
    let status = status(&head);
    let lower = head.to_lowercase();
    let mut body = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            if reader.read_line(&mut size).unwrap_or(0) == 0 {
                break;
            }
            let size = usize::from_str_radix(size.trim(), 16).expect("size");
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).expect("chunk");
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = lower.split("content-length: ").nth(1) {
        let length: usize = length
            .lines()
            .next()
            .expect("length")
            .parse()
            .expect("length");
        body.resize(length, 0);
        reader.read_exact(&mut body).expect("body");
    }
    Reply { status, head, body }
}

/// A variable, and a directory with a file.
pub fn give_a_world(spec: &mut Value) {
    let file = spec["exitFile"].as_str().expect("path");
    let data = file.replace("web.json", "data");
    std::fs::create_dir(&data).expect("directory");
    std::fs::write(format!("{data}/file"), "content").expect("file");
    spec["env"] = json!([{"name": "A", "value": "1"}]);
    spec["mounts"] = json!([{"hostPath": data, "guestPath": "/data", "readOnly": true}]);
}

/// The guest sees what [`give_a_world`] gave, and its output is the container's.
pub fn the_guests_world_is_the_containers(site: &Site) {
    assert_eq!(site.get("/env").text(), "A=1");
    assert_eq!(site.get("/file").text(), "content");
    assert_eq!(site.get("/log").text(), "logged");
    site.wait_for_log("stderr F a line of stderr");
    site.wait_for_log("stdout F a line of stdout");
}

/// An echo comes while it is sent.
pub fn bodies_stream_both_ways(site: &Site) {
    let mut stream = site.connect();
    write!(
        stream,
        "POST /echo HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .expect("send");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut head = String::new();
    for (number, chunk) in ["one", "two", "six"].iter().enumerate() {
        write!(stream, "3\r\n{chunk}\r\n").expect("send");
        if number == 0 {
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).expect("head");
            }
        }
        // The answer comes before the request has ended.
        let mut echoed = [0; 8];
        reader.read_exact(&mut echoed).expect("chunk");
        assert_eq!(&echoed, format!("3\r\n{chunk}\r\n").as_bytes());
    }
    write!(stream, "0\r\n\r\n").expect("send");
    let mut rest = [0; 5];
    reader.read_exact(&mut rest).expect("end");
    assert_eq!(&rest, b"0\r\n\r\n");
}

/// Of three requests to one instance one is at work, one waits, and one is sent away.
pub fn too_many_requests_are_refused(site: &Site) {
    // Its end is when we say so.
    let mut first = site.taken(|| {
        let mut stream = site.connect();
        let head = "POST /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("send");
        stream
    });
    let second = site.begin("/");
    let third = site.get("/");
    assert_eq!(third.status, 503);
    assert!(third.head.contains("retry-after: 1"), "{}", third.head);
    first.write_all(b"x").expect("send");
    for stream in [first, second] {
        assert_eq!(reply(&mut BufReader::new(stream)).status, 200);
    }
}

/// Everything that comes until the connection's end.
pub fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
