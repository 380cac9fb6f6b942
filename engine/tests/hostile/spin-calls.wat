;; Computes for ever by calls alone, a few dozen deep: no loop anywhere.
;; end: runs
(module
  (func $tree (param $depth i64)
    (if (i64.eqz (local.get $depth)) (then (return)))
    (call $tree (i64.sub (local.get $depth) (i64.const 1)))
    (call $tree (i64.sub (local.get $depth) (i64.const 1))))
  (func (export "_start") (call $tree (i64.const 60))))
