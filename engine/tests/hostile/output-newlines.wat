;; Writes newlines to stderr without end: each is forty times as long in the log.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 258)
  (func (export "_start")
    (memory.fill (i32.const 65536) (i32.const 10) (i32.const 16777216))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 16777216))
    (loop $again
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again))))
