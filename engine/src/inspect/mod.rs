//! What a file is: decided from its bytes alone, before anything is compiled.
//!
//! - `binary`: the names on its outside; `interfaces`: which of them the host has; `functions`: what of it can be called;
//!   `weight`: what its instances take of the engine

mod binary;
mod functions;
mod interfaces;
mod weight;

pub use binary::{Binary, read};

use crate::command::ENTRY_POINT;
use crate::guest::Guest;
use crate::program::{Linkers, P0, P1};
use crate::protocol::{Error, ErrorReason, Format, Inspected, Kind, Wasi};
use crate::settings::{self, Flavour};
use interfaces::{is_provided, p3_interface};
use wasmtime::Store;

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
            Format::Component => !is_provided(name),
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

/// A few names for a message.
fn enumerate(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        0 => "nothing".to_owned(),
        count if count <= SHOWN => names.join(", "),
        count => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
