;; Three tables of a million elements, eight megabytes each: what the host keeps for them is the container's memory.
;; memory: 16777216
;; end: not-started "raise the container's memory limit"
(module
  (table 1000000 funcref) (table 1000000 funcref) (table 1000000 funcref)
  (func (export "_start")))
