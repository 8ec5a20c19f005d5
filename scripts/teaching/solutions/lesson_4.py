"""Answers to the exercises of lesson 4, and predictions: what a student might write who thought about it."""


def window(M, M_star, t, start, end):
    return M.expand_as(M_star) if start <= 1 - t < end else M_star


def only(M, M_star, columns):
    M_hat = M_star.clone()
    M_hat[..., columns] = M[..., columns]
    return M_hat


def mask_of_maps(maps, threshold):
    return (maps / maps.amax((1, 2), keepdim=True) > threshold).any(0)


expect_tau = (
    "Fast at first, then slowly: the place is settled in the first steps, which have the "
    "most noise.")
expect_steps = (
    "The first fifth keeps most. The last fifth comes when the blue cat stands, and moves "
    "nothing.")
expect_to_the_end = (
    "The late steps draw details, so the car gets a bicycle's outline, or loses its "
    "windows.")
expect_words = "“cat” matters most. The padding has most of the attention, but no place of its own."
expect_layers = "16 by 16 alone is enough. 4 by 4 is too coarse to say where a cat is."
expect_self_map = (
    "A pixel of the cat gives most of its attention to the cat, another pixel less than the"
    " cat's area.")
expect_self = "From far to near: neither, cross 60 %, self 40 %, both, cross 60 % and self 100 %."
expect_masks = (
    "After the first step it lies anywhere; after a quarter of the steps, around the ball "
    "and the cat.")
expect_blend = (
    "All that is outside the mask: the latents there are copied, so they are equal to the "
    "last bit.")
expect_cut = "The top of the sail, which is higher than the car: it lies outside the mask."
expect_places = "About half of the picture each, since both words name the ground."
