//! A component of the tests' Spin application: it answers with what it was told and given, whatever the path.
//!
//! One fact a line: its headers whose names begin with `spin-`, its environment, the files below `/site`, and how many
//! requests its memory has seen.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

static REQUESTS: AtomicU32 = AtomicU32::new(0);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let mut lines = told(&request);
        lines.extend(std::env::vars().map(|(name, value)| format!("env {name}={value}")));
        list(Path::new("/site"), &mut lines);
        lines.sort();
        lines.push(format!("requests {}", REQUESTS.fetch_add(1, Ordering::Relaxed) + 1));
        answer(out, &lines.join("\n"));
    }
}

fn told(request: &IncomingRequest) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in request.headers().entries() {
        if name.starts_with("spin-") {
            lines.push(format!("{name}: {}", String::from_utf8_lossy(&value)));
        }
    }
    lines
}

fn list(directory: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::read_to_string(&path) {
            Ok(content) => lines.push(format!("file {} {content}", path.display())),
            Err(_) => list(&path, lines),
        }
    }
}

fn answer(out: ResponseOutparam, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("stream");
    for part in text.as_bytes().chunks(4096) {
        if stream.blocking_write_and_flush(part).is_err() {
            return;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
