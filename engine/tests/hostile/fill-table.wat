;; Fills a table of a million elements in one instruction, again and again.
;; end: runs
(module (table $t 1000000 funcref) (elem declare func $f) (func $f)
  (func (export "_start") (loop $again
    (table.fill $t (i32.const 0) (ref.func $f) (i32.const 1000000))
    (table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 999999)) (br $again))))
