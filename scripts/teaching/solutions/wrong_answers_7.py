"""Lesson 7: answers that its checks must refuse, and other right ones."""
import torch


def shared(M, old, new, divide=True):
    total = M[..., old].sum(-1, keepdim=True).expand(*M.shape[:-1], len(new))
    return total / len(new) if divide else total


def first_only(M, old, new):
    """The first new token has it all."""
    if len(old) == len(new):
        return M[..., old]
    given = torch.zeros(*M.shape[:-1], len(new))
    given[..., 0] = M[..., old].sum(-1)
    return given


def in_place(M, old, new):
    given = M[..., old] if len(old) == len(new) else shared(M, old, new)
    M[..., old] = 0
    return given


WRONG = {
    "swapped": {
        "always shared": shared,
        "not divided": lambda M, old, new: M[..., old] if len(old) == len(new) else shared(M, old, new, False),
        "the mean of the old": lambda M, old, new:
            M[..., old] if len(old) == len(new) else M[..., old].mean(-1, keepdim=True).expand(*M.shape[:-1], len(new)),
        "divided by the old": lambda M, old, new: M[..., old] if len(old) == len(new)
            else shared(M, old, new, False) / len(old),
        "the places of the new": lambda M, old, new: M[..., new],
        "the first of the old": lambda M, old, new: M[..., old[:1]].expand(*M.shape[:-1], len(new)),
        "the first new token has it all": first_only,
        "the old as they are": lambda M, old, new: M[..., old],
        "the other way round": lambda M, old, new: M[..., old[::-1]] if len(old) == len(new) else shared(M, old, new),
        "the mean of all heads": lambda M, old, new: shared(M.mean(0, keepdim=True).expand_as(M), old, new),
        "empties M": in_place},
    "share": {
        "the mean of the columns": lambda M, tokens: M[..., tokens].mean(),
        "the sum": lambda M, tokens: M[..., tokens].sum(),
        "the largest pixel": lambda M, tokens: M[..., tokens].sum(-1).max(),
        "the first head": lambda M, tokens: M[0, ..., tokens].sum(-1).mean(),
        "the first token": lambda M, tokens: M[..., tokens[0]].mean(),
        "what the others get": lambda M, tokens: 1 - M[..., tokens].sum(-1).mean(),
        "a slice": lambda M, tokens: M[..., min(tokens):max(tokens) + 1].sum(-1).mean(),
        "how many there are": lambda M, tokens: len(tokens) / M.shape[-1],
        "of each head": lambda M, tokens: M[..., tokens].sum(-1).mean((1, 2))},
    "active": {
        "always": lambda height, width, t: True,
        "never": lambda height, width, t: False,
        "the size alone": lambda height, width, t: height * width <= 32 * 32,
        "the time alone": lambda height, width, t: 1 - t < 0.4,
        "t in place of 1 - t": lambda height, width, t: t < 0.4 and height * width <= 32 * 32,
        "the last 40 %": lambda height, width, t: 1 - t >= 0.6 and height * width <= 32 * 32,
        "one step more": lambda height, width, t: 1 - t <= 0.4 and height * width <= 32 * 32,
        "60 %": lambda height, width, t: 1 - t < 0.6 and height * width <= 32 * 32,
        "fewer pixels": lambda height, width, t: 1 - t < 0.4 and height * width < 32 * 32,
        "each side": lambda height, width, t: 1 - t < 0.4 and max(height, width) <= 32,
        "either": lambda height, width, t: 1 - t < 0.4 or height * width <= 32 * 32,
        "16 by 16": lambda height, width, t: 1 - t < 0.4 and height * width <= 16 * 16},
}

RIGHT = {
    "swapped": {
        "one by one": lambda M, old, new: torch.stack(
            [M[..., old[j]] if len(old) == len(new) else M[..., old].sum(-1) / len(new) for j in range(len(new))], -1),
        "with a matrix": lambda M, old, new:
            M[..., old] @ (torch.eye(len(old)) if len(old) == len(new) else torch.ones(len(old), len(new)) / len(new))},
    "share": {
        "a plain number": lambda M, tokens: M[..., tokens].sum().item() / M[..., 0].numel(),
        "of sums": lambda M, tokens: M[..., tokens].sum() / M.sum(),
        "with a mask": lambda M, tokens: sum(M[..., j].mean() for j in tokens)},
    "active": {
        "with t": lambda height, width, t: t > 0.6 and height * width <= 1024,
        "numbers": lambda height, width, t: int(t > 0.6) * int(height * width <= 1024)},
}
