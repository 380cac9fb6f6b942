//! Heads of requests and answers that a guest makes: they cost the engine's memory, not the guest's own. Header fields count
//! as the guest's; methods and authorities have an end.
//!
//! Wasmtime's own functions ask nobody. Those that take something from the guest are called from here.

use crate::exit::OutOfMemory;
use crate::guest::Guest;
use crate::memory::Held;
use crate::traffic::imports::{Store, interface};
use crate::traffic::p3;
use hyper::HeaderMap;
use std::any::Any;
use std::collections::HashSet;
use std::ptr;
use wasmtime::Result;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTable};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{self as types2, HostFields as Fields2};
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::p3::bindings::http::types::{self as types3, HostFields as Fields3};
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{FieldMap, WasiHttpView as _};

/// What a method and an authority may have in bytes. Paths and schemes have bounds of their own.
const WORD_BYTES: usize = 1024;

/// A guest's fields are counted when it has added so many bytes, or half of what it had.
const STEP: u64 = 1 << 20;

/// What a map takes for a name and its value, beside both.
const ENTRY_BYTES: usize = 112;

/// What a further value of a name takes beside itself, with as much that waits to be used.
const VALUE_BYTES: usize = 144;

/// A guest's header fields.
pub struct Heads {
    held: Held,
    /// Bytes since they were counted.
    added: u64,
}

impl Heads {
    /// None yet.
    pub fn new(held: Held) -> Self {
        Self { held, added: 0 }
    }

    /// So many bytes more, or less.
    pub fn add(&mut self, bytes: u64, table: &mut ResourceTable) -> Result<(), OutOfMemory> {
        self.added += bytes;
        if self.added < STEP.max(self.held.bytes() / 2) {
            return Ok(());
        }
        self.added = 0;
        self.held.set(count(table))
    }
}

/// What all of them take. Those that share a map are counted once.
fn count(table: &mut ResourceTable) -> u64 {
    let mut seen = HashSet::new();
    let maps = table.iter_mut().filter_map(|entry| map_of(entry));
    maps.filter(|map| seen.insert(ptr::from_ref::<HeaderMap>(map)))
        .map(bytes)
        .sum()
}

fn map_of(entry: &(dyn Any + Send)) -> Option<&HeaderMap> {
    let fields = if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        fields
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        &request.headers
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        &response.headers
    } else if let Some(request) = entry.downcast_ref::<Request>() {
        &request.headers
    } else {
        &entry.downcast_ref::<Response>()?.headers
    };
    Some(fields)
}

/// What a map takes.
pub fn bytes(map: &HeaderMap) -> u64 {
    let names: usize = map.keys().map(|name| name.as_str().len()).sum();
    let values: usize = map.values().map(|value| value.len()).sum();
    let further = map.len() - map.keys_len();
    (map.capacity() * ENTRY_BYTES + further * VALUE_BYTES + names + values) as u64
}

fn entry_bytes(name: &str, value: &[u8]) -> u64 {
    (ENTRY_BYTES + name.len() + value.len()) as u64
}

type Name = String;
type Value = Vec<u8>;

/// What a function returns that ended so.
macro_rules! answer {
    ($done:expr) => {
        match $done {
            Ok(value) => Ok((Ok(value),)),
            Err(error) => error.downcast().map(|error| (Err(error),)),
        }
    };
}

/// The functions of one of both interfaces that make fields larger, or copy them.
macro_rules! add_fields {
    ($types:expr, $host:ident) => {{
        let types: &mut LinkerInstance<'_, Guest> = $types;
        types.func_wrap(
            "[static]fields.from-list",
            |mut store: Store<'_>, (entries,): (Vec<(Name, Value)>,)| {
                let guest = store.data_mut();
                let added = (entries.iter()).map(|(name, value)| entry_bytes(name, value));
                let added = added.sum();
                let done = answer!($host::from_list(&mut guest.http(), entries));
                guest.add_fields(added)?;
                done
            },
        )?;
        types.func_wrap(
            "[method]fields.append",
            |mut store: Store<'_>, (this, name, value): (Resource<FieldMap>, Name, Value)| {
                let guest = store.data_mut();
                let added = entry_bytes(&name, &value);
                let done = answer!($host::append(&mut guest.http(), this, name, value));
                guest.add_fields(added)?;
                done
            },
        )?;
        types.func_wrap(
            "[method]fields.set",
            |mut store: Store<'_>, (this, name, values): (Resource<FieldMap>, Name, Vec<Value>)| {
                let guest = store.data_mut();
                let added = values.iter().map(|value| entry_bytes(&name, value)).sum();
                let done = answer!($host::set(&mut guest.http(), this, name, values));
                guest.add_fields(added)?;
                done
            },
        )?;
        types.func_wrap(
            "[method]fields.clone",
            |mut store: Store<'_>, (this,): (Resource<FieldMap>,)| {
                let guest = store.data_mut();
                // It is a copy as soon as something of it is changed, or taken away.
                let added = bytes(guest.ctx().table.get(&this)?);
                let copy = $host::clone(&mut guest.http(), this)?;
                guest.add_fields(added)?;
                Ok((copy,))
            },
        )?;
    }};
}

/// Those of WASI 0.2, in a linker that allows shadowing.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    use types2::{HostOutgoingRequest as _, Method};
    let types = &mut interface(linker, "wasi:http/types")?;
    add_fields!(types, Fields2);
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: Store<'_>, (this, method): (Resource<HostOutgoingRequest>, Method)| {
            if matches!(&method, Method::Other(word) if word.len() > WORD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(this, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: Store<'_>, (this, word): (Resource<HostOutgoingRequest>, Option<String>)| {
            if word.as_ref().is_some_and(|it| it.len() > WORD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(this, word)?,))
        },
    )
}

/// Those of WASI 0.3.
pub fn add_to_concurrent_linker(linker: &mut Linker<Guest>) -> Result<()> {
    use types3::{HostRequest as _, Method};
    let types = &mut linker.instance(&format!("wasi:http/types@{}", p3::RELEASE))?;
    add_fields!(types, Fields3);
    types.func_wrap(
        "[method]request.set-method",
        |mut store: Store<'_>, (this, method): (Resource<Request>, Method)| {
            if matches!(&method, Method::Other(word) if word.len() > WORD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(this, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-authority",
        |mut store: Store<'_>, (this, word): (Resource<Request>, Option<String>)| {
            if word.as_ref().is_some_and(|it| it.len() > WORD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(this, word)?,))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    #[test]
    fn what_shares_a_map_is_counted_once_until_it_has_its_own() {
        let add = |fields: &mut FieldMap| {
            let name = HeaderName::from_static("name");
            let value = HeaderValue::from_static("value");
            fields.append_raw(name, value).expect("room");
        };
        let mut fields = FieldMap::new_mutable(1 << 16);
        add(&mut fields);
        let (one, mut table) = (bytes(&fields), ResourceTable::new());
        assert!(one > (ENTRY_BYTES + "namevalue".len()) as u64);
        table.push(fields.clone()).expect("room");
        let other = table.push(fields).expect("room");
        assert_eq!(count(&mut table), one);
        add(table.get_mut(&other).expect("fields"));
        let further = (VALUE_BYTES + "value".len()) as u64;
        assert_eq!(count(&mut table), 2 * one + further);
    }
}
