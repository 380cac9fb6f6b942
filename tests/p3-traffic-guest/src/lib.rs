//! The guest of the tests of sockets of WASI 0.3: its paths do what those of `traffic-guest` do, and it answers the same lines.

use std::net::{IpAddr, SocketAddr};
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response};
use wasip3::sockets::ip_name_lookup::{self, ErrorCode as NameError};
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (mut to, contents) = wit_stream::new();
        let (end, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
        spawn_local(async move {
            let (path, words) = target.split_once('?').unwrap_or((&target, ""));
            let words: Vec<&str> = words.split(',').collect();
            let mut answer = Answer(&mut to);
            let done = match path {
                "/resolve" => resolve(words[0], &mut answer).await,
                "/connect" => connect(&words, &mut answer).await,
                "/listen" => listen(&words, &mut answer).await,
                "/echo" => echo(&words, &mut answer).await,
                "/send" => send(&words, &mut answer).await,
                "/receive" => receive(&words, &mut answer).await,
                "/hoard" => hoard(&mut answer).await,
                "/hoard-streams" => hoard_streams(&words, &mut answer).await,
                "/misuse" => misuse(&mut answer).await,
                _ => Ok(answer.line("ready").await),
            };
            if let Err(error) = done {
                answer.line(&format!("error: {error}")).await;
            }
            drop(to);
            let _ = end.write(Ok(None)).await;
        });
        Ok(response)
    }
}

struct Answer<'a>(&'a mut StreamWriter<u8>);

impl Answer<'_> {
    async fn line(&mut self, text: &str) {
        self.bytes(format!("{text}\n").into_bytes()).await;
    }

    async fn bytes(&mut self, bytes: Vec<u8>) {
        let _ = self.0.write_all(bytes).await;
    }
}

type Done = Result<(), String>;

fn socket(error: ErrorCode) -> String {
    match error {
        ErrorCode::Other(Some(text)) => text,
        error => name(&format!("{error:?}")),
    }
}

fn resolver(error: NameError) -> String {
    name(&format!("{error:?}"))
}

/// `ErrorCode::AccessDenied` as WASI has it: `access-denied`.
fn name(shown: &str) -> String {
    let mut name = String::new();
    for letter in shown.rsplit("::").next().unwrap_or("").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// `NAME`: its addresses.
async fn resolve(name: &str, answer: &mut Answer<'_>) -> Done {
    let found = ip_name_lookup::resolve_addresses(name.to_owned()).await.map_err(resolver)?;
    for address in found {
        answer.line(&show_ip(address).to_string()).await;
    }
    Ok(())
}

fn tcp(like: IpSocketAddress) -> Result<TcpSocket, String> {
    TcpSocket::create(family(like)).map_err(socket)
}

fn local(tcp: &TcpSocket) -> Result<String, String> {
    Ok(show(tcp.get_local_address().map_err(socket)?).to_string())
}

fn remote(tcp: &TcpSocket) -> Result<String, String> {
    Ok(show(tcp.get_remote_address().map_err(socket)?).to_string())
}

/// `ADDRESS[,BIND]`: connects, sends `ping`, and passes on what comes.
async fn connect(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let there = parse(words[0]);
    let tcp = tcp(there)?;
    if let Some(local) = words.get(1) {
        tcp.bind(parse(local)).map_err(socket)?;
    }
    tcp.connect(there).await.map_err(socket)?;
    answer.line(&format!("local {}", local(&tcp)?)).await;
    answer.line(&format!("remote {}", remote(&tcp)?)).await;
    let (mut input, _) = tcp.receive();
    say(&tcp, b"ping\n".to_vec()).await?;
    copy(&mut input, answer.0).await;
    Ok(())
}

/// Sends this, and nothing more.
async fn say(tcp: &TcpSocket, bytes: Vec<u8>) -> Done {
    let (mut to, from) = wit_stream::new();
    let sent = tcp.send(from);
    to.write_all(bytes).await;
    drop(to);
    sent.await.map_err(socket)
}

async fn listener(at: &str, answer: &mut Answer<'_>) -> Result<(TcpSocket, StreamReader<TcpSocket>), String> {
    let at = parse(at);
    let tcp = tcp(at)?;
    tcp.bind(at).map_err(socket)?;
    let _ = tcp.set_listen_backlog_size(1024);
    let clients = tcp.listen().map_err(socket)?;
    answer.line(&format!("listening {}", local(&tcp)?)).await;
    Ok((tcp, clients))
}

/// `ADDRESS`: listens, and answers the first who comes with `pong`.
async fn listen(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let (_listener, mut clients) = listener(words[0], answer).await?;
    let client = clients.next().await.ok_or("no client")?;
    answer.line(&format!("local {}", local(&client)?)).await;
    answer.line(&format!("remote {}", remote(&client)?)).await;
    let (mut input, _) = client.receive();
    copy(&mut input, answer.0).await;
    say(&client, b"pong\n".to_vec()).await
}

/// `ADDRESS,COUNT[,together]`: sends back what so many clients send, one after the other; or waits for all of them first.
async fn echo(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let count: usize = words[1].parse().map_err(|_| "count")?;
    let (_listener, mut clients) = listener(words[0], answer).await?;
    if words.get(2).is_some() {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(clients.next().await.ok_or("no client")?);
        }
        answer.line("all there").await;
        for client in all {
            serve(client).await?;
        }
    } else {
        for _ in 0..count {
            let client = clients.next().await.ok_or("no client")?;
            serve(client).await?;
        }
    }
    answer.line(&format!("served {count}")).await;
    Ok(())
}

