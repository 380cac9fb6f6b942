//! What the schema demands of a request and its types cannot.

use crate::protocol::{Error, ErrorReason, ExecSpec, Kind, SandboxSpec};
use std::time::Duration;

fn bad_request(message: impl Into<String>) -> Error {
    Error::new(ErrorReason::BadRequest, message)
}

/// A sandbox's id: `^[a-z0-9][a-z0-9-]{0,127}$`
pub fn check_id(id: &str) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = id.len() <= 128
        && id.bytes().next().is_some_and(is_plain)
        && id.bytes().all(|it| is_plain(it) || it == b'-');
    if valid {
        Ok(())
    } else {
        Err(bad_request(format!("{id:?} is no sandbox id")))
    }
}

/// What the schema says and types cannot.
pub fn check_spec(spec: &SandboxSpec) -> Result<(), Error> {
    if spec.args.is_empty() {
        return Err(bad_request("args is empty; it needs argv[0]"));
    }
    let paths = [&spec.artifact.path, &spec.log.path, &spec.exit_file].into_iter();
    if let Some(path) = paths
        .chain(spec.mounts.iter().map(|it| &it.host_path))
        .find(|it| !it.is_absolute())
    {
        return Err(bad_request(format!(
            "{} is not an absolute path",
            path.display()
        )));
    }
    let guest_paths =
        std::iter::once(&spec.working_dir).chain(spec.mounts.iter().map(|it| &it.guest_path));
    if let Some(path) = guest_paths.into_iter().find(|it| !it.starts_with('/')) {
        return Err(bad_request(format!("{path} is not an absolute path")));
    }
    if spec.args.iter().any(|it| it.contains('\0'))
        || spec
            .env
            .iter()
            .any(|it| it.name.contains(['\0', '=']) || it.value.contains('\0'))
    {
        return Err(bad_request(
            "args and env cannot hold the character NUL, nor env names the character =",
        ));
    }
    check_http(spec)?;
    if spec.log.max_bytes < 4096 || spec.log.max_files < 2 {
        return Err(bad_request(
            "log.maxBytes is less than 4096, or log.maxFiles less than 2",
        ));
    }
    Ok(())
}

/// What the schema says of an exec and types cannot.
pub fn check_exec(spec: &ExecSpec) -> Result<(), Error> {
    if spec.args.is_empty() {
        return Err(bad_request("args is empty; it needs argv[0]"));
    }
    if spec.args.iter().any(|it| it.contains('\0')) {
        return Err(bad_request("args cannot hold the character NUL"));
    }
    if let Some(artifact) = spec.artifact.as_ref().filter(|it| !it.path.is_absolute()) {
        let path = artifact.path.display();
        return Err(bad_request(format!("{path} is not an absolute path")));
    }
    Ok(())
}

fn check_http(spec: &SandboxSpec) -> Result<(), Error> {
    let http = match (spec.kind, &spec.http) {
        (Kind::Command, None) => return Ok(()),
        (Kind::Http, Some(http)) => http,
        (Kind::Command, Some(_)) => return Err(bad_request("a command has no http")),
        (Kind::Http, None) => return Err(bad_request("a guest of kind http needs http")),
    };
    let is_duration = |seconds: f64| Duration::try_from_secs_f64(seconds).is_ok();
    if http.addresses.is_empty() {
        return Err(bad_request("http.addresses is empty"));
    }
    if http.ports.is_empty() || http.ports.contains(&0) {
        return Err(bad_request("http.ports is empty, or has the port 0"));
    }
    if http.reuse == Some(0) || http.max_instances == 0 {
        return Err(bad_request(
            "http.reuse and http.maxInstances are 1 at least",
        ));
    }
    if !is_duration(http.request_timeout_seconds) || !is_duration(http.lame_duck_seconds) {
        return Err(bad_request(
            "http.requestTimeoutSeconds or http.lameDuckSeconds is no duration",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain() {
        for id in ["a", "3f2a9c", "a-b-1"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", "-a", "A", "a.b", "..", &"a".repeat(129)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
