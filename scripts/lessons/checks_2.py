"""The exercises of lesson 2."""
import numpy as np
import torch

from p2p_min.lessons.checks import exercise, numbers, require


def like(answer, wanted, name):
    """The answer, if it is a tensor shaped like the one wanted."""
    require(isinstance(answer, torch.Tensor), f"it returns a {type(answer).__name__}, wanted a tensor")
    require(answer.shape == wanted.shape, f"its shape is {tuple(answer.shape)}, wanted {tuple(wanted.shape)}, as "
            f"{name} has")
    return answer.detach().float()


@exercise(hints=(
    "For arrays of True and False, a & b is True where both are, a | b where at least one is.",
    "How many are True? .sum() counts them. Divide one count by the other."))
def shared(answer):
    "Intersection over union."
    a, b = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    a[1:5, 1:5] = True                                     # 16 pixels
    b[1:5, 3:6] = True                                     # 12, of which 8 are shared: 8 of 20
    smaller, far = a.copy(), np.zeros((6, 8), bool)
    smaller[1:3] = False                                   # the lower half of a
    far[0, 7] = True
    for one, two, wanted, what in ((a, a, 1, "an outline and itself"), (a, far, 0, "outlines far apart"),
                                   (a, b, 0.4, "16 pixels and 12, of which 8 are shared,"),
                                   (b, a, 0.4, "12 pixels and 16, of which 8 are shared,"),
                                   (a, smaller, 0.5, "an outline and the lower half of it"),
                                   (smaller, a, 0.5, "half of an outline and the whole")):
        before = one.copy(), two.copy()
        number = answer(one, two)
        try:
            number = float(number)
        except (TypeError, ValueError):
            require(False, "it should return one number")
        require((one == before[0]).all() and (two == before[1]).all(), "it changes a or b themselves")
        require(abs(number - wanted) < 1e-4, f"{what} should give {wanted:g}, and give {number:.2f}")


@exercise(hints=(
    "Read the formula from the left: begin at the prediction without the prompt, and go w times the way to the other.",
    "The way from eps_empty to eps is eps - eps_empty."))
def guided(answer):
    "Classifier-free guidance."
    eps, empty = numbers(2, 4, 3, 3, seed=1), numbers(2, 4, 3, 3, seed=2)
    before = eps.clone(), empty.clone()
    for w, why in ((1.0, "at w = 1 it is the prediction with the prompt"),
                   (0.0, "at w = 0 it is the prediction without the prompt"), (5.0, ""), (-2.0, "")):
        found = like(answer(eps, empty, w), eps, "eps")
        require(eps.equal(before[0]) and empty.equal(before[1]), "it changes eps or eps_empty themselves")
        wanted = empty + w * (eps - empty)
        off = (found - wanted).abs().max()
        require(off < 1e-4, why or f"right at w = 1 and w = 0, but at w = {w:g} it is off by up to {off:.1f}")


@exercise(hints=(
    "t falls from 1 to 0. When is the source's map used: while t is above tau, or below?",
    "Two cases: an `if`. What it returns must be shaped like M_star, which has one dimension more than M, the targets.",
    "M.expand_as(M_star) repeats M for each target; after tau, M_star itself."))
def my_word_swap(answer):
    "The source's maps while t > tau, for every target."
    shape = 3, 2, 4, 5                                     # heads, height, width, tokens
    maps = torch.softmax(numbers(3, *shape), dim=-1)       # the source's, and those of two targets

    def called(M, M_star, t, *tau):
        found = like(answer(M, M_star, t, *tau), M_star, "M_star")
        return "source" if torch.allclose(found, maps[:1].expand_as(found)) else \
            "own" if torch.allclose(found, maps[1:1 + len(found)]) else "neither"

    for targets in (1, 2):
        for tau, steps in (((), 20), ((), 50), ((0.5,), 20), ((0.6,), 50), ((0.0,), 20), ((1.0,), 20)):
            end = tau[0] if tau else 0.2
            for i in range(steps):
                t = (steps - i) / steps
                M, M_star = maps[0].clone(), maps[1:1 + targets].clone()
                found, wanted = called(M, M_star, t, *tau), "source" if t > end else "own"
                require(M.equal(maps[0]), "it changes M itself")
                require(M_star.equal(maps[1:1 + targets]), "it changes M_star itself: write into a copy of it, "
                        "M_star.clone()")
                require(found != "neither", f"at t = {t:.2f} it is neither the source's map nor the targets' own")
                require(found == wanted or t != end, f"with tau = {end:g} and t = {t:.2f}, just as large, it gives the "
                        "source's map; the formula has it if t > tau, and not at t = tau")
                require(found == wanted, f"with tau = {end:g} and t = {t:.2f} it gives the "
                        f"{'target' if found == 'own' else 'source'}'s map; 1 is pure noise, where the edit begins")
