"""The exercises of lesson 3."""
import torch

from p2p_min.edits import CrossEdit, Reweight
from p2p_min.lessons.checks import exercise, maps, require, tensor


def same(a, b):
    return torch.allclose(a, b, atol=1e-6)


@exercise(hints=(
    "M[..., old] are the old word's maps, one for each of its tokens. What does one sum over them look like?",
    "Sum over the last dimension with keepdim=True, so that (heads, height, width, 1) is left. Each of the len(new) "
    "tokens gets the same part of it.",
    "total = M[..., old].sum(-1, keepdim=True); repeat it len(new) times along the last dimension, and divide."))
def share(answer):
    "The old word's maps, summed, and shared equally among the new word's tokens."
    for old, new in (([3], [3]), ([3, 4], [3]), ([2], [2, 3]), ([1, 2, 3], [4, 6])):
        M = maps(2, 3, 4, 8, seed=len(old))
        before = M.clone()
        given = tensor(answer(M, list(old), list(new)), (2, 3, 4, len(new)))
        case = f"old {old}, new {new}"
        require(M.equal(before), "it changes M itself")
        total, wanted = given.sum(), M[..., old].sum()
        require(abs(total - wanted) < 1e-3, f"{case}: the old word has an attention of {wanted:.2f} in all, and the "
                f"new one gets {total:.2f}")
        first = given[..., :1].expand_as(given)
        require(same(given, first), f"{case}: the new word's tokens do not get equal shares")
        require(same(given, (M[..., old].sum(-1, keepdim=True) / len(new)).expand_as(given)),
                f"{case}: the total is right, but at the wrong pixels, or from the wrong tokens")


@exercise(hints=(
    "Begin with a copy of M_star: then the new words have their own maps already.",
    "for j, i in enumerate(A): where i is None nothing is to be done. But 0 is a token: `if i` is not enough.",
    "M_hat[..., j] = M[..., i] copies a column into all targets, if M_hat = M_star.clone()."))
def add_phrase(answer):
    "Each token takes the source's map that A names, and its own where A has None."
    for A in ([0, 1, 2, 3, 4, 5], [0, 1, None, 2, 3, 5], [0, None, None, 1, 2, 3], [None, 0, 3, 1, 1, None]):
        M, M_star = maps(2, 3, 4, 6, seed=1), maps(2, 2, 3, 4, 6, seed=2)
        before = M.clone(), M_star.clone()
        M_hat = tensor(answer(M, M_star, list(A)), M_star.shape)
        require(M.equal(before[0]), "it changes M itself")
        require(M_star.equal(before[1]), "it changes M_star itself: work on a copy")
        for j, i in enumerate(A):
            column, own = M_hat[..., j], M_star[..., j]
            if i is None:
                require(same(column, own), f"with A = {A}, token {j} is new, and does not keep its own map")
            else:
                what = " (token 0 is a token like others)" if i == 0 and same(column, own) else ""
                require(same(column, M[..., i].expand_as(own)),
                        f"with A = {A}, token {j} does not have the map that A names{what}")


@exercise(hints=(
    "First one copy of M for each target, (targets, heads, height, width, tokens). Then only one column changes.",
    "M.repeat(len(c), 1, 1, 1, 1) makes the copies. M_hat[..., word] is (targets, heads, height, width): which shape "
    "must c have, to give each target its factor?",
    "c[:, None, None, None] is (targets, 1, 1, 1)."))
def my_reweight(answer):
    "The map of one word times c, one c for each target."
    M, word, c = maps(2, 3, 4, 6, seed=3), 2, torch.tensor([-2, 0, 1, 1.5, 3], dtype=torch.float32)
    before = M.clone()
    for chosen in (c[2:3], c, c[:2]):                              # 2: as many as heads
        given = answer(M, word, chosen.clone())
        require(M.equal(before), "it changes M itself: the next target would get what this one left")
        M_hat = tensor(given, (len(chosen), *M.shape))
        for i, factor in enumerate(chosen.tolist()):
            others = [j for j in range(M.shape[-1]) if j != word]
            require(same(M_hat[i][..., others], M[..., others]),
                    f"with c = {factor:g}, maps of other words change, too")
            require(same(M_hat[i][..., word], factor * M[..., word]),
                    f"with c = {factor:g}, the word's map sums to {M_hat[i][..., word].sum():.2f}; it was "
                    f"{M[..., word].sum():.2f}")


@exercise(hints=(
    "Two choices for each token: inside the window, M A for a token that has a map in the source, M* for a new one. "
    "Outside of it, M*. A choice by a number that is 0 or 1 is a product.",
    "M @ A has the source's maps in the target's order, with zeros for new words, where M_star * own has their own.",
    "c times all of it: w times (the sum of these two), plus (1 - w) times M_star."))
def one_formula(answer):
    "The three edits of the library as one: a CrossEdit (A, own, w) in a Reweight (c)."
    for case in range(4):
        M, M_star = maps(2, 3, 4, 6, seed=case), maps(2, 2, 3, 4, 7, seed=9 + case)
        A, own = torch.zeros(6, 7, dtype=torch.float32), torch.zeros(7, dtype=torch.float32)
        for j, i in enumerate((0, 1, None, 2, (3, 4), 3, 5)):
            own[j] = i is None
            if i is not None:
                A[i, j] = 1
        w = torch.tensor([[1] * 7, [0] * 7, [1] * 7, [1, 0, 1, 0, 1, 1, 0]][case], dtype=torch.float32)
        c = torch.tensor([1, -2, 0.5, 2, 1, 3, 1] if case > 1 else [1] * 7, dtype=torch.float32)
        before = [each.clone() for each in (M, M_star, A, own, w, c)]
        M_hat = tensor(answer(M, M_star, A, own, w, c), M_star.shape)
        require(all(map(torch.equal, before, (M, M_star, A, own, w, c))), "it changes what it is given: work on copies")
        wanted = edited(M, M_star, *before[2:])
        if same(M_hat, wanted):
            continue
        what = ("w = 1 and c = 1, which is an added phrase", "w = 0 and c = 1, after the window",
                "w = 1 and c that are not 1", "w = 0 for some tokens, and c that are not 1")[case]
        j = int((M_hat - wanted).abs().amax((0, 1, 2, 3)).argmax())
        require(False, f"with {what}, it is furthest from the library at token {j}, where own is {own[j]:g}, "
                f"w is {w[j]:g} and c is {c[j]:g}")


def edited(M, M_star, A, own, w, c):
    """What the library makes of these maps: tokens with w = 1 have a window that is open at t = 0.5."""
    targets = len(M_star)
    A, own, w, c = (each.expand(targets, *each.shape) for each in (A, own, w, c))
    base = CrossEdit(A, own, torch.zeros_like(w), w, [])
    return Reweight(base, c, torch.zeros_like(c), torch.ones_like(c), [])(M, M_star, 0.5)
