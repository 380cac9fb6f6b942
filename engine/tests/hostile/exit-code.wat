;; Ends with the largest code that there is, from within its start function.
;; end: not-started "start function ended it"
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $init (call $exit (i32.const -1))) (start $init) (func (export "_start")))
