//! The interfaces of WASI that components may import.

/// Interfaces of WASI 0.2 that the linker defines (a test compares), without versions.
const P2_INTERFACES: [&str; 30] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:config/store",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Interfaces of WASI 0.3 that the linker of concurrent engines defines (a test compares), without versions.
const P3_INTERFACES: [&str; 21] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    // Closed to guests: their calls fail.
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/types",
];

/// Whether the host has this import of a component.
pub fn is_provided(import: &str) -> bool {
    is_p2_interface(import)
        || p3_interface(import).is_some_and(|name| P3_INTERFACES.contains(&name))
}

fn is_p2_interface(import: &str) -> bool {
    import
        .split_once('@')
        .is_some_and(|(name, version)| version.starts_with("0.2.") && P2_INTERFACES.contains(&name))
}

/// The interface of a name of a release of WASI 0.3. A draft's name fits that draft only.
pub fn p3_interface(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let is_release = version.starts_with("0.3.") && !version.contains('-');
    (is_release && interface.starts_with("wasi:")).then_some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Linkers;
    use crate::protocol::Kind;
    use crate::settings::Flavour;
    use wasmtime::Module;
    use wasmtime::component::Component;

    /// A resource of the interface, or else a function: what the linker must have if it has the interface.
    #[test]
    fn the_linker_defines_every_listed_interface() {
        let flavour = Flavour::Concurrent;
        let engine = crate::settings::compiling(flavour).expect("engine");
        let linkers = Linkers::new(&engine, flavour).expect("linkers");
        let older = P2_INTERFACES.map(|name| (name, "0.2.0"));
        let newer = P3_INTERFACES.map(|name| (name, "0.3.0"));
        for (interface, version) in older.into_iter().chain(newer) {
            let text = format!(
                r#"(component (import "{interface}@{version}" (instance (export "no-such" (func)))))"#
            );
            let component =
                Component::new(&engine, wat::parse_str(text).expect("wat")).expect("component");
            let error = linkers
                .component(&component, Kind::Command, None)
                .err()
                .expect("no such function");
            // An interface that it has not at all is told in other words.
            let told = format!("{error:?}");
            assert!(told.contains("no-such"), "{interface}: {told}");
        }
        let module = Module::new(
            &engine,
            wat::parse_str(r#"(module (func (export "_start")))"#).expect("wat"),
        );
        assert!(linkers.module(&module.expect("module"), None).is_ok());
    }
}
