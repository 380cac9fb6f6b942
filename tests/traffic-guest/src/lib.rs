//! The guest of the tests of outgoing traffic: each path is one thing that it does, with what follows as `?words`,
//! separated by commas. It answers line by line with what it sees; an error is the line `error: CODE`.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode as SocketError, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
    Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::udp::{OutgoingDatagram, UdpSocket};
use wasip2::sockets::{ip_name_lookup, tcp_create_socket, udp_create_socket};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, words) = target.split_once('?').unwrap_or((&target, ""));
        let words: Vec<&str> = words.split(',').collect();
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("stream");
        let answer = Answer(&stream);
        let done = match path {
            "/fetch" => fetch(&request, &words, &answer),
            "/resolve" => resolve(words[0], &answer),
            "/connect" => connect(&words, &answer),
            "/listen" => listen(&words, &answer),
            "/send" => send(&words, &answer),
            "/receive" => receive(&words, &answer),
            "/hoard" => hoard(&answer),
            "/echo" => echo(&words, &answer),
            "/misuse" => misuse(&answer),
            _ => Ok(answer.line("ready")),
        };
        if let Err(error) = done {
            answer.line(&format!("error: {error}"));
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

struct Answer<'a>(&'a OutputStream);

impl Answer<'_> {
    fn line(&self, text: &str) {
        self.bytes(format!("{text}\n").as_bytes());
    }

    fn bytes(&self, bytes: &[u8]) {
        for part in bytes.chunks(4096) {
            let _ = self.0.blocking_write_and_flush(part);
        }
    }
}

type Done = Result<(), String>;

fn http(error: ErrorCode) -> String {
    format!("{error:?}")
}

fn socket(error: SocketError) -> String {
    error.name().to_owned()
}

/// `METHOD,URL,CONNECT,FIRST,BETWEEN`, the last three in milliseconds; the body goes on as it comes, both ways.
fn fetch(request: &IncomingRequest, words: &[&str], answer: &Answer) -> Done {
    let (scheme, rest) = words[1].split_once("://").ok_or("no URL")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let sent = OutgoingRequest::new(Fields::new());
    let _ = sent.set_method(&match words[0] {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    });
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let _ = sent.set_scheme(Some(&scheme));
    sent.set_authority(Some(authority)).map_err(|()| "authority")?;
    sent.set_path_with_query(Some(&format!("/{path}"))).map_err(|()| "path")?;
    let options = RequestOptions::new();
    let nanoseconds = |index: usize| {
        let milliseconds: Option<u64> = words.get(index).and_then(|it| it.parse().ok());
        milliseconds.map(|it| it * 1_000_000)
    };
    let _ = options.set_connect_timeout(nanoseconds(2));
    let _ = options.set_first_byte_timeout(nanoseconds(3));
    let _ = options.set_between_bytes_timeout(nanoseconds(4));
    let body = sent.body().map_err(|()| "body")?;
    let future = outgoing_handler::handle(sent, Some(options)).map_err(http)?;
    if words[0] == "POST" {
        let given = request.consume().map_err(|()| "consume")?;
        let from = given.stream().map_err(|()| "stream")?;
        let to = body.write().map_err(|()| "write")?;
        while let Ok(bytes) = from.blocking_read(4096) {
            if to.blocking_write_and_flush(&bytes).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
    future.subscribe().block();
    let response = future.get().expect("there").expect("once").map_err(http)?;
    answer.line(&response.status().to_string());
    let body = response.consume().map_err(|()| "consume")?;
    let stream = body.stream().map_err(|()| "stream")?;
    let end = copy(&stream, answer);
    drop(stream);
    IncomingBody::finish(body);
    end
}

fn copy(stream: &InputStream, answer: &Answer) -> Done {
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(bytes) => answer.bytes(&bytes),
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), http));
            }
        }
    }
}

