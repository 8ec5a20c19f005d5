# %% [markdown]
# # 7. Stable Diffusion
#
# The same three edits, on a checkpoint of your own. All that we know so far was measured on a small model. What holds
# for a large one? This lesson measures both.
#
# `MODEL` in the first cell is yours: a folder, a single file, or a model on the hub. As it stands it is the small
# model, so that the lesson runs in class. Come back with a real one at home; it needs a GPU, or patience.
#
# **Read, not run.** No published checkpoint has been run where this lesson was written, only random weights in the
# shapes of Stable Diffusion 1.5 and XL. So what is said of Stable Diffusion was read, and has its source. Your own
# numbers decide.
#
# Where a cell says `expect_... = ""`, write what you expect and why, before you run the next one.
# `check.share.hint()` helps with an exercise.

# %%
import os
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import p2p_min as p2p
from p2p_min.align import words
from p2p_min.lessons import checks_7 as check
from p2p_min.lessons.examples import STABLE_DIFFUSION, TOY, is_toy, table_of
from p2p_min.lessons.figures import known, show, tokens

# The small model; or "stable-diffusion-v1-5/stable-diffusion-v1-5", a folder, a .safetensors file.
MODEL = os.environ.get("LESSON_MODEL", "weights/toy")
DTYPE = None                                               # "float16" on a GPU: half of the memory
SIZE = int(os.environ.get("LESSON_SIZE", 0)) or None       # of a side, in pixels; None: the model's
STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; 50 are usual
SEED = 0

torch.set_num_threads(1 if MODEL == "weights/toy" else torch.get_num_threads())
toy = p2p.load(device="cpu")
model = toy if MODEL == "weights/toy" else p2p.load(MODEL, dtype=DTYPE)
models = {"small": toy} if is_toy(model) else {"small": toy, "yours": model}
examples = {example.name: example for example in table_of(model)["examples"]}
settings = table_of(model)["settings"] | dict(steps=STEPS, seed=SEED, height=SIZE, width=SIZE)
print(model)

# %% [markdown]
# Your checkpoint takes the paper's examples, the small model the same edits in its own words. It is the table of
# `scripts/paper.py`:

# %% shown
for table in (STABLE_DIFFUSION, TOY):
    print(f"{'for Stable Diffusion' if table is STABLE_DIFFUSION else 'for the small model'}:")
    for e in table["examples"]:
        print(f"  {e.title}: {e.source}", f"(“{e.fader}” times −2 to 2)" * bool(e.fader))
        print(*(f"      → {target}\n" for target in e.targets), sep="", end="")

# %% [markdown]
# ## What is larger?
#
# By the config of the published 1.5, its UNet has four sizes of 320 to 1280 channels, 8 heads, and pictures of
# 512 × 512, so latents of 64 × 64. How many MiB is its largest self-attention map, in float32, for one picture?

# %% predict expect_map
expect_map = ""

