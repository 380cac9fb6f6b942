;; Asks for memory and writes to all of it.
;; memory: 134217728
;; end: oom "its limit is 134217728"
(module (memory (export "memory") 0)
  (func (export "_start") (local $page i32) (loop $again
    (local.set $page (memory.grow (i32.const 16)))
    (if (i32.eq (local.get $page) (i32.const -1)) (then (return)))
    (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 7) (i32.const 1048576))
    (br $again))))
