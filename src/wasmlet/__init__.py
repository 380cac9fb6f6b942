"""wasmlet, the WebAssembly kubelet. ARCHITECTURE.md has the picture and the five files to read first."""

__version__ = "0.1.0"
