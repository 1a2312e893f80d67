"""How many parts groups, images and taps are divided into."""

import itertools
import math


def divisors(number: int) -> list[int]:
    """All divisors, from 1 on."""
    return [n for n in range(1, number + 1) if number % n == 0]


def divisor_about(number: int, wanted: int) -> int:
    """The smallest divisor from ``wanted`` to four times that, or else the largest below it."""
    every = divisors(number)
    return next(
        (n for n in every if wanted <= n <= 4 * wanted), max(n for n in every if n <= wanted)
    )


def ranges(size: int, most: int) -> list[range]:
    """The fewest ranges of about equal length, of at most ``most``."""
    count = math.ceil(size / most)
    edges = [size * i // count for i in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(edges)]
