;; Twenty memories that grow in turn: the limit is for all of them together.
;; memory: 67108864
;; end: oom "its limit is 67108864"
(module
  (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
  (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
  (func (export "_start") (loop $again
    (drop (memory.grow 0 (i32.const 1))) (drop (memory.grow 7 (i32.const 1))) (drop (memory.grow 19 (i32.const 1)))
    (br $again))))
