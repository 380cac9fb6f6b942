//! Which exports of a file can be called as programs.

use std::collections::HashSet;
use wasmparser::component_types::{ComponentDefinedType, ComponentEntityType, ComponentValType};
use wasmparser::types::{EntityType, Types};
use wasmparser::{PrimitiveValType, Validator, WasmFeatures};

/// Names of functions: of a core module's, those without parameters and results; of a component's, those that
/// [`Function::find`](crate::command::Function::find) finds. None of a file that is not valid.
pub fn callable(bytes: &[u8], exports: &[String]) -> Vec<String> {
    let Ok(types) = Validator::new_with_features(WasmFeatures::all()).validate_all(bytes) else {
        return Vec::new();
    };
    let of_module = of_module(&types);
    let is_callable =
        |name: &&String| of_module.contains(name.as_str()) || in_component(&types, name);
    exports.iter().filter(is_callable).cloned().collect()
}

fn of_module(types: &Types) -> HashSet<&str> {
    let exports = types.as_ref().core_exports().into_iter().flatten();
    let callable = exports.filter(|(_, entity)| match entity {
        EntityType::Func(id) => {
            let function = types[*id].unwrap_func();
            function.params().is_empty() && function.results().is_empty()
        }
        _ => false,
    });
    callable.map(|(name, _)| name).collect()
}

fn in_component(types: &Types, name: &str) -> bool {
    let Some(ComponentEntityType::Func(id)) =
        types.component_item_for_export(name).map(|item| item.ty)
    else {
        return false;
    };
    let function = &types[id];
    let fits = match function.result {
        None => true,
        Some(ComponentValType::Primitive(primitive)) => is_integer(primitive),
        Some(ComponentValType::Type(id)) => match types[id] {
            ComponentDefinedType::Result { .. } => true,
            ComponentDefinedType::Primitive(primitive) => is_integer(primitive),
            _ => false,
        },
    };
    fits && function.params.is_empty()
}

fn is_integer(primitive: PrimitiveValType) -> bool {
    use PrimitiveValType::{S8, S16, S32, S64, U8, U16, U32, U64};
    matches!(primitive, S8 | S16 | S32 | S64 | U8 | U16 | U32 | U64)
}
