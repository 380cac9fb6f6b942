//! What the schema demands of a request and its types cannot.

use crate::http;
use crate::protocol::{EnvVar, Error, ExecSpec, Http, Kind, Mount, SandboxSpec, bad_request};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

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
    check_args(&spec.args)?;
    check_host_paths([&spec.artifact.path, &spec.log.path, &spec.exit_file])?;
    check_guest_path(&spec.working_dir)?;
    check_mounts(&spec.mounts)?;
    check_env(&spec.env)?;
    check_http(spec)?;
    if spec.log.max_bytes < 4096 || spec.log.max_files < 2 {
        return Err(bad_request(
            "log.maxBytes is less than 4096, or log.maxFiles less than 2",
        ));
    }
    Ok(())
}

fn check_host_paths<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), Error> {
    match paths.into_iter().find(|it| !it.is_absolute()) {
        Some(path) => Err(bad_request(format!(
            "{} is not an absolute path",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn check_guest_path(path: &str) -> Result<(), Error> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(bad_request(format!("{path} is not an absolute path")))
}

fn check_mounts(mounts: &[Mount]) -> Result<(), Error> {
    check_host_paths(mounts.iter().map(|it| &it.host_path))?;
    mounts
        .iter()
        .try_for_each(|it| check_guest_path(&it.guest_path))
}

fn check_env(env: &[EnvVar]) -> Result<(), Error> {
    let is_bad = |it: &EnvVar| it.name.contains(['\0', '=']) || it.value.contains('\0');
    if env.iter().any(is_bad) {
        return Err(bad_request(
            "env cannot hold the character NUL, nor its names the character =",
        ));
    }
    Ok(())
}

/// What the schema says of an exec and types cannot.
pub fn check_exec(spec: &ExecSpec) -> Result<(), Error> {
    check_args(&spec.args)?;
    check_host_paths(spec.artifact.iter().map(|it| &it.path))
}

fn check_args(args: &[String]) -> Result<(), Error> {
    if args.is_empty() {
        return Err(bad_request("args is empty; it needs argv[0]"));
    }
    if args.iter().any(|it| it.contains('\0')) {
        return Err(bad_request("args cannot hold the character NUL"));
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
    let components = http.components.iter().map(|it| &it.artifact);
    if std::iter::once(&spec.artifact)
        .chain(components)
        .any(|it| it.function.is_some())
    {
        return Err(bad_request("a guest of kind http is called by no function"));
    }
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
    check_components(http)
}

fn check_components(http: &Http) -> Result<(), Error> {
    let mut names = HashSet::new();
    for component in &http.components {
        if component.name.is_empty()
            || component.name.contains('\0')
            || !names.insert(&component.name)
        {
            let text = "a component has no name, one with the character NUL, or that of another";
            return Err(bad_request(text));
        }
        check_host_paths([&component.artifact.path])?;
        check_mounts(&component.mounts)?;
        check_env(&component.env)?;
    }
    if http.components.is_empty() {
        return Ok(());
    }
    http::check(http.components.iter().flat_map(|it| &it.routes))
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
