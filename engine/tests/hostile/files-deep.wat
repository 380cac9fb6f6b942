;; Makes a directory in a directory in a directory, and opens each: paths as long as they get.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "deep")
  (func (export "_start") (local $in i32) (local $was i32)
    (local.set $in (i32.const 3))
    (loop $again
      (drop (call $make (local.get $in) (i32.const 16) (i32.const 4)))
      (if (i32.eqz (call $open (local.get $in) (i32.const 0) (i32.const 16) (i32.const 4)
            (i32.const 2) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 0)))
        (then
          (local.set $was (local.get $in))
          (local.set $in (i32.load (i32.const 0)))
          (if (i32.ne (local.get $was) (i32.const 3)) (then (drop (call $close (local.get $was)))))))
      (br $again))))
