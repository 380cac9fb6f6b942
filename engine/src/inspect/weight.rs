//! What the instances of a binary take beside their memories and tables: an entry for each of their globals, and for each
//! function that they import, export or have in an element. The engine holds these, and no limit of a container counts them.

use crate::memory::INSTANCES;
use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, ElementItems, Encoding, Instance, Parser, Payload,
};

/// More than any entry takes.
const ENTRY_BYTES: u64 = 48;

/// What all instances of a guest may take. Those of Python's interpreter and its libraries have some megabytes.
const MOST_BYTES: u64 = 64 << 20;

/// A module or a component that is being read.
struct Scope {
    encoding: Encoding,
    /// What an instance of it takes.
    entries: u64,
    /// What an instance of each module takes that it knows, by index.
    modules: Vec<u64>,
    /// The same of components.
    components: Vec<u64>,
}

impl Scope {
    fn new(encoding: Encoding) -> Self {
        let (modules, components) = (Vec::new(), Vec::new());
        Self {
            encoding,
            entries: 0,
            modules,
            components,
        }
    }

    fn add(&mut self, entries: u64) {
        self.entries = self.entries.saturating_add(entries);
    }
}

/// The bytes that its instances would take, if that is more than they may.
pub fn excess(binary: &[u8]) -> Result<Option<u64>, BinaryReaderError> {
    let bytes = entries(binary)?.saturating_mul(ENTRY_BYTES);
    Ok((bytes > MOST_BYTES).then_some(bytes))
}

/// Entries of all the instances that one of this binary consists of.
fn entries(binary: &[u8]) -> Result<u64, BinaryReaderError> {
    let heaviest = heaviest_module(binary)?;
    // A store makes no more instances, whatever a binary asks for.
    let most = heaviest.saturating_mul(INSTANCES as u64);
    let mut scopes: Vec<Scope> = Vec::new();
    for payload in Parser::new(0).parse_all(binary) {
        let payload = payload?;
        match payload {
            Payload::Version { encoding, .. } => scopes.push(Scope::new(encoding)),
            Payload::End(_) => {
                let Some(ended) = scopes.pop() else { break };
                match (scopes.last_mut(), ended.encoding) {
                    (None, _) => return Ok(ended.entries.min(most)),
                    (Some(outer), Encoding::Module) => outer.modules.push(ended.entries),
                    (Some(outer), Encoding::Component) => outer.components.push(ended.entries),
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    note_alias(&mut scopes, &alias?, heaviest, most);
                }
            }
            _ => {
                if let Some(scope) = scopes.last_mut() {
                    note_section(scope, payload, heaviest, most)?;
                }
            }
        }
    }
    Ok(0)
}

/// Modules and components that come from elsewhere are taken to be as heavy as any.
fn note_alias(scopes: &mut [Scope], alias: &ComponentAlias<'_>, heaviest: u64, most: u64) {
    let (mut module, mut component) = (None, None);
    match *alias {
        ComponentAlias::InstanceExport { kind, .. } => match kind {
            ComponentExternalKind::Module => module = Some(heaviest),
            ComponentExternalKind::Component => component = Some(most),
            _ => {}
        },
        ComponentAlias::Outer { kind, count, index } => {
            let outer = scopes.iter().rev().nth(count as usize);
            let index = index as usize;
            match kind {
                ComponentOuterAliasKind::CoreModule => {
                    module = outer.and_then(|it| it.modules.get(index).copied());
                }
                ComponentOuterAliasKind::Component => {
                    component = outer.and_then(|it| it.components.get(index).copied());
                }
                _ => {}
            }
        }
        ComponentAlias::CoreInstanceExport { .. } => {}
    }
    if let Some(scope) = scopes.last_mut() {
        scope.modules.extend(module);
        scope.components.extend(component);
    }
}

