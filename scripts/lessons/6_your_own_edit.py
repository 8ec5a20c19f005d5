# %% [markdown]
# # 6. Your own Edit
#
# An Edit is a function `(M, M_star, t) -> M_hat`. The paper has three. Here are some others, and at the end yours.

# %%
import os

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import p2p_min as p2p
from figures import show
from p2p_min.align import find
from p2p_min.attention import attend

STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; a test takes fewer
RED, YELLOW = (210, 30, 40), (235, 205, 50)
model, settings = p2p.load("weights/toy"), dict(steps=STEPS, guidance=5.0)


def paint(P, edits, seed, P_star=None):
    """The source, and one target per edit, which acts in the first 80 % of the steps."""
    def each(M, M_star, t):
        return torch.cat([edit(M, own, t) if 1 - t < 0.8 - 1e-6 else own for edit, own in zip(edits, M_star[:, None])])
    return p2p.prompt_to_prompt(model, [P] + [P_star or P] * len(edits), each, **settings, seed=seed).images


def place(image, color):
    """Where the pixels of a colour are on average: 0 at the left, 1 at the right."""
    here = np.abs(np.asarray(image, float) - color).sum(-1) < 150
    return np.nonzero(here)[1].mean() / (here.shape[1] - 1) if here.any() else np.nan


# %% [markdown]
# ## What an edit of maps is
#
# A pixel takes home M V, the words' values mixed. With the source's map and the target's values that is M V*: attention
# with the *source's* Q and K. A word swap, M A V*, is the same with the values A V*; re-weighting takes diag(c) V*.

# %%
q, k, v = torch.randn(2, 4, 64, 16), torch.randn(2, 4, 77, 16), torch.randn(2, 4, 77, 16)  # source and target; 4 heads
edit = p2p.refine(model.tokenizer, ["a castle next to a river", "children drawing of a castle next to a river"], 1.0)
A, own, c = edit.A[0], edit.own[0, :, None], torch.linspace(-2, 2, 77)
values = {"replacing": (lambda M, M_star, t: M[None], sdpa(q[0], k[0], v[1])),
          "re-weighting": (lambda M, M_star, t: M[None] * c, sdpa(q[0], k[0], c[:, None] * v[1])),
          "adding a phrase": (edit, sdpa(q[0], k[0], A @ v[1]) + sdpa(q[1], k[1], own * v[1]))}
for name, (of_maps, of_values) in values.items():
    error = (attend(q, k, v, (8, 8), of_maps, t=1.0)[1] - of_values).abs().max()
    print(f"{name}: edited maps and edited values differ by {error:.0e}")
    assert error < 1e-5

# %% [markdown]
# So edits that are linear in the words need no map (trading two words, below, is one more). Moving and sharpening do.
#
# ## Move an object
#
# M says where the ball is; M rolled by a quarter of the width says: further right. Which columns? The word's; all the
# words'; or the end's and the padding's too, which are no words, but remember the old place all the same.

