;; Makes a name a directory and a link out of its root in turn, as fast as it can.
;; end: runs
(module
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "../outside")
  (data (i32.const 32) "door")
  (data (i32.const 48) "link")
  (data (i32.const 64) "kept")
  (func $move (param $from i32) (param $to i32)
    (drop (call $rename (i32.const 3) (local.get $from) (i32.const 4) (i32.const 3) (local.get $to) (i32.const 4))))
  (func (export "_start")
    (drop (call $make (i32.const 3) (i32.const 32) (i32.const 4)))
    (drop (call $symlink (i32.const 16) (i32.const 10) (i32.const 3) (i32.const 48) (i32.const 4)))
    (loop $again
      (call $move (i32.const 32) (i32.const 64))
      (call $move (i32.const 48) (i32.const 32))
      (call $move (i32.const 32) (i32.const 48))
      (call $move (i32.const 64) (i32.const 32))
      (br $again))))
