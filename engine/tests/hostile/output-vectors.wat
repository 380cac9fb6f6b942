;; Writes by a vector of sixteen million parts, each of them four gigabytes.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4096)
  (func (export "_start")
    (memory.fill (i32.const 0) (i32.const 255) (i32.const 268435456))
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 8) (i32.const 0xffffff) (i32.const 0)))
      (drop (call $write (i32.const 1) (i32.const 8) (i32.const 0xffffffff) (i32.const 0)))
      (br $again))))
