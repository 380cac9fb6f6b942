//! Applications: several guests behind one door, each with its own files and environment, found by route.

#[path = "support/guests.rs"]
mod guests;
#[path = "support/site.rs"]
mod site;
mod support;

use serde_json::{Value, json};
use site::{GUEST, Site};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, Write as _};
use support::{Engine, Program};

/// Answers with what it was told and given.
const TELLS: &[u8] = include_bytes!("../../tests/spin-guest/spin-guest.wasm");

/// Serves several requests in one instance.
const P3: &[u8] = include_bytes!("../../tests/p3-http-guest/p3-http-guest.wasm");

fn artifact(program: &Program) -> Value {
    json!({"path": program.path, "sha256": program.sha256})
}

/// Two parts that tell, of which the second has a file, and one that does what its path says.
fn shop() -> Site {
    let engine = Engine::start();
    let tells = artifact(&Program::compile(engine.directory.path(), TELLS));
    let site = engine.path("site");
    fs::create_dir(&site).expect("directory");
    fs::write(site.join("page"), "hello").expect("write");
    let other = artifact(&Program::compile(engine.directory.path(), GUEST));
    let components = json!([
        {"name": "front", "routes": ["/", "/front/..."], "artifact": tells, "env": [{"name": "PART", "value": "front"}]},
        {"name": "users", "routes": ["/users/:id/...", "/users/:id"], "artifact": tells,
         "env": [{"name": "PART", "value": "users"}], "mounts": [{"hostPath": site, "guestPath": "/site"}]},
        {"name": "other", "routes": ["/echo", "/trap", "/sleep", "/count/"], "artifact": other},
    ]);
    Site::start_guest(engine, TELLS, json!({ "components": components }), |_| {})
}

fn lines(site: &Site, path: &str) -> BTreeSet<String> {
    let reply = site.get(path);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text().lines().map(str::to_owned).collect()
}

#[test]
fn each_part_answers_its_routes() {
    let site = shop();
    let front = lines(&site, "/");
    assert!(front.contains("env PART=front") && !front.iter().any(|it| it.starts_with("file")));
    let users = lines(&site, "/users/42/edit/?x=1");
    let wanted = [
        "env PART=users",
        "file /site/page hello",
        "requests 1",
        "spin-base-path: /",
        "spin-component-route: /users/:id",
        "spin-full-url: http://guest/users/42/edit/?x=1",
        "spin-matched-route: /users/:id/...",
        "spin-path-info: /edit/",
        "spin-path-match-id: 42",
        "spin-raw-component-route: /users/:id/...",
    ];
    for line in wanted {
        assert!(users.contains(line), "{line}: {users:?}");
    }
    assert!(
        users
            .iter()
            .any(|it| it.starts_with("spin-client-addr: 127.")),
        "{users:?}"
    );
    assert!(lines(&site, "/users/7").contains("spin-path-info: "));
    // Its memory is its own: each request begins anew.
    assert!(lines(&site, "/front/x").contains("requests 1"));
    assert_eq!(site.get("/count").text(), "1");
    for path in ["/nothing", "/users", "/echo/more", "/.well-known/spin/info"] {
        assert_eq!(site.get(path).status, 404, "{path}");
    }
    assert_eq!(site.get("/.well-known/spin/health").text(), "OK\n");
}

#[test]
fn a_client_cannot_tell_a_guest_how_it_was_found() {
    let site = shop();
    let mut stream = site.connect();
    write!(
        stream,
        "GET /users/1 HTTP/1.1\r\nHost: shop.example\r\nSpin-Path-Info: /forged\r\nspin-client-addr: 1.1.1.1:1\r\n\
         Connection: close\r\n\r\n"
    )
    .expect("send");
    let text = site::reply(&mut BufReader::new(stream)).text();
    assert!(
        text.contains("spin-path-info: \n") && !text.contains("1.1.1.1"),
        "{text}"
    );
    assert!(
        text.contains("spin-full-url: http://shop.example/users/1"),
        "{text}"
    );
}

