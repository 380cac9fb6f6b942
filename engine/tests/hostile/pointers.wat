;; Gives the host pointers to nowhere, and names that are no text.
;; end: trap "out of bounds"
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\ff\fe\00a")
  (func (export "_start")
    (drop (call $unlink (i32.const 3) (i32.const 16) (i32.const 4)))
    (drop (call $unlink (i32.const -1) (i32.const 16) (i32.const 4)))
    (drop (call $unlink (i32.const 3) (i32.const 65530) (i32.const -1)))
    (drop (call $poll (i32.const 0) (i32.const 65535) (i32.const 0x0fffffff) (i32.const 8)))
    (drop (call $args (i32.const -4) (i32.const -1)))
    (drop (call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8)))
    unreachable))
