;; Asks for memory page by page and uses none of it, until it is refused.
;; memory: 67108864
;; end: oom "its limit is 67108864"
(module (memory (export "memory") 1)
  (func (export "_start") (loop $again
    (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))
