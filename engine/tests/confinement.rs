//! What holds the engine's process and its helpers: seen from outside, in /proc, and by what they are refused.

#[path = "support/guests.rs"]
mod guests;
mod support;

use seccompiler::{SeccompAction, SeccompFilter};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{BINARY, Engine, compile};

/// A figure that is the same in each thread of the process.
fn of_all_threads(engine: &Engine, name: &str) -> String {
    let tasks = format!("/proc/{}/task", engine.process.id());
    let mut found: Vec<_> = fs::read_dir(tasks)
        .expect("threads")
        .map(|thread| {
            let status = thread.expect("thread").path().join("status");
            let status = fs::read_to_string(status).expect("status");
            let line = status.lines().find_map(|it| it.strip_prefix(name));
            line.expect("line")
                .trim_start_matches(':')
                .trim()
                .to_owned()
        })
        .collect();
    assert!(found.len() > 4, "{found:?}");
    found.dedup();
    assert_eq!(found.len(), 1, "{name} differs: {found:?}");
    found.swap_remove(0)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn confinement(engine: &Engine) -> Value {
    engine.get("/engine").body["confinement"].clone()
}

#[test]
fn every_thread_is_held() {
    let engine = Engine::start();
    // Guests have run, and files were written: all pools of threads are there.
    let program = engine.program(&guests::exits(0));
    engine.run("a", &program);
    assert_eq!(of_all_threads(&engine, "Seccomp"), "2");
    assert_eq!(of_all_threads(&engine, "NoNewPrivs"), "1");
    let capabilities = u64::from_str_radix(&of_all_threads(&engine, "CapPrm"), 16).expect("set");
    // CAP_NET_BIND_SERVICE, and for root CAP_DAC_OVERRIDE and CAP_FOWNER.
    let kept = if is_root() {
        1 << 10 | 1 << 1 | 1 << 3
    } else {
        1 << 10
    };
    assert_eq!(capabilities & !kept, 0, "{capabilities:x}");
    let told = confinement(&engine);
    assert_eq!(told["seccomp"], true, "{told}");
    assert!(told["landlock"].as_i64().expect("version") > 0, "{told}");
    assert_eq!(told["user"], rustix::process::getuid().as_raw());
}

#[test]
fn a_mount_outside_the_rules_is_refused_by_name() {
    let outside = tempfile::tempdir().expect("directory");
    let allowed = tempfile::tempdir().expect("directory");
    let engine = Engine::start_with(|command| {
        command.arg("--read").arg(allowed.path());
    });
    let program = engine.program(guests::CREATES);
    let mounted = |path: &Path, read_only: bool| {
        let mut spec = engine.spec("x", &program);
        spec["mounts"] = json!([{"hostPath": path, "guestPath": "/", "readOnly": read_only}]);
        spec
    };
    let refused = engine.put("x", &mounted(outside.path(), false));
    assert_eq!(refused.status, 422);
    assert_eq!(refused.body["reason"], "Mount");
    let message = refused.body["message"].as_str().expect("message");
    assert!(
        message.contains(outside.path().to_str().expect("path")),
        "{message}"
    );
    assert!(message.contains("the engine may not use it"), "{message}");
    // A directory that may be read is not written, whatever the agent says of it.
    let exit = engine.run_spec("x", &mounted(allowed.path(), false));
    assert_ne!(exit["exitCode"], 0);
    assert_eq!(fs::read_dir(allowed.path()).expect("list").count(), 0);
}

#[test]
fn an_engine_becomes_the_user_that_it_is_told() {
    if !is_root() {
        return; // others cannot become anybody
    }
    let directory = tempfile::tempdir().expect("directory");
    std::os::unix::fs::chown(directory.path(), Some(1_880_000_007), Some(1_880_000_008))
        .expect("chown");
    // The user may not come here; rules are made before it is one.
    let closed = tempfile::tempdir().expect("directory");
    fs::create_dir(closed.path().join("inner")).expect("directory");
    let engine = Engine::start_with(|command| {
        command
            .arg("--user=1880000007:1880000008,1880000009")
            .arg("--read")
            .arg(closed.path().join("inner"))
            .arg("--write")
            .arg(directory.path());
    });
    let told = confinement(&engine);
    let one = |number: u32| vec![number.to_string(); 4].join("\t");
    assert_eq!(of_all_threads(&engine, "Uid"), one(1_880_000_007));
    assert_eq!(of_all_threads(&engine, "Gid"), one(1_880_000_008));
    assert_eq!(of_all_threads(&engine, "Groups"), "1880000009");
    assert_eq!(of_all_threads(&engine, "CapEff"), "0000000000000400");
    assert_eq!(
        (&told["user"], &told["group"]),
        (&json!(1_880_000_007_u32), &json!(1_880_000_008_u32))
    );
    // Its guests' files are its own; what others closed stays closed.
    let program = compile(
        &wat::parse_str(guests::CREATES).expect("wat"),
        &directory.path().join("p"),
        &[],
    );
    assert_eq!(program.0, 0, "{}", program.1);
    std::os::unix::fs::chown(directory.path().join("p"), None, Some(1_880_000_008)).expect("chown");
    let mounted = directory.path().join("mounted");
    fs::create_dir(&mounted).expect("directory");
    let mut spec = json!({
        "podUid": "u", "podNamespace": "default", "podName": "p", "container": "c", "attempt": 0,
        "artifact": {"path": directory.path().join("p"), "sha256": program.1["sha256"]},
        "args": ["guest.wasm"],
        "log": {"path": directory.path().join("log")},
        "exitFile": directory.path().join("exit.json"),
        "mounts": [{"hostPath": mounted, "guestPath": "/", "readOnly": false}],
    });
    let exit = engine.run_spec("closed", &spec);
    assert_ne!(exit["exitCode"], 0, "the directory is root's");
    std::os::unix::fs::chown(&mounted, Some(1_880_000_007), None).expect("chown");
    spec["attempt"] = json!(1);
    let exit = engine.run_spec("open", &spec);
    assert_eq!(exit["exitCode"], 0, "{exit}");
    assert_eq!(
        fs::metadata(mounted.join("made")).expect("file").uid(),
        1_880_000_007
    );
}

/// Starts an engine on a kernel that does not have this system call.
fn without(call: i64) -> Engine {
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        std::env::consts::ARCH.try_into().expect("machine"),
    );
    let filter: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).expect("filter");
    let apply = move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other);
    // SAFETY: two system calls, and no memory is taken.
    Engine::start_with(|command| unsafe {
        command.pre_exec(apply);
    })
}