fn note_section(
    scope: &mut Scope,
    payload: Payload<'_>,
    heaviest: u64,
    most: u64,
) -> Result<(), BinaryReaderError> {
    match payload {
        Payload::ComponentImportSection(section) => {
            for import in section {
                match import?.ty {
                    ComponentTypeRef::Module(_) => scope.modules.push(heaviest),
                    ComponentTypeRef::Component(_) => scope.components.push(most),
                    _ => {}
                }
            }
        }
        Payload::ComponentExportSection(section) => {
            // An export is a further name, with an index of its own.
            for export in section {
                let export = export?;
                let index = export.index as usize;
                match export.kind {
                    ComponentExternalKind::Module => {
                        scope.modules.extend(scope.modules.get(index).copied());
                    }
                    ComponentExternalKind::Component => {
                        scope
                            .components
                            .extend(scope.components.get(index).copied());
                    }
                    _ => {}
                }
            }
        }
        Payload::InstanceSection(section) => {
            for instance in section {
                if let Instance::Instantiate { module_index, .. } = instance? {
                    let entries = scope.modules.get(module_index as usize).copied();
                    scope.add(entries.unwrap_or(heaviest));
                }
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section {
                if let ComponentInstance::Instantiate {
                    component_index, ..
                } = instance?
                {
                    let entries = scope.components.get(component_index as usize).copied();
                    scope.add(entries.unwrap_or(most));
                }
            }
        }
        payload => scope.add(of_section(payload)?),
    }
    Ok(())
}

/// Entries that a section of a core module makes.
fn of_section(payload: Payload<'_>) -> Result<u64, BinaryReaderError> {
    Ok(match payload {
        Payload::ImportSection(section) => section.into_imports().count() as u64,
        Payload::GlobalSection(section) => section.count().into(),
        Payload::ExportSection(section) => section.count().into(),
        Payload::ElementSection(section) => {
            let mut items = 0;
            for element in section {
                items += u64::from(match element?.items {
                    ElementItems::Functions(section) => section.count(),
                    ElementItems::Expressions(_, section) => section.count(),
                });
            }
            items
        }
        _ => 0,
    })
}

fn heaviest_module(binary: &[u8]) -> Result<u64, BinaryReaderError> {
    let (mut heaviest, mut entries) = (0, 0_u64);
    for payload in Parser::new(0).parse_all(binary) {
        match payload? {
            Payload::Version { .. } => entries = 0,
            payload => entries += of_section(payload)?,
        }
        heaviest = heaviest.max(entries);
    }
    Ok(heaviest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> u64 {
        entries(&wat::parse_str(text).expect("wat")).expect("binary")
    }

    const MODULE: &str = r#"(import "a" "b" (func)) (func $f) (global i32 (i32.const 0)) (global i32 (i32.const 1))
        (table 2 funcref) (elem (i32.const 0) $f $f) (export "f" (func $f))"#;

    #[test]
    fn globals_and_functions_of_a_module_are_its_entries() {
        assert_eq!(of(&format!("(module {MODULE})")), 1 + 2 + 2 + 1);
        assert_eq!(of("(module (func))"), 0);
    }

    #[test]
    fn each_instance_of_a_component_counts() {
        let instance = r#"(core instance (instantiate $m (with "a" (instance $a))))"#;
        let twice = format!(
            r#"(component (core module $n (func (export "b"))) (core instance $a (instantiate $n))
               (core module $m {MODULE}) {instance} {instance})"#
        );
        assert_eq!(of(&twice), 1 + 6 + 6);
    }

    /// Each component makes two of the one that it is given from outside.
    fn nested(depth: u32) -> String {
        let mut text = r"(component $c0 (alias outer $root 0 (core module $m)) (core instance (instantiate $m)))".to_owned();
        for level in 1..=depth {
            let below = level - 1;
            text += &format!(
                "(component $c{level} (alias outer $root $c{below} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))"
            );
        }
        let globals = "(global i32 (i32.const 0))".repeat(100);
        format!(
            "(component $root (core module {globals}) {text} (instance (instantiate $c{depth})))"
        )
    }

    #[test]
    fn components_of_components_multiply_to_what_a_store_makes() {
        assert_eq!(of(&nested(0)), 100);
        assert_eq!(of(&nested(3)), 800);
        assert_eq!(of(&nested(60)), 100 * INSTANCES as u64);
    }

    #[test]
    fn what_comes_from_outside_is_as_heavy_as_any() {
        let text = r#"(component
            (core module (global i32 (i32.const 0)) (global i32 (i32.const 0)))
            (component (import "m" (core module $m)) (core instance (instantiate $m)))
            (instance (instantiate 0 (with "m" (core module 0)))))"#;
        assert_eq!(of(text), 2);
    }

    #[test]
    fn a_limit_is_told_when_it_is_passed() {
        let ordinary = include_bytes!("../../../tests/http-guest/http-guest.wasm");
        assert_eq!(excess(ordinary).expect("binary"), None);
        let globals = "(global i32 (i32.const 0))".repeat(1500);
        let instances = "(core instance (instantiate $m))".repeat(1000);
        let heavy = format!("(component (core module $m {globals}) {instances})");
        let heavy = wat::parse_str(heavy).expect("wat");
        assert_eq!(excess(&heavy).expect("binary"), Some(72_000_000));
    }
}
