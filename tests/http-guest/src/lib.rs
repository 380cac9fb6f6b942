//! The http guest of the tests: each path is one behaviour, whose number follows as `?n`.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use wasip2::clocks::monotonic_clock::{now, subscribe_duration};
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

struct Guest;

wasip2::http::proxy::export!(Guest);

static REQUESTS: AtomicU32 = AtomicU32::new(0);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, number) = target.split_once('?').unwrap_or((&target, "0"));
        let number: u64 = number.parse().unwrap_or(0);
        match path {
            // How many requests this instance has served, with this one.
            "/count" => text(out, &(REQUESTS.fetch_add(1, Ordering::Relaxed) + 1).to_string()),
            "/echo" => echo(request, out),
            "/drain" => {
                let bytes = drain(request);
                text(out, &bytes.to_string());
            }
            "/env" => {
                let mut lines: Vec<String> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
                lines.sort();
                text(out, &lines.join("\n"));
            }
            "/file" => text(out, &std::fs::read_to_string("/data/file").unwrap_or_else(|it| it.to_string())),
            "/log" => {
                println!("a line of stdout");
                eprintln!("a line of stderr");
                text(out, "logged");
            }
            "/sleep" => {
                sleep(number);
                text(out, "slept");
            }
            "/spin" => {
                spin(number);
                text(out, "spun");
            }
            "/trap" => boom(),
            "/silent" => {}
            "/refuse" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("no".to_owned())))),
            "/allocate" => {
                let bytes = vec![1_u8; number as usize];
                text(out, &bytes.iter().map(|&it| u64::from(it)).sum::<u64>().to_string());
            }
            // So many bytes, as fast as they are taken.
            "/stream" => stream(out, |body| write_zeros(body, number)),
            // Ten chunks, so many milliseconds apart.
            "/drip" => stream(out, |body| {
                for chunk in 0..10 {
                    body.blocking_write_and_flush(format!("{chunk}\n").as_bytes())?;
                    sleep(number);
                }
                Ok(())
            }),
            // Half an answer, then a trap.
            "/broken" => stream(out, |body| {
                body.blocking_write_and_flush(b"half")?;
                boom()
            }),
            // Half an answer, then silence and computing.
            "/stuck" => stream(out, |body| {
                body.blocking_write_and_flush(b"half")?;
                spin(u64::MAX);
                Ok(())
            }),
            // An answer, then work that nobody waits for.
            "/after" => {
                text(out, "answered");
                sleep(number);
                println!("after the answer");
            }
            _ => text(out, "Hello from wasmlet!\n"),
        }
        let _ = std::io::stdout().flush();
    }
}

#[inline(never)]
fn boom() -> ! {
    core::arch::wasm32::unreachable()
}

fn answer() -> (OutgoingResponse, OutgoingBody) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain".to_vec()]);
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("body");
    (response, body)
}

fn text(out: ResponseOutparam, text: &str) {
    stream(out, |body| body.blocking_write_and_flush(text.as_bytes()));
}

fn stream(out: ResponseOutparam, write: impl FnOnce(&OutputStream) -> Result<(), StreamError>) {
    let (response, body) = answer();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("stream");
    let written = write(&stream);
    drop(stream);
    if written.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn write_zeros(body: &OutputStream, mut left: u64) -> Result<(), StreamError> {
    while left > 0 {
        body.subscribe().block();
        let count = body.check_write()?.min(left).min(65536);
        body.write(&vec![b'0'; count as usize])?;
        left -= count;
    }
    body.blocking_flush()
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let (response, body) = answer();
    ResponseOutparam::set(out, Ok(response));
    let output = body.write().expect("stream");
    read(&request, |bytes| bytes.chunks(4096).all(|it| output.blocking_write_and_flush(it).is_ok()));
    drop(output);
    let _ = OutgoingBody::finish(body, None);
}

fn drain(request: IncomingRequest) -> u64 {
    let mut total = 0;
    read(&request, |bytes| {
        total += bytes.len() as u64;
        true
    });
    total
}

fn read(request: &IncomingRequest, mut take: impl FnMut(&[u8]) -> bool) {
    let body: IncomingBody = request.consume().expect("body");
    let stream: InputStream = body.stream().expect("stream");
    while let Ok(bytes) = stream.blocking_read(65536) {
        if !take(&bytes) {
            return;
        }
    }
}

fn sleep(milliseconds: u64) {
    subscribe_duration(milliseconds.saturating_mul(1_000_000)).block();
}

/// Computes for so long.
fn spin(milliseconds: u64) {
    let end = now().saturating_add(milliseconds.saturating_mul(1_000_000));
    while now() < end {
        for step in 0..10_000_u32 {
            std::hint::black_box(step);
        }
    }
}
