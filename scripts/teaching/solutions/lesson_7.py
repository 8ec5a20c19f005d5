"""Answers to the exercises of lesson 7, not the only ones, and predictions: what a student might write who thought
about it.
"""


def swapped(M, old, new):
    if len(old) == len(new):
        return M[..., old]
    return M[..., old].sum(-1, keepdim=True).expand(*M.shape[:-1], len(new)) / len(new)


def share(M, tokens):
    return M[..., tokens].sum(-1).mean()


def active(height, width, t):
    return 1 - t < 0.4 and height * width <= 32 * 32


expect_map = "8 heads × 4096 × 4096 × 4 bytes, half a gigabyte: each pixel looks at all the others."
expect_tokens = "One for a common word, several for a rare one: the vocabulary is made of frequent pieces."
expect_start = "The padding in both: it is nearly all of the 77 tokens, and the words are few."
expect_edits = "Swap and phrase keep the place; re-weighting keeps all but what its one word says."
expect_self = "From far to near: neither, cross, self, both. Self-attention copies shapes, whatever the word."
