"""Lesson 3: answers that its checks must refuse, and other right ones."""
import torch


def phrase(M, M_star, A, take=lambda M, M_star, i, j: M[..., i], none=lambda M_star, j: M_star[..., j]):
    columns = [none(M_star, j) if i is None else take(M, M_star, i, j).expand_as(M_star[..., j])
               for j, i in enumerate(A)]
    return torch.stack(columns, -1)


def in_place(M, M_star, A):
    for j, i in enumerate(A):
        if i is not None:
            M_star[..., j] = M[..., i]
    return M_star


def zero_is_none(M, M_star, A):
    M_hat = M_star.clone()
    for j, i in enumerate(A):
        if i:
            M_hat[..., j] = M[..., i]
    return M_hat


def inverted(M, M_star, A):
    M_hat = M_star.clone()
    for j, i in enumerate(A):
        if i is not None:
            M_hat[..., i] = M[..., j]
    return M_hat


def with_matrix(M, M_star, A):
    matrix = torch.zeros(M.shape[-1], len(A), dtype=M.dtype)
    for j, i in enumerate(A):
        if i is not None:
            matrix[i, j] = 1
    return M @ matrix + M_star * (matrix.sum(0) == 0)


def weighted(M, word, c):
    M_hat = M.repeat(len(c), 1, 1, 1, 1)
    M_hat[..., word] *= c[:, None, None, None]
    return M_hat


def writes_into_M(M, word, c):
    rows = []
    for factor in c:
        M[..., word] *= factor
        rows.append(M.clone())
    return torch.stack(rows)


def on_width(M, word, c):
    M_hat = M.repeat(len(c), 1, 1, 1, 1)
    M_hat[..., word, :] *= c[:, None, None, None]
    return M_hat


def on_height(M, word, c):
    M_hat = M.repeat(len(c), 1, 1, 1, 1)
    M_hat[:, :, word] *= c[:, None, None, None]
    return M_hat


def added(M, word, c):
    M_hat = M.repeat(len(c), 1, 1, 1, 1)
    M_hat[..., word] += c[:, None, None, None] - 1
    return M_hat


def one_hot(M, word, c):
    scale = torch.ones(len(c), M.shape[-1], dtype=M.dtype)
    scale[:, word] = c
    return M * scale[:, None, None, None]


