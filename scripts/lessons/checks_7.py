"""The exercises of lesson 7."""
import numbers as numeric

import torch

from p2p_min.lessons.checks import exercise, maps, require, tensor


@exercise(hints=(
    "How many tokens has the old word, and how many the new one? Equal counts are a case of their own.",
    "Otherwise every new token gets the same map: the sum of M over `old`, divided by how many tokens are new.",
    "M[..., old].sum(-1, keepdim=True) is the sum, with a last axis of 1; expand(*M.shape[:-1], len(new)) repeats it."))
def swapped(answer):
    """swapped(M, old, new): one to one if the counts are equal, else the sum, shared equally."""
    M = maps(2, 3, 5, 9, seed=1)
    before = M.clone()
    for old, new in (([3], [3]), ([2], [5]), ([3, 4], [3, 4]), ([2, 3], [4, 5]), ([3], [3, 4]), ([2, 3], [2]),
                     ([2, 3, 4], [4, 5]), ([5], [1, 2, 3, 4])):
        given = tensor(answer(M, list(old), list(new)), (*M.shape[:-1], len(new)))
        require(M.equal(before), "it changes M itself")
        case, total = f"old {old}, new {new}: ", M[..., old].sum(-1)
        if len(old) == len(new):
            require(torch.allclose(given, M[..., old], atol=1e-6), case + "as many tokens, so each takes one's map")
        require(torch.allclose(given.sum(-1), total, atol=1e-6),
                case + f"the new tokens have {given.sum() / total.sum():.2f} times the attention of the old ones")
        wanted = M[..., old] if len(old) == len(new) else total[..., None] / len(new)
        require(torch.allclose(given, wanted.expand_as(given), atol=1e-6), case + "the shares are not equal")


@exercise(hints=(
    "M[..., tokens] are their columns. What sums to 1: a row or a column?",
    "For each pixel and head, add what these tokens get; then take the mean over all of them."))
def share(answer):
    """share(M, tokens): their part of all attention."""
    M = maps(3, 4, 5, 77, seed=2, sharp=2.0)
    for tokens in ([0], [1, 2, 3], list(range(5, 77)), list(range(77)), [7, 3]):
        given = answer(M.clone(), list(tokens))
        require(isinstance(given, (numeric.Real, torch.Tensor)) and torch.as_tensor(given).numel() == 1,
                "a share is one number")
        given, wanted = float(given), M[..., tokens].sum(-1).mean().item()
        some = f"tokens {tokens}" if len(tokens) < 5 else f"{len(tokens)} tokens"
        require(abs(given - wanted) < 1e-4, f"{some} get {wanted:.4f} of the attention; your number is {given:.4f}")


@exercise(hints=(
    "There are two conditions, and both must hold. Which part of the schedule is over at time t?",
    "1 - t is the part that is over. In the first 40 % of the steps it is less than 0.4.",
    "1 - t < 0.4, and height * width at most 32 * 32."))
def active(answer):
    """active(height, width, t): the first 40 % of the steps, at most 32 · 32 pixels."""
    for N in (5, 10, 50):
        for i in range(N):
            for height, width in ((32, 32), (16, 16), (64, 16), (16, 64), (8, 8), (64, 64), (33, 32), (32, 48)):
                given, t = answer(height, width, (N - i) / N), (N - i) / N
                require(given in (True, False), f"it returns {given!r}, wanted True or False")
                is_small, is_early = height * width <= 32 * 32, 5 * i < 2 * N
                where = f"{height} × {width} pixels, t = {t:g}, step {i} of {N}: "
                reason = ("it is a large map" if not is_small else "the first 40 % are over" if not is_early else
                          "the map is small enough, and the first 40 % are not over")
                require(bool(given) == (is_small and is_early), f"{where}your answer is {bool(given)}, but {reason}")
