;; Asks for all the memory that an address can name, again and again.
;; memory: 67108864
;; end: oom "its limit is 67108864"
(module (memory (export "memory") 1)
  (func (export "_start") (loop $again (drop (memory.grow (i32.const 65535))) (br $again))))
