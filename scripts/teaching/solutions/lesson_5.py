"""Answers to the exercises of lesson 5, not the only ones, and predictions: what a student might write who thought
about it.
"""


def up(z, eps, alpha_below, alpha):
    z_0 = (z - (1 - alpha_below) ** 0.5 * eps) / alpha_below ** 0.5
    return alpha ** 0.5 * z_0 + (1 - alpha) ** 0.5 * eps


def null_text_loss(z, eps, eps_u, w, z_below, step):
    return (step(z, eps_u + w * (eps - eps_u)) - z_below).square().mean()


def put_back(z, trajectory, i):
    z = z.clone()
    z[:1] = trajectory[i + 1]
    return z


expect_vae = "Thin lines and small windows go, since a latent pixel stands for 8 × 8; about 30 dB."
expect_noise = (
    "Nearly 1, but each step up makes a small error, so something of the picture may be "
    "left in it.")
expect_eps = (
    "On our way up it begins low: there is no noise to find. What is not found is not "
    "added, so they never meet.")
expect_back = (
    "At w = 1 the small errors of the way up. The larger w, the further: guidance was not "
    "there on the way up.")
expect_source = (
    "All but ddim. Direct is exact, since the source is put back after each step; null-text"
    " comes near.")
expect_edits = (
    "Negative-prompt: what both prompts say cancels, so the change of colour is all that is"
    " left.")
expect_target = (
    "Only with an edit: without one, the target does not see the source. Direct needs no "
    "eps_u for the source.")
