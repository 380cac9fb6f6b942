;; Declares memory shared by threads, which there are none of; its growth would be nobody's account.
;; end: refused Malformed "guests have no threads"
(module (memory (export "memory") 1 65536 shared)
  (func (export "_start") (loop $again
    (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))
