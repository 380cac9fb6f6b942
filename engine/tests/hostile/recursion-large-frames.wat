;; Calls itself with two thousand bytes of values in each frame, through a table.
;; end: trap "call stack exhausted"
(module
  (type $t (func (param v128 v128 v128 v128 v128 v128 v128 v128) (result v128)))
  (table funcref (elem $a $b))
  (func $a (type $t)
    (v128.xor (call_indirect (type $t)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6) (local.get 7)
      (i32.const 1)) (local.get 7)))
  (func $b (type $t)
    (v128.xor (call_indirect (type $t)
      (local.get 7) (local.get 6) (local.get 5) (local.get 4) (local.get 3) (local.get 2) (local.get 1) (local.get 0)
      (i32.const 0)) (local.get 0)))
  (func (export "_start")
    (drop (call $a (v128.const i64x2 1 2) (v128.const i64x2 1 2) (v128.const i64x2 1 2) (v128.const i64x2 1 2)
      (v128.const i64x2 1 2) (v128.const i64x2 1 2) (v128.const i64x2 1 2) (v128.const i64x2 1 2)))))
