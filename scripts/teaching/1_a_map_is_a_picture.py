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
# not. Where a cell asks what you expect, write it down *before* you run the next one.

# %%
import os

import numpy as np
import torch
from PIL import Image

import p2p_min as p2p
from p2p_min import attention
from p2p_min.ddim import timesteps
from p2p_min.lessons import checks_1 as check
from p2p_min.lessons.figures import color_strength, known, matrix, named_tokens, roles, show
from p2p_min.networks.text import encode

torch.set_num_threads(1)     # so small a model gains little from more, and loses on a busy machine
STEPS = int(os.environ.get("LESSON_STEPS", 20))                    # of the denoising
model = p2p.load(device="cpu")               # the natural place for so small a model, GPU or not

# %% [markdown]
# Run the lesson with this prompt and seed first. Then change them and run it again.

# %% shown
P = "a big red car in the snow"
SEED = 3
known(model, P)
words = named_tokens(model.tokenizer, P)     # {word: its tokens}; of two “a”: a#1 and a#2
size, color, thing, place = roles(words)     # "big", "red", "car", "snow"; None for what P lacks
recorder = p2p.Recorder(model.tokenizer, [P], per_step=True)       # looks at the maps: see below
result = p2p.prompt_to_prompt(model, [P], steps=STEPS, guidance=5.0, seed=SEED, recorder=recorder)
show("1_picture", [result.images[0]], [P], side=256)

# %% [markdown]
# ## From prompt to picture
#
# The model does not work on pixels but on a *latent* z of 4 × 16 × 16 numbers, which a decoder
# (the VAE) turns into 128 × 128 pixels at the end. The noise in z is predicted by a *UNet*, a
# network that goes down to features of 8 × 8 and 4 × 4 places and up again to 16 × 16. At each of
# these sizes it has cross-attention layers; "pixel" in this lesson means one of their places.
#
#     prompt P                                noise
#        │ tokenizer, text encoder              │
#        ▼                                      ▼
#     77 tokens (77, 192)                     z_T (4, 16, 16)
#        │                                      │
#        │    ┌─ UNet, at each step t ──────────▼───────────────────────────┐
#        │    │  in each cross-attention, of h × w pixels and 4 heads:      │
#        │    │    Q = W_Q x               (4, h·w, d)   x: the features    │
#        └───►│    K = W_K P, V = W_V P    (4, 77, d)                       │
#             │    M = softmax(Q Kᵀ / √d)  (4, h·w, 77)  ◄─ lesson 1        │
#             │    M̂ = Edit(M, M*, t)      (4, h·w, 77)  ◄─ lessons 2 to 4  │
#             │    out = W_out (M̂ V)       (h·w, 4·d)    on to the next     │
#             └─────────────────────────────────┬───────────────────────────┘
#                                               ▼
#                                             eps (4, 16, 16), the noise found
#                                               │ z_t → z_{t-1}, T times
#                                               ▼
#                                             z_0 (4, 16, 16)
#                                               │ VAE
#                                               ▼
#                                             picture (3, 128, 128)
#
# ## What does the network read?
#
# Not letters, but tokens: a start token, the tokens of each word, an end token, and padding. How
# many tokens has our prompt, and how many of them are words?

# %% predict expect_tokens
expect_tokens = ""

# %%
pieces = named_tokens(model.tokenizer, P, marks=True)              # words and punctuation
last = max(max(at) for at in pieces.values())
length = encode(model, [P]).states.shape[1]
print("token  0      start")
for word, at in pieces.items():
    print(*(f"token {n:2}      “{word}”" for n in at), sep="\n")
print(f"token {last + 1:2}      end\ntokens {last + 2} to {length - 1}   padding")

# %% [markdown] teacher
# **Answer.** 77 tokens, whatever the prompt; seven of them are words here. A long or rare word has
# several tokens ("bicycle" has two), and a word that the model does not know has many.

# %% [markdown]
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
# (`check.attention_map.hint()` gives a hint; each exercise has two or three.)

