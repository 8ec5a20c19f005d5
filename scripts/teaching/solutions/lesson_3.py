"""Answers to the exercises of lesson 3."""


def share(M, old, new):
    total = M[..., old].sum(-1, keepdim=True)
    return total.repeat(1, 1, 1, len(new)) / len(new)


def add_phrase(M, M_star, A):
    M_hat = M_star.clone()
    for j, i in enumerate(A):
        if i is not None:
            M_hat[..., j] = M[..., i]
    return M_hat


def my_reweight(M, word, c):
    M_hat = M.repeat(len(c), 1, 1, 1, 1)
    M_hat[..., word] *= c[:, None, None, None]
    return M_hat
