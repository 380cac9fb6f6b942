//! The names on a binary's outside, read from its bytes; what is no WebAssembly is refused, and told what it is.

use crate::inspect::weight;
use crate::protocol::{Error, ErrorReason, Format};
use wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType};
use wasmparser::types::Types;
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload, Validator, WasmFeatures};

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
    if let Ok(Some(weight)) = weight::excess(bytes) {
        return Err(malformed(format!(
            "the instances of the WebAssembly binary would take {} MiB for their globals and functions, \
             more than a guest may have",
            weight >> 20
        )));
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

    /// A command and a server.
    const GUESTS: [&[u8]; 2] = [
        br#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (func (export "_start")))"#,
        include_bytes!("../../../tests/http-guest/http-guest.wasm"),
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
