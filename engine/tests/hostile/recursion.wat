;; Calls itself until the stack is used up.
;; end: trap "call stack exhausted"
(module (func $deep (export "_start") (call $deep)))