# %%
P, n = "a red ball on the grass", torch.arange(77)
end, ball = len(model.tokenizer(P).input_ids) - 1, find(model.tokenizer, P, "ball")[0]  # start, words, end, padding
move = lambda tokens: lambda M, M_star, t: torch.where(tokens, M.roll(M.shape[2] // 4, dims=2), M)[None]
kinds = {"“ball”": n == ball, "all words": (n > 0) & (n < end), "words, end, padding": n > 0}
images = paint(P, [move(tokens) for tokens in kinds.values()], seed=3)
moved = [place(image, RED) - place(images[0], RED) for image in images[1:]]
show("6_move", images, [P, *(f"{kind}: moved by {d:+.2f}" for kind, d in zip(kinds, moved))])
assert STEPS < 20 or abs(moved[2] - 0.25) < 0.05

# %% [markdown]
# ## Trade two words
#
# A castle and a flower exchange their nouns' columns: the shapes change places, the colours stay, for each word holds a
# place of its own. Then their colours' columns, then both. (With other seeds it is less clean.)

# %%
P = "a red castle and a yellow flower"
red, castle, yellow, flower = (find(model.tokenizer, P, word)[0] for word in ("red", "castle", "yellow", "flower"))
nouns, colours = {castle: flower, flower: castle}, {red: yellow, yellow: red}
trade = lambda other: lambda M, M_star, t: M[None, ..., [other.get(i, i) for i in range(77)]]
images = paint(P, [trade(nouns), trade(colours), trade(nouns | colours)], seed=0)
apart = [place(image, RED) - place(image, YELLOW) for image in images]
names = P, "nouns traded", "colours traded", "both"
show("6_trade", images, [f"{name}: red minus yellow, across: {d:+.2f}" for name, d in zip(names, apart)])
assert STEPS < 20 or (min(apart[:2]) > 0 > max(apart[2:]))

# %% [markdown]
# ## Sharpen and flatten; one head at a time
#
# M_star to a power, rows summing to 1 again: above 1 a pixel hears its favourite token, below 1 all alike. By head: the
# source's map in one of the four, the target's own in the rest.

# %%
powers = {f"M_star to the power {p}": lambda M, M_star, t, p=p: M_star ** p / (M_star ** p).sum(-1, keepdim=True)
          for p in (0.25, 0.5, 2, 4)}
show("6_power", paint("a blue car on the beach", powers.values(), seed=2), ["a blue car on the beach", *powers])
sets = {"no head": torch.zeros(4) > 0, "all": torch.ones(4) > 0} | {f"head {i}": torch.arange(4) == i for i in range(4)}
edits = [lambda M, M_star, t, h=h: torch.where(h[:, None, None, None], M, M_star) for h in sets.values()]
images = paint("a big red bicycle", edits, 0, "a big red car")
diff = [np.abs(np.asarray(image, float) - np.asarray(images[1], float)).mean() for image in images[1:]]
show("6_heads", images, ["a big red bicycle", *(f"{key}: changed by {d:.1f}" for key, d in zip(sets, diff))], side=160)
assert STEPS < 20 or max(diff) == diff[1]

# %% [markdown]
# No head does it alone. Exercises: put your expression in place of `M_star`; `check` says if it works. (1) `mirror` the
# ball; (2) `fade` from M at t = 1 to M_star at t = 0; (3) `double` token 3 of M, whose rows still sum to 1.

# %%
mine = dict(mirror=lambda M, M_star, t: M_star, fade=lambda M, M_star, t: M_star, double=lambda M, M_star, t: M_star)


def check(mirror, fade, double):
    was, now = (place(image, RED) for image in paint("a red ball on the grass", [mirror], seed=0))
    M, M_star = torch.randn(4, 8, 8, 77).softmax(-1), torch.randn(1, 4, 8, 8, 77).softmax(-1)
    off = max((fade(M, M_star, t) - (t * M + (1 - t) * M_star)).abs().max() for t in (1.0, 0.7, 0.0))
    ratio, total = (double(M, M_star, 1.0) / M).unbind(-1), double(M, M_star, 1.0).sum(-1)
    twice = (ratio[3] / ratio[4] - 2).abs().max() + (total - 1).abs().max()
    print(f"the ball at {was:.2f} comes to {now:.2f}, wanted {1 - was:.2f}; fade is {off:.0e} off, double {twice:.0e}")
    return [bool(abs(now + was - 1) < 0.06 or STEPS < 20), bool(off < 1e-5), bool(twice < 1e-3)]


print(check(**mine))

# %%
answers = dict(mirror=lambda M, M_star, t: torch.where(n > 0, M.flip(2), M)[None],
               fade=lambda M, M_star, t: t * M + (1 - t) * M_star,
               double=lambda M, M_star, t: (M * (1 + (n == 3)) / (1 + M[..., 3:4]))[None])
assert all(check(**answers))                               # answers, not the only ones
