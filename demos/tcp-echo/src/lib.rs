//! A server that sends back what it gets, and its client: `serve PORT`, or `ask NAME PORT LINE…`.

use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

struct Echo;

wasip2::cli::command::export!(Echo);

impl wasip2::exports::cli::run::Guest for Echo {
    fn run() -> Result<(), ()> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = match words[..] {
            ["serve", port] => serve(port.parse().expect("port")),
            ["ask", name, port, ref lines @ ..] => ask(name, port.parse().expect("port"), lines),
            _ => Err("serve PORT, or ask NAME PORT LINE...".to_owned()),
        };
        done.map_err(|error| eprintln!("{error}"))
    }
}

fn named(error: ErrorCode) -> String {
    error.name().to_owned()
}

/// A client of the server; its streams go before its socket.
struct Client {
    input: InputStream,
    output: OutputStream,
    _socket: TcpSocket,
}

fn serve(port: u16) -> Result<(), String> {
    let anywhere = Ipv4SocketAddress { port, address: (0, 0, 0, 0) };
    let listener = create_tcp_socket(IpAddressFamily::Ipv4).map_err(named)?;
    let network = instance_network();
    listener.start_bind(&network, IpSocketAddress::Ipv4(anywhere)).map_err(named)?;
    listener.finish_bind().map_err(named)?;
    listener.start_listen().map_err(named)?;
    listener.finish_listen().map_err(named)?;
    println!("listening on port {port}");
    let mut clients: Vec<Client> = Vec::new();
    loop {
        wait(&listener, &clients);
        clients.retain(echo);
        while let Ok((socket, input, output)) = listener.accept() {
            clients.push(Client { input, output, _socket: socket });
        }
    }
}

/// Until somebody comes, or says something.
fn wait(listener: &TcpSocket, clients: &[Client]) {
    let mut events: Vec<Pollable> = clients.iter().map(|it| it.input.subscribe()).collect();
    events.push(listener.subscribe());
    poll(&events.iter().collect::<Vec<_>>());
}

/// Sends back what a client has said by now; false once it has gone.
fn echo(client: &Client) -> bool {
    match client.input.read(4096) {
        Ok(bytes) => client.output.blocking_write_and_flush(&bytes).is_ok(),
        Err(_) => false,
    }
}

fn ask(name: &str, port: u16, lines: &[&str]) -> Result<(), String> {
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: address_of(name)? });
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(named)?;
    socket.start_connect(&instance_network(), address).map_err(named)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().map_err(named)?;
    for line in lines {
        output
            .blocking_write_and_flush(format!("{line}\n").as_bytes())
            .map_err(|error| error.to_string())?;
    }
    socket.shutdown(ShutdownType::Send).map_err(named)?;
    loop {
        match input.blocking_read(4096) {
            Ok(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The first IPv4 address of a name.
fn address_of(name: &str) -> Result<(u8, u8, u8, u8), String> {
    let found = resolve_addresses(&instance_network(), name).map_err(named)?;
    loop {
        match found.resolve_next_address() {
            Ok(Some(IpAddress::Ipv4(address))) => return Ok(address),
            Ok(Some(IpAddress::Ipv6(_))) => {}
            Ok(None) => return Err(format!("{name} has no IPv4 address")),
            Err(ErrorCode::WouldBlock) => found.subscribe().block(),
            Err(error) => return Err(named(error)),
        }
    }
}