/// `NAME`: its addresses.
fn resolve(name: &str, answer: &Answer) -> Done {
    let network = instance_network();
    let stream = ip_name_lookup::resolve_addresses(&network, name).map_err(socket)?;
    loop {
        match stream.resolve_next_address() {
            Err(SocketError::WouldBlock) => stream.subscribe().block(),
            Err(error) => return Err(socket(error)),
            Ok(None) => return Ok(()),
            Ok(Some(address)) => answer.line(&show_ip(address).to_string()),
        }
    }
}

/// `ADDRESS[,BIND]`: connects, sends `ping`, and passes on what comes.
fn connect(words: &[&str], answer: &Answer) -> Done {
    let remote = parse(words[0]);
    let tcp = tcp_create_socket::create_tcp_socket(family(remote)).map_err(socket)?;
    if let Some(local) = words.get(1) {
        bind(&tcp, parse(local))?;
    }
    let network = instance_network();
    tcp.start_connect(&network, remote).map_err(socket)?;
    let (input, output) = wait(&tcp, || tcp.finish_connect())?;
    answer.line(&format!("local {}", show(tcp.local_address().map_err(socket)?)));
    answer.line(&format!("remote {}", show(tcp.remote_address().map_err(socket)?)));
    output.blocking_write_and_flush(b"ping\n").map_err(|it| format!("{it:?}"))?;
    let _ = tcp.shutdown(wasip2::sockets::tcp::ShutdownType::Send);
    copy(&input, answer)
}

/// `ADDRESS`: listens, and answers the first who comes with `pong`.
fn listen(words: &[&str], answer: &Answer) -> Done {
    let local = parse(words[0]);
    let tcp = tcp_create_socket::create_tcp_socket(family(local)).map_err(socket)?;
    bind(&tcp, local)?;
    tcp.start_listen().map_err(socket)?;
    wait(&tcp, || tcp.finish_listen())?;
    answer.line(&format!("listening {}", show(tcp.local_address().map_err(socket)?)));
    let (client, input, output) = wait(&tcp, || tcp.accept())?;
    answer.line(&format!("local {}", show(client.local_address().map_err(socket)?)));
    answer.line(&format!("remote {}", show(client.remote_address().map_err(socket)?)));
    copy(&input, answer)?;
    output.blocking_write_and_flush(b"pong\n").map_err(|it| format!("{it:?}"))
}

/// `ADDRESS,COUNT[,together]`: sends back what so many clients send, one after the other; or waits for all of them first.
fn echo(words: &[&str], answer: &Answer) -> Done {
    let local = parse(words[0]);
    let count: usize = words[1].parse().map_err(|_| "count")?;
    let tcp = tcp_create_socket::create_tcp_socket(family(local)).map_err(socket)?;
    bind(&tcp, local)?;
    let _ = tcp.set_listen_backlog_size(1024);
    tcp.start_listen().map_err(socket)?;
    tcp.finish_listen().map_err(socket)?;
    answer.line(&format!("listening {}", show(tcp.local_address().map_err(socket)?)));
    let accept = || wait(&tcp, || tcp.accept());
    let serve = |(_client, input, output): (TcpSocket, InputStream, OutputStream)| {
        while let Ok(bytes) = input.blocking_read(4096) {
            output.blocking_write_and_flush(&bytes).map_err(|it| format!("{it:?}"))?;
        }
        // The streams before their socket.
        drop((input, output));
        Ok::<_, String>(())
    };
    if words.get(2).is_some() {
        let clients: Vec<_> = (0..count).map(|_| accept()).collect::<Result<_, _>>()?;
        answer.line("all there");
        clients.into_iter().try_for_each(serve)?;
    } else {
        (0..count).try_for_each(|_| serve(accept()?))?;
    }
    answer.line(&format!("served {count}"));
    Ok(())
}

