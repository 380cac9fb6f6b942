;; Asks for memory with 64-bit addresses, doubling each time.
;; memory: 67108864
;; end: oom "its limit is 67108864"
(module (memory (export "memory") i64 1)
  (func (export "_start") (loop $again
    (drop (memory.grow (memory.size))) (br $again))))
