//! Guests as text.
#![allow(dead_code)]

/// A p1 command that writes `text` to a descriptor and then does `more`.
pub fn writes(descriptor: u32, text: &str, more: &str) -> String {
    writes_with("wasi_snapshot_preview1", descriptor, text, more)
}

pub fn writes_with(wasi: &str, descriptor: u32, text: &str, more: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(module $writer
            (import "{wasi}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "{wasi}" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00")
            (data (i32.const 16) "{escaped}")
            (func (export "_start")
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8)))
                {more}))"#,
        length = text.len()
    )
}

/// A p1 command that ends with this code.
pub fn exits(code: u32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

/// Computes for ever.
pub const SPINS: &str = r#"(module (func (export "_start") (loop $again (br $again))))"#;

/// Traps two calls deep.
pub const TRAPS: &str = r#"(module $app
    (func $boom unreachable)
    (func $middle (call $boom))
    (func $_start (export "_start") (call $middle)))"#;

/// Copies stdin to stdout until the end of file, with a small buffer.
pub const ECHOES: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (loop $again
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const 1000))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
                (br $again))))))"#;

/// Writes `lines` numbered lines of 1000 bytes, 60 at once, as fast as it can; then does `more`.
pub fn floods(lines: u32, more: &str) -> String {
    assert_eq!(lines % 60, 0);
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start") (local $n i32) (local $at i32) (local $rest i32) (local $digit i32)
                (memory.fill (i32.const 1024) (i32.const 120) (i32.const 60000))
                (loop $writes
                    (local.set $at (i32.const 1024))
                    (loop $lines
                        (local.set $rest (local.get $n))
                        (local.set $digit (i32.add (local.get $at) (i32.const 7)))
                        (loop $digits
                            (i32.store8 (local.get $digit)
                                (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
                            (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
                            (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
                            (br_if $digits (i32.ge_u (local.get $digit) (local.get $at))))
                        (i32.store8 (i32.add (local.get $at) (i32.const 999)) (i32.const 10))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (local.set $at (i32.add (local.get $at) (i32.const 1000)))
                        (br_if $lines (i32.lt_u (local.get $at) (i32.const 61024))))
                    (i32.store (i32.const 0) (i32.const 1024))
                    (i32.store (i32.const 4) (i32.const 60000))
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (br_if $writes (i32.lt_u (local.get $n) (i32.const {lines}))))
                {more}))"#
    )
}

/// Sleeps for a day in poll_oneoff.
pub const SLEEPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 16) "\01\00\00\00")
    (func (export "_start")
        (i64.store (i32.const 24) (i64.const 86400000000000))
        (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"#;

/// Asks for one page of memory more until it is refused or ended.
pub const GROWS: &str = r#"(module (memory (export "memory") 1)
    (func $grow (export "_start") (loop $again
        (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))"#;

/// Creates the file `made` in its first directory and ends with the error number.
pub const CREATES: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "made")
    (func (export "_start")
        (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4)
            (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))))"#;

/// Writes its arguments, one a line, then its environment, one a line.
pub const SHOWS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func $show (param $size i32) (local $at i32)
        (block $done (loop $again
            (br_if $done (i32.ge_u (local.get $at) (local.get $size)))
            (if (i32.eqz (i32.load8_u (i32.add (i32.const 4096) (local.get $at)))) (then
                (i32.store8 (i32.add (i32.const 4096) (local.get $at)) (i32.const 10))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $again)))
        (i32.store (i32.const 0) (i32.const 4096))
        (i32.store (i32.const 4) (local.get $size))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func (export "_start")
        (drop (call $args_sizes (i32.const 16) (i32.const 20)))
        (drop (call $args (i32.const 1024) (i32.const 4096)))
        (call $show (i32.load (i32.const 20)))
        (drop (call $env_sizes (i32.const 16) (i32.const 20)))
        (drop (call $env (i32.const 1024) (i32.const 4096)))
        (call $show (i32.load (i32.const 20)))))"#;

/// A component that exports wasi:cli/run and returns `ok` (0) or `err` (1), or exits with a code.
pub fn component(body: &str) -> String {
    format!(
        r#"(component
            (import "wasi:cli/exit@0.2.0" (instance $exit
                (export "exit" (func (param "status" (result))))))
            (core func $exit (canon lower (func $exit "exit")))
            (core module $main
                (import "host" "exit" (func $exit (param i32)))
                (func (export "run") (result i32) {body}))
            (core instance $main (instantiate $main
                (with "host" (instance (export "exit" (func $exit))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}
