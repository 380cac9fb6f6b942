//! Files that are made to break who reads or compiles them: a clean answer within bounds, whatever it is.

mod support;

use std::time::{Duration, Instant};
use support::compile;

/// What a bomb may have.
const MEMORY: &str = "--memory-limit=268435456";

fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &leb(content.len() as u64)[..], content].concat()
}

fn vector(count: usize, items: &[u8]) -> Vec<u8> {
    [&leb(count as u64), items].concat()
}

/// A module of so many functions with this body, the first of which is `_start`.
fn module(functions: usize, locals: u32, code: &[u8]) -> Vec<u8> {
    let locals = if locals == 0 {
        vec![0]
    } else {
        [&[1], &leb(u64::from(locals))[..], &[0x7f]].concat()
    };
    let body = [&locals, code, &[0x0b]].concat();
    let body = [leb(body.len() as u64), body].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &vector(functions, &vec![0; functions])),
        section(7, b"\x01\x06_start\0\0"),
        section(10, &vector(functions, &body.repeat(functions))),
    ]
    .concat()
}

fn small() -> Vec<u8> {
    module(1, 0, &[])
}

/// The answer: nothing, or a reason that is among these.
fn check(name: &str, wasm: &[u8], reasons: &[&str]) {
    let directory = tempfile::tempdir().expect("directory");
    let output = directory.path().join("artifact");
    let begin = Instant::now();
    let (code, document) = compile(wasm, &output, &[MEMORY]);
    println!(
        "{name}: {code} {} {:?}",
        document["reason"],
        begin.elapsed()
    );
    assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
    match document["reason"].as_str() {
        None => assert!(code == 0 && reasons.contains(&""), "{name}: {document}"),
        Some(reason) => assert!(reasons.contains(&reason), "{name}: {document}"),
    }
    let left = std::fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(left, usize::from(code == 0), "{name}");
}

#[test]
fn a_bomb_compiles_or_is_refused_within_its_memory() {
    let either = &["", "CompileMemory", "Malformed"];
    // local = local + 1, without end.
    let long = [0x20, 0, 0x41, 1, 0x6a, 0x21, 0].repeat(200_000);
    check(
        "a function of a million instructions",
        &module(1, 1, &long),
        either,
    );
    let nested = [[0x02, 0x40].repeat(20_000), vec![0x0b; 20_000]].concat();
    check("blocks in blocks", &module(1, 0, &nested), either);
    // Loops within which each of fifty thousand values may have changed.
    let loops: Vec<u8> = (0..1000_u64)
        .flat_map(|number| {
            let (from, to) = (leb(number * 49), leb(number * 50 % 49_999));
            let body = [&[0x03, 0x40, 0x20], &from[..], &[0x21], &to];
            [
                body.concat(),
                [&[0x20], &from[..], &[0x0d, 0, 0x0b]].concat(),
            ]
            .concat()
        })
        .collect();
    let uses: Vec<u8> = (0..50_000)
        .flat_map(|it| [&[0x20], &leb(it)[..], &[0x1a]].concat())
        .collect();
    check(
        "values of loops",
        &module(1, 50_000, &[loops, uses].concat()),
        either,
    );
    check("fifty thousand functions", &module(50_000, 0, &[]), either);
    // block; i32.const 0; br_table with a million ways, all of them out.
    let ways = [
        &[0x02, 0x40, 0x41, 0, 0x0e],
        &leb(1_000_000)[..],
        &vec![0; 1_000_001],
        &[0x0b],
    ]
    .concat();
    check("a table of branches", &module(1, 0, &ways), either);
    let globals = section(
        6,
        &vector(100_000, &[0x7f, 1, 0x41, 0, 0x0b].repeat(100_000)),
    );
    let start = small();
    let at = start
        .windows(2)
        .position(|it| it == [7, 10])
        .expect("exports");
    let with_globals = [&start[..at], &globals, &start[at..]].concat();
    check("a hundred thousand globals", &with_globals, either);
}

#[test]
fn counts_and_lengths_that_lie_are_refused() {
    let all = |parts: &[&[u8]]| [b"\0asm\x01\0\0\0", &parts.concat()[..]].concat();
    let most: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0x0f];
    for (name, wasm) in [
        ("a section longer than the file", all(&[&[1], most])),
        ("more types than bytes", all(&[&section(1, most)])),
        (
            "more functions than bytes",
            all(&[&section(1, &[1, 0x60, 0, 0]), &section(3, most)]),
        ),
        ("more imports than bytes", all(&[&section(2, most)])),
        ("more code than bytes", all(&[&section(10, most)])),
        ("more locals than numbers", module(1, u32::MAX, &[])),
        (
            "a number without an end",
            all(&[&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]),
        ),
        (
            "a name that is no text",
            all(&[&section(7, &[1, 2, 0xff, 0xfe, 0, 0])]),
        ),
        ("a section that nobody knows", all(&[&section(99, &[0])])),
        (
            "sections in the wrong order",
            all(&[&section(3, &[0]), &section(1, &[0])]),
        ),
        (
            "a component in name only",
            b"\0asm\x0d\0\x01\0\x01\xff".to_vec(),
        ),
    ] {
        check(name, &wasm, &["Malformed", "NoEntryPoint"]);
    }
}

#[test]
fn a_file_cut_anywhere_is_nothing_but_refused() {
    let whole = module(2, 1, &[0x20, 0, 0x1a]);
    for end in (0..whole.len()).step_by(3) {
        // Cut between two sections it is whole, and says nothing of what is to run.
        check(
            &format!("cut at {end}"),
            &whole[..end],
            &["NotWasm", "Malformed", "NoEntryPoint"],
        );
    }
    check("whole", &whole, &[""]);
}
