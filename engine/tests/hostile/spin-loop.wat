;; Computes for ever in the smallest loop there is.
;; end: runs
(module (func (export "_start") (loop $again (br $again))))
