//! Functions of WASI that take the place of wasmtime's own.

use crate::guest::Guest;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::IoError;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

/// The release of WASI 0.2 that wasmtime's own functions have; a test tells when they part ways.
const RELEASE: &str = "0.2.12";

/// Adds them to a linker that has wasmtime's.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    linker
        .instance(&format!("wasi:http/types@{RELEASE}"))?
        .func_wrap("http-error-code", http_error_code)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Why a body broke off. Wasmtime's own looks for another type than its bodies have, and finds nothing.
fn http_error_code(
    mut store: StoreContextMut<'_, Guest>,
    (error,): (Resource<IoError>,),
) -> Result<(Option<ErrorCode>,)> {
    let error = store.data_mut().ctx().table.get(&error)?;
    if let Some(code) = error.downcast_ref::<ErrorCode>() {
        return Ok((Some(code.clone()),));
    }
    let code = error.downcast_ref::<Error>().map(|error| match error {
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::HttpRequestBodySize(size) => ErrorCode::HttpRequestBodySize(*size),
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::Hyper(_) | Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        error => ErrorCode::InternalError(Some(error.to_string())),
    });
    Ok((code,))
}
