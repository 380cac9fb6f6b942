;; Computes for ever by a branch table whose every way leads back.
;; end: runs
(module (func (export "_start") (local $n i32)
  (loop $a (loop $b (loop $c (loop $d
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_table $a $b $c $d $a $b $c $d (i32.rem_u (local.get $n) (i32.const 9)))))))))
