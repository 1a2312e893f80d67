"""How many parts groups, images and taps are divided into."""

import itertools
import math


def divisor_up_to(number: int, most: float) -> int:
    """The largest divisor of ``number`` that is no more than ``most``, or 1."""
    return max(n for n in divisors(number) if n == 1 or n <= most)


def divisor_about(number: int, wanted: int) -> int:
    """The smallest divisor from ``wanted`` to four times that, or else the largest below it."""
    near = (n for n in divisors(number) if wanted <= n <= 4 * wanted)
    return next(near, divisor_up_to(number, wanted))


def ranges(size: int, most: int) -> list[range]:
    """The fewest ranges of about equal length, of at most ``most``."""
    count = math.ceil(size / most)
    edges = [size * i // count for i in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(edges)]


def divisors(number: int) -> list[int]:
    """All that divide ``number``, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]
