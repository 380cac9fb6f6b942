;; Makes ten thousand files in its root, a kilobyte each, and closes each.
;; end: code 0
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "f00000")
  (func (export "_start") (local $n i32) (local $rest i32) (local $at i32)
    (loop $again
      (local.set $rest (local.get $n))
      (local.set $at (i32.const 21))
      (loop $digits
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
        (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br_if $digits (i32.gt_u (local.get $at) (i32.const 16))))
      (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 6)
            (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)) (then unreachable))
      (i32.store (i32.const 4) (i32.const 1024))
      (i32.store (i32.const 8) (i32.const 1024))
      (if (call $write (i32.load (i32.const 0)) (i32.const 4) (i32.const 1) (i32.const 12)) (then unreachable))
      (if (call $close (i32.load (i32.const 0))) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 10000))))))
