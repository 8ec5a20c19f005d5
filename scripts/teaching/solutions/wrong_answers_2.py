"""Lesson 2: answers that its checks must refuse, and other right ones."""
import numpy as np
import torch


def into_M(M, M_star, t, tau=0.2):
    if t > tau:
        return M.expand_as(M_star)
    M.copy_(M_star[0])
    return M_star


def first_target(M, M_star, t, tau=0.2):
    M_hat = M_star.clone()
    if t > tau:
        M_hat[0] = M
    return M_hat


def copied(M, M_star, t, tau=0.2):
    M_hat = M_star.clone()
    if t > tau:
        M_hat[:] = M
    return M_hat


def into_M_star(M, M_star, t, tau=0.2):
    if t > tau:
        M_star[:] = M
    return M_star


WRONG = {
    "shared": {
        "over a": lambda a, b: (a & b).sum() / a.sum(),
        "over b": lambda a, b: (a & b).sum() / b.sum(),
        "over the smaller": lambda a, b: (a & b).sum() / min(a.sum(), b.sum()),
        "over the larger": lambda a, b: (a & b).sum() / max(a.sum(), b.sum()),
        "over both, the shared ones twice": lambda a, b: (a & b).sum() / (a.sum() + b.sum()),
        "Dice": lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()),
        "over the whole picture": lambda a, b: (a & b).mean(),
        "pixels that agree": lambda a, b: (a == b).mean(),
        "what is not shared": lambda a, b: (a ^ b).sum() / (a | b).sum(),
        "upside down": lambda a, b: (a | b).sum() / max(1, (a & b).sum()),
        "a count": lambda a, b: (a & b).sum(),
        "a picture": lambda a, b: a & b,
        "percent": lambda a, b: 100 * (a & b).sum() / (a | b).sum(),
        "correlation": lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1],
    },
    "guided": {
        "from eps on": lambda eps, eps_empty, w: eps + w * (eps - eps_empty),
        "the other sign": lambda eps, eps_empty, w: eps_empty - w * (eps - eps_empty),
        "the two exchanged": lambda eps, eps_empty, w: eps + w * (eps_empty - eps),
        "without w": lambda eps, eps_empty, w: eps_empty + (eps - eps_empty),
        "w times eps": lambda eps, eps_empty, w: w * eps,
        "the difference alone": lambda eps, eps_empty, w: w * (eps - eps_empty),
        "missing brackets": lambda eps, eps_empty, w: eps_empty + w * eps - eps_empty,
        "a mean": lambda eps, eps_empty, w: (eps_empty + w * eps) / (1 + w),
        "w one less": lambda eps, eps_empty, w: eps_empty + (w - 1) * (eps - eps_empty),
        "w squared": lambda eps, eps_empty, w: eps_empty + w ** 2 * (eps - eps_empty),
        "w not below 0": lambda eps, eps_empty, w: eps_empty + abs(w) * (eps - eps_empty),
        "writes into eps": lambda eps, eps_empty, w: eps.sub_(eps_empty).mul_(w).add_(eps_empty),
    },
    "my_word_swap": {
        "no edit": lambda M, M_star, t, tau=0.2: M_star,
        "always": lambda M, M_star, t, tau=0.2: M.expand_as(M_star),
        "late instead of early": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if t < tau else M_star,
        "t counted from the noise": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if 1 - t > tau else M_star,
        "tau as a share of steps": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if 1 - t < tau else M_star,
        "a step of 20 too long": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if t > tau - 0.05 else M_star,
        "a step of 20 too short": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if t > tau + 0.05 else M_star,
        "tau is always 0.2": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if t > 0.2 else M_star,
        "not shaped like M_star": lambda M, M_star, t, tau=0.2: M if t > tau else M_star,
        "the first target only": first_target,
        "half and half": lambda M, M_star, t, tau=0.2: (M + M_star) / 2 if t > tau else M_star,
        "another layout": lambda M, M_star, t, tau=0.2:
            M.transpose(1, 2).reshape(M.shape).expand_as(M_star) if t > tau else M_star,
        "the mean over heads": lambda M, M_star, t, tau=0.2:
            M.mean(0).expand_as(M_star) if t > tau else M_star,
        "the first target's own": lambda M, M_star, t, tau=0.2: M_star[:1].expand_as(M_star),
        "writes into M": into_M,
        "writes into M_star": into_M_star,
        "t >= tau": lambda M, M_star, t, tau=0.2: M.expand_as(M_star) if t >= tau else M_star,
        "the paper's t < tau": lambda M, M_star, t, tau=0.2: M_star if t < tau else M.expand_as(M_star),
    },
}

RIGHT = {
    "shared": {
        "by np": lambda a, b: np.logical_and(a, b).sum() / np.logical_or(a, b).sum(),
        "by arithmetic": lambda a, b: (a * b).sum() / (a.sum() + b.sum() - (a * b).sum()),
        "a Python number": lambda a, b: int((a & b).sum()) / max(1, int((a | b).sum())),
        "by sets": lambda a, b: len(set(np.flatnonzero(a)) & set(np.flatnonzero(b)))
            / len(set(np.flatnonzero(a)) | set(np.flatnonzero(b))),
        "a tensor": lambda a, b: (torch.tensor(a) & torch.tensor(b)).sum() / (torch.tensor(a) | torch.tensor(b)).sum(),
    },
    "guided": {
        "from eps on, by w - 1": lambda eps, eps_empty, w: eps + (w - 1) * (eps - eps_empty),
        "weighted": lambda eps, eps_empty, w: w * eps + (1 - w) * eps_empty,
        "lerp": lambda eps, eps_empty, w: torch.lerp(eps_empty, eps, w),
    },
    "my_word_swap": {
        "the library's window": lambda M, M_star, t, tau=0.2:
            M.expand_as(M_star) if 1 - t < 1 - tau - 1e-6 else M_star,
        "a copy": copied,
        "repeated": lambda M, M_star, t, tau=0.2: M.repeat(len(M_star), 1, 1, 1, 1) if t > tau else M_star,
        "by arithmetic": lambda M, M_star, t, tau=0.2: (t > tau) * M + (t <= tau) * M_star,
    },
}
