;; Wants a table of two thousand million elements before its first instruction.
;; memory: 67108864
;; end: not-started "table"
(module (table 2000000000 funcref) (func (export "_start")))
