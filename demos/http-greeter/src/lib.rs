//! Greets whoever asks: `/NAME`, with the word of the variable GREETING.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Greeter;

wasip2::http::proxy::export!(Greeter);

impl wasip2::exports::http::incoming_handler::Guest for Greeter {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let name = path.trim_matches('/');
        let name = if name.is_empty() { "world" } else { name };
        let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
        println!("greeting {name}");

        let headers = Fields::new();
        let _ = headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("a new response has its body");
        ResponseOutparam::set(out, Ok(response));
        // A client that has gone takes no answer; nobody is left to be told.
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(format!("{greeting}, {name}!\n").as_bytes());
        }
        let _ = OutgoingBody::finish(body, None);
    }
}
