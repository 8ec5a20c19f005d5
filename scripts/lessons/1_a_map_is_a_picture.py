# %% [markdown]
# # 1. A map is a picture
#
# A diffusion model paints by looking at a noisy picture, again and again, and saying what in it is noise. It is told
# what to paint by *cross-attention*: every pixel asks every word "do you concern me?". The answers are the map M, and
# Prompt-to-Prompt (Hertz et al. 2022) is about what can be done with M. First we see one, and compute it ourselves.

# %%
import os

import numpy as np
import torch
from PIL import Image

import p2p_min as p2p
from figures import show
from p2p_min.align import units
from p2p_min.networks.text import encode

STEPS = int(os.environ.get("LESSON_STEPS", 50))            # of the denoising; a test takes fewer
model = p2p.load("weights/toy")
P = "a big red car in the snow"
result = p2p.prompt_to_prompt(model, [P], steps=STEPS, guidance=5.0)
tokens = {unit.text: unit.tokens for unit in units(model.tokenizer, P)}
print("token 0 is the start;", ", ".join(f"{w} is {at}" for w, at in tokens.items()), "then the end and padding to 77")

# %% [markdown]
# ## Q, K, softmax, by hand
#
# We take z_t, the noisy latent half way (the result keeps them all), and one attention layer of the UNet. A PyTorch
# hook shows what comes into the layer, `x`, numbers for each of 16 × 16 pixels, and what goes out. In between should be
#
#     Q = to_q(x)    K = to_k(P)    V = to_v(P)      M = softmax(Q Kᵀ / √d)      out = to_out(M V)
#
# Pixels ask (Q), words answer (K), and a pixel takes home the words' values (V), mixed as M says; and all that in
# several *heads* beside each other, of d numbers each.

# %%
layer = model.unet.get_submodule("up_blocks.2.attentions.0.transformer_blocks.0.attn2")
seen = {}
note = lambda layer, inputs, out: seen.update(x=inputs[0], size=inputs[1], out=out)
z_t = result.inversion.latents[STEPS // 2]
context = encode(model, [P]).states                        # (1, 77 tokens, width)
with torch.no_grad(), layer.register_forward_hook(note):
    model.unet(z_t, 500, context)

heads = lambda y: y[0].unflatten(-1, (layer.heads, -1)).transpose(0, 1)              # (heads, pixels or tokens, d)
with torch.no_grad():
    Q, K, V = heads(layer.to_q(seen["x"])), heads(layer.to_k(context)), heads(layer.to_v(context))
    M = (Q @ K.transpose(1, 2) / Q.shape[-1] ** 0.5).softmax(-1)                     # (heads, pixels, tokens)
    out = layer.to_out[0]((M @ V).transpose(0, 1).flatten(1))
error = (out - seen["out"][0]).abs().max() / out.abs().max()
print(f"Q {tuple(Q.shape)}, K {tuple(K.shape)}, M {tuple(M.shape)}; "
      f"ours differs from the layer's by {error:.1e} of its largest")
assert error < 1e-5

# %% [markdown]
# A **row** of M is a pixel's: how it shares its attention among the tokens; it sums to 1. A **column** is a token's:
# how much each pixel looks at it, and as pixels have places, *that is a picture*. Here is the word "car", in each head:

# %%
assert torch.allclose(M.sum(-1), torch.ones(()))
of_car = M.unflatten(1, seen["size"])[..., tokens["car"]].sum(-1)                     # (heads, height, width)
show("1_heads", [result.images[0], *of_car], ["the finished picture", *(f"“car”, head {n}" for n in range(len(M)))])

# %% [markdown]
# ## Watching without touching
#
# In this library maps need no hooks: every cross-attention calls an *Edit* `(M, M_star, t) -> M_hat`, and an Edit may
# also look and pass on. M is `(heads, height, width, tokens)`; there are layers of 16 × 16, 8 × 8 and 4 × 4 pixels.

# %%
watched = []


def look(M, M_star, t):
    watched.append((t, M.mean(0)))                         # over heads: (height, width, tokens)
    return M_star


again = p2p.prompt_to_prompt(model, [P], look, steps=STEPS, guidance=5.0)
change = (again.latents - result.latents).abs().max() / result.latents.abs().max()
print(f"{len(watched)} maps seen; watching changed the picture by {change:.0e}, the rounding of another order of sums")
assert change < 1e-4


def average(size=16, start=0.0, end=1.0):
    """The mean map (size, size, tokens) of the run from `start` to `end`; 0 is pure noise, 1 the picture."""
    return torch.stack([M for t, M in watched if len(M) == size and start <= 1 - t + 1e-6 < end]).mean(0)


picture = {word: average()[..., at].sum(-1) for word, at in tokens.items()}
show("1_words", [result.images[0], *picture.values()],
     [P, *(f"“{word}”, at most {of_word.max():.2f}" for word, of_word in picture.items())], columns=4, scale="own")
print(f"{1 - sum(M.mean() for M in picture.values()):.0%} of all attention goes to no word, "
      "but to the start, end and padding")

# %% [markdown]
# ## "Pixels are more attracted to the words that describe them"
#
# So says the paper. Let us doubt it and measure: which pixels are red, the picture tells without any map. Do *those*
# look at "red" more than others? Then we cut it up: each pixel goes to the word, of three, that it looks at most.

# %%
r, g, b = np.asarray(result.images[0].resize((16, 16), Image.Resampling.BOX), float).transpose(2, 0, 1)
red = torch.from_numpy(r - np.maximum(g, b) > 60)
times = {word: round((of_word[red].mean() / of_word[~red].mean()).item(), 2) for word, of_word in picture.items()}
print(f"{red.float().mean():.0%} of the pixels are red. These look at a word so many times as much as the rest:", times)
assert times["red"] > 3 and times["car"] > 3 and times["snow"] < 1

words = ["red", "car", "snow"]
winner = torch.stack([picture[word] for word in words]).argmax(0)
page = Image.new("RGB", result.images[0].size, "silver")
masks = [Image.fromarray((winner == n).numpy()).resize(page.size, Image.Resampling.NEAREST) for n in range(3)]
show("1_pieces", [Image.composite(result.images[0], page, mask) for mask in masks],
     [f"pixels that look at “{word}” most" for word in words])

# %% [markdown]
# ## When, and in which layers?
#
# The same word early and late, and at three sizes. Is the place of the car settled early? Editing will rest on that.

# %%
parts = [(n / 5, (n + 1) / 5) for n in range(5)]
early = [average(16, *part)[..., tokens["car"]].sum(-1) for part in parts]
likeness = [torch.corrcoef(torch.stack([M.flatten(), early[-1].flatten()]))[0, 1].item() for M in early]
show("1_when", early, [f"“car”, steps from {a:.0%} to {b:.0%}; correlation with the last {c:.2f}"
                       for (a, b), c in zip(parts, likeness)])
show("1_sizes", [average(size)[..., tokens["car"]].sum(-1) for size in (16, 8, 4)],
     [f"“car”, layers of {size} by {size}" for size in (16, 8, 4)], scale="own")