/// What becomes of calls that make no sense.
fn misuse(answer: &Answer) -> Done {
    let network = instance_network();
    let tell = |what: &str, done: Result<String, SocketError>| {
        answer.line(&format!("{what}: {}", done.unwrap_or_else(socket)));
    };
    let tcp = || tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).map_err(socket);
    let one = tcp()?;
    tell("finish bind", fine(one.finish_bind()));
    tell("finish connect", fine(one.finish_connect().map(drop)));
    tell("finish listen", fine(one.finish_listen()));
    tell("listen unbound", fine(one.start_listen()));
    tell("accept", fine(one.accept().map(drop)));
    tell("local", one.local_address().map(|it| show(it).to_string()));
    tell("remote", one.remote_address().map(|it| show(it).to_string()));
    for address in [
        "8.8.8.8:1",
        "127.0.0.2:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        let done = one.start_bind(&network, parse(address));
        tell(&format!("bind {address}"), fine(done));
    }
    for address in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:1", "255.255.255.255:1", "[::1]:1"] {
        let done = one.start_connect(&network, parse(address));
        tell(&format!("connect {address}"), fine(done));
    }
    tell("bind", fine(one.start_bind(&network, parse("0.0.0.0:0"))));
    tell("bind during bind", fine(one.start_bind(&network, parse("0.0.0.0:0"))));
    tell("connect during bind", fine(one.start_connect(&network, parse("127.0.0.1:1"))));
    tell("finish", fine(one.finish_bind()));
    tell("bind again", fine(one.start_bind(&network, parse("127.0.0.1:0"))));
    let local = one.local_address().map_err(socket)?;
    let two = tcp()?;
    tell("listen", fine(one.start_listen().and_then(|()| one.finish_listen())));
    tell("listen again", fine(one.start_listen()));
    tell("connect a listener", fine(one.start_connect(&network, parse("127.0.0.1:1"))));
    tell("bind what is taken", fine(two.start_bind(&network, local)));
    tell("nobody there", fine(one.accept().map(drop)));
    let six = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv6).map_err(socket)?;
    for address in ["[::ffff:127.0.0.1]:1", "[::127.0.0.1]:1", "127.0.0.1:1"] {
        let done = six.start_connect(&network, parse(address));
        tell(&format!("six connect {address}"), fine(done));
    }
    let udp = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4).map_err(socket)?;
    tell("udp stream unbound", fine(udp.stream(None).map(drop)));
    tell("udp local", udp.local_address().map(|it| show(it).to_string()));
    tell("udp bind 8.8.8.8:1", fine(udp.start_bind(&network, parse("8.8.8.8:1"))));
    tell("udp bind", fine(udp.start_bind(&network, parse("0.0.0.0:0"))));
    tell("udp finish", fine(udp.finish_bind()));
    tell("udp bind again", fine(udp.start_bind(&network, parse("0.0.0.0:0"))));
    tell("udp remote", udp.remote_address().map(|it| show(it).to_string()));
    let (_input, output) = udp.stream(None).map_err(socket)?;
    let own = udp.local_address().map_err(socket)?;
    for (what, size, address) in [
        ("to nobody", 1, None),
        ("0.0.0.0:1", 1, Some("0.0.0.0:1")),
        ("169.254.169.254:1", 1, Some("169.254.169.254:1")),
        ("127.0.0.53:53", 1, Some("127.0.0.53:53")),
        ("255.255.255.255:1", 1, Some("255.255.255.255:1")),
        ("[::1]:1", 1, Some("[::1]:1")),
        ("127.0.0.1:0", 1, Some("127.0.0.1:0")),
        ("too large", 65_536, None),
    ] {
        output.subscribe().block();
        let _ = output.check_send();
        let remote_address = Some(match address {
            Some(address) => parse(address),
            None if size > 1 => own,
            None => {
                let datagram = OutgoingDatagram { data: vec![0], remote_address: None };
                tell(&format!("send {what}"), fine(output.send(&[datagram]).map(drop)));
                continue;
            }
        });
        let datagram = OutgoingDatagram { data: vec![0; size], remote_address };
        tell(&format!("send {what}"), fine(output.send(&[datagram]).map(drop)));
    }
    Ok(())
}

