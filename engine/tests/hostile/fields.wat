;; A component that fills header fields and keeps them: they are the host's memory, and count as its own.
;; end: oom "its limit is 16777216"
;; memory: 16777216
(component
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (type $reason (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $error (eq $reason)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]fields.append" (func
      (param "self" (borrow $fields)) (param "name" string) (param "value" (list u8)) (result (result (error $error)))))))
  (core module $memory (memory (export "memory") 3))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (core func $new (canon lower (func $http "[constructor]fields")))
  (core func $append (canon lower (func $http "[method]fields.append") (memory $bytes)))
  (core module $main
    (import "host" "memory" (memory 3))
    (import "host" "new" (func $new (result i32)))
    (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (memory.fill (i32.const 16) (i32.const 97) (i32.const 120016))
      (loop $again
        (call $append (call $new) (i32.const 16) (i32.const 1) (i32.const 32) (i32.const 120000) (i32.const 0))
        (if (i32.load8_u (i32.const 0)) (then unreachable))
        (br $again))
      unreachable))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $bytes)) (export "new" (func $new)) (export "append" (func $append))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
