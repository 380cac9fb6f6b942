//! How many files guests may have open: a guest's own, and of the engine's descriptors no more than half, since without
//! one nobody is answered and no log is written.
//!
//! WASI's own functions ask nobody. These take their place, and say "too many open files" as a kernel does.

use crate::guest::Guest;
use crate::program::{P0, P1};
use rustix::process::{Resource, getrlimit};
use std::os::fd::AsRawFd as _;
use std::sync::LazyLock;
use wasmtime::component::{self, Accessor, Resource as Handle, ResourceTableError};
use wasmtime::{AsContextMut as _, Caller, Extern, Linker, Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::bindings::filesystem::types as types3;
use wiggle::GuestMemory;

/// What a guest may hold of the host's things at once, open files among them: four times what a shell on Linux gives.
pub const HANDLES: usize = 4096;

/// WASI 0.1's number for it.
const TOO_MANY: i32 = 33;

/// The release of WASI 0.2 that wasmtime's own functions have; a test tells when they part ways.
const RELEASE: &str = "0.2.12";

/// The same of WASI 0.3.
const RELEASE_P3: &str = "0.3.0";

/// Descriptors below this one may be guests' files.
static LIMIT: LazyLock<i32> = LazyLock::new(|| {
    let all = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    i32::try_from(all / 2).unwrap_or(i32::MAX)
});

/// Whether a guest may open one more file. The kernel gives the lowest free descriptor: one above the half says that
/// the half is in use, without anybody's counting.
fn has_room() -> bool {
    rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0)
        .is_ok_and(|lowest| lowest.as_raw_fd() < *LIMIT)
}

/// For core modules; the linker has wasmtime's functions and allows shadowing.
pub fn add_to_module_linker(linker: &mut Linker<Guest>) -> Result<()> {
    // Numbers, flags and errors of the two are the same.
    for wasi in [P0, P1] {
        linker.func_wrap_async(wasi, "path_open", |caller, parameters| {
            Box::new(path_open(caller, parameters))
        })?;
    }
    Ok(())
}

/// For components; the same.
pub fn add_to_component_linker(linker: &mut component::Linker<Guest>) -> Result<()> {
    linker
        .instance(&format!("wasi:filesystem/types@{RELEASE}"))?
        .func_wrap_async("[method]descriptor.open-at", |store, parameters| {
            Box::new(open_at(store, parameters))
        })
}

/// For components of WASI 0.3; the same.
pub fn add_to_concurrent_linker(linker: &mut component::Linker<Guest>) -> Result<()> {
    linker
        .instance(&format!("wasi:filesystem/types@{RELEASE_P3}"))?
        .func_wrap_concurrent("[method]descriptor.open-at", |accessor, parameters| {
            Box::pin(open_at_p3(accessor, parameters))
        })
}

type PathOpen = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

async fn path_open(mut caller: Caller<'_, Guest>, parameters: PathOpen) -> Result<i32> {
    if !has_room() {
        return Ok(TOO_MANY);
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("missing required memory export"));
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, guest) = memory.data_and_store_mut(&mut caller);
    let (wasi, memory) = (guest.p1(), &mut GuestMemory::Unshared(bytes));
    wasi.set_hostcall_fuel(fuel);
    let (directory, lookup, path, length, how, rights, inherited, flags, opened) = parameters;
    let answer = wasi_snapshot_preview1::path_open(
        wasi, memory, directory, lookup, path, length, how, rights, inherited, flags, opened,
    );
    match answer.await {
        Err(error) if is_full(&error) => Ok(TOO_MANY),
        answer => answer,
    }
}

type OpenAt = (
    Handle<Descriptor>,
    PathFlags,
    String,
    OpenFlags,
    DescriptorFlags,
);

async fn open_at(
    mut store: StoreContextMut<'_, Guest>,
    (directory, lookup, path, how, flags): OpenAt,
) -> Result<(Result<Handle<Descriptor>, ErrorCode>,)> {
    // WASI 0.2 has no word for it.
    let too_many = Ok((Err(ErrorCode::InsufficientMemory),));
    if !has_room() {
        return too_many;
    }
    let mut files = store.data_mut().filesystem();
    match files.open_at(directory, lookup, path, how, flags).await {
        Ok(opened) => Ok((Ok(opened),)),
        Err(error) => match error.downcast() {
            Ok(code) => Ok((Err(code),)),
            Err(error) if is_full(&error) => too_many,
            Err(error) => Err(error),
        },
    }
}

type OpenAtP3 = (
    Handle<Descriptor>,
    types3::PathFlags,
    String,
    types3::OpenFlags,
    types3::DescriptorFlags,
);

async fn open_at_p3(
    accessor: &Accessor<Guest>,
    (directory, lookup, path, how, flags): OpenAtP3,
) -> Result<(Result<Handle<Descriptor>, types3::ErrorCode>,)> {
    // WASI 0.3 has none either.
    let too_many = Ok((Err(types3::ErrorCode::InsufficientMemory),));
    if !has_room() {
        return too_many;
    }
    let files = &accessor.with_getter::<WasiFilesystem>(|guest| guest.filesystem());
    let opened = <WasiFilesystem as types3::HostDescriptorWithStore<Guest>>::open_at(
        files, directory, lookup, path, how, flags,
    );
    match opened.await {
        Ok(opened) => Ok((Ok(opened),)),
        Err(error) => match error.downcast() {
            Ok(code) => Ok((Err(code),)),
            Err(error) if is_full(&error) => too_many,
            Err(error) => Err(error),
        },
    }
}

fn is_full(error: &wasmtime::Error) -> bool {
    matches!(
        error.downcast_ref::<ResourceTableError>(),
        Some(ResourceTableError::Full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn nothing_is_shadowed_but_what_there_is() {
        let engine = settings::serving(settings::Flavour::Sequential).expect("engine");
        let mut module = Linker::new(&engine);
        wasmtime_wasi::p0::add_to_linker_async(&mut module, Guest::p1).expect("p0");
        assert!(add_to_module_linker(&mut module).is_err());
        let mut component = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component).expect("p2");
        assert!(add_to_component_linker(&mut component).is_err());
        let engine = settings::serving(settings::Flavour::Concurrent).expect("engine");
        let mut component = component::Linker::new(&engine);
        wasmtime_wasi::p3::add_to_linker(&mut component).expect("p3");
        assert!(add_to_concurrent_linker(&mut component).is_err());
    }
}
