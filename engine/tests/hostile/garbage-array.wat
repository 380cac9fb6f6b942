;; Makes arrays as large as a number can say.
;; memory: 67108864
;; end: trap "allocation size too large"
(module
  (type $array (array (mut i64)))
  (func (export "_start") (loop $again
    (drop (array.new_default $array (i32.const 0x7fffffff))) (br $again))))
