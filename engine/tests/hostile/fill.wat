;; Fills four gigabytes in one instruction, again and again: nothing can interrupt one.
;; end: runs
(module (memory 65536)
  (func (export "_start") (loop $again
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 0xffffffff)) (br $again))))
