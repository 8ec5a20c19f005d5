"""Answers to the exercises of lesson 2, and what one might have expected."""

expect_one_noise = "Nearly: one noise, one layout. An overlap of 0.8."
expect_maps = "At the left, where the red one stands."
expect_source = "Yes, but for rounding: the Edit changes M_hat, which only the target uses."
expect_noise_or_maps = "The maps: they say where the cat is. But in another noise they will keep less."
expect_ground = "Two from one noise: no word names the ground."
expect_layers = "16 by 16 on the way up keeps most, for its maps are sharp; 4 by 4 nothing, it is flat."


def shared(a, b):
    return (a & b).sum() / (a | b).sum()


def guided(eps, eps_empty, w):
    return eps_empty + w * (eps - eps_empty)


def my_word_swap(M, M_star, t, tau=0.2):
    return M.expand_as(M_star) if t > tau else M_star
