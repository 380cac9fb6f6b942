//! What a file is: decided from its bytes alone, before anything is compiled.

use crate::command::ENTRY_POINT;
use crate::functions;
use crate::guest::Guest;
use crate::program::{Linkers, P0, P1};
use crate::protocol::{Error, ErrorReason, Format, Inspected, Kind, Wasi};
use crate::settings::{self, Flavour};
use wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType};
use wasmparser::types::Types;
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload, Validator, WasmFeatures};
use wasmtime::Store;

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

/// The names on a binary's outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// How it is packed.
    pub format: Format,
    /// Module and name; of a component's import only a name, and only what has to be linked.
    pub imports: Vec<(String, String)>,
    /// Names.
    pub exports: Vec<String>,
}

/// Reads the names; refuses what is not WebAssembly or is broken.
pub fn read(bytes: &[u8]) -> Result<Binary, Error> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Error::new(ErrorReason::NotWasm, not_wasm(bytes)));
    }
    let malformed = |message| Error::new(ErrorReason::Malformed, message);
    let binary = read_names(bytes).map_err(|error| {
        malformed(format!(
            "the WebAssembly binary is truncated or invalid: {error}"
        ))
    })?;
    if shares_memory(bytes).unwrap_or(false) {
        return Err(malformed(
            "the WebAssembly binary has memory that threads share, and guests have no threads; \
             build it without them"
                .to_owned(),
        ));
    }
    Ok(binary)
}

