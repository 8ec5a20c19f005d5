"""Exercises that say by themselves whether an answer is right.

checks_1.py, checks_2.py, … hold the checks of each lesson:

    @exercise(hints=("Where is the middle of a picture?", "Pixel x goes to width - 1 - x."))
    def mirror(answer):
        "The ball, left to right."
        require(..., "the ball comes to 0.61, wanted 0.39")

A learner calls `check.mirror(mirror)`, and `check.mirror.hint()` for the next hint.
"""
import dis
import functools
import os
import sys
import warnings

import numpy as np
import torch


class NotYet(Exception):
    """An answer that is not right, and what shows it."""


def require(fact, hint):
    if not fact:
        raise NotYet(hint)


class Verdict:
    """Whether an answer is right. A notebook does not show it: the line above says more."""

    def __init__(self, is_right, line):
        self.is_right, self.line = is_right, line

    def __bool__(self):
        return self.is_right

    def _ipython_display_(self):
        pass


class NotAnswered(Exception):
    pass


def exercise(check=None, *, hints=()):
    """A check as the learner calls it: prints one line, and returns a `Verdict`, which is true if the answer is right.

    An answer of None, or a function whose body is `...` or `pass`, is not answered yet. Whatever the answer raises is
    told by its last line. `.hint()` prints the next of the hints; `.asked` is how many were printed.
    """
    if check is None:
        return functools.partial(exercise, hints=hints)
    name = check.__name__

    @functools.wraps(check)
    def told(answer):
        result, line = False, "not answered yet"
        if answer is not None and answer is not ...:
            try:
                with warnings.catch_warnings(action="ignore"):
                    check(answered(answer) if callable(answer) else as_asked(answer))
                result, line = True, "right"
            except NotAnswered:
                pass
            except NotYet as hint:
                line = f"not yet: {hint}"
            except Exception as error:
                line = f"not yet: it raises {type(error).__name__}: {error}"
        # Where nbgrader runs it, a cell has its points unless it writes to standard error.
        wrong = not result and "NBGRADER_EXECUTION" in os.environ
        print(f"{name}: {line}", file=sys.stderr if wrong else sys.stdout)
        return Verdict(result, line)

    def hint():
        if told.asked < len(hints):
            told.asked += 1
            print(f"{name}, hint {told.asked} of {len(hints)}: {hints[told.asked - 1]}")
        else:
            print(f"{name}: there is no other hint" if hints else f"{name}: there is no hint")

    told.hint, told.hints, told.asked = hint, tuple(hints), 0
    return told


def answered(answer):
    def call(*args, **kwargs):
        given = answer(*args, **kwargs)
        if given is ... or given is None and is_left_alone(answer):
            raise NotAnswered
        require(given is not None, "it returns nothing: is its `return` missing?")
        return as_asked(given)
    return call


def is_left_alone(function):
    """Whether a function does nothing, as one whose body is `...` or `pass`."""
    code = getattr(function, "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    return code is not None and {each.opname for each in dis.get_instructions(code)} <= nothing


def as_asked(given):
    require(not (isinstance(given, np.ndarray) and given.ndim),
            "it is a numpy array, wanted a tensor: torch.from_numpy(...) makes one of it")
    return given


def numbers(*shape, seed=0):
    """The same random numbers each time, whatever the default dtype is."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def maps(*shape, seed=0, sharp=1.0):
    """Maps as a softmax makes them: each row of the last axis sums to 1."""
    return torch.softmax(sharp * numbers(*shape, seed=seed), dim=-1)


def tensor(answer, shape):
    """The answer as float32 numbers of that shape. Anything else is not right yet."""
    require(isinstance(answer, torch.Tensor), f"it returns a {type(answer).__name__}, wanted a tensor")
    require(answer.shape == torch.Size(shape), f"its shape is {tuple(answer.shape)}, wanted {tuple(shape)}")
    return answer.detach().float()
