//! Names that guests of WASI 0.3 look up.

use crate::guest::Guest;
use crate::traffic::lookup;
use crate::traffic::names::NameError;
use std::net::IpAddr;
use wasmtime::Result;
use wasmtime::component::{Accessor, LinkerInstance};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode;
use wasmtime_wasi::p3::bindings::sockets::types::IpAddress;

pub fn add(names: &mut LinkerInstance<'_, Guest>) -> Result<()> {
    names.func_wrap_concurrent("resolve-addresses", |accessor, (name,): (String,)| {
        Box::pin(async move { Ok((resolve(accessor, name).await,)) })
    })
}

async fn resolve(
    accessor: &Accessor<Guest>,
    name: String,
) -> std::result::Result<Vec<IpAddress>, ErrorCode> {
    let network = accessor.with(|mut store| store.data_mut().traffic().network.clone());
    let network = network.ok_or(ErrorCode::PermanentResolverFailure)?;
    let task = lookup::start(&network, name).ok_or(ErrorCode::TemporaryResolverFailure)?;
    let found = task.await.map_err(|_| ErrorCode::Other(None))?;
    let found = found.map_err(|error| match error {
        NameError::Invalid => ErrorCode::InvalidArgument,
        NameError::NotFound => ErrorCode::NameUnresolvable,
        error if error.is_temporary() => ErrorCode::TemporaryResolverFailure,
        _ => ErrorCode::PermanentResolverFailure,
    })?;
    Ok(found.into_iter().map(IpAddr::into).collect())
}