async fn serve(client: TcpSocket) -> Done {
    let (mut input, _) = client.receive();
    let (mut to, from) = wit_stream::new();
    let sent = client.send(from);
    // The socket before its streams, which go on.
    drop(client);
    copy(&mut input, &mut to).await;
    drop(to);
    let _ = sent.await;
    Ok(())
}

/// What becomes of calls that make no sense.
async fn misuse(answer: &mut Answer<'_>) -> Done {
    let one = TcpSocket::create(IpAddressFamily::Ipv4).map_err(socket)?;
    tell(answer, "local", local(&one)).await;
    tell(answer, "remote", remote(&one)).await;
    tell(answer, "send", say(&one, Vec::new()).await.map(fine)).await;
    let (mut nothing, end) = one.receive();
    tell(answer, "receive", nothing.next().await.map_or(Ok("nothing".to_owned()), |_| Ok("a byte".to_owned()))).await;
    tell(answer, "its end", end.await.map_err(socket).map(fine)).await;
    for address in [
        "8.8.8.8:1",
        "127.0.0.2:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        let done = one.bind(parse(address)).map_err(socket).map(fine);
        tell(answer, &format!("bind {address}"), done).await;
    }
    tell(answer, "bind", one.bind(parse("0.0.0.0:0")).map_err(socket).map(fine)).await;
    tell(answer, "bind again", one.bind(parse("127.0.0.1:0")).map_err(socket).map(fine)).await;
    let own = one.get_local_address().map_err(socket)?;
    let clients = one.listen();
    tell(answer, "listen", clients.as_ref().map(|_| "fine".to_owned()).map_err(|it| socket(it.clone()))).await;
    tell(answer, "listen again", one.listen().map(drop).map_err(socket).map(fine)).await;
    tell(answer, "connect a listener", one.connect(parse("127.0.0.1:1")).await.map_err(socket).map(fine)).await;
    let two = TcpSocket::create(IpAddressFamily::Ipv4).map_err(socket)?;
    tell(answer, "bind what is taken", two.bind(own).map_err(socket).map(fine)).await;
    for address in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:1", "255.255.255.255:1", "[::1]:1"] {
        let new = TcpSocket::create(IpAddressFamily::Ipv4).map_err(socket)?;
        let done = new.connect(parse(address)).await.map_err(socket).map(fine);
        tell(answer, &format!("connect {address}"), done).await;
    }
    let three = TcpSocket::create(IpAddressFamily::Ipv4).map_err(socket)?;
    let unbound = three.listen().map_err(socket);
    let at = local(&three).map(|it| it.starts_with("0.0.0.0:").to_string());
    tell(answer, "listen unbound", unbound.map(|_| "fine".to_owned())).await;
    tell(answer, "at any address", at).await;
    let udp = UdpSocket::create(IpAddressFamily::Ipv4).map_err(socket)?;
    let shown = |udp: &UdpSocket| udp.get_local_address().map(|it| show(it).to_string());
    tell(answer, "udp local", shown(&udp).map_err(socket)).await;
    tell(answer, "udp receive", udp.receive().await.map_err(socket).map(|_| "a datagram".to_owned())).await;
    tell(answer, "udp bind 8.8.8.8:1", udp.bind(parse("8.8.8.8:1")).map_err(socket).map(fine)).await;
    tell(answer, "udp disconnect", udp.disconnect().map_err(socket).map(fine)).await;
    tell(answer, "udp send to nobody", udp.send(vec![0], None).await.map_err(socket).map(fine)).await;
    tell(answer, "udp send unbound", udp.send(vec![0], Some(parse("127.0.0.1:9"))).await.map_err(socket).map(fine)).await;
    let at = shown(&udp).map(|it| it.starts_with("0.0.0.0:").to_string()).map_err(socket);
    tell(answer, "udp at any address", at).await;
    tell(answer, "udp bind again", udp.bind(parse("0.0.0.0:0")).map_err(socket).map(fine)).await;
    tell(answer, "udp remote", udp.get_remote_address().map(|it| show(it).to_string()).map_err(socket)).await;
    for (size, address) in [
        (1, "0.0.0.0:1"),
        (1, "169.254.169.254:1"),
        (1, "127.0.0.53:53"),
        (1, "255.255.255.255:1"),
        (1, "[::1]:1"),
        (1, "127.0.0.1:0"),
        (65_536, "127.0.0.1:1"),
    ] {
        let done = udp.send(vec![0; size], Some(parse(address))).await.map_err(socket).map(fine);
        tell(answer, &format!("udp send {size} to {address}"), done).await;
    }
    Ok(())
}

