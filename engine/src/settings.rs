//! The WebAssembly settings that the compile helper and the engine must share, so that artifacts fit.

use sha2::{Digest as _, Sha256};
use std::hash::{Hash as _, Hasher};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result,
    WasmBacktraceDetails,
};

/// Instances of http guests at once, of all containers.
const INSTANCES: u32 = 1_000;

/// The table of a JavaScript engine has 15,000 elements.
const TABLE_ELEMENTS: usize = 100_000;

/// Of a slot that is given back this much is set to zero instead of being given to the kernel.
const RESIDENT: usize = 64 * 1024;

/// Whether calls of one instance can run side by side, which WASI 0.3 needs, and which costs each instance of any guest.
/// An artifact fits engines of its own flavour only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// One call after the other: core modules, WASI 0.2.
    Sequential,
    /// Side by side: WASI 0.3.
    Concurrent,
}

/// An engine that can compile.
pub fn compiling(flavour: Flavour) -> Result<Engine> {
    Engine::new(&shared(flavour))
}

/// An engine that maps artifacts and has no compiler.
pub fn serving(flavour: Flavour) -> Result<Engine> {
    Engine::new(shared(flavour).enable_compiler(false))
}

/// An engine as [`serving`] gives, for guests that come and go with each request: their memories, tables and stacks
/// are taken from a pool and given back, which is worth more than twice the requests. Only addresses are reserved.
pub fn pooled(flavour: Flavour) -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * 16)
        .total_memories(INSTANCES * 2)
        .total_tables(INSTANCES * 4)
        .total_stacks(INSTANCES)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        .linear_memory_keep_resident(RESIDENT)
        .table_keep_resident(RESIDENT)
        .async_stack_keep_resident(RESIDENT);
    let config = &mut shared(flavour);
    config
        .enable_compiler(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(config)
}

fn shared(flavour: Flavour) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(flavour == Flavour::Concurrent)
        .epoch_interruption(true)
        // Wasmtime's default reads an environment variable of the host; function names come without it.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Backtraces of guests follow frame pointers; the tables only cost size and registration at load.
        .native_unwind_info(false);
    config
}

/// Names the artifacts that an engine of this build on this machine can map.
pub fn compatibility() -> Result<String> {
    // Only an engine with a compiler knows the compiler's part of the hash.
    let mut hasher = StableHasher(Sha256::new());
    for flavour in [Flavour::Sequential, Flavour::Concurrent] {
        compiling(flavour)?
            .precompile_compatibility_hash()
            .hash(&mut hasher);
    }
    Ok(hexadecimal(&hasher.0.finalize())[..16].to_owned())
}

/// Lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The standard library's hasher promises no stable values across its releases; the name goes to disk.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