# %%
def describe(name, model, side):
    height, width = (n // model.vae.factor for n in ((side, side) if side else model.size))
    sizes = model.unet.map_sizes(height, width)
    cross, own = (model.unet.attention_names(kind) for kind in ("cross", "self"))
    heads = sorted({model.unet.get_submodule(layer).heads for layer in own})
    millions = sum(parameter.numel() for parameter in model.unet.parameters()) / 1e6
    print(f"{name}: UNet of {millions:,.0f} million parameters, latents of {height} × {width}")
    print("  sizes of the maps:", ", ".join(f"{h} × {w}" for h, w in sizes))
    print(f"  {len(cross)} cross-attentions, and as many self-attentions; heads: {heads}")
    print(f"  the first is {cross[0]}")
    pixels = sizes[0][0] * sizes[0][1]
    print(f"  the largest self-attention map: {heads[0] * pixels ** 2 * 4 / 2 ** 20:,.1f} MiB")


for name, each in models.items():
    describe(name, each, SIZE if each is model else None)
print(f"1.5, by its config, in MiB: {8 * (64 * 64) ** 2 * 4 / 2 ** 20:,.0f}")

# %% [markdown] teacher
# **Answer.** 8 × 4096 × 4096 numbers of 4 bytes: 512 MiB, in one layer, for each row. (The small model's largest has
# 1 MiB.) So a program that keeps all maps needs gigabytes. Maps of words are small: 8 × 4096 × 77.
# Injection of self-attention needs no map at all, as below.

# %% [markdown]
# ## Are tokens words?
#
# Both models see 77 tokens: the start, at most 75 of the prompt, the end, and padding. (A longer prompt is refused.)
# The small model has a vocabulary of 415 tokens, made for its own words. CLIP's, which Stable Diffusion uses, has
# 49,408. How many tokens is a word?

# %% predict expect_tokens
expect_tokens = ""

# %%
def in_tokens(model, prompt):
    names = tokens(model.tokenizer, prompt)
    of_words = ["+".join(names[i] for i in piece.tokens)
                for piece in words(model.tokenizer, prompt)]
    print(f"{len(names):3} of {model.tokenizer.model_max_length}: {'  '.join(of_words)}")


PAIRS = {"small": ("a red car in the snow", "a red bicycle in the snow"),
         "yours": ("a photo of a cat riding on a bicycle", "a photo of a cat riding on a tricycle")}
for name, each in models.items():
    print(f"{name}, {len(each.tokenizer)} tokens:")
    for prompt in PAIRS[name]:
        in_tokens(each, prompt)
for word in ("cat", "skateboard", "tricycle", "capybara", "axolotl"):
    print(f"  {word}:", ", ".join(f"{len(tokens(each.tokenizer, word)) - 2} ({name})"
                                  for name, each in models.items()))

# %% [markdown] teacher
# **Answer.** One or several. The small model has one for most of its words, but “bicycle” is two, and what it does not
# know falls into letters. We have counted with CLIP's own vocabulary: all words of the paper's examples above are one
# token; “tricycle” has 2, “capybara” 3, “axolotl” 4.

# %% [markdown]
# ### Exercise 1: a word swap between words of several tokens
#
# Which column of M does each token of the new word take? With as many tokens as before, one to one. Otherwise the old
# word's columns are summed, and each new token gets an equal share of the sum.

# %% exercise swapped 3
def swapped(M, old, new):
    # M    (heads, height, width, tokens)   the source's map
    # old  list of the old word's tokens, such as [3]
    # new  list of the new word's tokens, such as [3, 4]
    # returns the maps of the new word's tokens: (heads, height, width, len(new))
    ...


# %% check swapped
swapped_is_right = check.swapped(swapped)

# %%
P, P_star = PAIRS["small" if is_toy(model) else "yours"]
known(model, P, P_star)
library = p2p.auto(model.tokenizer, [P, P_star], 0.8)
a, b = (words(model.tokenizer, prompt) for prompt in (P, P_star))
pairs = [(old.tokens, new.tokens) for old, new in zip(a, b) if old.text != new.text]
if len(a) != len(b):
    print("These prompts have different numbers of words: this is no word swap.")
    pairs = []


def with_yours(M, M_star, t):
    M_hat = library(M, M_star, t).clone()
    if 1 - t < 0.8 - 1e-6:
        for old, new in pairs:
            M_hat[0, ..., new] = swapped(M, old, new)
    return M_hat


if swapped_is_right:
    plain, ours, theirs = (p2p.prompt_to_prompt(model, [P, P_star], edit, **settings)
                           for edit in (None, with_yours, library))
    apart = (ours.latents - theirs.latents).abs().max()
    print(f"the latents differ from those with p2p.auto by {apart:.0e}")
    show("7_swapped", [*plain.images, ours.images[1]], [P, f"{P_star}: without", "with your swap"])

# %% [markdown]
# ## Who gets the attention?
#
# Each pixel spreads an attention of 1 over the 77 tokens. How much of it do words get?
#
# ### Exercise 2: the share of some tokens

# %% exercise share 1
def share(M, tokens):
    # M       (heads, height, width, 77)   each row sums to 1
    # tokens  a list of tokens
    # returns the part of all attention that they get together: a number from 0 to 1
    ...


# %% check share
share_is_right = check.share(share)

# %% [markdown]
# Your function measures it in each layer and step: of the start token, the words, the end token and the padding. Which
# of them gets most in the small model? And in Stable Diffusion?

# %% predict expect_start
expect_start = ""

# %%
def shares_of(model, P, **settings):
    """{kind of token: {size of the map: share}}, on average over steps and layers."""
    end = len(tokens(model.tokenizer, P)) - 1
    kinds = {"start": [0], "words": list(range(1, end)), "end": [end],
             "padding": list(range(end + 1, model.tokenizer.model_max_length))}
    seen = {kind: {} for kind in kinds}

    def look(M, M_star, t):
        for kind, of_kind in kinds.items():
            seen[kind].setdefault(M.shape[1], []).append(float(share(M, of_kind)))
        return M_star

    image = p2p.prompt_to_prompt(model, [P], look, **settings).images[0]
    return {kind: {size: np.mean(all_) for size, all_ in sizes.items()}
            for kind, sizes in seen.items()}, image


if share_is_right:
    shares = {}
    for name, each in models.items():
        P = next(e.source for e in table_of(each)["examples"] if e.name == "maps")
        known(each, P)
        how = settings if each is model else dict(steps=STEPS, seed=SEED, guidance=5.0)
        shares[name], _ = shares_of(each, P, **how)
        sizes = sorted(shares[name]["start"], reverse=True)
        print(f"{name}, “{P}”:")
        print("  maps of", " " * 8, *(f"{size:>5} px" for size in sizes))
        for kind, of_sizes in shares[name].items():
            print(f"  {kind:16}", *(f"{of_sizes[size]:8.1%}" for size in sizes))

# %% [markdown] teacher
# **Answer.** In the small model the padding, with 73 to 91 % of it; the start token has about 1 % or less. In Stable
# Diffusion it is the start token: the statement and its sources are at the end of the lesson.
#
# Why is there such a token at all? Our reading: a row must sum to 1, so a pixel that wants nothing from the words needs
# a place to put its attention.
#
# What follows? A word's map is faint: show it by its own maximum, as `Recorder` and the blend's mask do, and compare
# pixels, not words with 1. And replace start, end and padding together with the words, as all edits here do: they are
# most of what a pixel gets.

# %% teacher
from p2p_min.lessons.figures import claim

claim("the padding has most of the small model's attention, and the start token less than 2 %",
      min(shares["small"]["padding"].values()) > 0.7
      and max(shares["small"]["start"].values()) < 0.02)

# %% [markdown]
# ## The three edits
#
# Word swap, added phrase and re-weighting, with the settings of the table: source, the target without an edit, with it.
# What will each edit keep of the source?

# %% predict expect_edits
expect_edits = ""

# %%
seconds = []                                               # of a step of each run


def timed(prompts, *edits, **more):
    began = time.perf_counter()
    result = p2p.prompt_to_prompt(model, prompts, *edits, **settings | more)
    seconds.append((time.perf_counter() - began) / STEPS)
    return result.images


for name in ("word_swap", "added_phrase", "reweighting"):
    example = examples[name]
    edits = example.edits(model.tokenizer)
    plain = timed(example.prompts) if example.targets else []
    images = timed(example.prompts, **edits)
    print(f"{example.title}: {' → '.join(dict.fromkeys(example.prompts))}")
    cells, captions = [images[0]], ["source"]
    for i, label in enumerate(example.labels(), 1):
        cells += [*plain[i:i + 1], images[i]]
        captions += [f"{label}, without"] * bool(plain) + [f"{label}, with" if plain else label]
    show(f"7_{name}", cells, captions, side=160)

# %% [markdown]
# ## Does self-attention matter more?
#
# Lesson 4: self-attention knows which pixels belong together. With 64 × 64 maps one wants it in the small ones only.
# The authors' code takes those of at most 32 × 32 pixels (an older version: 16 × 16), in the first 40 % of the steps.
#
# ### Exercise 3: where and when
#
# An edit may have a method `active`. Where it says no, attention takes its fast way, and no map is made.

# %% exercise active 2
def active(height, width, t):
    # height, width  of the self-attention map; 64 × 16 are as many pixels as 32 × 32
    # t              1 at pure noise, (N - i) / N at step i of N
    # returns True in the first 40 % of the steps, in maps of at most 32 · 32 pixels; else False
    ...


# %% check active
active_is_right = check.active(active)

# %% [markdown]
# M V\* is attention with the source's queries and keys, so your edit needs no map (`attend`). We compare how far the
# target is from the source, in levels of 255: without an edit, with cross-attention injected, with self-attention by
# your `active`, and with both. Put them in order, for the small model and for yours.

# %% predict expect_self
expect_self = ""

# %%
def from_source(q, k, v, size, t):
    return sdpa(q[:1].expand_as(q), k[:1].expand_as(k), v)


def differs(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


own = SimpleNamespace(active=active, attend=from_source)
example = examples["word_swap"]
prompts = example.prompts[:2]
cross = p2p.auto(model.tokenizer, prompts, example.cross)
if active_is_right:
    kinds = {"neither": (None, None), "cross": (cross, None), "self": (None, own),
             "both": (cross, own)}
    runs = {kind: timed(prompts, *edits) for kind, edits in kinds.items()}
    far = {kind: differs(*images) for kind, images in runs.items()}
    show("7_self", [runs["neither"][0], *(images[1] for images in runs.values())],
         [prompts[0], *(f"{kind}: {x:.1f}" for kind, x in far.items())])
    print(" → ".join(prompts), "- mean difference from the source:",
          ", ".join(f"{kind} {x:.1f}" for kind, x in far.items()))

# %% [markdown] teacher
# **Answer.** In the small model each keeps a little, both much more: 21.4 levels without an edit, 19.2 with
# self-attention, 19.7 with cross-attention, 14.1 with both. Here only both keep the ball's colour.
#
# Of Stable Diffusion one reads that self-attention matters more; see the end of the lesson.

# %% teacher
claim("self-attention and cross-attention each keep something, and both most",
      far["neither"] > max(far["cross"], far["self"])
      and far["both"] < min(far["cross"], far["self"]))

# %% [markdown]
# ## Which windows?
#
# The defaults of `p2p_min` are the authors' for Stable Diffusion: 80 % of the steps for cross-attention, 40 % for
# self-attention, guidance 7.5, 50 steps. The small model takes 60 % and 40 %, and guidance 5 (lesson 4). For two
# prompts of yours, a grid of both windows answers it. It is a command, in a clone of the repository:
#
#     python scripts/paper.py --model MODEL --only grid --prompts "SOURCE" "TARGET"
#
# Without `--only`, it draws all examples of the table above with four seeds on one page, and proves that your
# checkpoint computes what diffusers computes. (An installed copy has the table, `p2p_min.lessons.examples`, and not the
# script.)
#
# ## What does it cost?

# %%
weights = sum(parameter.numel() * parameter.element_size() for part in
              (model.unet, model.vae, model.text_encoder, model.text_encoder_2) if part is not None
              for parameter in part.parameters()) / 2 ** 30
print(f"weights: {weights:.2f} GiB, {str(model.dtype).removeprefix('torch.')} on {model.device}")
print(f"a step, with what comes before and after it: {np.median(seconds):.2f} s, median of",
      f"{len(seconds)} runs")
if model.device.type == "cuda":
    print(f"the most memory so far: {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB")

# %% [markdown]
# Computed from the shapes of 1.5 at 512 pixels, an edit needs 2.4 GiB in float16 and 4.7 GiB in float32; XL at 1024
# pixels 9.6 and 15.9 GiB ([What fits](https://github.com/OWNER/p2p_min/blob/main/scripts/README.md#what-fits)). One
# step of 1.5 takes 44 s on one thread of a CPU without AVX512 (measured, with random weights). If it does not fit:
# float16, a smaller `SIZE`, or one target at a time.
#
# ## What one reads of Stable Diffusion
#
# 1. **The start token draws most of the attention.** Somebody who reimplemented this paper with 1.4 measured 0.9 to
#    0.99 for it in most cases, in all layers and heads:
#    https://discuss.huggingface.co/t/cross-attention-probabilities-in-sd-1-4-of-start-of-sentence-token/40995
#    The authors of [Attend-and-Excite](https://arxiv.org/abs/2301.13826) leave that token out, and normalise what
#    remains, before they look at maps.
# 2. **Self-attention matters more.** [Liu et al. 2024](https://arxiv.org/abs/2403.03431) find that self-attention maps
#    keep shapes, while cross-attention maps carry what an object is, and can make an edit fail; they edit
#    self-attention alone. MasaCtrl and Plug-and-Play work in self-attention too. Our paper's Algorithm 1 leaves it
#    alone; its authors' code for Stable Diffusion injects it.
# 3. **80 % and 40 % of the steps** are what that code takes in its examples.
#
# ## Assignment: your checkpoint
#
# Run the lesson with a real checkpoint, and fill in:
#
# | | small | yours |
# |---|---|---|
# | attention of the start token, of the padding | | |
# | words of your prompts that have several tokens | | |
# | far from the source: neither, cross, self, both | | |
# | cross and self windows that you would choose for your own pair, and why | | |
# | seconds a step, memory | | |
#
# 1. Which of the three statements do your numbers support? Which not?
# 2. One edit that works with the small model and not with yours, or the other way round: show both, and say why.