fn shares_memory(bytes: &[u8]) -> Result<bool, BinaryReaderError> {
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::MemorySection(section) = payload? {
            for memory in section {
                if memory?.shared {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn read_names(bytes: &[u8]) -> Result<Binary, BinaryReaderError> {
    let mut binary = Binary {
        format: Format::Module,
        imports: Vec::new(),
        exports: Vec::new(),
    };
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Component {
                    binary.format = Format::Component;
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth != 1 => {}
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    binary
                        .imports
                        .push((import.module.to_owned(), import.name.to_owned()));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    binary.exports.push(export?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    binary
                        .imports
                        .push((String::new(), import?.name.name.to_owned()));
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    binary.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    if binary.format == Format::Component {
        // What of the features wasmtime does not have is found when it compiles.
        let types = Validator::new_with_features(WasmFeatures::all()).validate_all(bytes)?;
        binary
            .imports
            .retain(|(_, name)| needs_linking(&types, name));
    }
    Ok(binary)
}

/// False for an interface of which only types are used: it has no definition anywhere.
fn needs_linking(types: &Types, import: &str) -> bool {
    let is_bare_type = |entity: &ComponentEntityType| matches!(entity, ComponentEntityType::Type { created, .. } if !matches!(created, ComponentAnyTypeId::Resource(_)));
    match types.component_item_for_import(import).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(id)) => !types[id]
            .exports
            .values()
            .all(|item| is_bare_type(&item.ty)),
        Some(entity) => !is_bare_type(&entity),
        None => true,
    }
}

impl Binary {
    /// As [`Binary::kind`], if `function` is called in the place of the usual export.
    pub fn kind_of(&self, function: Option<&str>) -> Result<Kind, Error> {
        match function {
            None => self.kind(),
            Some(function) if self.exports.iter().any(|name| name == function) => Ok(Kind::Command),
            Some(function) => {
                let what = self.format_name();
                let exports = enumerate(&self.exports);
                let text =
                    format!("the {what} exports no function {function}; it exports {exports}");
                Err(Error::new(ErrorReason::NoEntryPoint, text))
            }
        }
    }

    fn format_name(&self) -> &'static str {
        match self.format {
            Format::Module => "module",
            Format::Component => "component",
        }
    }

    /// What it runs as; refuses what is nothing that can be run, and says what it is instead.
    pub fn kind(&self) -> Result<Kind, Error> {
        let refuse = |message: String| Err(Error::new(ErrorReason::NoEntryPoint, message));
        let exports = |start: &str| self.exports.iter().any(|name| name.starts_with(start));
        match self.format {
            Format::Module if self.is_actor() => refuse(
                "the module is a waPC or waSCC actor, a kind which this version of wasmlet does not serve yet".into(),
            ),
            Format::Module if !self.exports.iter().any(|name| name == ENTRY_POINT) => refuse(format!(
                "the module has no {ENTRY_POINT} function; it exports {}; build it as a command, not as a library",
                enumerate(&self.exports)
            )),
            Format::Module => Ok(Kind::Command),
            Format::Component if exports("wasi:http/incoming-handler@0.2.") => Ok(Kind::Http),
            Format::Component if self.exports_p3("wasi:http/handler") => Ok(Kind::Http),
            Format::Component if exports("wasi:cli/run@0.2.") => Ok(Kind::Command),
            Format::Component if self.exports_p3("wasi:cli/run") => Ok(Kind::Command),
            Format::Component if exports("wasi:http/handler@0.3") || exports("wasi:cli/run@0.3") => refuse(format!(
                "the component is built for a draft of WASI 0.3 and exports {}; \
                 this version of wasmlet runs WASI 0.3.0 (experimental) and 0.2, and no drafts",
                enumerate(&self.exports)
            )),
            Format::Component => refuse(format!(
                "the component exports neither wasi:cli/run@0.2 nor wasi:http/incoming-handler@0.2, nor what stands \
                 for them in WASI 0.3; it exports {}; build it for wasm32-wasip2",
                enumerate(&self.exports)
            )),
        }
    }

    /// Whether it exports this interface of a release of WASI 0.3.
    fn exports_p3(&self, interface: &str) -> bool {
        self.exports
            .iter()
            .any(|name| p3_interface(name) == Some(interface))
    }

    /// What it needs to run on.
    pub fn flavour(&self) -> Flavour {
        if self.wasi() == Wasi::P3 {
            Flavour::Concurrent
        } else {
            Flavour::Sequential
        }
    }

    /// Which WASI it was built for.
    pub fn wasi(&self) -> Wasi {
        let imports = |name: &str| self.imports.iter().any(|(module, _)| module == name);
        let imported = self.imports.iter().map(|(_, name)| name);
        let mut names = imported.chain(&self.exports);
        match self.format {
            Format::Component if names.any(|name| p3_interface(name).is_some()) => Wasi::P3,
            Format::Component => Wasi::P2,
            Format::Module if imports(P1) => Wasi::P1,
            Format::Module if imports(P0) => Wasi::P0,
            Format::Module => Wasi::None,
        }
    }

    /// Refuses imports that nothing provides, naming all; `defines` knows the core modules' ones.
    pub fn require_imports(&self, defines: impl FnMut(&str, &str) -> bool) -> Result<(), Error> {
        let missing = self.missing(defines);
        if missing.is_empty() {
            return Ok(());
        }
        let what = self.format_name();
        let message = format!(
            "the {what} imports {}, which no host of this engine provides; \
             build it for WASI (wasm32-wasip1 or wasm32-wasip2)",
            missing.join(", ")
        );
        Err(Error::new(ErrorReason::MissingImport, message))
    }

    /// The imports that nothing provides.
    fn missing(&self, mut defines: impl FnMut(&str, &str) -> bool) -> Vec<String> {
        self.import_names(|module, name| match self.format {
            Format::Module => !defines(module, name),
            Format::Component => !is_p2_interface(name) && !is_p3_interface(name),
        })
    }

    fn import_names(&self, mut are_meant: impl FnMut(&str, &str) -> bool) -> Vec<String> {
        let mut names: Vec<String> = self
            .imports
            .iter()
            .filter(|(module, name)| are_meant(module, name))
            .map(|(module, name)| {
                if module.is_empty() {
                    name.clone()
                } else {
                    format!("{module}.{name}")
                }
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The newest release among the names of WASI's interfaces.
    fn wasi_version(&self) -> String {
        let names = self.imports.iter().map(|(_, name)| name);
        names
            .chain(&self.exports)
            .filter_map(|name| name.strip_prefix("wasi:")?.split_once('@'))
            // A draft's number is no release's.
            .filter(|(_, version)| !version.contains('-'))
            .max_by_key(|(_, version)| {
                let numbers = version
                    .split('.')
                    .map(|number| number.parse::<u32>().unwrap_or(0));
                numbers.collect::<Vec<u32>>()
            })
            .map(|(_, version)| version.to_owned())
            .unwrap_or_default()
    }

    fn is_actor(&self) -> bool {
        self.imports
            .iter()
            .any(|(module, _)| module.starts_with("wapc") || module.starts_with("wasmbus"))
    }
}

/// All that can be said of a file without compiling it.
pub fn describe(bytes: &[u8]) -> Result<Inspected, Error> {
    let binary = read(bytes)?;
    let internal = |error: wasmtime::Error| Error::new(ErrorReason::Internal, format!("{error:?}"));
    let flavour = Flavour::Sequential;
    let engine = settings::serving(flavour).map_err(internal)?;
    let linkers = Linkers::new(&engine, flavour).map_err(internal)?;
    let mut store = Store::new(&engine, Guest::empty());
    let mut defines = |module: &str, name: &str| linkers.defines(&mut store, module, name);
    let kind = binary.kind();
    let problem = kind
        .clone()
        .and_then(|_| binary.require_imports(&mut defines));
    let problem = problem.map_or_else(|error| error.message, |()| String::new());
    Ok(Inspected {
        kind: kind.ok(),
        format: binary.format,
        wasi: binary.wasi(),
        wasi_version: binary.wasi_version(),
        experimental: binary.wasi() == Wasi::P3,
        bytes: bytes.len() as u64,
        imports: binary.import_names(|_, _| true),
        missing: binary.missing(&mut defines),
        functions: functions::callable(bytes, &binary.exports),
        exports: binary.exports,
        problem,
    })
}

fn is_p2_interface(import: &str) -> bool {
    import
        .split_once('@')
        .is_some_and(|(name, version)| version.starts_with("0.2.") && P2_INTERFACES.contains(&name))
}

/// The interface of a name of a release of WASI 0.3. A draft's name fits that draft only.
fn p3_interface(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let is_release = version.starts_with("0.3.") && !version.contains('-');
    (is_release && interface.starts_with("wasi:")).then_some(interface)
}

fn is_p3_interface(import: &str) -> bool {
    p3_interface(import).is_some_and(|name| P3_INTERFACES.contains(&name))
}

/// A few names for a message.
fn enumerate(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        0 => "nothing".to_owned(),
        count if count <= SHOWN => names.join(", "),
        count => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
    }
}

fn not_wasm(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(512)];
    let what = if head.is_empty() {
        "it is empty"
    } else if b"\0asm".starts_with(head) {
        "it ends within the first four bytes"
    } else if head.starts_with(b"\x7fELF") {
        "it is an ELF executable, a program for Linux; compile its source for wasm32-wasip1 or wasm32-wasip2"
    } else if head.starts_with(b"#!") {
        "it is a script; only WebAssembly can be run"
    } else if head.starts_with(b"\x1f\x8b") {
        "it is gzip-compressed"
    } else if head.trim_ascii_start().starts_with(b"(module")
        || head.trim_ascii_start().starts_with(b"(component")
    {
        "it is WebAssembly text; translate it with `wasm-tools parse` or `wat2wasm`"
    } else if std::str::from_utf8(head).is_ok_and(|text| !text.contains('\0')) {
        "it is text"
    } else {
        "it does not begin as a WebAssembly binary does"
    };
    format!("the file is not WebAssembly: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Module;
    use wasmtime::component::Component;

    #[test]
    fn an_interface_of_types_only_has_not_to_be_linked() {
        let text = r#"(component
            (import "my:own/types@0.1.0" (instance (type $r (record (field "a" u32))) (export "r" (type (eq $r)))))
            (import "my:own/things@0.1.0" (instance (export "thing" (type (sub resource)))))
            (import "my:own/calls@0.1.0" (instance (export "call" (func)))))"#;
        let binary = read(&wat::parse_str(text).expect("wat")).expect("component");
        let names: Vec<&str> = binary
            .imports
            .iter()
            .map(|(_, name)| name.as_str())
            .collect();
        assert_eq!(names, ["my:own/things@0.1.0", "my:own/calls@0.1.0"]);
    }

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

    #[test]
    fn drafts_of_wasi_0_3_are_refused_by_name() {
        let described =
            |text: &str| describe(&wat::parse_str(text).expect("wat")).expect("component");
        let draft = "0.3.0-rc-2026-03-15";
        let stdout =
            format!(r#"(import "wasi:cli/stdout@{draft}" (instance (export "write" (func))))"#);
        let run = |version| {
            format!(r#"(instance $run) (export "wasi:cli/run@{version}" (instance $run))"#)
        };
        let both = described(&format!("(component {stdout} {})", run(draft)));
        assert_eq!(
            (both.kind, both.wasi, both.experimental),
            (None, Wasi::P2, false)
        );
        assert!(
            both.problem.contains(&format!("wasi:cli/run@{draft}")),
            "{}",
            both.problem
        );
        assert_eq!(both.missing, [format!("wasi:cli/stdout@{draft}")]);
        let one = described(&format!("(component {stdout} {})", run("0.3.9")));
        assert_eq!(
            (one.kind, one.wasi, one.experimental),
            (Some(Kind::Command), Wasi::P3, true)
        );
        assert!(one.problem.contains(&one.missing[0]), "{}", one.problem);
        let served = format!(
            r#"(component (instance $it) (export "wasi:http/handler@{draft}" (instance $it)))"#
        );
        assert_eq!(described(&served).kind, None);
    }

    /// A command and a server.
    const GUESTS: [&[u8]; 2] = [
        br#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (func (export "_start")))"#,
        include_bytes!("../../tests/http-guest/http-guest.wasm"),
    ];

    fn guests() -> Vec<Vec<u8>> {
        let binary = |guest: &&[u8]| wat::parse_bytes(guest).expect("wat").into_owned();
        GUESTS.iter().map(binary).collect()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

        #[test]
        fn any_bytes_are_described_or_refused(bytes in proptest::collection::vec(0..=255_u8, 0..300), head in 0..3) {
            let heads: [&[u8]; 3] = [b"", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"];
            let _ = read(&[heads[head as usize], &bytes].concat()).map(|it| (it.kind(), it.wasi(), it.wasi_version()));
        }

        #[test]
        fn broken_guests_are_described_or_refused(
            which in 0..2_usize,
            changes in proptest::collection::vec((proptest::num::usize::ANY, 0..=255_u8), 0..6),
            end in proptest::num::usize::ANY,
            is_cut in proptest::bool::weighted(0.2),
        ) {
            let mut bytes = guests().swap_remove(which);
            let length = bytes.len();
            for (at, byte) in changes {
                // Most of what is said of a guest is near its ends.
                let near = at % 2000.min(length);
                let at = if at % 3 == 0 { length - 1 - near } else { near };
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(end % length);
            }
            let _ = read(&bytes).map(|it| (it.kind(), it.wasi(), it.wasi_version(), it.missing(|_, _| false)));
        }
    }
}
