;; A component that keeps everything the host lends it.
;; end: trap "resource table has no free keys"
(component
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))))
  (core func $new (canon lower (func $http "[constructor]fields")))
  (core module $main
    (import "host" "new" (func $new (result i32)))
    (func (export "run") (result i32) (loop $again (drop (call $new)) (br $again)) unreachable))
  (core instance $main (instantiate $main (with "host" (instance (export "new" (func $new))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
