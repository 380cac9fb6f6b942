;; Wants more memory than the machine has addresses for, before its first instruction.
;; end: not-started "memory"
(module (memory (export "memory") i64 0x1000000000000) (func (export "_start")))
