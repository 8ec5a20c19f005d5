"""A checkpoint's config as a checked dict of the values that the code uses; and what counts as a number."""
from numbers import Integral, Real

LARGEST_NUMBER = 3.4028234663852886e38         # in float32


def is_number(x):
    """Whether x is a finite number in float32, with which everything is computed."""
    try:
        return isinstance(x, Real) and not isinstance(x, bool) and abs(float(x)) <= LARGEST_NUMBER
    except OverflowError:                      # not even a Python float
        return False


def is_whole(x):
    return isinstance(x, Integral) and not isinstance(x, bool)


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
