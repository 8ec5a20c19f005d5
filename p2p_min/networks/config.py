"""A checkpoint's config as a checked dict of the values that the code uses; what counts as a number; and choices.

The command line reads its arguments with these before torch is imported.
"""
import math
from numbers import Integral, Real

SPACINGS = ("leading", "trailing", "linspace")             # of the timesteps
PREDICTIONS = ("epsilon", "v_prediction")                  # of the UNet
METHODS = ("ddim", "null-text", "negative-prompt", "direct")           # of inversion


def is_number(x):
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)


def is_whole(x):
    return isinstance(x, Integral) and not isinstance(x, bool)


def window(steps):
    """(a, b), the part of the schedule in which an edit acts, counted from pure noise: 0.8 means (0, 0.8).

    Raises ValueError unless 0 <= a <= b <= 1.
    """
    pair = tuple(steps) if isinstance(steps, (tuple, list)) else (0.0, steps)
    if len(pair) != 2 or not all(map(is_number, pair)) or not 0 <= pair[0] <= pair[1] <= 1:
        raise ValueError(f"steps must be a fraction of the schedule from 0 to 1, or a window (from, to), not {steps!r}")
    return float(pair[0]), float(pair[1])


def read_config(config, what, used, fixed, ignored=()):
    """A checkpoint's `config.json` as a dict of the values that the code uses.

    used     key -> diffusers' default, for a key that the file does not have
    fixed    key -> the values that the code implements; None (absent) always means the first
    ignored  keys that cannot change what is computed
    Raises ValueError for a value that is not implemented and for an unknown key, naming it: a setting that
    changes the maths is never ignored.
    """
    for key, value in config.items():
        if key.startswith("_") or key in used or key in ignored or value is None:
            continue
        if key not in fixed:
            raise ValueError(f"{what}: its config has {key} = {value!r}, which p2p_min does not know")
        if value not in fixed[key]:
            allowed = " or ".join(repr(v) for v in fixed[key])
            raise ValueError(f"{what}: its config has {key} = {value!r}; p2p_min implements {allowed} only")
    return {key: default if config.get(key) is None else config[key] for key, default in used.items()}


def per_block(value, blocks, what):
    """A setting given once or once per block, as a list of one value per block."""
    if not isinstance(value, (list, tuple)):
        return [value] * blocks
    if len(value) != blocks:
        raise ValueError(f"{what}: {len(value)} values for {blocks} blocks")
    return list(value)
