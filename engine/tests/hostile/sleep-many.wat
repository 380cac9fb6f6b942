;; Waits for a million clocks at once.
;; end: trap "resource table has no free keys"
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2048)
  (func (export "_start") (local $n i32)
    (loop $clocks
      (i32.store (i32.add (i32.const 16) (i32.mul (local.get $n) (i32.const 48))) (i32.const 1))
      (i64.store (i32.add (i32.const 24) (i32.mul (local.get $n) (i32.const 48))) (i64.const 0x0fffffffffffffff))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $clocks (i32.lt_u (local.get $n) (i32.const 1000000))))
    (loop $again
      (drop (call $poll (i32.const 0) (i32.const 67108864) (i32.const 1000000) (i32.const 8))) (br $again))))
