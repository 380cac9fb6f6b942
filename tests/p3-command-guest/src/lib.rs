//! The WASI 0.3 command of the tests: its first argument is what it does. It uses the interfaces of WASI 0.3 alone.

use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::random::random;
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_stream};

wasip3::cli::command::export!(Guest);

struct Guest;

impl wasip3::exports::cli::run::Guest for Guest {
    async fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
        let number = || argument(2).parse().unwrap_or(0_u64);
        match argument(1) {
            "" => print("Hello from WASI 0.3!\n").await,
            "fail" => return Err(()),
            "exit" => exit::exit_with_code(number() as u8),
            "trap" => core::arch::wasm32::unreachable(),
            "spin" => loop {
                core::hint::black_box(0);
            },
            "environment" => {
                let mut lines: Vec<String> = environment::get_environment()
                    .into_iter()
                    .map(|(name, value)| format!("{name}={value}\n"))
                    .collect();
                lines.sort();
                print(&lines.concat()).await;
            }
            // Says when it begins and when it ends.
            "sleep" => {
                print("sleeping\n").await;
                monotonic_clock::wait_for(number() * 1_000_000).await;
                print("slept\n").await;
            }
            "clocks" => {
                let now = system_clock::now().seconds;
                let is_random = random::get_random_u64() != random::get_random_u64();
                print(&format!("{} {is_random}\n", now > 1_700_000_000)).await;
            }
            // Stdin to stdout.
            "cat" => {
                let (mut input, end) = stdin::read_via_stream();
                let (mut to, from) = wit_stream::new();
                let written = stdout::write_via_stream(from);
                spawn_local(async move {
                    copy(&mut input, &mut to).await;
                });
                let _ = written.await;
                let _ = end.await;
            }
            // So many bytes in lines of a hundred.
            "flood" => {
                let (mut to, from) = wit_stream::new();
                let written = stdout::write_via_stream(from);
                let line = [vec![b'x'; 99], vec![b'\n']].concat();
                for _ in 0..number() / 100 {
                    to.write_all(line.clone()).await;
                }
                drop(to);
                let _ = written.await;
            }
            "allocate" => {
                let bytes = vec![1_u8; number() as usize];
                let sum: u64 = bytes.iter().map(|&it| u64::from(it)).sum();
                print(&format!("{sum}\n")).await;
            }
            // Streams, as many as there can be.
            "hoard" => loop {
                std::mem::forget(wit_stream::new::<u8>());
            },
            "read" => print(&read(argument(2)).await).await,
            "write" => print(&format!("{:?}\n", write(argument(2), argument(3)).await)).await,
            "resolve" => {
                let found = ip_name_lookup::resolve_addresses(argument(2).to_owned()).await;
                print(&format!("{:?}\n", found.map(|it| it.len()))).await;
            }
            // To the machine's own address, at a port.
            "connect" => {
                let address = IpSocketAddress::Ipv4(Ipv4SocketAddress {
                    port: number() as u16,
                    address: (127, 0, 0, 1),
                });
                let connected = match TcpSocket::create(IpAddressFamily::Ipv4) {
                    Ok(socket) => socket.connect(address).await,
                    Err(error) => Err(error),
                };
                print(&format!("{connected:?}\n")).await;
            }
            other => print(&format!("what is {other}?\n")).await,
        }
        Ok(())
    }
}

async fn print(text: &str) {
    let (mut to, from) = wit_stream::new();
    let written = stdout::write_via_stream(from);
    to.write_all(text.as_bytes().to_vec()).await;
    drop(to);
    let _ = written.await;
}

async fn copy(from: &mut StreamReader<u8>, to: &mut StreamWriter<u8>) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let (result, bytes) = from.read(buffer).await;
        let StreamResult::Complete(_) = result else { return };
        let left = to.write_all(bytes).await;
        if !left.is_empty() {
            return;
        }
        buffer = Vec::with_capacity(16 * 1024);
    }
}

/// A directory that the host opens, and the path below it.
fn place(path: &str) -> (Descriptor, String) {
    let mut found = preopens::get_directories();
    found.sort_by_key(|(_, name)| std::cmp::Reverse(name.len()));
    for (directory, name) in found {
        if let Some(rest) = path.strip_prefix(&name) {
            return (directory, rest.trim_start_matches('/').to_owned());
        }
    }
    panic!("no directory for {path}")
}

async fn read(path: &str) -> String {
    let (directory, path) = place(path);
    let opened = directory
        .open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ)
        .await;
    match opened {
        Err(error) => format!("{error:?}\n"),
        Ok(file) => {
            let (stream, end) = file.read_via_stream(0);
            let bytes = stream.collect().await;
            let _ = end.await;
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

async fn write(path: &str, text: &str) -> Result<(), wasip3::filesystem::types::ErrorCode> {
    let (directory, path) = place(path);
    let file = directory
        .open_at(PathFlags::empty(), path, OpenFlags::CREATE, DescriptorFlags::WRITE)
        .await?;
    let (mut to, from) = wit_stream::new();
    let written = file.write_via_stream(from, 0);
    to.write_all(text.as_bytes().to_vec()).await;
    drop(to);
    written.await
}