WRONG = {
    "share": {
        "mean of the old tokens": lambda M, old, new: M[..., old].mean(-1, keepdim=True).repeat(1, 1, 1, len(new)),
        "not shared": lambda M, old, new: M[..., old].sum(-1, keepdim=True).repeat(1, 1, 1, len(new)),
        "divided by the old tokens":
            lambda M, old, new: M[..., old].sum(-1, keepdim=True).repeat(1, 1, 1, len(new)) / len(old),
        "the first old token alone": lambda M, old, new: M[..., old[:1]].repeat(1, 1, 1, len(new)) / len(new),
        "the last old token alone": lambda M, old, new: M[..., old[-1:]].repeat(1, 1, 1, len(new)) / len(new),
        "the maps at the new places": lambda M, old, new: M[..., new],
        "one to one": lambda M, old, new: M[..., old],
        "all to the first new token": lambda M, old, new: torch.cat(
            [M[..., old].sum(-1, keepdim=True), torch.zeros(*M.shape[:-1], len(new) - 1, dtype=M.dtype)], -1),
        "the next token": lambda M, old, new:
            M[..., [i + 1 for i in old]].sum(-1, keepdim=True).repeat(1, 1, 1, len(new)) / len(new),
        "mean over pixels": lambda M, old, new: (M[..., old].sum(-1, keepdim=True) / len(new)).mean(
            (1, 2), keepdim=True).expand(-1, *M.shape[1:3], len(new)),
        "summed over heads": lambda M, old, new: M[..., old].sum((0, -1)),
        "minus": lambda M, old, new: -M[..., old].sum(-1, keepdim=True).repeat(1, 1, 1, len(new)) / len(new),
    },
    "add_phrase": {
        "all of M": lambda M, M_star, A: M.expand_as(M_star),
        "nothing": lambda M, M_star, A: M_star.clone(),
        "same position": lambda M, M_star, A: phrase(M, M_star, A, take=lambda M, M_star, i, j: M[..., j]),
        "one further": lambda M, M_star, A: phrase(M, M_star, A, take=lambda M, M_star, i, j: M[..., (i + 1) % 6]),
        "one before": lambda M, M_star, A: phrase(M, M_star, A, take=lambda M, M_star, i, j: M[..., i - 1]),
        "from M_star": lambda M, M_star, A: phrase(M, M_star, A, take=lambda M, M_star, i, j: M_star[..., i]),
        "a new word has no map":
            lambda M, M_star, A: phrase(M, M_star, A, none=lambda M_star, j: torch.zeros_like(M_star[..., j])),
        "the first target's map for all":
            lambda M, M_star, A: phrase(M, M_star, A, none=lambda M_star, j: M_star[:1, ..., j].expand(2, -1, -1, -1)),
        "A the wrong way round": inverted,
        "token 0 taken for None": zero_is_none,
        "writes into M_star": in_place,
        "one target": lambda M, M_star, A: phrase(M, M_star, A)[0],
        "rows made to sum to 1":
            lambda M, M_star, A: phrase(M, M_star, A) / phrase(M, M_star, A).sum(-1, keepdim=True),
    },
    "my_reweight": {
        "all words": lambda M, word, c: M * c[:, None, None, None, None],
        "the next word": lambda M, word, c: weighted(M, word + 1, c),
        "the word before": lambda M, word, c: weighted(M, word - 1, c),
        "width in place of tokens": on_width,
        "height in place of tokens": on_height,
        "added": added,
        "no negative c": lambda M, word, c: weighted(M, word, c.clamp_min(0)),
        "absolute c": lambda M, word, c: weighted(M, word, c.abs()),
        "c squared": lambda M, word, c: weighted(M, word, c * c),
        "the first c for all": lambda M, word, c: weighted(M, word, c[:1].expand_as(c)),
        "c from the last to the first": lambda M, word, c: weighted(M, word, c.flip(0)),
        "rows made to sum to 1":
            lambda M, word, c: weighted(M, word, c) / weighted(M, word, c).sum(-1, keepdim=True),
        "writes into M": writes_into_M,
        "no targets": lambda M, word, c: weighted(M, word, c)[0],
        "nothing": lambda M, word, c: M.repeat(len(c), 1, 1, 1, 1),
    },
    "one_formula": {
        "c on A alone": lambda M, M_star, A, own, w, c: w * (M @ (A * c) + M_star * own) + (1 - w) * M_star,
        "c on A and own, not after the window":
            lambda M, M_star, A, own, w, c: w * (M @ (A * c) + M_star * own * c) + (1 - w) * M_star,
        "c on own alone": lambda M, M_star, A, own, w, c: w * (M @ A + M_star * own * c) + (1 - w) * M_star,
        "no own": lambda M, M_star, A, own, w, c: c * (w * (M @ A) + (1 - w) * M_star),
        "M* everywhere": lambda M, M_star, A, own, w, c: c * (w * (M @ A + M_star) + (1 - w) * M_star),
        "nothing after the window": lambda M, M_star, A, own, w, c: c * w * (M @ A + M_star * own),
        "no w": lambda M, M_star, A, own, w, c: c * (M @ A + M_star * own),
        "no c": lambda M, M_star, A, own, w, c: w * (M @ A + M_star * own) + (1 - w) * M_star,
        "w the other way": lambda M, M_star, A, own, w, c: c * ((1 - w) * (M @ A + M_star * own) + w * M_star),
        "own the other way":
            lambda M, M_star, A, own, w, c: c * (w * (M @ A + M_star * (1 - own)) + (1 - w) * M_star),
        "c on the rows of A":
            lambda M, M_star, A, own, w, c: w * ((M * c[:6]) @ A + M_star * own * c) + (1 - w) * c * M_star,
        "one target": lambda M, M_star, A, own, w, c: (c * (w * (M @ A + M_star * own) + (1 - w) * M_star))[0],
        "rows made to sum to 1": lambda M, M_star, A, own, w, c: torch.nn.functional.normalize(
            c * (w * (M @ A + M_star * own) + (1 - w) * M_star), p=1, dim=-1),
    },
}

RIGHT = {
    "one_formula": {
        "c in A and own and after": lambda M, M_star, A, own, w, c:
            w * (M @ (A * c) + M_star * own * c) + (1 - w) * c * M_star,
        "chosen": lambda M, M_star, A, own, w, c:
            c * torch.where(w > 0, torch.where(own > 0, M_star, M @ A), M_star),
    },
    "share": {
        "a matrix": lambda M, old, new: M[..., old] @ torch.full((len(old), len(new)), 1 / len(new), dtype=M.dtype),
        "expanded": lambda M, old, new:
            (sum(M[..., i] for i in old) / len(new))[..., None].expand(*M.shape[:-1], len(new)),
    },
    "add_phrase": {"a matrix": with_matrix, "stacked": phrase},
    "my_reweight": {"a row of factors": one_hot, "stacked": lambda M, word, c: torch.stack(
        [torch.cat([M[..., :word], M[..., word:word + 1] * x, M[..., word + 1:]], -1) for x in c])},
}
