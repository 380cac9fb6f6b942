;; Calls a function as another type than it has.
;; end: trap "indirect call type mismatch"
(module (type $other (func (param i64) (result i64)))
  (table funcref (elem $f)) (func $f)
  (func (export "_start") (drop (call_indirect (type $other) (i64.const 1) (i32.const 0)))))
