;; Says itself that it cannot go on.
;; end: trap "wasm `unreachable` instruction executed"
(module (func $boom unreachable) (func (export "_start") (call $boom)))