#[test]
fn what_the_kernel_lacks_is_told_and_guests_run_on() {
    for (call, field, words) in [
        (
            libc::SYS_landlock_create_ruleset,
            "landlock",
            "Landlock: the kernel has none",
        ),
        (libc::SYS_seccomp, "seccomp", "seccomp: "),
    ] {
        let engine = without(call);
        let told = confinement(&engine);
        let missing = told["missing"].as_array().expect("list");
        assert!(
            missing[0].as_str().expect("text").starts_with(words),
            "{told}"
        );
        assert!(told[field] == 0 || told[field] == false, "{told}");
        let own = fs::read_to_string(engine.path("engine.stderr")).expect("log");
        assert!(own.contains("not wholly confined"), "{own}");
        let exit = engine.run("a", &engine.program(&guests::exits(3)));
        assert_eq!(exit["exitCode"], 3);
    }
}

#[test]
fn an_engine_without_rules_says_so() {
    let directory = tempfile::tempdir().expect("directory");
    let process = Command::new(BINARY)
        .arg("serve")
        .arg("--directory")
        .arg(directory.path())
        .spawn()
        .expect("engine");
    let begin = Instant::now();
    while UnixStream::connect(directory.path().join("engine.sock")).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(2));
    }
    let engine = Engine { directory, process };
    let told = confinement(&engine);
    assert_eq!(
        told["missing"],
        json!(["Landlock: no --read or --write was given"])
    );
}

#[test]
fn compiling_ends_with_its_time() {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    // Takes some ten seconds of a core: many functions, each of which is long.
    let body =
        "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 77)) (i32.load (local.get 0))))"
            .repeat(2000);
    let functions = format!("(func (param i32) {body})").repeat(400);
    let bomb = wat::parse_str(format!(
        r#"(module (memory 1) {functions} (func (export "_start")))"#
    ))
    .expect("wat");
    let begin = Instant::now();
    let (code, document) = compile(&bomb, &output, &["--cpu-seconds", "1"]);
    assert_eq!(
        (code, &document["reason"]),
        (1, &json!("CompileTime")),
        "{document}"
    );
    assert_eq!(
        document["message"],
        "compiling takes more than 1 s of CPU time"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        fs::read_dir(directory.path()).expect("list").count(),
        0,
        "nothing is left"
    );
}
