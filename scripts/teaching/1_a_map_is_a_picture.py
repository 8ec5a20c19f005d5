# %% [markdown]
# # 1. A map is a picture
#
# A diffusion model generates a picture from noise. At each step it looks at a noisy picture and
# predicts the noise in it. How does it know what the picture should show?
#
# Through *cross-attention*: every pixel looks at every word of the prompt. How much it looks at
# which word is the attention map M. Prompt-to-Prompt (Hertz et al. 2022) edits pictures by
# editing M.
#
# In this lesson you compute M yourself, look at it, and measure what it says and what it does
# not.

# %%
import os

import numpy as np
import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.align import pieces
from p2p_min.ddim import timesteps
from p2p_min.lessons import checks_1 as check
from p2p_min.lessons.figures import matrix, show
from p2p_min.networks.text import encode

torch.set_num_threads(1)     # so small a model gains little from more, and loses on a busy machine
STEPS = int(os.environ.get("LESSON_STEPS", 20))                    # of the denoising
model = p2p.load(device="cpu")               # the natural place for so small a model, GPU or not

P = "a big red car in the snow"
SEED = 3                                     # seed 0 gives the car an extra wheel; it comes below
result = p2p.prompt_to_prompt(model, [P], steps=STEPS, guidance=5.0, seed=SEED)
show("1_picture", [result.images[0]], [P], side=256)

# %% [markdown]
# ## What does the network read?
#
# Not letters, but tokens: a start token, the tokens of each word, an end token, and padding up to
# 77. Here every word is one token. A long or rare word has several.

# %%
tokens = {piece.text: piece.tokens for piece in pieces(model.tokenizer, P)}
last = max(max(at) for at in tokens.values())
print("token  0      start")
for word, at in tokens.items():
    print(f"token {at[0]:2}      “{word}”")
print(f"token {last + 1:2}      end\ntokens {last + 2} to 76   padding")
assert all(len(at) == 1 for at in tokens.values())

# %% [markdown]
# **Answer.** 77 tokens, and seven of them are words.
#
# ## What does an attention layer compute?
#
# Each pixel asks a question Q. Each token has a key K and a value V. The map compares questions
# with keys:
#
# $$M = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt d}\right)$$
#
# The softmax makes each pixel share its attention among the tokens. All this happens in several
# *heads* side by side, each with d numbers per pixel.
#
# ### Exercise 1: the map
#
# Write the formula. `torch.softmax` needs to know along which dimension to normalise: which one?

# %%
def attention_map(Q, K):
    # Q: (heads, pixels, d)   K: (heads, tokens, d)   returns M: (heads, pixels, tokens)
    ...


check.attention_map(attention_map)

# %% [markdown]
# ## Is this what the model does?
#
# We choose one layer of the UNet and the noisy latent z_t from half way. A PyTorch hook catches
# what goes into the layer, x, and what comes out. In between there should be
#
# $$Q = W_Q\, x, \quad K = W_K\, P, \quad V = W_V\, P, \qquad \mathrm{out} = W_{out}\, (M V)$$
#
# with x as pixels (16 × 16 of them) and P as the prompt's 77 encoded tokens.

# %%
layer = model.unet.get_submodule("up_blocks.2.attentions.0.transformer_blocks.0.attn2")
caught = {}


def catch(layer, inputs, out):
    caught.update(x=inputs[0][0], size=inputs[1], out=out[0])


