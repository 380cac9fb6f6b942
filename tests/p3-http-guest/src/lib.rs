//! The WASI 0.3 http guest of the tests: each path is one behaviour, whose number follows as `?n`.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme,
};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

static REQUESTS: AtomicU32 = AtomicU32::new(0);
static OPEN: AtomicU32 = AtomicU32::new(0);
static MOST: AtomicU32 = AtomicU32::new(0);

type Answer = Result<Response, ErrorCode>;

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Answer {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, words) = target.split_once('?').unwrap_or((&target, "0"));
        let number: u64 = words.parse().unwrap_or(0);
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        match path {
            // How many requests this instance has served, with this one.
            "/count" => text(&count.to_string()),
            // How many requests were in this instance at once, at most.
            "/together" => {
                let open = OPEN.fetch_add(1, Ordering::Relaxed) + 1;
                MOST.fetch_max(open, Ordering::Relaxed);
                wait_for(number * 1_000_000).await;
                OPEN.fetch_sub(1, Ordering::Relaxed);
                text(&MOST.load(Ordering::Relaxed).to_string())
            }
            "/echo" => echo(request),
            // The same, without a look at what goes through.
            "/pass" => {
                let (body, trailers) = consume(request);
                let (response, _) = Response::new(Fields::new(), Some(body), trailers);
                Ok(response)
            }
            "/drain" => {
                let bytes = drain(request).await;
                text(&bytes.to_string())
            }
            "/env" => {
                let mut lines: Vec<String> =
                    std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
                lines.sort();
                text(&lines.join("\n"))
            }
            "/file" => text(
                &std::fs::read_to_string("/data/file").unwrap_or_else(|it| it.to_string()),
            ),
            "/log" => {
                println!("a line of stdout");
                eprintln!("a line of stderr");
                let _ = std::io::stdout().flush();
                text("logged")
            }
            "/sleep" => {
                wait_for(number * 1_000_000).await;
                text("slept")
            }
            "/spin" => {
                spin(number);
                text("spun")
            }
            "/trap" => boom(),
            "/refuse" => Err(ErrorCode::InternalError(Some("no".to_owned()))),
            "/allocate" => {
                let bytes = vec![1_u8; number as usize];
                text(&bytes.iter().map(|&it| u64::from(it)).sum::<u64>().to_string())
            }
            // So many bytes, as fast as they are taken.
            "/stream" => stream(async move |body| {
                let mut left = number as usize;
                while left > 0 {
                    let part = left.min(64 * 1024);
                    if !body.write_all(vec![b'0'; part]).await.is_empty() {
                        return;
                    }
                    left -= part;
                }
            }),
            // Ten chunks, so many milliseconds apart.
            "/drip" => stream(async move |body| {
                for chunk in 0..10 {
                    body.write_all(format!("{chunk}\n").into_bytes()).await;
                    wait_for(number * 1_000_000).await;
                }
            }),
            // Half an answer, then a trap.
            "/broken" => stream(async |body| {
                body.write_all(b"half".to_vec()).await;
                wait_for(1_000_000).await;
                boom()
            }),
            // Half an answer, then silence and computing.
            "/stuck" => stream(async |body| {
                body.write_all(b"half".to_vec()).await;
                spin(u64::MAX);
            }),
            // An answer, then work that nobody waits for.
            "/after" => {
                spawn_local(async move {
                    wait_for(number * 1_000_000).await;
                    println!("after the answer");
                    let _ = std::io::stdout().flush();
                });
                text("answered")
            }
            // What comes from `METHOD,URL,FIRST`, the last in milliseconds; the body goes on as it comes.
            "/fetch" => fetch(request, words).await,
            _ => text("Hello from wasmlet!\n"),
        }
    }
}

#[inline(never)]
fn boom() -> ! {
    core::arch::wasm32::unreachable()
}

fn text(text: &str) -> Answer {
    let text = text.as_bytes().to_vec();
    stream(async move |body| {
        body.write_all(text).await;
    })
}

fn stream(write: impl AsyncFnOnce(&mut StreamWriter<u8>) + 'static) -> Answer {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain".to_vec()]);
    let (mut to, contents) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(headers, Some(contents), trailers);
    spawn_local(async move {
        write(&mut to).await;
        drop(to);
        let _ = end.write(Ok(None)).await;
    });
    Ok(response)
}

fn echo(request: Request) -> Answer {
    let (mut from, _) = consume(request);
    stream(async move |to| copy(&mut from, to).await)
}

async fn drain(request: Request) -> u64 {
    let (mut from, _) = consume(request);
    let mut total = 0;
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        let (result, mut bytes) = from.read(buffer).await;
        let StreamResult::Complete(count) = result else { return total };
        total += count as u64;
        bytes.clear();
        buffer = bytes;
    }
}

type Trailers = wasip3::wit_bindgen::FutureReader<Result<Option<Fields>, ErrorCode>>;

fn consume(request: Request) -> (StreamReader<u8>, Trailers) {
    let (end, result) = wit_future::new(|| Ok(()));
    drop(end);
    Request::consume_body(request, result)
}

async fn copy(from: &mut StreamReader<u8>, to: &mut StreamWriter<u8>) {
    loop {
        let (result, bytes) = from.read(Vec::with_capacity(16 * 1024)).await;
        let StreamResult::Complete(_) = result else { return };
        if !to.write_all(bytes).await.is_empty() {
            return;
        }
    }
}

async fn fetch(request: Request, words: &str) -> Answer {
    match ask(request, words).await {
        Ok(response) => {
            let status = response.get_status_code();
            let (end, result) = wit_future::new(|| Ok(()));
            drop(end);
            let (mut from, trailers) = Response::consume_body(response, result);
            stream(async move |to| {
                to.write_all(format!("{status}\n").into_bytes()).await;
                copy(&mut from, to).await;
                if let Err(error) = trailers.await {
                    to.write_all(format!("error: {error:?}\n").into_bytes()).await;
                }
            })
        }
        Err(error) => text(&format!("error: {error:?}\n")),
    }
}

async fn ask(request: Request, words: &str) -> Answer {
    let words: Vec<&str> = words.split(',').collect();
    let (scheme, rest) = words[1].split_once("://").expect("URL");
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (contents, trailers) = if words[0] == "POST" {
        let (contents, trailers) = consume(request);
        (Some(contents), trailers)
    } else {
        let (end, trailers) = wit_future::new(|| Ok(None));
        drop(end);
        (None, trailers)
    };
    let options = RequestOptions::new();
    if let Some(milliseconds) = words.get(2).and_then(|it| it.parse::<u64>().ok()) {
        let _ = options.set_first_byte_timeout(Some(milliseconds * 1_000_000));
    }
    let (sent, _) = Request::new(Fields::new(), contents, trailers, Some(options));
    let _ = sent.set_method(&match words[0] {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    });
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let _ = sent.set_scheme(Some(&scheme));
    let _ = sent.set_authority(Some(authority));
    let _ = sent.set_path_with_query(Some(&format!("/{path}")));
    client::send(sent).await
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
