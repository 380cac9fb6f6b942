;; Calls the host as often as it can, with functions that never wait: no tick is its own.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (loop $again
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 0)))
    (drop (call $stat (i32.const 1) (i32.const 64)))
    (drop (call $path (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 128)))
    (br $again))))