#[test]
fn parts_share_what_is_one_containers() {
    let site = shop();
    assert_eq!(site.get("/trap").status, 500);
    site.wait_for_log("wasmlet: GET /trap failed");
    // A part that answers is a success of the whole.
    for _ in 0..6 {
        assert_eq!(site.get("/trap").status, 500);
        assert_eq!(site.get("/").status, 200);
    }
    let usage = site.usage();
    assert_eq!(
        (&usage["requests"], &usage["failures"]),
        (&json!(13), &json!(7))
    );
    // What is in flight in any part is finished.
    let slow = site.begin("/sleep?700");
    assert_eq!(site.engine.stop("web", 10.0).status, 202);
    assert_eq!(site::reply(&mut BufReader::new(slow)).text(), "slept");
    assert_eq!(site.engine.exit("web")["exitCode"], 0);
}

#[test]
fn five_traps_of_one_part_end_all() {
    let site = shop();
    for _ in 0..5 {
        site.get("/trap");
    }
    assert_eq!(site.engine.exit("web")["exitCode"], 134);
}

#[test]
fn a_part_of_wasi_0_3_serves_beside_others() {
    let engine = Engine::start();
    let newer = artifact(&Program::compile(engine.directory.path(), P3));
    let older = artifact(&Program::compile(engine.directory.path(), GUEST));
    let components = json!([
        {"name": "older", "routes": ["/..."], "artifact": older},
        {"name": "newer", "routes": ["/count"], "artifact": newer},
    ]);
    let site = Site::start_guest(engine, GUEST, json!({ "components": components }), |_| {});
    let counts: Vec<String> = (0..3).map(|_| site.get("/count").text()).collect();
    assert_eq!(counts, ["1", "2", "3"]);
    assert_eq!(site.get("/").text(), "Hello from wasmlet!\n");
    assert_eq!(site.engine.stop("web", 10.0).status, 202);
    assert_eq!(site.engine.exit("web")["exitCode"], 0);
}

#[test]
fn what_is_no_application_is_refused() {
    let engine = Engine::start();
    let tells = Program::compile(engine.directory.path(), TELLS);
    let site = Site {
        address: site::own_address(),
        program: tells,
        engine,
    };
    let command = artifact(&site.engine.program(&guests::exits(0)));
    let good = json!({"name": "a", "routes": ["/..."], "artifact": artifact(&site.program)});
    let with = |name: &str, value: Value| {
        let mut component = good.clone();
        component[name] = value;
        component
    };
    for (components, status, words) in [
        (
            json!([with("routes", json!([]))]),
            400,
            "no component of the application has a route",
        ),
        (
            json!([with("routes", json!(["/a/.../b"]))]),
            400,
            "before its end",
        ),
        (json!([good, good]), 400, "that of another"),
        (
            json!([with("mounts", json!([{"hostPath": "x", "guestPath": "/"}]))]),
            400,
            "not an absolute path",
        ),
        (
            json!([with("env", json!([{"name": "A=B", "value": ""}]))]),
            400,
            "the character =",
        ),
        (
            json!([with(
                "artifact",
                json!({"path": "/a", "sha256": "0", "function": "f"})
            )]),
            400,
            "no function",
        ),
        (
            json!([with("artifact", json!({"path": "/nowhere", "sha256": "0"}))]),
            422,
            "cannot open",
        ),
        (
            json!([good, {"name": "b", "routes": [], "artifact": command}]),
            422,
            "component b: it does not serve HTTP",
        ),
    ] {
        let spec = site.spec(json!({ "components": components }));
        let answer = site.engine.put("web", &spec);
        let message = answer.body["message"].as_str().expect("message").to_owned();
        assert_eq!(answer.status, status, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    let mut spec = site.spec(json!({ "components": [good] }));
    spec["memoryLimitBytes"] = json!(65536);
    let answer = site.engine.put("web", &spec);
    let message = answer.body["message"].as_str().expect("message");
    assert!(
        message.starts_with("component a: cannot make the instance"),
        "{message}"
    );
}
