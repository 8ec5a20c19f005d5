"""The exercises of lesson 3."""
import torch

from p2p_min.lessons.checks import exercise, maps, require, tensor


def same(a, b):
    return torch.allclose(a, b, atol=1e-6)


@exercise
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


@exercise
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


@exercise
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
