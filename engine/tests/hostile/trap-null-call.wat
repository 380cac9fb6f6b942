;; Calls an element that nobody has set.
;; end: trap "uninitialized element"
(module (table 10 funcref) (func (export "_start") (call_indirect (i32.const 3))))
