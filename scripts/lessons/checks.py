"""Exercises that say by themselves whether an answer is right.

checks_1.py … checks_6.py hold the checks of each lesson:

    @exercise
    def mirror(answer):
        "The ball, left to right."
        require(..., "the ball comes to 0.61, wanted 0.39")
"""
import functools

import torch


class NotYet(Exception):
    """An answer that is not right, and what shows it."""


def require(fact, hint):
    if not fact:
        raise NotYet(hint)


class Verdict:
    """Whether an answer is right. A notebook does not show it: the line above says more."""

    def __init__(self, is_right):
        self.is_right = is_right

    def __bool__(self):
        return self.is_right

    def _ipython_display_(self):
        pass


def exercise(check):
    """A check as the learner calls it: prints one line, and returns a `Verdict`, which is true if the answer is right.

    An answer of None, or a function that returns None or `...`, is not answered yet. Whatever the answer raises is told
    by its last line.
    """
    name = check.__name__

    @functools.wraps(check)
    def told(answer):
        result, line = False, "not answered yet"
        if answer is not None and answer is not ...:
            try:
                check(answered(answer) if callable(answer) else answer)
                result, line = True, "right"
            except NotAnswered:
                pass
            except NotYet as hint:
                line = f"not yet: {hint}"
            except Exception as error:
                line = f"not yet: it raises {type(error).__name__}: {error}"
        print(f"{name}: {line}")
        return Verdict(result)
    return told


class NotAnswered(Exception):
    pass


def answered(answer):
    def call(*args, **kwargs):
        given = answer(*args, **kwargs)
        if given is None or given is ...:
            raise NotAnswered
        return given
    return call


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
