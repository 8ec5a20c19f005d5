"""Wrong answers to the exercises of lesson 6, and other right ones."""
import math

import torch


def times(token, factor, normalise=True, of="M"):
    def answer(M, M_star, t):
        M_hat = M.clone() if of == "M" else M_star[0].clone()
        M_hat[..., token] *= factor
        return (M_hat / M_hat.sum(-1, keepdim=True) if normalise else M_hat)[None]
    return answer


def paid_by(tokens):
    """Token 3 twice; what it gains is taken from others, all alike."""
    def answer(M, M_star, t):
        M_hat = M.clone()
        M_hat[..., 3] *= 2
        M_hat[..., tokens] -= M[..., 3:4] / len(tokens)
        return M_hat[None]
    return answer


def added(M, M_star, t):
    M_hat = M.clone()
    M_hat[..., 3] += M[..., 3].mean()
    return (M_hat / M_hat.sum(-1, keepdim=True))[None]


def over_pixels(M, M_star, t):
    M_hat = M.clone()
    M_hat[..., 3] *= 2
    return (M_hat / M_hat.sum((1, 2), keepdim=True))[None]


def clamped(M, M_star, t):
    """Exactly 2 M[3], the others sharing what is left: more than twice against them."""
    twice = (2 * M[..., 3:4]).clamp(max=1)
    M_hat = M * (1 - twice) / (1 - M[..., 3:4])
    M_hat[..., 3:4] = twice
    return M_hat[None]


def only(tokens, flip=lambda M: M.flip(2)):
    def answer(M, M_star, t):
        M_hat = M.clone()
        M_hat[..., tokens] = flip(M)[..., tokens]
        return M_hat[None]
    return answer


WRONG = dict(
    double={"no change": lambda M, M_star, t: M[None],
            "rows not normalised": times(3, 2, normalise=False),
            "normalised over the pixels": over_pixels,
            "token 2": times(2, 2), "token 4": times(4, 2),
            "three times": times(3, 3), "half": times(3, 0.5),
            "M_star": times(3, 2, of="M_star"),
            "row 3 of the picture": lambda M, M_star, t: torch.cat([M[:, :3], 2 * M[:, 3:4], M[:, 4:]], 1)[None],
            "paid by one token, which gets negative": paid_by([5]),
            "paid by all others alike": paid_by([k for k in range(77) if k != 3]),
            "exactly twice, the others share the rest": clamped,
            "something added": added,
            "a softmax of the map": lambda M, M_star, t: times(3, 2)(M, M_star, t).softmax(-1),
            "without the targets' axis": lambda M, M_star, t: times(3, 2)(M, M_star, t)[0]},
    mirror={"no change": lambda M, M_star, t: M[None],
            "a roll by a quarter": lambda M, M_star, t: M.roll(M.shape[2] // 4, 2)[None],
            "a roll by half": lambda M, M_star, t: M.roll(M.shape[2] // 2, 2)[None],
            "upside down": lambda M, M_star, t: M.flip(1)[None],
            "both axes": lambda M, M_star, t: M.flip(1, 2)[None],
            "the heads": lambda M, M_star, t: M.flip(0)[None],
            "the tokens": lambda M, M_star, t: M.flip(3)[None],
            "one pixel off": lambda M, M_star, t: M.flip(2).roll(1, 2)[None],
            "M_star": lambda M, M_star, t: M_star.flip(3),
            "M_star where M is not mirrored": lambda M, M_star, t: M_star,
            "one token": only([3]),
            "the words without the padding": only(list(range(1, 8))),
            "all but the padding": only(list(range(0, 9))),
            "with its own mirror picture": lambda M, M_star, t: ((M + M.flip(2)) / 2)[None],
            "negative": lambda M, M_star, t: -M.flip(2)[None],
            "transposed": lambda M, M_star, t: M.transpose(1, 2)[None]},
    fade={"the wrong way": lambda M, M_star, t: (1 - t) * M + t * M_star,
          "a switch": lambda M, M_star, t: M.expand_as(M_star) if t > 0.5 else M_star,
          "always half": lambda M, M_star, t: (M + M_star) / 2,
          "M alone": lambda M, M_star, t: M.expand_as(M_star),
          "squared": lambda M, M_star, t: t ** 2 * M + (1 - t ** 2) * M_star,
          "a step late": lambda M, M_star, t: min(1, t + 0.05) * M + (1 - min(1, t + 0.05)) * M_star,
          "a step early": lambda M, M_star, t: max(0, t - 0.05) * M + (1 - max(0, t - 0.05)) * M_star,
          "M_star not faded in": lambda M, M_star, t: t * M + M_star,
          "one target only": lambda M, M_star, t: (t * M + (1 - t) * M_star[0])[None],
          "the first target for all": lambda M, M_star, t: (t * M + (1 - t) * M_star[:1]).expand_as(M_star)})


def with_vector(M, M_star, t):
    c = torch.ones(77, dtype=M.dtype, device=M.device)
    c[3] = 2
    return (M * c / (M * c).sum(-1, keepdim=True)).expand_as(M_star)


def by_index(M, M_star, t):
    return M[:, :, torch.arange(M.shape[2] - 1, -1, -1), :].unsqueeze(0)


def normalised(M, M_star, t):
    M_hat = torch.where(torch.arange(77) > 0, M.flip(2), M)
    return (M_hat / M_hat.sum(-1, keepdim=True))[None]


RIGHT = dict(
    double={"with a vector": with_vector,
            "in the scores": lambda M, M_star, t: (M.log() + math.log(2) * (torch.arange(77) == 3)).softmax(-1)[None],
            "by what the sum will be": lambda M, M_star, t:
                (M * (1 + (torch.arange(77) == 3).to(M)) / (1 + M[..., 3:4]))[None],
            "half of the others": lambda M, M_star, t: with_vector(M * 0.5, M_star, t)},
    mirror={"by index": by_index, "all but the start": only(list(range(1, 77))), "normalised": normalised,
            "for any number of targets": lambda M, M_star, t: M.flip(-2).expand_as(M_star)},
    fade={"lerp": lambda M, M_star, t: M_star.lerp(M.expand_as(M_star), t),
          "from M_star": lambda M, M_star, t: M_star + t * (M - M_star)})
