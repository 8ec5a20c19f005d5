"""The checks of lesson 6."""
import torch

from p2p_min.lessons.checks import exercise, maps, require


def edited(answer, M, M_star, t):
    """What the Edit makes of maps, if that is maps."""
    M_hat = answer(M.clone(), M_star.clone(), t)
    require(isinstance(M_hat, torch.Tensor), f"an Edit returns a tensor, and this one {type(M_hat).__name__}")
    require(M_hat.shape == M_star.shape,
            f"it returns the shape {tuple(M_hat.shape)}; M_hat must be shaped like M_star, {tuple(M_star.shape)}")
    require(M_hat.isfinite().all(), "some of its numbers are not finite")
    return M_hat


def near(a, b, tolerance=1e-4):
    return bool(((a - b).abs() <= tolerance * b.abs() + 1e-6).all())


@exercise(hints=(
    "If only token 3 changes, what happens to the sum of a row? And what must not change among the others?",
    "Make a copy of M, double its column 3, and divide each row by its sum: the others keep their ratios.",
    "M_hat / M_hat.sum(-1, keepdim=True), with an axis for the targets in front: [None]."))
def double(answer):
    """double(M, M_star, t): token 3 weighs twice as much against every other token, and rows sum to 1."""
    for seed, sharp in ((0, 1.0), (1, 3.0)):               # in the second, some rows are nearly all of one token
        M, M_star = maps(4, 6, 8, 77, seed=seed, sharp=sharp), maps(1, 4, 6, 8, 77, seed=seed + 10)
        M[0, 0, 0] = 0.1 / 76
        M[0, 0, 0, 3] = 0.9                                # twice as much would be more than 1
        M_hat = edited(answer, M, M_star, 1.0)
        require((M_hat >= 0).all(), f"attention cannot be negative here; the least is {M_hat.min():.3f}")
        low, high = (f(M_hat.sum(-1)).item() for f in (torch.min, torch.max))
        require(abs(low - 1) < 1e-4 and abs(high - 1) < 1e-4, f"rows sum to {low:.3f} … {high:.3f}, not to 1")
        wanted = M.clone()
        wanted[..., 3] *= 2
        wanted = wanted / wanted.sum(-1, keepdim=True)
        others = [k for k in range(77) if k != 3]
        among = [x[..., others] / x[..., others].sum(-1, keepdim=True) for x in (M_hat[0], M)]
        require(near(*among), "the tokens other than 3 have changed against one another (or are not those of M)")
        before, after = ((x[..., 3] / x[..., 4]).mean().item() for x in (M, M_hat))
        require(near(M_hat[0], wanted), "against the others, token 3 does not weigh twice what it does in M, but "
                                        f"{after / before:.2f} times")


@exercise(hints=(
    "Which axis of M (heads, height, width, tokens) goes from left to right?",
    "M.flip(axis) turns one axis round; the heads are axis 0.",
    "Lesson 6 moved the ball with all tokens, the padding too. And M_hat has an axis for the targets: [None]."))
def mirror(answer):
    """mirror(M, M_star, t): the source's maps, left to right."""
    for size in ((8, 6), (4, 4)):
        M, M_star = maps(4, *size, 77, seed=size[0], sharp=2.0), maps(1, 4, *size, 77, seed=9)
        M_hat = edited(answer, M, M_star, 1.0)[0]
        wanted = M.flip(2)
        where = "token {} of your M_hat is {}"
        for j in (3, 4):
            for other, what in ((M, "where it was"), (M.flip(1), "upside down"),
                                (M.flip(1, 2), "turned by 180 degrees"), (M.flip(0), "another head's"),
                                (M.roll(size[1] // 4, 2), "moved, not mirrored"),
                                (M_star[0], "the target's"), (M_star[0].flip(2), "the target's, mirrored")):
                require(not near(M_hat[..., j], other[..., j]), where.format(j, what))
        given, wanted = M_hat[..., 1:], wanted[..., 1:]    # the start token may stay as it is
        same = near(given, wanted)
        sums = M_hat.sum(-1)
        scaled = near(sums, torch.ones_like(sums)) and near(given / given.sum(-1, keepdim=True),
                                                            wanted / wanted.sum(-1, keepdim=True))
        words = near(given[..., :7], wanted[..., :7])
        require(not words or same or scaled, "the first tokens are mirrored, but not all: what else remembered where "
                                             "the ball was?")
        require(same or scaled, "M_hat[y, x] is not the source's map at the mirrored x: up to "
                                f"{(given - wanted).abs().max():.2f} away")


@exercise(hints=(
    "How much of M is in M_hat at t = 1, at 0.5, at 0? That number is t itself.",
    "What is not M's share is M_star's: 1 - t. The sum has M_star's shape by itself."))
def fade(answer):
    """fade(M, M_star, t): M at t = 1, M_star at t = 0, a straight line between."""
    for targets in (1, 3):
        M, M_star = maps(4, 6, 8, 77, seed=1), maps(targets, 4, 6, 8, 77, seed=2)
        for t in (1.0, 0.95, 0.5, 0.25, 0.05, 0.0):
            M_hat = edited(answer, M, M_star, t)
            share = ((M_hat - M_star) * (M - M_star)).sum() / (M - M_star).square().sum()
            wanted = t * M + (1 - t) * M_star
            hint = f"with {targets} target(s), at t = {t:g} "
            if abs(share - t) > 0.01:
                hint += f"the share of M is {share:.2f}, and {t:.2f} is wanted"
            else:
                hint += "it is no mixture of M and M_star"
            require(near(M_hat, wanted, 1e-3), hint)
