# %% [markdown]
# # 4. When and where
#
# Lesson 3 put the source's map M in place of the target's M_star. Here we ask *when* (the time tau), for *which words*,
# in *which layers*, and *where*. A red ball becomes a red cat: where red overlaps, the cat has the ball's shape.

# %%
import os

import numpy as np
import torch

import p2p_min as p2p
from figures import show
from p2p_min.align import find

STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; a test takes fewer
model = p2p.load("weights/toy")
P, P_star, settings = "a red ball on the grass", "a red cat on the grass", dict(steps=STEPS, guidance=5.0, seed=3)


def inject(start, end):
    """M in the part of the run from start to end (0 is pure noise, 1 the picture), M_star in the rest."""
    return lambda M, M_star, t: M.expand_as(M_star) if start - 1e-6 <= 1 - t < end - 1e-6 else M_star


def each(edits):                                           # a run may have many targets: one edit for each
    return lambda M, M_star, t: torch.cat([edit(M, M_star[i:i + 1], t) for i, edit in enumerate(edits)])


def watching(edit, seen):
    """The same edit; `seen` gets what it takes and gives at 16 × 16, mean over heads: (1 + targets, 16, 16, keys)."""
    def look(M, M_star, t):
        M_hat = edit(M, M_star, t)
        seen.extend([torch.cat([M[None], M_hat]).mean(1)] if M.shape[2] == 16 else [])
        return M_hat
    return look


def compare(name, P, P_star, kinds, cross_edit, self_edit=None, **more):
    """Paints a target of each kind. Of the pixels that are red in it or in the source, which share is red in both?"""
    images = p2p.prompt_to_prompt(model, [P] + [P_star] * len(kinds), cross_edit, self_edit, **settings | more).images
    red = np.stack([x[..., 0] - x[..., 1:].max(-1) > 60 for x in (np.asarray(image, int) for image in images)])
    overlap = (red[0] & red[1:]).sum((1, 2)) / (red[0] | red[1:]).sum((1, 2)).clip(1)
    texts, columns = [f"{kind}: overlap {share:.2f}" for kind, share in zip(kinds, overlap)], 5 if len(kinds) > 6 else 7
    show(name, images, [P, *texts], columns, side=160)
    return images[0], red[0], overlap


# %% [markdown]
# ## tau
#
# M_hat is M until tau, then M_star; the library counts from the noise, so its `steps` is 1 − tau. **Which tau?** As
# late as the shape to keep asks for, as early as the new thing needs to look like itself: one sweeps it. **Which steps,
# words, layers?** A fifth of the steps alone; all tokens but "cat"; maps of one size alone, for an edit sees by
# `M.shape` where it is. (By name: `cross_edit={"up_blocks": edit}`.)

# %%
edits = {f"tau {tau}": inject(0, 1 - tau) for tau in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)}
_, _, overlap = compare("4_tau", P, P_star, edits, each(edits.values()))
assert STEPS < 20 or overlap[-1] > overlap[0] + 0.1
cat = torch.arange(77) == find(model.tokenizer, P_star, "cat")[0]
but_cat = lambda M, M_star, t: torch.where(cat & (1 - t >= 0.2 - 1e-6), M_star, M)
M, M_star = torch.rand(4, 8, 8, 77), torch.rand(1, 4, 8, 8, 77)                      # any maps do to compare two edits
for ours, steps in (inject(0, 0.6), 0.6), (but_cat, {"default_": 1.0, "cat": 0.2}):
    both = ours, p2p.replace(model.tokenizer, [P, P_star], steps)
    assert all(torch.equal(*(edit(M, M_star, 1 - i / 50) for edit in both)) for i in range(50))
edits = {f"only {n} to {n + 20} % of the steps": inject(n / 100, n / 100 + 0.2) for n in (0, 20, 40, 60, 80)}
edits |= {f"only maps {n} wide": lambda M, M_star, t, n=n: M.expand_as(M_star) if M.shape[2] == n else M_star
          for n in (16, 8, 4)} | {"all but “cat” from 20 % on": but_cat}
_, _, overlap = compare("4_steps_words_layers", P, P_star, edits, each(edits.values()))
assert STEPS < 20 or (overlap[4] > overlap[0] and overlap[5] > overlap[7])

