;; Writes a gigabyte to stdout without a newline, sixteen megabytes at once.
;; end: code 0
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 258)
  (func (export "_start") (local $n i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 16777216))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 16777216))
    (loop $again
      (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.load (i32.const 8))))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 1073741824))))))
