;; A component that gives many requests methods and authorities of 2 MiB: both are refused, and nothing of them is kept.
;; end: code 0
;; memory: 67108864
(component
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $request (sub resource)))
    (type $word (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect")
      (case "options") (case "trace") (case "patch") (case "other" string)))
    (export "method" (type $method (eq $word)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
    (export "[method]outgoing-request.set-method" (func
      (param "self" (borrow $request)) (param "method" $method) (result (result))))
    (export "[method]outgoing-request.set-authority" (func
      (param "self" (borrow $request)) (param "authority" (option string)) (result (result))))))
  (core module $memory (memory (export "memory") 33))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (core func $new (canon lower (func $http "[constructor]fields")))
  (core func $request (canon lower (func $http "[constructor]outgoing-request")))
  (core func $method (canon lower (func $http "[method]outgoing-request.set-method") (memory $bytes)))
  (core func $authority (canon lower (func $http "[method]outgoing-request.set-authority") (memory $bytes)))
  (core module $main
    (import "host" "memory" (memory 33))
    (import "host" "new" (func $new (result i32)))
    (import "host" "request" (func $request (param i32) (result i32)))
    (import "host" "method" (func $method (param i32 i32 i32 i32) (result i32)))
    (import "host" "authority" (func $authority (param i32 i32 i32 i32) (result i32)))
    (func (export "run") (result i32) (local $left i32) (local $request i32)
      (memory.fill (i32.const 0) (i32.const 97) (i32.const 0x200000))
      (local.set $left (i32.const 200))
      (loop $again
        (local.set $request (call $request (call $new)))
        (if (call $method (local.get $request) (i32.const 9) (i32.const 0) (i32.const 7)) (then unreachable))
        (if (i32.eqz (call $method (local.get $request) (i32.const 9) (i32.const 0) (i32.const 0x200000)))
          (then unreachable))
        (if (call $authority (local.get $request) (i32.const 1) (i32.const 0) (i32.const 7)) (then unreachable))
        (if (i32.eqz (call $authority (local.get $request) (i32.const 1) (i32.const 0) (i32.const 0x200000)))
          (then unreachable))
        (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (i32.const 0)))
  (core instance $main (instantiate $main (with "host" (instance
    (export "memory" (memory $bytes)) (export "new" (func $new)) (export "request" (func $request))
    (export "method" (func $method)) (export "authority" (func $authority))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
