;; Wants four gigabytes before its first instruction.
;; memory: 67108864
;; end: not-started "raise the container's memory limit"
(module (memory (export "memory") 65536) (func (export "_start")))
