"""A checkpoint's config as a checked dict of the values that the code uses."""
import math
from typing import Callable, NamedTuple

from ..checks import is_number, is_whole
from ..checks import shorten as short


class Kind(NamedTuple):
    """What a value may be. Bounds are generous: they keep out what would hang, eat memory or end in a traceback."""
    fits: Callable                     # value -> bool
    words: str                         # the same for people, after "it must be"


FLAG = Kind(lambda x: isinstance(x, bool), "true or false")
TEXT = Kind(lambda x: isinstance(x, str), "text")


def whole(low, high=math.inf):
    return Kind(lambda x: is_whole(x) and low <= x <= high,
                f"a whole number from {low} " + ("on" if high == math.inf else f"to {high}"))


def number(low, high):
    return Kind(lambda x: is_number(x) and low < x < high, f"a number between {low} and {high}")


def one_of(*values):
    same = lambda x, value: x == value and isinstance(x, bool) == isinstance(value, bool)      # Python has True == 1
    return Kind(lambda x: any(same(x, value) for value in values), " or ".join(map(repr, values)))


def listed(kind, low=1, high=8):
    return Kind(lambda x: isinstance(x, (list, tuple)) and low <= len(x) <= high and all(map(kind.fits, x)),
                f"a list of {low if low == high else f'{low} to {high}'}, each {kind.words}")


def either(a, b):
    return Kind(lambda x: a.fits(x) or b.fits(x), f"{a.words}, or {b.words}")


def one_or_each(kind):
    return either(kind, listed(kind)._replace(words="a list with one for each block"))


def read_config(config, what, used, fixed=None, ignored=None):
    """A checkpoint's `config.json` as a dict of the values that the code uses.

    used     key -> (diffusers' default, for a key that the file does not have; the `Kind` of its value)
    fixed    key -> the values that the code implements; None (absent) always means the first
    ignored  keys that cannot change what is computed; None: all others
    Raises ValueError for a value that makes no sense or is not implemented and for an unknown key, naming it: a setting
    that changes the maths is never ignored.
    """
    fixed = fixed or {}
    for key, value in config.items():
        if key.startswith("_") or value is None:
            continue
        said = f"{what}: its config has {short(key)} = {short(repr(value))}"
        if key in used:
            if not used[key][1].fits(value):
                raise ValueError(f"{said}; it must be {used[key][1].words}")
        elif key in fixed:
            implemented = one_of(*fixed[key])
            if not implemented.fits(value):
                raise ValueError(f"{said}; p2p_min implements {implemented.words} only")
        elif ignored is not None and key not in ignored:
            raise ValueError(f"{said}, which p2p_min does not know")
    return {key: default if config.get(key) is None else config[key] for key, (default, _) in used.items()}


def per_block(value, blocks, what):
    """A setting given once or once per block, as a list of one value per block."""
    if not isinstance(value, (list, tuple)):
        return [value] * blocks
    if len(value) != blocks:
        raise ValueError(f"{what}: {len(value)} values for {blocks} blocks")
    return list(value)
