"""The exercises of lesson 1."""
import torch

from p2p_min.lessons.checks import exercise, numbers, require, tensor


@exercise(hints=(
    "Each pixel shares its attention among the tokens: over which dimension of (heads, pixels, tokens) is the sum 1?",
    "The scores are Q times K transposed in its last two dimensions: K.transpose(1, 2). d is the last size of Q.",
    "torch.softmax(scores / d ** 0.5, dim=-1), with scores = Q @ K.transpose(1, 2)."))
def attention_map(answer):
    "M = softmax(Q Kᵀ / √d), normalised over the tokens."
    for heads, pixels, keys, d in ((2, 6, 5, 16), (3, 4, 4, 9)):
        Q, K = numbers(heads, pixels, d, seed=1), numbers(heads, keys, d, seed=2)
        before = Q.clone(), K.clone()
        M = tensor(answer(Q, K), (heads, pixels, keys))
        require(Q.equal(before[0]) and K.equal(before[1]), "it changes Q or K themselves")
        require(M.isfinite().all() and M.min() >= 0, "some of its numbers are below 0, or not finite")
        sums = M.sum(-1)
        require((sums - 1).abs().max() < 1e-4, "the attention of one pixel, over all tokens, should sum to 1; here "
                f"pixels have sums from {sums.min():.2f} to {sums.max():.2f}")
        wanted = torch.softmax(Q @ K.transpose(1, 2) / d ** 0.5, dim=-1)
        strongest, ours = wanted.max(), M.max()
        require((M.argmax(-1) == wanted.argmax(-1)).all(), "rows sum to 1, but pixels look most at the wrong token: "
                "which number of Q meets which number of K?")
        require((M - wanted).abs().max() < 1e-4, f"pixels look most at the right tokens, but the strongest look is "
                f"{ours:.2f}, wanted {strongest:.2f}: what are the scores divided by, with d = {d}?")


@exercise(hints=(
    "M[..., tokens] picks the columns of a word, also of several tokens. Two dimensions must go: heads and tokens.",
    "Sum over the last dimension, mean over the first: (pixels,) is left, row by row.",
    "A vector of height * width numbers becomes a picture by .reshape(height, width)."))
def word_picture(answer):
    "A word's column, the mean over heads and the sum over its tokens, as a picture."
    for height, width, chosen in ((3, 5, [2]), (4, 2, [1, 3]), (4, 4, [0, 2, 5])):
        M = torch.softmax(2 * numbers(3, height * width, 7, seed=height), dim=-1)
        before = M.clone()
        picture = tensor(answer(M, chosen, height, width), (height, width))
        require(M.equal(before), "it changes M itself")
        wanted = M[..., chosen].sum(-1).mean(0).unflatten(0, (height, width))
        if (picture - wanted).abs().max() < 1e-5:
            continue
        for n in range(len(M)):
            require(not torch.allclose(picture, M[n][:, chosen].sum(-1).unflatten(0, (height, width)), atol=1e-5),
                    f"that is head {n} alone")
        ours, right = picture.sum(), wanted.sum()
        order = picture.flatten().sort().values - wanted.flatten().sort().values
        require(order.abs().max() > 1e-5, f"the numbers are right and in the wrong places, in a picture {height} high "
                f"and {width} wide: M lists the pixels row by row")
        require(abs(ours - right) < 1e-4, f"all pixels together look at the word by {right:.2f}, here it is "
                f"{ours:.2f}, with {len(M)} heads and a word of {len(chosen)} token{'s' * (len(chosen) > 1)}")
        require(False, "the sum over the picture is right, the picture is not")


@exercise(hints=(
    "A tensor can be indexed by a mask: of_word[mask] are the numbers where the mask is True.",
    "~mask is the mask of all others. Each side has a mean of its own."))
def times_as_much(answer):
    "The mean inside a mask over the mean outside of it."
    of_word = numbers(4, 6, seed=5).abs() + 0.1
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 1:4] = True
    before = of_word.clone(), mask.clone()

    def measured(of_word, mask):
        number = answer(of_word, mask)
        try:
            return float(number)
        except (TypeError, ValueError, RuntimeError):
            require(False, "it should return one number")

    flat = measured(torch.full((4, 6), 0.2, dtype=torch.float32), mask)
    require(abs(flat - 1) < 1e-4, f"where all pixels look at the word equally it should be 1, and is {flat:.2f}")
    bright = torch.where(mask, 0.6, 0.2).float()
    number = measured(bright, mask)
    require(abs(number - 3) < 1e-3, f"0.6 inside of the mask and 0.2 outside should give 3, and gives {number:.2f}")
    number = measured(of_word, mask)
    wanted = float(before[0][before[1]].mean() / before[0][~before[1]].mean())
    require(of_word.equal(before[0]) and mask.equal(before[1]), "it changes the map or the mask themselves")
    require(abs(number - wanted) < 1e-3, f"on a map of many different numbers it gives {number:.3f}, wanted "
            f"{wanted:.3f}: is every pixel in one of the two means?")