# %% exercise attention_map 3
def attention_map(Q, K):
    # Q: (heads, pixels, d)   K: (heads, tokens, d)   returns M: (heads, pixels, tokens)
    ...

# %% check attention_map
map_is_right = check.attention_map(attention_map)

# %% [markdown]
# ## Is this what the model does?
#
# We choose one layer of the UNet and the noisy latent z_t from half way. A PyTorch hook catches
# what goes into the layer, x, and what comes out. In between there should be
#
# $$Q = W_Q\, x, \quad K = W_K\, P, \quad V = W_V\, P, \qquad \mathrm{out} = W_{out}\, (M V)$$
#
# with x as pixels (16 × 16 of them), P as the prompt's 77 encoded tokens, and *your* map as M. By
# how much will our output differ from the layer's own?

# %% predict expect_difference
expect_difference = ""

# %%
layer = model.unet.get_submodule("up_blocks.2.attentions.0.transformer_blocks.0.attn2")
caught = {}


def catch(layer, inputs, out):
    caught.update(x=inputs[0][0], size=inputs[1], out=out[0])


z_t = result.inversion.latents[STEPS // 2]                         # (1, 4, 16, 16)
t = timesteps(model.schedule, STEPS)[STEPS // 2]
context = encode(model, [P]).states                                # (1, 77 tokens, 192)
with torch.no_grad(), layer.register_forward_hook(catch):
    model.unet(z_t, t, context)


def in_heads(y):
    return y.unflatten(-1, (layer.heads, -1)).transpose(0, 1)      # (heads, pixels or tokens, d)


def library_map(Q, K):
    return attention.maps(Q[None], K[None], caught["size"])[0].flatten(1, 2)


# Until exercise 1 is right, the library's map stands in for yours.
map_of = attention_map if map_is_right else library_map
with torch.no_grad():
    Q = in_heads(layer.to_q(caught["x"]))
    K, V = in_heads(layer.to_k(context[0])), in_heads(layer.to_v(context[0]))
    M = map_of(Q, K)
    out = layer.to_out[0]((M @ V).transpose(0, 1).flatten(1))

error = (out - caught["out"]).abs().max() / caught["out"].abs().max()
print("made with", "your map" if map_of is attention_map else "the library's map")
for name, tensor in dict(x=caught["x"], Q=Q, K=K, V=V, M=M, out=out).items():
    print(f"{name:3}  {tuple(tensor.shape)}")
print(f"our output differs from the layer's by {error:.0e} of its largest number")

# %% [markdown] teacher
# **Answer.** By rounding only. M is not a heat map made afterwards for us to look at: the layer's
# output is W_out (M V), so whoever changes M changes the picture.

# %% [markdown]
# ## What is a row of M?
#
# A row belongs to one pixel. We take two: the reddest one (or of whatever colour the prompt
# says), and one in the snow near the top. To keep the figure small we average over the heads and
# add up the padding. Which tokens will each of the two look at most? What is the sum of a row?

# %% predict expect_rows
expect_rows = ""

# %%
on_it = int(color_strength(result.images[0], color).argmax())
near_top = 1 * 16 + 8                                              # row 1, column 8
rows = M.mean(0)[[on_it, near_top]]                                # (2, 77)
padding = rows[:, last + 2:].sum(-1, keepdim=True)
rows = torch.cat([rows[:, :last + 2], padding], dim=-1)
names = ["start", *(word for word, at in pieces.items() for _ in at), "end", "padding"]
matrix("1_rows", rows, [f"strongest in {color or 'colour'}", "near the top"], names,
       cell=44)
for name, *numbers in zip(names, *rows.tolist()):
    print(f"{name:12}", *(f"{x:8.1%}" for x in numbers))
print(f"{'sum':12}", *(f"{x:8.1%}" for x in rows.sum(-1).tolist()))

# %% [markdown] teacher
# **Answer.** A row says how one pixel shares its attention among the tokens. It sums to 1. The
# reddest pixel looks most at "red" (61.4 %), then at "car" (12.8 %). The one near the top looks
# at one word only, "snow" (24.3 %), and at the padding (74.7 %).

# %% [markdown]
# ## What is a column of M?
#
# A column belongs to one token: how much each pixel looks at it. Pixels have places, so a column
# can be laid out as a picture. M lists them row by row: first the top row of the picture, from
# left to right.
#
# ### Exercise 2: the picture of a word
#
# The mean over the heads; where a word has several tokens, their sum.

# %% exercise word_picture 2
def word_picture(M, tokens, height, width):
    # M: (heads, height * width, tokens)   tokens: such as [3], or [4, 5] for a word of two tokens
    # returns: (height, width)
    ...

# %% check word_picture
picture_is_right = check.word_picture(word_picture)

# %% [markdown]
# We give your function one head at a time, and the tokens of the thing in the prompt, "car". Will
# the four pictures be alike?

# %% predict expect_heads
expect_heads = ""

# %%
if picture_is_right:
    heads = [word_picture(head[None], words[thing], *caught["size"]) for head in M]
    show("1_heads", [result.images[0], *heads],
         ["the finished picture; maps on one scale",
          *(f"“{thing}”, head {n}" for n in range(len(heads)))])
    alike = torch.corrcoef(torch.stack(heads).flatten(1))
    print("part of the picture that is at least half as bright as the brightest pixel:")
    for n, head in enumerate(heads):
        print(f"  head {n}: {(head > head.max() / 2).float().mean():.0%}")
    print(f"the two heads that differ most: correlation {alike.min():.2f}")
else:
    print("this cell draws with your function of exercise 2")

# %% [markdown] teacher
# **Answer.** No. A column is a picture of where a word acts, and the heads see different parts of
# the car: the two that differ most have a correlation of -0.05.

# %% [markdown]
# ## Do we need hooks to see the maps?
#
# Not in this library. Every cross-attention calls an *Edit*, a function (M, M_star, t) -> M_hat.
# An Edit may simply look and pass on. There are seven such layers, with maps of 16 × 16, 8 × 8
# and 4 × 4 pixels. (M_star belongs to a second prompt: lesson 2.)

# %%
watched = []


def look(M, M_star, t):
    watched.append((t, M))                                         # (heads, height, width, tokens)
    return M_star


again = p2p.prompt_to_prompt(model, [P], look, steps=STEPS, guidance=5.0, seed=SEED)
change = (again.latents - result.latents).abs().max() / result.latents.abs().max()
print(f"{len(watched)} maps: {len(watched) // STEPS} layers, {STEPS} steps")
print(f"looking changed the picture by {change:.0e} of its largest number: rounding")
_, same = watched[STEPS // 2 * 7 + 5]                              # the sixth layer, half way
difference = (same.flatten(1, 2) - M).abs().max()
print(f"one of them is the map that we computed: they differ by {difference:.0e}")

# %% [markdown]
# A `Recorder` is such a look that keeps the mean over layers, heads and steps. Ours saw the first
# run. Which words of the prompt will light up nothing?

# %% predict expect_dark
expect_dark = ""

# %%
of_word = {word: recorder.maps(word) for word in words}            # {word: (16, 16)}
captions = [f"“{word}”, at most {picture.max():.2f}" for word, picture in of_word.items()]
show("1_words", [result.images[0], *of_word.values()],
     [f"{P}; maps on one scale", *captions], columns=4)
print("\n".join(captions))

# %% [markdown] teacher
# **Answer.** "in" and "the" light up almost nothing: at most 0.00, where "car" has 0.29.

# %% [markdown]
# ## How much attention goes to words at all?
#
# The words are few of the 77 tokens. What part of all attention goes to no word, and where does it
# go?

# %% predict expect_to_words
expect_to_words = ""

# %%
share = {word: picture.mean() for word, picture in of_word.items()}
share |= {f"the {end} token": recorder.maps(f"<{end}>").mean() for end in ("start", "end")}
print(*(f"{name:16} {x:6.1%}" for name, x in share.items()), sep="\n")
print(f"{'padding':16} {1 - sum(share.values()):6.1%}")
print(f"{'no word':16} {1 - sum(share[word] for word in words):6.0%}")

# %% [markdown] teacher
# **Answer.** Most of it: 84 % goes to no word, and nearly all of that to the padding. A row must
# sum to 1, so a pixel that wants nothing from the words has to look somewhere else. (With "a red
# cat" it is 94 to 96 %. In Stable Diffusion the start token takes most of it.)

# %% [markdown]
# ## "Pixels are more attracted to the words that describe them"
#
# So says the paper. Let us doubt it, and measure. Which pixels are red, the picture tells us
# without any map. Do *they* look at "red" more than the others do? And only at "red"?
#
# ### Exercise 3: how many times as much?
#
# The mean of a map over the pixels that a mask marks, divided by its mean over all the others.

# %% exercise times_as_much 2
def times_as_much(of_word, mask):
    # of_word: (height, width), a word's map   mask: (height, width), True where the picture is red
    # returns one number: 1 if both look at the word equally
    ...

# %% check times_as_much
times_is_right = check.times_as_much(times_as_much)

# %% [markdown]
# We ask four pictures (seeds 0 to 3), so that we do not believe an accident. No pixel by itself
# is big. So what do you expect: will red pixels look at "big" more often than others do? Will
# they look at "big" or at "red" more?

# %% predict expect_big
expect_big = ""

# %%
def maps_of(P, seed):
    """The picture, and {word: its map}: the mean over heads, 16 × 16 layers and steps."""
    recorder = p2p.Recorder(model.tokenizer, [P])
    image = p2p.prompt_to_prompt(model, [P], steps=STEPS, guidance=5.0, seed=seed,
                                 recorder=recorder).images[0]
    return image, {word: torch.from_numpy(recorder.maps(word))
                   for word in named_tokens(model.tokenizer, P)}


def is_colored(image):
    return torch.from_numpy(color_strength(image, color) > 50)     # (16, 16)


def table(title, names, rows, digits):
    print(f"\n{title}\n\nseed  ", *(f"{'“' + name + '”':>9}" for name in names))
    for seed, row in rows.items():
        print(f"{seed:4}  ", *(f"{x:9.{digits}f}" for x in row))


asked = [word for word in dict.fromkeys([next(iter(words)), size, color, thing, place]) if word]
four = {seed: maps_of(P, seed) for seed in range(4)}
cells = [cell for image, maps in four.values() for cell in (image, *(maps[word] for word in asked))]
captions = [f"{P}; each map on its own scale", *(f"“{word}”" for word in asked)]
show("1_four", cells, len(four) * captions, columns=1 + len(asked), side=128, scale="own")
colored = {seed: (is_colored(image), maps) for seed, (image, maps) in four.items()
           if 0 < is_colored(image).sum() < 256}                   # some pixels, and not all
print(f"seeds whose picture has pixels that are {color or 'coloured'}, and others:", *colored)
table("these pixels look at the word, on average", asked,
      {seed: [maps[word][mask].mean() for word in asked] for seed, (mask, maps) in colored.items()},
      digits=3)
if times_is_right:
    times = {seed: [float(times_as_much(maps[word], mask)) for word in asked]
             for seed, (mask, maps) in colored.items()}
    table("and so many times as much as the other pixels do", asked, times, digits=1)

# %% [markdown] teacher
# **Answer.** Red pixels look at "big" 4.2 to 6.9 times as much as the others do, even more times
# than at "car" (3.7 to 4.3). But they look at it little: 0.005 to 0.007 on average, against
# 0.081 to 0.086 at "car" and 0.143 to 0.162 at "red". A ratio says *where*, not how much.
#
# So a map does not show which pixels have a property. It shows *which thing a word belongs to*:
# every word that is said of the car lies on the car. "car" has a smaller ratio than "red" (12.0 to
# 15.1) because windows and wheels look at it too, and they are not red.
#
# **A caveat.** This small model was *taught* to have such maps: its training rewarded maps of
# object, size, colour and place words for lying on their thing. In Stable Diffusion nobody asked
# for it, it happens, and the maps are more blurred. ("a" was not taught here, and it lies on the
# car too.)

# %% teacher
from p2p_min.lessons.figures import claim

if size and color:
    amounts = [[maps[word][mask].mean() for word in (size, color)]
               for mask, maps in colored.values()]
    claim("red pixels look ten times as much at “red” as at “big”, or more",
          all(of_color > 10 * of_size for of_size, of_color in amounts))
    claim("they look at “big” over twice as much as other pixels do",
          all(row[asked.index(size)] > 2 for row in times.values()))

# %% [markdown]
# ## Then does "red" know nothing about redness?
#
# We cut the picture up: each pixel goes to the word, of three, that it looks at most: "red",
# "car" or "snow". Which parts of the picture will each of them get?

# %% predict expect_pieces
expect_pieces = ""

# %%
three = [word for word in (color, thing, place) if word in words]
part_of = {seed: torch.stack([maps[word] for word in three]).argmax(0)
           for seed, (_, maps) in four.items()}
table(f"percent of each piece that is {color or 'coloured'}", three,
      {seed: [100 * mask[part_of[seed] == n].double().mean() for n in range(len(three))]
       for seed, (mask, _) in colored.items()}, digits=0)
image, blank = four[3][0], Image.new("RGB", four[3][0].size, "silver")
masks = [Image.fromarray((part_of[3] == n).numpy()).resize(blank.size, Image.Resampling.NEAREST)
         for n in range(len(three))]
show("1_pieces", [image, *(Image.composite(image, blank, mask) for mask in masks)],
     [P, *(f"look at “{word}” most" for word in three)])

# %% [markdown] teacher
# **Answer.** It does, inside the car: the body goes to "red", most of windows and wheels to "car",
# and the rest to "snow". Of the pieces of "red", 66 to 78 % are red, of those of "car" 16 to 30 %.

# %% [markdown]
# ## When is the place of the car settled?
#
# We compare the map of "car" in each fifth of the steps with the last fifth. A correlation of 1
# means the same picture. From which fifth on will it be over 0.9?

# %% predict expect_when
expect_when = ""

# %%
of_steps = recorder.maps(thing, per_step=True)                     # (steps, 16, 16)
fifths = [part.mean(0) for part in np.array_split(of_steps, 5) if len(part)]
likeness = [np.corrcoef(each.flatten(), fifths[-1].flatten())[0, 1] for each in fifths]
show("1_when", fifths, [f"“{thing}”, steps {n / 5:.0%} to {(n + 1) / 5:.0%}; like the last: {x:.2f}"
                        for n, x in enumerate(likeness)])
print("like the last:", *(f"{x:.2f}" for x in likeness))

# %% [markdown] teacher
# **Answer.** From the third on (0.95); the first has 0.82 already. Editing rests on this: whoever
# sets the early maps sets the layout.

# %% teacher
claim("the map is nearly its last one from the third fifth on", min(likeness[2:]) > 0.9)

# %% [markdown]
# ## Which layers show it?
#
# The map of "car" at the three sizes: how far above its mean does it get? What is your guess?

# %% predict expect_layers
expect_layers = ""

# %%
of_size = {size: recorder.maps(thing, size=size) for size in recorder.sizes}
contrast = {size: each.max() / each.mean() for size, each in of_size.items()}
show("1_sizes", list(of_size.values()),
     [f"“{thing}”, {h} by {w}: at most {x:.1f} times its mean" for (h, w), x in contrast.items()],
     scale="own")
print("at most, times the mean:", *(f"{h} by {w}: {x:.1f}" for (h, w), x in contrast.items()))

# %% [markdown] teacher
# **Answer.** The layers of 16 × 16 and 8 × 8. At 4 × 4 the map of "car" is nearly flat: that
# layer says hardly anything about the place. (The training's reward left its maps out.)

# %% teacher
claim("the map is nearly flat at 4 by 4 only",
      [x < 2 for x in contrast.values()] == [False, False, True])

# %% [markdown]
# Does it matter for editing? Lesson 2 tries.
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
