"""A checkpoint's config as a checked dict of the values that the code uses."""
from ..checks import is_number, is_whole, must, shorten

TYPES = {                              # in a table of keys: (in words, whether a value is one)
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("text", lambda value: isinstance(value, str))}


def read_config(config, what, keys, ignored=(), hints=None):
    """A checkpoint's `config.json` as a dict of the values that the code uses.

    keys     {key: (the default of diffusers, then what it may be: types, values, or [what the items of a list may be])}
    ignored  keys that cannot change what is computed; None: all others
    hints    {key: why its value is not implemented}
    Raises ValueError for an unknown key and for a value of another type or that is not implemented, naming the key: a
    setting that changes the maths is never ignored.
    """
    for key, value in config.items():
        is_ignored = key not in keys and (ignored is None or key in ignored)
        if is_ignored or key.startswith("_") or value is None:         # null means the default
            continue
        allowed = keys.get(key, (None,))[1:]
        hint = (hints or {}).get(key, "p2p_min implements nothing else")
        be = in_words(allowed) or f"absent or null ({hint})"
        must(fits(value, allowed), f"{what}: {shorten(key)} in its config", be, value)
    return {key: default if config.get(key) is None else config[key] for key, (default, *_) in keys.items()}


def fits(value, allowed):
    """Whether a value of a config is what a table allows."""
    for each in allowed:
        if isinstance(each, list):
            is_it = isinstance(value, (list, tuple)) and len(value) > 0 and all(fits(item, each) for item in value)
        elif isinstance(each, type):
            is_it = TYPES[each][1](value)
        else:
            is_it = value == each and isinstance(value, bool) == isinstance(each, bool)        # Python has True == 1
        if is_it:
            return True
    return False


def in_words(allowed):
    words = lambda each: TYPES[each][0] if isinstance(each, type) else repr(each)
    return " or ".join(f"a list of {in_words(each)}" if isinstance(each, list) else words(each) for each in allowed)


def one_each(value, n, what):
    """A setting that is given once, or n times as a list: as a list of n."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n
    must(len(values) == n, what, f"one value or a list of {n}", value)
    return values
