//! Names that guests look up.

use crate::peers::{NameServer, Pod};
use crate::start;
use serde_json::json;

of_both! {
    names_are_looked_up_as_the_pods_files_say,
}

fn names_are_looked_up_as_the_pods_files_say(guest: &[u8]) {
    let (engine, program) = start(guest);
    let names = NameServer::start(&[
        ("db.shop.svc.test", &["10.9.8.7", "10.9.8.6"]),
        ("a.b.shop.svc.test", &["10.9.8.5"]),
        ("a.b", &["10.9.8.4"]),
    ]);
    let resolv_conf = format!(
        "{}search shop.svc.test svc.test\noptions ndots:2\n",
        names.resolv_conf()
    );
    let hosts = "127.0.0.1 localhost\n::1 localhost\n10.1.1.1 alias Alias.test\n";
    let pod = Pod::start(
        &engine,
        &program,
        json!({"resolvConf": resolv_conf, "hosts": hosts}),
    );
    for (name, addresses) in [
        ("db", "10.9.8.7\n10.9.8.6"),
        ("a.b", "10.9.8.5"),
        ("a.b.", "10.9.8.4"),
        ("alias.TEST", "10.1.1.1"),
        ("localhost", "127.0.0.1\n::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        let answer = pod.text(&format!("/resolve?{name}"));
        assert_eq!(sorted(&answer), sorted(addresses), "{name}");
    }
    for (name, error) in [
        ("nobody.test.", "name-unresolvable"),
        ("a..b", "invalid-argument"),
        ("", "invalid-argument"),
        (".", "invalid-argument"),
        (&"x".repeat(300), "invalid-argument"),
    ] {
        let answer = pod.text(&format!("/resolve?{name}"));
        assert_eq!(answer, format!("error: {error}"), "{name}");
    }
    let bare = Pod::start(&engine, &program, json!({}));
    assert_eq!(
        bare.text("/resolve?db"),
        "error: permanent-resolver-failure"
    );
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}
