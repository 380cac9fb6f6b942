;; Grows a table until it is refused, and spins then.
;; end: runs
(module (table $t 1 funcref)
  (func (export "_start") (loop $again
    (drop (table.grow $t (ref.null func) (i32.const 65536))) (br $again))))
