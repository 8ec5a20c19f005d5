"""Answers to the exercises of lesson 2."""


def shared(a, b):
    return (a & b).sum() / (a | b).sum()


def guided(eps, eps_empty, w):
    return eps_empty + w * (eps - eps_empty)


def my_word_swap(M, M_star, t, tau=0.2):
    return M.expand_as(M_star) if t > tau else M_star
