;; Copies half a gigabyte onto itself in one instruction, again and again.
;; memory: 1073741824
;; end: runs
(module (memory 16384)
  (func (export "_start") (loop $again
    (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x3fffffff)) (br $again))))
