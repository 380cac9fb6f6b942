;; Reads the last address that there can be, without a memory that large.
;; end: trap "out of bounds memory access"
(module (memory 1)
  (func (export "_start") (drop (i64.load offset=0xffffffff (i32.const 0xffffffff)))))
