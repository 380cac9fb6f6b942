;; Goes through a door that another guest moves: ends with 99 when it stands outside, and leaves files behind there.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "door/secret")
  (data (i32.const 32) "door/made")
  (data (i32.const 48) "door/../../outside/secret")
  (data (i32.const 80) "door")
  (func (export "_start")
    (loop $again
      (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const 16) (i32.const 11)
            (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
        (then (call $exit (i32.const 99))))
      (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const 48) (i32.const 25)
            (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
        (then (call $exit (i32.const 99))))
      (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const 32) (i32.const 9)
            (i32.const 1) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))
        (then
          (drop (call $close (i32.load (i32.const 0))))
          (drop (call $unlink (i32.const 3) (i32.const 32) (i32.const 9)))))
      ;; As a directory: what was opened inside stays inside, whatever its name leads to later.
      (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const 80) (i32.const 4)
            (i32.const 2) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 0)))
        (then
          (if (i32.eqz (call $open (i32.load (i32.const 0)) (i32.const 1) (i32.const 21) (i32.const 6)
                (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 4)))
            (then (call $exit (i32.const 99))))
          (drop (call $close (i32.load (i32.const 0))))))
      (drop (call $unlink (i32.const 3) (i32.const 16) (i32.const 11)))
      (drop (call $rename (i32.const 3) (i32.const 16) (i32.const 11) (i32.const 3) (i32.const 80) (i32.const 3)))
      (br $again))))
