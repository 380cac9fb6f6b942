//! Asks the greeter whose address the variable GREETER has, and passes on what it says.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

struct Caller;

wasip2::http::proxy::export!(Caller);

impl wasip2::exports::http::incoming_handler::Guest for Caller {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match ask(&path) {
            Ok(answer) => pass_on(answer, out),
            Err(error) => {
                println!("the greeter does not answer: {error:?}");
                send(out, 502, |write| write(format!("no greeter: {error:?}\n").as_bytes()));
            }
        }
    }
}

/// Sends a request and waits until the answer begins.
fn ask(path: &str) -> Result<IncomingResponse, ErrorCode> {
    let greeter = std::env::var("GREETER").unwrap_or_else(|_| "http://localhost:8081".to_owned());
    let (scheme, authority) = match greeter.split_once("://") {
        Some(("https", authority)) => (Scheme::Https, authority),
        Some((_, authority)) => (Scheme::Http, authority),
        None => (Scheme::Http, greeter.as_str()),
    };
    let request = OutgoingRequest::new(Fields::new());
    let _ = request.set_scheme(Some(&scheme));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(path));
    let answer = outgoing_handler::handle(request, None)?;
    answer.subscribe().block();
    answer.get().expect("it is there").expect("and taken once")
}

/// Passes on the status and, as it comes, the body.
fn pass_on(answer: IncomingResponse, out: ResponseOutparam) {
    let status = answer.status();
    let body = answer.consume().expect("a new answer has its body");
    let stream = body.stream().expect("and the body its stream");
    send(out, status, |write| {
        write(b"The greeter says: ");
        loop {
            match stream.blocking_read(64 * 1024) {
                Ok(bytes) => write(&bytes),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    println!("the greeter broke off: {}", error.to_debug_string());
                    break;
                }
            }
        }
    });
    drop(stream);
    IncomingBody::finish(body);
}

fn send(out: ResponseOutparam, status: u16, fill: impl FnOnce(&mut dyn FnMut(&[u8]))) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body().expect("a new response has its body");
    ResponseOutparam::set(out, Ok(response));
    // A client that has gone takes no answer; nobody is left to be told.
    if let Ok(stream) = body.write() {
        fill(&mut |bytes| {
            for part in bytes.chunks(4096) {
                let _ = stream.blocking_write_and_flush(part);
            }
        });
    }
    let _ = OutgoingBody::finish(body, None);
}