# %% [markdown]
# The paper finds the composition settled early. Here the shared noise settles it, and early maps have little left to
# do: the outline comes from late steps and large maps. Freeing "cat" changes little: the other tokens know the ball.
#
# ## What happens to self-attention?
#
# There the keys are pixels: a map says which belong together. The paper's Algorithm 1 leaves it alone; the authors'
# code for Stable Diffusion injects it for a first part of the steps (`p2p.self_replace(0.4)`). Why?

# %%
kinds = {"neither": (0, 0), "cross 60 %": (0.6, 0), "self 40 %": (0, 0.4), "both": (0.6, 0.4),
         "cross 60 %, self 100 %": (0.6, 1)}
cross_edit, self_edit = (each([inject(0, ends[i]) for ends in kinds.values()]) for i in (0, 1))
pair, seen = ("a red cat on the beach", "a red cat in the snow"), []
source, red, overlap = compare("4_self", *pair, kinds, cross_edit, watching(self_edit, seen), seed=7)
cat, maps = torch.from_numpy(red[::4, ::4].flatten()), torch.stack(seen)[:, 0].mean(0).flatten(0, 1)     # (256, 256)
of_all, own, others = cat.float().mean(), maps[cat][:, cat].sum(1).mean(), maps[~cat][:, cat].sum(1).mean()
print(f"{of_all:.0%} of the pixels are red; red ones get {own:.0%} of a red one's attention, {others:.0%} of another's")
show("4_self_map", [source, maps[16 * 10 + 5].view(16, 16)], [pair[0], "self-attention of pixel 5, 10"])
assert STEPS < 20 or overlap[0] < overlap[3] < overlap[4]

# %% [markdown]
# It knows which pixels hang together, and so the pose; but of all things: sun and sea stay too. Hence "a first part".
#
# ## Where: local blend
#
# Outside a mask, z_star takes the source's z after each step. **What are blend words?** One per prompt, for what may
# change: the mask is where its map, averaged so far and the largest of 3 × 3 cells, is over 0.3 of its maximum, in
# source or target. **Is that the paper's mask?** Average, 0.3 and union are; 3 × 3, the maximum and a start after 20 %
# are their code's. What to expect: the cat must fit in. Look at a mask first: "grass" is one bright corner, no more.

# %%
words, edit, seen, masks = ["ball", "cat"], inject(0, 0.4), [], []


def mask_of(words, pool=3, divide=True):
    tokens = [find(model.tokenizer, *pair) for pair in zip((P, P_star), words)]
    maps = torch.stack([own[..., columns].sum(-1) for own, columns in zip(torch.stack(seen).mean(0), tokens)])
    maps = torch.nn.functional.max_pool2d(maps, pool, stride=1, padding=pool // 2)
    return (maps / (maps.amax((1, 2), keepdim=True) if divide else 1) > 0.3).any(0)


def blend(z, z_star, t):
    masks.append(mask_of(words))
    return torch.where(masks[-1], z_star, z) if 1 - t >= 0.2 - 1e-6 else z_star


library = p2p.LocalBlend(model.tokenizer, [P, P_star], words)
free, library = (p2p.prompt_to_prompt(model, [P, P_star], edit, blend=chosen, **settings) for chosen in (None, library))
ours = p2p.prompt_to_prompt(model, [P, P_star], watching(edit, seen), blend=blend, **settings)
assert torch.equal(ours.latents, library.latents) and torch.equal(*ours.latents[:, :, ~masks[-1]])
change = (free.latents[1] - free.latents[0])[:, ~masks[-1]].abs().mean()
print(f"outside the mask, z_star differs from z by {change:.2f} without the blend, and by 0 with it")
kinds = {**{f"mask after step {i + 1}": masks[i] for i in (0, STEPS // 4, STEPS - 1)},
         "no 3 by 3": mask_of(words, 1), "not divided": mask_of(words, 3, False), "“grass”": mask_of(["grass"] * 2)}
show("4_blend", [*free.images, ours.images[1], *kinds.values()], [P, P_star, "with local blend", *(
     f"{kind}: {mask.float().mean():.0%}" for kind, mask in kinds.items())], columns=5, side=160)