async fn tell(answer: &mut Answer<'_>, what: &str, done: Result<String, String>) {
    let text = done.unwrap_or_else(|error| error);
    answer.line(&format!("{what}: {text}")).await;
}

fn fine(_: ()) -> String {
    "fine".to_owned()
}

/// `ADDRESS,BIND[,connected]`: sends `ping`, waits for the answer. Without a word for `BIND` the socket is not bound.
async fn send(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let there = parse(words[0]);
    let udp = UdpSocket::create(family(there)).map_err(socket)?;
    if !words[1].is_empty() {
        udp.bind(parse(words[1])).map_err(socket)?;
    }
    let is_connected = words.get(2).is_some();
    if is_connected {
        udp.connect(there).map_err(socket)?;
    }
    if !words[1].is_empty() {
        answer.line(&format!("local {}", show(udp.get_local_address().map_err(socket)?))).await;
    }
    if is_connected {
        answer.line(&format!("remote {}", show(udp.get_remote_address().map_err(socket)?))).await;
    }
    let to = (!is_connected).then_some(there);
    udp.send(b"ping".to_vec(), to).await.map_err(socket)?;
    let (bytes, from) = udp.receive().await.map_err(socket)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    answer.line(&format!("{text} from {}", show(from))).await;
    Ok(())
}

/// `BIND`: answers the first datagram with `pong`.
async fn receive(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let at = parse(words[0]);
    let udp = UdpSocket::create(family(at)).map_err(socket)?;
    udp.bind(at).map_err(socket)?;
    answer.line(&format!("local {}", show(udp.get_local_address().map_err(socket)?))).await;
    let (bytes, from) = udp.receive().await.map_err(socket)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    answer.line(&format!("{text} from {}", show(from))).await;
    udp.send(b"pong".to_vec(), Some(from)).await.map_err(socket)
}

/// Makes sockets until it gets no more.
async fn hoard(answer: &mut Answer<'_>) -> Done {
    let mut sockets = Vec::new();
    loop {
        match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                answer.line(&sockets.len().to_string()).await;
                return Err(socket(error));
            }
        }
    }
}

/// `ADDRESS`: connects until it gets no more sockets; it drops each, and keeps what it receives.
async fn hoard_streams(words: &[&str], answer: &mut Answer<'_>) -> Done {
    let there = parse(words[0]);
    let mut streams: Vec<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> = Vec::new();
    loop {
        let connected = match tcp(there) {
            Ok(tcp) => tcp.connect(there).await.map(|()| tcp.receive()).map_err(socket),
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => streams.push(stream),
            Err(error) => {
                answer.line(&streams.len().to_string()).await;
                return Err(error);
            }
        }
    }
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

fn family(address: IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

fn parse(text: &str) -> IpSocketAddress {
    match text.parse().expect("address") {
        SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            let address = Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) };
            IpSocketAddress::Ipv4(address)
        }
        SocketAddr::V6(address) => {
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

fn show(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(it) => (show_ip(IpAddress::Ipv4(it.address)), it.port).into(),
        IpSocketAddress::Ipv6(it) => (show_ip(IpAddress::Ipv6(it.address)), it.port).into(),
    }
}

fn show_ip(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => [a, b, c, d].into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => [a, b, c, d, e, f, g, h].into(),
    }
}
