"""The exercises of lesson 4."""
import torch

from p2p_min.lessons.checks import exercise, maps, require, tensor


def same(a, b):
    return torch.allclose(a.float(), b.float(), atol=1e-6)


@exercise(hints=(
    "t counts down from 1. Which of the numbers in this lesson counts up, like start and end?",
    "1 - t counts up. Inside the window, return M; outside, M_star. M has one axis less: the targets'.",
    "M.expand_as(M_star) if start <= 1 - t < end else M_star"))
def window(answer):
    "M where start <= 1 - t < end, else M_star, at each of eight steps."
    M, M_star = maps(2, 3, 4, 6, seed=1), maps(2, 2, 3, 4, 6, seed=2)
    before = M.clone(), M_star.clone()
    for start, end in ((0, 0.5), (0.25, 0.75), (0.5, 1), (0, 1), (0.5, 0.5)):
        for i in range(8):                                         # eighths have no rounding
            M_hat = tensor(answer(M, M_star, 1 - i / 8, start, end), M_star.shape)
            require(M.equal(before[0]) and M_star.equal(before[1]), "it changes M or M_star themselves")
            is_M, is_M_star = same(M_hat, M.expand_as(M_star)), same(M_hat, M_star)
            where = f"window ({start}, {end}), t = {1 - i / 8}, step {i} of 8"
            require(is_M or is_M_star, f"{where}: the answer is neither M nor M_star")
            wanted = start <= i / 8 < end
            require(is_M == wanted, f"{where}: the answer is {'M' if is_M else 'M_star'}, wanted "
                    f"{'M' if wanted else 'M_star'}")


@exercise(hints=(
    "Begin with a copy of M_star, so that M_star itself stays as it is.",
    "The last axis has the tokens: M_hat[..., columns] are the columns to replace.",
    "M_hat = M_star.clone(); then M_hat[..., columns] = M[..., columns] writes the source's map into all targets."))
def only(answer):
    "The chosen tokens have the source's map, the others their own."
    M, M_star = maps(2, 3, 4, 6, seed=3), maps(2, 2, 3, 4, 6, seed=4)
    before = M.clone(), M_star.clone()
    for columns in ([2], [1, 3], [0], [], [5, 0, 4]):
        M_hat = tensor(answer(M, M_star, list(columns)), M_star.shape)
        require(M.equal(before[0]), "it changes M itself")
        require(M_star.equal(before[1]), "it changes M_star itself: work on a copy")
        for j in range(M.shape[-1]):
            wanted = M[..., j].expand_as(M_star[..., j]) if j in columns else M_star[..., j]
            require(same(M_hat[..., j], wanted), f"with columns = {columns}, token {j} should have the "
                    f"{'source' if j in columns else 'target'}'s map, and has not")


@exercise(hints=(
    "Each map has a maximum of its own. What do you divide by, so that a faint word counts as much?",
    "maps.amax((1, 2), keepdim=True) has both maxima, in the shape (2, 1, 1).",
    "After > threshold there are two masks; .any(0) is where either of them is True."))
def mask_of_maps(answer):
    "Each map divided by its own maximum; where either is over the threshold."
    def mask(maps, threshold):
        before = maps.clone()
        given = tensor(answer(maps, threshold), maps.shape[1:])
        require(maps.equal(before), "it changes the maps themselves")
        require(bool(((given == 0) | (given == 1)).all()), "a mask has True and False only")
        return given.bool()

    faint = torch.zeros(2, 3, 5, dtype=torch.float32)
    faint[0, 0], faint[1, 2] = 0.8, 0.08                           # the first word above, the second below
    given = mask(faint, 0.3)
    require(given[0].all(), "the word of the source is in the first row of a map, the mask is not")
    require(given[2].all(), "a word whose map is faint everywhere, at most 0.08, is missing from the mask")
    require(not given[1].any(), "neither word is in the second row of a map, the mask is")
    both = torch.tensor([[[1, 0.25, 0.1], [0.5, 0, 0.05]], [[0.02, 0.02, 0.1], [0, 0.01, 0.04]]], dtype=torch.float32)
    for maps_, threshold in ((both, 0.3), (both, 0.45), (maps(2, 4, 6, seed=5), 0.3), (maps(2, 5, 3, seed=6), 0.6)):
        wanted = (maps_[0] / maps_[0].max() > threshold) | (maps_[1] / maps_[1].max() > threshold)
        given = mask(maps_.clone(), threshold)
        more, less = (given & ~wanted).sum().item(), (wanted & ~given).sum().item()
        require(more + less == 0, f"with a threshold of {threshold}, {more} pixels too many and {less} too few of "
                f"{wanted.numel()} are in the mask")
