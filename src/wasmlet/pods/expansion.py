"""`$(VAR)` in variables, arguments and subPathExpr, exactly as Kubernetes (third_party/forked/golang/expansion).

`$(NAME)` is replaced, `$$` stands for `$` (so `$$(NAME)` gives the literal `$(NAME)`), everything else stays: a `$`
before another character, an opening without a closing. What a variable holds is not expanded again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["expand"]

PATTERN = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """`text` with its references replaced.

    Args:
        lookup: Name → value; None leaves the reference as it is.
    """

    def replacement(match: re.Match[str]) -> str:
        name: str | None = match[1]
        if name is None:
            return "$"
        value = lookup(name)
        return match[0] if value is None else value

    # After the last ")" no reference can end. Looking for one there at every "$(" would take quadratic time.
    end = text.rfind(")") + 1
    return PATTERN.sub(replacement, text[:end]) + text[end:].replace("$$", "$")
