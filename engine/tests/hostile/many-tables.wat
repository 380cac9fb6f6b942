;; Twenty tables of a million elements each: there is an end to what the host keeps for them.
;; end: not-started "table minimum size of 1000000 elements exceeds"
(module
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (func (export "_start")))
