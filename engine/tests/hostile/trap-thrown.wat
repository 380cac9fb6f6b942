;; Throws, and nobody catches it.
;; end: trap "thrown Wasm exception"
(module (tag $t) (func (export "_start") (throw $t)))
