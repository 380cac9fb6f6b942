//! Writes to both output streams, then shows what the pod manifest gave it: environment and arguments.

use std::env;

fn main() {
    println!("hello from stdout!");
    eprintln!("hello from stderr!");
    for name in ["CONFIG_MAP_VAL", "FOO", "POD_NAME"] {
        if let Ok(value) = env::var(name) {
            println!("{name}={value}");
        }
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    println!("Args are: {arguments:?}");
}