z_t = result.inversion.latents[STEPS // 2]                         # (1, 4, 16, 16)
t = timesteps(model.schedule, STEPS)[STEPS // 2]
context = encode(model, [P]).states                                # (1, 77 tokens, width)
with torch.no_grad(), layer.register_forward_hook(catch):
    model.unet(z_t, t, context)


def in_heads(y):
    return y.unflatten(-1, (layer.heads, -1)).transpose(0, 1)      # (heads, pixels or tokens, d)


with torch.no_grad():
    Q = in_heads(layer.to_q(caught["x"]))
    K, V = in_heads(layer.to_k(context[0])), in_heads(layer.to_v(context[0]))
    M = torch.softmax(Q @ K.transpose(1, 2) / Q.shape[-1] ** 0.5, dim=-1)
    out = layer.to_out[0]((M @ V).transpose(0, 1).flatten(1))

error = (out - caught["out"]).abs().max() / caught["out"].abs().max()
for name, tensor in dict(Q=Q, K=K, V=V, M=M, out=out).items():
    print(f"{name:3}  {tuple(tensor.shape)}")
print(f"our output differs from the layer's by {error:.0e} of its largest number")
assert error < 1e-5

# %% [markdown]
# **Answer.** Yes, up to rounding. M is not a heat map made afterwards for us to look at: the
# layer's output is M V, so whoever changes M changes the picture.
#
# ## What is a row of M?
#
# A row belongs to one pixel. We take two: the reddest one, and one in the snow above the car. To
# keep the picture small we average over the heads and add up the padding.

# %%
def small(image):
    """The picture at 16 × 16 pixels, as numbers (red, green, blue)."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), float).transpose(2, 0, 1)


r, g, b = small(result.images[0])
reddest = int((r - np.maximum(g, b)).argmax())
above = 1 * 16 + 8                                                 # row 1, column 8
rows = M.mean(0)[[reddest, above]]                                 # (2, 77)
padding = rows[:, last + 2:].sum(-1, keepdim=True)
rows = torch.cat([rows[:, :last + 2], padding], dim=-1)
names = ["start", *tokens, "end", "padding"]
matrix("1_rows", rows, ["the reddest pixel", "a pixel above the car"], names, cell=44)
for name, on_the_car, above_it in zip(names, *rows):
    print(f"{name:8} {on_the_car:6.1%} {above_it:8.1%}")
print(f"{'sum':8} {rows[0].sum():6.1%} {rows[1].sum():8.1%}")
assert (M.sum(-1) - 1).abs().max() < 1e-5
assert rows[0, names.index("red")] > rows[1, names.index("red")]
assert rows[1, names.index("snow")] > rows[0, names.index("snow")]

# %% [markdown]
# **Answer.** A row says how one pixel shares its attention among the tokens. It sums to 1.
#
# ## What is a column of M?
#
# A column belongs to one token: how much each pixel looks at it. Pixels have places, so a column
# can be laid out as a picture. M lists them row by row: first the top row of the picture, from
# left to right.
#
# ### Exercise 2: the picture of a word
#
# The mean over the heads; where a word has several tokens, their sum.

# %%
def word_picture(M, tokens, height, width):
    # M: (heads, height * width, tokens)   tokens: such as [3], or [4, 5] for a word of two tokens
    # returns: (height, width)
    ...


check.word_picture(word_picture)

# %% [markdown]
# Here is the column of "car", in each head by itself.

# %%
of_car = M.unflatten(1, caught["size"])[..., tokens["car"]].sum(-1)   # (heads, height, width)
show("1_heads", [result.images[0], *of_car],
     ["the finished picture", *(f"“car”, head {n}" for n in range(len(M)))])
lit = (of_car > of_car.amax((1, 2), keepdim=True) / 2).float().mean((1, 2))
alike = torch.corrcoef(of_car.flatten(1))
print("part of the picture that is at least half as bright as the brightest pixel:")
print(*(f"  head {n}: {share:.0%}" for n, share in enumerate(lit)), sep="\n")
print(f"the two heads that differ most: correlation {alike.min():.2f}")
assert of_car.shape == (4, 16, 16) and alike.min() < 0.5

# %% [markdown]
# **Answer.** A column is a picture of where a word acts. The heads see different parts of the
# car.
#
# ## Do we need hooks to see the maps?
#
# Not in this library. Every cross-attention calls an *Edit*, a function (M, M_star, t) -> M_hat.
# An Edit may simply look and pass on. There are seven such layers, with maps of 16 × 16, 8 × 8
# and 4 × 4 pixels. (M_star belongs to a second prompt: lesson 2.)

# %%
watched = []


def look(M, M_star, t):
    watched.append((t, M.mean(0)))                                 # (height, width, tokens)
    return M_star


again = p2p.prompt_to_prompt(model, [P], look, steps=STEPS, guidance=5.0, seed=SEED)
change = (again.latents - result.latents).abs().max() / result.latents.abs().max()
print(f"{len(watched)} maps: {len(watched) // STEPS} layers, {STEPS} steps")
print(f"looking changed the picture by {change:.0e} of its largest number: rounding")
assert len(watched) == 7 * STEPS and change < 1e-4

_, ours = watched[STEPS // 2 * 7 + 5]                              # the sixth layer, half way
difference = (ours[..., tokens["car"]].sum(-1) - of_car.mean(0)).abs().max()
print(f"one of them is the map that we computed: they differ by {difference:.0e}")
assert difference < 1e-3


def average(size=16, start=0.0, end=1.0):
    """The mean map (size, size, tokens) of a part of the steps; 0 is pure noise, 1 the end."""
    chosen = [M for t, M in watched if len(M) == size and start <= 1 - t + 1e-6 < end]
    return torch.stack(chosen).mean(0)


of_word = {word: average()[..., at].sum(-1) for word, at in tokens.items()}
captions = [f"“{word}”, at most {picture.max():.2f}" for word, picture in of_word.items()]
show("1_words", [result.images[0], *of_word.values()], [P, *captions], columns=4)
assert of_word["in"].max() < of_word["car"].max() / 5
assert of_word["the"].max() < of_word["car"].max() / 5

# %% [markdown]
# **Answer.** No. An Edit sees every map of every step. "in" and "the" light up almost nothing.
#
# ## How much attention goes to words at all?

# %%
share = {word: picture.mean().item() for word, picture in of_word.items()}
print(*(f"“{word}” {x:6.1%}" for word, x in share.items()), sep="\n")
to_no_word = 1 - sum(share.values())
print(f"no word {to_no_word:.0%}")
assert to_no_word > 0.7 and (STEPS < 20 or to_no_word > 0.8)

# %% [markdown]
# **Answer.** Little. More than 80 % goes to the start, the end and the padding: a row must sum to
# 1, so a pixel that wants nothing from the words has to look somewhere else.
#
# ## "Pixels are more attracted to the words that describe them"
#
# So says the paper. Let us doubt it, and measure. Which pixels are red, the picture tells us
# without any map. Do *they* look at "red" more than the others do? And only at "red"?
#
# ### Exercise 3: how many times as much?
#
# The mean of a map over the pixels that a mask marks, divided by its mean over all the others.

# %%
def times_as_much(of_word, mask):
    # of_word: (height, width), a word's map   mask: (height, width), True where the picture is red
    # returns one number: 1 if both look at the word equally
    ...


check.times_as_much(times_as_much)

# %% [markdown]
# We ask four pictures (seeds 0 to 3), so that we do not believe an accident.

# %%
def maps_of(P, seed):
    """The picture, and {word: its map}: the mean over heads, 16 × 16 layers and steps."""
    seen = []

    def look(M, M_star, t):
        if M.shape[1] == 16:
            seen.append(M.mean(0))
        return M_star
    image = p2p.prompt_to_prompt(model, [P], look, steps=STEPS, guidance=5.0, seed=seed).images[0]
    M = torch.stack(seen).mean(0)
    return image, {piece.text: M[..., piece.tokens].sum(-1)
                   for piece in pieces(model.tokenizer, P)}


def is_red(image):
    r, g, b = small(image)
    return torch.from_numpy(r - np.maximum(g, b) > 60)


four = [maps_of(P, seed) for seed in range(4)]
asked = ["a", "big", "red", "car", "snow"]
times = [[float(maps[word][is_red(image)].mean() / maps[word][~is_red(image)].mean())
          for word in asked] for image, maps in four]
print("red pixels look so many times as much as the others at\n")
print("seed  ", *(f"{'“' + word + '”':>7}" for word in asked))
for seed, row in enumerate(times):
    print(f"{seed:4}  ", *(f"{x:7.1f}" for x in row))
cells = [cell for image, maps in four for cell in (image, *(maps[word] for word in asked[1:4]))]
show("1_four", cells, 4 * [P, "“big”", "“red”", "“car”"], columns=4, side=128, scale="own")
for a, big, red, car, snow in times:
    assert min(a, big, red, car) > 2 and snow < 0.2
    assert STEPS < 20 or big > red > car
for _, maps in four:
    assert maps["big"].max() < maps["red"].max() / 2

# %% [markdown]
# **Answer.** Red pixels do look at "red", but they look at "big" even more, and at "a" and "car"
# too. No pixel by itself is big. So a map does not show which pixels have a property. It shows
# *which thing a word belongs to*: every word that is said of the car lies on the car.
#
# Why is "big" ahead? Its map is weak (see "at most", above) and has only one spot, on the red
# body. A ratio says where a word looks, not how much. "car" has the smallest ratio because
# windows and wheels look at it too, and they are not red.
#
# **A caveat.** This small model was *taught* to have such maps: its training rewarded maps of
# object, size, colour and place words for lying on their thing. In Stable Diffusion nobody asked
# for it, it happens, and the maps are more blurred. ("a" was not taught here, and it lies on the
# car too.)
#
# ## Then does "red" know nothing about redness?
#
# We cut the picture up: each pixel goes to the word, of three, that it looks at most.

# %%
three = ["red", "car", "snow"]
winners = [torch.stack([maps[word] for word in three]).argmax(0) for _, maps in four]
print("part of each piece that is red\n\nseed  ", *(f"{'“' + word + '”':>7}" for word in three))
for seed, (winner, (image, _)) in enumerate(zip(winners, four)):
    of_piece = [is_red(image)[winner == n].double().mean().item() for n in range(3)]
    print(f"{seed:4}  ", *(f"{x:7.0%}" for x in of_piece))
    assert of_piece[0] > 0.6 and of_piece[0] > of_piece[1] + 0.2 and of_piece[2] < 0.1

image, blank = four[SEED][0], Image.new("RGB", four[SEED][0].size, "silver")
masks = [Image.fromarray((winners[SEED] == n).numpy()).resize(blank.size, Image.Resampling.NEAREST)
         for n in range(3)]
show("1_pieces", [image, *(Image.composite(image, blank, mask) for mask in masks)],
     [P, *(f"look at “{word}” most" for word in three)])

# %% [markdown]
# **Answer.** It does, inside the car: the body goes to "red", windows and wheels to "car".
#
# ## When is the place of the car settled?
#
# We compare the map of "car" in each fifth of the steps with the last fifth. A correlation of 1
# means the same picture.

# %%
fifths = [average(16, n / 5, (n + 1) / 5)[..., tokens["car"]].sum(-1) for n in range(5)]
likeness = [torch.corrcoef(torch.stack([each.flatten(), fifths[-1].flatten()]))[0, 1].item()
            for each in fifths]
show("1_when", fifths, [f"“car”, steps {n / 5:.0%} to {(n + 1) / 5:.0%}; like the last: {x:.2f}"
                        for n, x in enumerate(likeness)])
assert likeness[1] > 0.7 and likeness[3] > 0.97
assert STEPS < 20 or likeness[0] > 0.7 and likeness[1] > 0.85

# %% [markdown]
# **Answer.** Early: by the second fifth the map is nearly the last one. (Eight seeds: 0.79 to
# 0.90 in the first fifth, 0.92 to 0.96 in the second.) Editing rests on this: whoever sets the
# early maps sets the layout.
#
# ## Which layers show it?

# %%
sizes = {size: average(size)[..., tokens["car"]].sum(-1) for size in (16, 8, 4)}
contrast = {size: (each.max() / each.mean()).item() for size, each in sizes.items()}
captions = [f"“car”, {size} by {size}: at most {x:.1f} times its mean"
            for size, x in contrast.items()]
show("1_sizes", list(sizes.values()), captions, scale="own")
assert min(contrast[16], contrast[8]) > 3 > 2 > contrast[4]

# %% [markdown]
# **Answer.** The layers of 16 × 16 and 8 × 8. At 4 × 4 the map of "car" is nearly flat: that
# layer says hardly anything about the place. (The training's reward left its maps out.) Does it
# matter for editing? Lesson 2 tries.
#
# ## To discuss
#
# - Most attention goes to no word. What would change if there were no start token and no padding?
# - The heads see different parts of the car. Is it right to average over them?
# - "red" lies on the car and not on everything red. Why is that good news for editing?
#
# ## Assignment: words that do not lie on what they name
#
# The prompt is "a car on the red grass". Write down first what you expect: which colour will the
# car and the grass have, and where will "red" lie? Then look at four seeds with `maps_of`.
#
# 1. Does the picture go wrong, or the map, or both in the same way?
# 2. Compare with "a red car on the grass". Could you tell the two runs apart by their maps?
# 3. The model learned from captions in which colours belong to objects, never to places. What
#    would an Edit have to do to make the grass red, and do you expect it to work? (Try it after
#    lesson 3.)
