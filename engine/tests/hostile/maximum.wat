;; Grows a memory and a table beyond what their own types allow, a thousand times: that is -1, and counts for nothing.
;; memory: 67108864
;; end: code 0
(module
  (memory (export "memory") 1 2)
  (table $t 1 2 funcref)
  (func (export "_start") (local $n i32)
    (loop $again
      (if (i32.ne (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))
      (if (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1)) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))
