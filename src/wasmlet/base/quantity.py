"""Kubernetes quantities ("250m", "64Mi", "1e3") as exact numbers.

Grammar and suffixes are those of apimachinery's `resource.Quantity`. Values stay `Fraction`s, so nothing is lost
before the one rounding that the caller names.
"""

from __future__ import annotations

import functools
import math
import re
from fractions import Fraction

from wasmlet.base.errors import UserError

__all__ = ["Quantity", "ceil", "ceil_divided", "parse"]

Quantity = str | int | float
"""What YAML and JSON deliver."""

BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
SUFFIXES = {suffix: Fraction(1024) ** power for suffix, power in BINARY.items()} | {
    suffix: Fraction(10) ** power for suffix, power in DECIMAL.items()
}

MAXIMUM_LENGTH = 64
MAXIMUM_EXPONENT = 99
"""Far more than any machine has; without them "1e999999999" would fill the agent's memory."""

PATTERN = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+)|([KMGTPE]i|[numkMGTPE]?))", re.ASCII)


@functools.lru_cache(maxsize=1024, typed=True)
def parse(quantity: Quantity) -> Fraction:
    """The exact value of `quantity`.

    Raises:
        UserError: It is no quantity, or has more than two digits of exponent.
    """
    text = str(quantity)
    match = PATTERN.fullmatch(text) if len(text) <= MAXIMUM_LENGTH and not isinstance(quantity, bool) else None
    if match is None:
        raise UserError(f"{text[:MAXIMUM_LENGTH]!r} is not a quantity", hint="write it like 250m, 1.5, 64Mi or 1e3")
    sign, digits, exponent, suffix = match.groups()
    if exponent is None:
        scale = SUFFIXES[suffix]
    elif abs(int(exponent)) <= MAXIMUM_EXPONENT:
        scale = Fraction(10) ** int(exponent)
    else:
        raise UserError(f"quantity {text!r} is out of range")
    value = Fraction(digits) * scale
    return -value if sign == "-" else value


def ceil(quantity: Quantity) -> int:
    """The smallest whole number that is not below `quantity`: bytes of memory, say."""
    return math.ceil(parse(quantity))


def ceil_divided(quantity: Quantity, divisor: Quantity) -> int:
    """`quantity` in units of `divisor`, rounded up: 250m by 1 is 1 (resourceFieldRef, contract 6.1).

    A divisor of zero counts as 1, as the API documents for an unset one.

    Raises:
        UserError: One of them is no quantity.
    """
    return math.ceil(parse(quantity) / (parse(divisor) or Fraction(1)))
