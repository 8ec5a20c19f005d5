"""Lesson 4: answers that its checks must refuse, and other right ones."""
import torch


def chosen(M, M_star, inside):
    return M.expand_as(M_star) if inside else M_star


def onto(M, M_star, columns):
    M_hat = M_star.clone()
    M_hat[..., columns] = M[..., columns]
    return M_hat


def in_place(M, M_star, columns):
    M_star[..., columns] = M[..., columns]
    return M_star


def onto_M(M, M_star, columns):
    M_hat = M.expand_as(M_star).clone()
    M_hat[..., columns] = M_star[..., columns]
    return M_hat


def first_target(M, M_star, columns):
    M_hat = M_star.clone()
    M_hat[0, ..., columns] = M[..., columns]
    return M_hat


def first_column(M, M_star, columns):
    return onto(M, M_star, columns[:1])


def others_zero(M, M_star, columns):
    M_hat = torch.zeros_like(M_star)
    M_hat[..., columns] = M[..., columns]
    return M_hat


def on_width(M, M_star, columns):
    M_hat = M_star.clone()
    M_hat[..., [c % 4 for c in columns], :] = M[..., [c % 4 for c in columns], :]
    return M_hat


def where(M, M_star, columns):
    return torch.where(torch.tensor([j in columns for j in range(M.shape[-1])]), M, M_star)


def each_own(maps):
    return maps / maps.amax((1, 2), keepdim=True)


def in_place_mask(maps, threshold):
    maps /= maps.amax((1, 2), keepdim=True)
    return (maps > threshold).any(0)


WRONG = {
    "window": {
        "end included": lambda M, M_star, t, start, end: chosen(M, M_star, start <= 1 - t <= end),
        "start left out": lambda M, M_star, t, start, end: chosen(M, M_star, start < 1 - t < end),
        "one step too late": lambda M, M_star, t, start, end: chosen(M, M_star, start < 1 - t <= end),
        "t in place of 1 - t": lambda M, M_star, t, start, end: chosen(M, M_star, start <= t < end),
        "M and M_star swapped": lambda M, M_star, t, start, end: chosen(M, M_star, not start <= 1 - t < end),
        "no start": lambda M, M_star, t, start, end: chosen(M, M_star, 1 - t < end),
        "no end": lambda M, M_star, t, start, end: chosen(M, M_star, start <= 1 - t),
        "always M": lambda M, M_star, t, start, end: M.expand_as(M_star),
        "never M": lambda M, M_star, t, start, end: M_star,
        "without targets": lambda M, M_star, t, start, end: M if start <= 1 - t < end else M_star,
        "half of each": lambda M, M_star, t, start, end: (M + M_star) / 2,
        "only one target": lambda M, M_star, t, start, end: M[None] if start <= 1 - t < end else M_star,
    },
    "only": {
        "all but these": onto_M,
        "all": lambda M, M_star, columns: M.expand_as(M_star),
        "none": lambda M, M_star, columns: M_star.clone(),
        "the next token": lambda M, M_star, columns: onto(M, M_star, [(c + 1) % 6 for c in columns]),
        "the token before": lambda M, M_star, columns: onto(M, M_star, [c - 1 for c in columns]),
        "the first column alone": first_column,
        "a slice": lambda M, M_star, columns:
            onto(M, M_star, list(range(min(columns), max(columns) + 1)) if columns else []),
        "width in place of tokens": on_width,
        "the first target alone": first_target,
        "zero elsewhere": others_zero,
        "writes into M_star": in_place,
        "rows made to sum to 1": lambda M, M_star, columns:
            onto(M, M_star, columns) / onto(M, M_star, columns).sum(-1, keepdim=True),
        "mean over heads": lambda M, M_star, columns:
            onto(M.mean(0, keepdim=True).expand_as(M), M_star, columns),
    },
    "mask_of_maps": {
        "both at once": lambda maps, threshold: (each_own(maps) > threshold).all(0),
        "one maximum for both": lambda maps, threshold: (maps / maps.max() > threshold).any(0),
        "not divided": lambda maps, threshold: (maps > threshold).any(0),
        "the source's alone": lambda maps, threshold: each_own(maps)[0] > threshold,
        "the target's alone": lambda maps, threshold: each_own(maps)[1] > threshold,
        "mean of both": lambda maps, threshold: each_own(maps).mean(0) > threshold,
        "sum of both": lambda maps, threshold: each_own(maps).sum(0) > threshold,
        "under the threshold": lambda maps, threshold: (each_own(maps) < threshold).any(0),
        "maximum of each row": lambda maps, threshold:
            (maps / maps.amax(2, keepdim=True).clamp_min(1e-9) > threshold).any(0),
        "maximum over the words": lambda maps, threshold:
            (maps / maps.amax(0, keepdim=True).clamp_min(1e-9) > threshold).any(0),
        "divided by the sum": lambda maps, threshold: (maps / maps.sum((1, 2), keepdim=True) > threshold).any(0),
        "always 0.3": lambda maps, threshold: (each_own(maps) > 0.3).any(0),
        "no mask yet": lambda maps, threshold: each_own(maps).amax(0),
        "two masks": lambda maps, threshold: each_own(maps) > threshold,
        "transposed": lambda maps, threshold: (each_own(maps) > threshold).any(0).T,
        "writes into maps": in_place_mask,
    },
}

RIGHT = {
    "window": {
        "in steps": lambda M, M_star, t, start, end: chosen(M, M_star, end * 8 > round((1 - t) * 8) >= start * 8),
        "in time": lambda M, M_star, t, start, end: chosen(M, M_star, 1 - end < t <= 1 - start),
        "with room for rounding": lambda M, M_star, t, start, end:
            chosen(M, M_star, start - 1e-6 <= 1 - t < end - 1e-6),
        "a copy": lambda M, M_star, t, start, end:
            torch.stack([M] * len(M_star)) if start <= 1 - t < end else M_star.clone(),
    },
    "only": {"torch.where": where, "columns put together": lambda M, M_star, columns: torch.stack(
        [(M if j in columns else M_star)[..., j].expand(M_star.shape[:-1]) for j in range(M.shape[-1])], -1)},
    "mask_of_maps": {
        "or": lambda maps, threshold:
            (maps[0] > threshold * maps[0].max()) | (maps[1] > threshold * maps[1].max()),
        "numbers": lambda maps, threshold: (each_own(maps).amax(0) > threshold).float(),
        "at least": lambda maps, threshold: (each_own(maps) >= threshold).any(0),
    },
}
