;; Opens files and closes none, and goes on for ever when it is refused.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "f")
  (func (export "_start")
    (loop $again
      (drop (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 1)
        (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))
      (br $again))))
