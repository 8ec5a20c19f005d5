"""Answers to the exercises of lesson 3, and what one might have expected."""

expect_swap = "It stands where the tree stood, with about its outline, but has a castle's walls."
expect_own_column = "The castle stands more where its own noise puts it, and keeps its own outline."
expect_totals = "Not 1: more or less where the two maps of the castle differ, so at the tree."
expect_A = "Column “car”: 1 in both rows of “bicycle”. Column “end”: 1 in the row of “end”."
expect_A_of_phrase = "[0, 1, None, 2, 3]"
expect_phrase = "Nearly: all words but “blue” have its maps. Overlap 0.6."
expect_weights = "0: smooth; 1: as without an edit; 2: more fur; below 0: still smoother, or strange."
expect_embedding = "Map, and embedding with M held: there c reaches the values only."
expect_half_blue = "The same cat, in a paler blue."


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


def one_formula(M, M_star, A, own, w, c):
    return c * (w * (M @ A + M_star * own) + (1 - w) * M_star)
