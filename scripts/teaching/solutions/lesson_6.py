"""Answers to the exercises of lesson 6, not the only ones, and predictions: what a student might write who thought
about it.
"""


def double(M, M_star, t):
    M_hat = M.clone()
    M_hat[..., 3] *= 2
    return (M_hat / M_hat.sum(-1, keepdim=True))[None]


def mirror(M, M_star, t):
    return M.flip(2)[None]


def fade(M, M_star, t):
    return t * M + (1 - t) * M_star


expect_values = "All four agree to rounding: each edited map is M times a matrix, and (M A) V = M (A V)."
expect_move = (
    "All but the start comes nearest. With “ball” alone, the other tokens still hold a ball at the "
    "old place.")
expect_trade = (
    "Red and yellow change sides where the colours are traded, castle and flower where the nouns are; "
    "with both, both.")
expect_power = "At 0.25 all places get nearly the same, so there is no car. At 4 the edges get harder."
expect_heads = "No: each head looks at something else, so one alone keeps a part of the outline."
expect_nothing = "No cat: the maps say where a cat's tokens would be looked at, but no value says “cat”."
expect_attend = (
    "Both: otherwise eps_c has the source's look and eps_u has not, and guidance multiplies the "
    "difference.")
expect_guidance = "The first two are equal; the third is close to them; 1 is poor, since guidance sharpens."
expect_rows = (
    "From the call's own last rows. An empty prompt encoded here is another eps_u than that of "
    "null-text inversion.")
