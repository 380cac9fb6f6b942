;; Never comes out of its start function.
;; end: not-started "was stopped while it was starting"
(module (func $init (loop $again (br $again))) (start $init) (func (export "_start")))
