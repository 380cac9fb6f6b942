"""Another function in the place of `_start`: `/app.wasm#function`, as runwasi has it.

The engine calls `_start` of a core module. So a module of which another function is to be called is given to it with
that function exported under this name: only the export section is written anew (WebAssembly core specification 5.5.10).
"""

from __future__ import annotations

from typing import Final

from wasmlet.base.errors import GuestError, UserError
from wasmlet.images.layouts import Binary, detect_binary
from wasmlet.images.manifest import shown, shown_list

ENTRY_POINT: Final = "_start"
_EXPORTS: Final = 7
_FUNCTION: Final = 0
_PREAMBLE_BYTES: Final = 8
_MAX_INTEGER_BYTES: Final = 5


def with_entry_point(module: bytes, function: str) -> bytes:
    """The module, with `function` as what is run.

    Raises:
        GuestError: It is a component, is cut or broken, or exports no such function (reasons `NoEntryPoint`,
            `NotWasm`, `Malformed`).
    """
    try:
        binary = detect_binary(module[:_PREAMBLE_BYTES])
    except UserError as error:
        raise GuestError(error.message, reason="NotWasm") from error
    if binary is Binary.COMPONENT:
        raise GuestError(
            f"#{shown(function)} names a function of a component: only those of core modules can be called",
            reason="NoEntryPoint",
        )
    try:
        return _rewritten(module, function)
    except IndexError:
        raise GuestError("the WebAssembly binary is truncated or invalid", reason="Malformed") from None


def _rewritten(module: bytes, function: str) -> bytes:
    position, exports = _PREAMBLE_BYTES, list[tuple[bytes, bytes]]()
    while position < len(module):
        start, kind = position, module[position]
        size, position = _integer(module, position + 1)
        end = position + size
        if end > len(module):
            raise IndexError
        if kind == _EXPORTS:
            exports = _exports(module[position:end])
            found = dict(exports).get(function.encode())
            if found is not None and found[0] == _FUNCTION:
                kept = [each for each in exports if each[0] != ENTRY_POINT.encode()]
                content = _section([*kept, (ENTRY_POINT.encode(), found)])
                return module[:start] + content + module[end:]
        position = end
    names = shown_list([name.decode(errors="replace") for name, value in exports if value[0] == _FUNCTION])
    raise GuestError(f"the module exports no function {shown(function)}; it exports {names}", reason="NoEntryPoint")


def _exports(content: bytes) -> list[tuple[bytes, bytes]]:
    """Names, and what they stand for as it is written: a byte for the kind and an index."""
    count, position = _integer(content, 0)
    found = []
    for _ in range(count):
        length, position = _integer(content, position)
        name = content[position : position + length]
        _, end = _integer(content, position + length + 1)
        found.append((name, content[position + length : end]))
        position = end
    return found


def _section(exports: list[tuple[bytes, bytes]]) -> bytes:
    content = _encoded(len(exports)) + b"".join(_encoded(len(name)) + name + value for name, value in exports)
    return bytes([_EXPORTS]) + _encoded(len(content)) + content


def _integer(content: bytes, position: int) -> tuple[int, int]:
    """An unsigned LEB128 integer, and where it ends; raises IndexError where there is none."""
    value = 0
    for count in range(_MAX_INTEGER_BYTES):
        byte = content[position + count]
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, position + count + 1
    raise IndexError


def _encoded(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