fn fine(done: Result<(), SocketError>) -> Result<String, SocketError> {
    done.map(|()| "fine".to_owned())
}

fn bind(tcp: &TcpSocket, local: IpSocketAddress) -> Done {
    tcp.start_bind(&instance_network(), local).map_err(socket)?;
    wait(tcp, || tcp.finish_bind())
}

fn wait<T>(tcp: &TcpSocket, step: impl Fn() -> Result<T, SocketError>) -> Result<T, String> {
    loop {
        match step() {
            Err(SocketError::WouldBlock) => tcp.subscribe().block(),
            done => return done.map_err(socket),
        }
    }
}

fn udp(local: IpSocketAddress) -> Result<UdpSocket, String> {
    let udp = udp_create_socket::create_udp_socket(family(local)).map_err(socket)?;
    udp.start_bind(&instance_network(), local).map_err(socket)?;
    udp.finish_bind().map_err(socket)?;
    Ok(udp)
}

/// `ADDRESS,BIND[,connected]`: sends `ping`, waits for the answer.
fn send(words: &[&str], answer: &Answer) -> Done {
    let remote = parse(words[0]);
    let udp = udp(parse(words[1]))?;
    let is_connected = words.get(2).is_some();
    let (input, output) = udp.stream(is_connected.then_some(remote)).map_err(socket)?;
    answer.line(&format!("local {}", show(udp.local_address().map_err(socket)?)));
    if is_connected {
        answer.line(&format!("remote {}", show(udp.remote_address().map_err(socket)?)));
    }
    output.subscribe().block();
    output.check_send().map_err(socket)?;
    let datagram = OutgoingDatagram {
        data: b"ping".to_vec(),
        remote_address: (!is_connected).then_some(remote),
    };
    output.send(&[datagram]).map_err(socket)?;
    input.subscribe().block();
    for it in input.receive(1).map_err(socket)? {
        let text = String::from_utf8_lossy(&it.data).into_owned();
        answer.line(&format!("{text} from {}", show(it.remote_address)));
    }
    Ok(())
}

/// `BIND`: answers the first datagram with `pong`.
fn receive(words: &[&str], answer: &Answer) -> Done {
    let udp = udp(parse(words[0]))?;
    let (input, output) = udp.stream(None).map_err(socket)?;
    answer.line(&format!("local {}", show(udp.local_address().map_err(socket)?)));
    loop {
        input.subscribe().block();
        for it in input.receive(1).map_err(socket)? {
            let text = String::from_utf8_lossy(&it.data).into_owned();
            answer.line(&format!("{text} from {}", show(it.remote_address)));
            output.check_send().map_err(socket)?;
            let datagram = OutgoingDatagram {
                data: b"pong".to_vec(),
                remote_address: Some(it.remote_address),
            };
            output.send(&[datagram]).map_err(socket)?;
            return Ok(());
        }
    }
}

/// Makes sockets until it gets no more.
fn hoard(answer: &Answer) -> Done {
    let mut sockets = Vec::new();
    loop {
        match tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                answer.line(&sockets.len().to_string());
                return Err(socket(error));
            }
        }
    }
}

fn family(address: IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

fn parse(text: &str) -> IpSocketAddress {
    match text.parse().expect("address") {
        std::net::SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            let address = Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) };
            IpSocketAddress::Ipv4(address)
        }
        std::net::SocketAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.ip().segments();
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: address.port(),
                flow_info: 0,
                address: (a, b, c, d, e, f, g, h),
                scope_id: 0,
            })
        }
    }
}

fn show(address: IpSocketAddress) -> std::net::SocketAddr {
    match address {
        IpSocketAddress::Ipv4(it) => (show_ip(IpAddress::Ipv4(it.address)), it.port).into(),
        IpSocketAddress::Ipv6(it) => (show_ip(IpAddress::Ipv6(it.address)), it.port).into(),
    }
}

fn show_ip(address: IpAddress) -> std::net::IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => [a, b, c, d].into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => [a, b, c, d, e, f, g, h].into(),
    }
}
