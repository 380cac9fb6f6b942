;; Keeps every object that it makes: memory that the engine manages for it counts as its own.
;; memory: 67108864
;; end: oom "GC heap out of memory"
(module
  (type $node (struct (field (ref null $node)) (field i64) (field i64) (field i64)))
  (global $all (mut (ref null $node)) (ref.null $node))
  (func (export "_start") (loop $again
    (global.set $all (struct.new $node (global.get $all) (i64.const 1) (i64.const 2) (i64.const 3)))
    (br $again))))
