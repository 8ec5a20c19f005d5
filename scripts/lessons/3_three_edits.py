# %% [markdown]
# # 3. Three edits
#
# Word swap, added phrase, re-weighting: section 3.2 of the paper. Each is a function of M (the source's map), M_star
# (the target's own) and t, and fits in a few lines. We write ours first, then ask whether the library means the same.

# %%
import os

import numpy as np
import torch

import p2p_min as p2p
from figures import matrix, overlap, show, tokens

STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; a test takes fewer
TAU = 0.4                                                  # maps are injected while t > TAU: the first 60 % of the run
model = p2p.load("weights/toy")
paint = lambda *arguments: p2p.prompt_to_prompt(model, *arguments, steps=STEPS, guidance=5.0).images


def check_equal(mine, library, targets=1):
    """Two Edits are equal if they answer alike: to maps of random numbers, at all times of a run of 50 steps."""
    maps = torch.rand(2, 4, 4, 77), torch.rand(targets, 2, 4, 4, 77)                # M, M_star
    apart = max((mine(*maps, 1 - i / 50) - library(*maps, 1 - i / 50)).abs().max().item() for i in range(50))
    print(f"ours and the library's: {apart:.0e} apart")
    assert apart < 1e-5


# %% [markdown]
# ## Word swap
#
# "dog" stands where "cat" stood, so the source's map fits as it is. It says *where*; the target's values V* say *what*.

# %%
def swap(M, M_star, t):
    return M.expand_as(M_star) if t > TAU else M_star


prompts = ["a red cat", "a red dog"]
check_equal(swap, p2p.replace(model.tokenizer, prompts, steps=1 - TAU))

# %% [markdown]
# **Why is the target's own map unused?** Should not at least "dog", the new word, keep its own map M*? We try three
# targets: no edit; the source's whole map; the source's but for "dog". A pixel has 1 to share out: is it still 1?

# %%
def three_ways(M, M_star, t):
    M_hat = torch.cat([M_star[:1], swap(M, M_star[1:], t)])
    M_hat[2, ..., dog] = M_star[2, ..., dog]
    shared_out.append(M_hat[2].sum(-1).flatten())
    return M_hat


dog, shared_out = 3, []                                    # token 0 is the start
images = paint([prompts[0]] + 3 * [prompts[1]], three_ways)
names = [prompts[0], "own maps", "the source's map", "the source's, but “dog” keeps its own"]
show("3_swap", images, [f"{name}: overlap {overlap(images[0], image):.2f}" for name, image in zip(names, images)])
least, most = torch.cat(shared_out).aminmax()
print(f"with mixed columns a pixel shares out between {least:.2f} and {most:.2f}")
assert overlap(images[0], images[2]) > overlap(images[0], images[1]) and most > 1.1

# %% [markdown]
# One softmax made all columns of M: M V* is attention with the source's Q and K. A foreign column ends that: claimed by
# both, a pixel gives up to twice as much; by neither, almost nothing. The dog looks none the worse, but follows less.
#
# ## Added phrase
#
# Now the target's words stand elsewhere. A(j) is the source's token that token j of the target comes from, or None for
# a new word, which keeps its own map. We read it off the two lists. (The noise alone keeps more here than in the swap.)

# %%
def add_phrase(M, M_star, t):
    M_hat = M_star.clone()
    for j, i in enumerate(A):
        if i is not None and t > TAU:
            M_hat[..., j] = M[..., i]
    return M_hat


prompts = ["a red cat", "children drawing of a red cat"]
print(*(list(enumerate(tokens(model.tokenizer, prompt))) for prompt in prompts), sep="\n")
A = [0, None, None, None, 1, 2, 3, 4, *range(8, 77)]       # start; children drawing of; a red cat; end; padding
library = p2p.refine(model.tokenizer, prompts, steps=1 - TAU)
check_equal(add_phrase, library)
images = [*paint(prompts), paint(prompts, add_phrase)[1]]
names = [prompts[0], f"{prompts[1]}: own maps", "the source's for shared words"]
show("3_phrase", images, [f"{name}; overlap {overlap(images[0], image):.2f}" for name, image in zip(names, images)])

# %% [markdown]
# As a matrix, A has a row for each source token and a column for each target token: M_hat = M A, plus M* where a column
# is empty. A word swap is such a matrix too, even where a word has more tokens: "car" takes both maps of "bicycle".

# %%
swapped = ["a big red bicycle", "a big red car"]
for name, edit, pair in (("phrase", library, prompts), ("swap", p2p.replace(model.tokenizer, swapped), swapped)):
    rows, columns = (tokens(model.tokenizer, prompt) for prompt in pair)
    matrix(f"3_A_{name}", edit.A[0, :len(rows), :len(columns)], rows, columns)

# %% [markdown]
# ## Re-weighting
#
# The map of one word is multiplied by c. **Is this not just weighting a token?** In a way: M diag(c) V* = M (diag(c)
# V*), so c weighs the word's *value*. But the common trick weighs its *embedding*, of which its key is made as well,
# and so changes what every pixel looks at. Both in pictures: which row follows c?

# %%
fluffy, c = 2, torch.tensor([-2.0, 0.0, 1.0, 2.0])
prompts = ["a fluffy red ball"] * 5                        # a target for each c


def reweight(M, M_star, t):
    M_hat = M.expand_as(M_star).clone()
    M_hat[..., fluffy] *= c[:, None, None, None]
    return M_hat


def weigh_embedding(encoder, inputs, out):                 # a PyTorch hook, called when the text encoder has answered
    if len(out.last_hidden_state) == len(prompts):         # which it also does for the empty prompt
        out.last_hidden_state[1:, fluffy] *= c[:, None]


check_equal(reweight, p2p.reweight(model.tokenizer, prompts, [{"fluffy": x.item()} for x in c]), targets=4)
images = paint(prompts, reweight)
with model.text_encoder.register_forward_hook(weigh_embedding):
    images += paint(prompts)
rough = [np.abs(np.diff(np.asarray(image, float), axis=0)).mean() for image in images]       # fur is all edges
captions = [prompts[0], *(f"map times {x:g}" for x in c), prompts[0], *(f"embedding times {x:g}" for x in c)]
show("3_weights", images, [f"{text}; edges {x:.1f}" for text, x in zip(captions, rough)], columns=5)
assert rough[2] < rough[3] < rough[4] and abs(rough[3] - rough[0]) < 0.1, "fur grows with c, times 1 changes nothing"
