"""Answers to the exercises of lesson 1, and what one might have expected."""
import torch

expect_tokens = "As many as it has words, 7, and start and end: 9."
expect_difference = "By rounding only, about 1e-6: it is the same formula with the same numbers."
expect_rows = """The reddest pixel looks most at "red" or "car", the other at "snow". A row sums to 1."""
expect_heads = "Not quite: if they were, one head would do."
expect_dark = """"in" and "the": they describe no pixel. Perhaps "a" too."""
expect_to_words = "Some to the start and the end; but most to the words, since they say what to draw."
expect_big = """More than others do, since the big thing is red. But more at "red" than at "big"."""
expect_pieces = """The body of the car to "red", the rest of it to "car", everything else to "snow"."""
expect_when = "From the second or third fifth on: first the layout, then the details."
expect_layers = "16 by 16 most, then 8 by 8. In 4 by 4 a car is hardly larger than one pixel."


def attention_map(Q, K):
    d = Q.shape[-1]
    return torch.softmax(Q @ K.transpose(1, 2) / d ** 0.5, dim=-1)


def word_picture(M, tokens, height, width):
    return M[..., tokens].sum(-1).mean(0).reshape(height, width)


def times_as_much(of_word, mask):
    return of_word[mask].mean() / of_word[~mask].mean()
