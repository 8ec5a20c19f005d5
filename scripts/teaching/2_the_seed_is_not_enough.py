# %% [markdown]
# # 2. The seed is not enough
#
# We have a red cat and want *the same cat* in blue. The first idea: generate both prompts from
# one noise, that is, from one seed. The paper's idea: also give the second picture the attention
# maps of the first.
#
# Its Algorithm 1 is short, so we write it out. Then we ask what does the work: the noise or the
# maps? Latents z, the UNet, and Q, K, V and M are those of lesson 1's diagram.

# %%
import os

import numpy as np
import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.ddim import step, timesteps
from p2p_min.editing import decode, guide
from p2p_min.lessons import checks_2 as check
from p2p_min.lessons import figures
from p2p_min.lessons.figures import known, show
from p2p_min.networks.text import encode

torch.set_num_threads(1)     # so small a model gains little from more, and loses on a busy machine
STEPS = int(os.environ.get("LESSON_STEPS", 20))                    # of the denoising
SEEDS = range(int(os.environ.get("LESSON_SEEDS", 3)))              # the first, not cherry-picked
model = p2p.load(device="cpu")               # the natural place for so small a model, GPU or not


def noise(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float32)


# %% [markdown]
# Here are the sources: the cats that we want in blue. (Later, try other prompts and seeds: a thing
# of a strong colour and no place, so that the ground is pale.)

# %% shown
P, P_star = "a red cat", "a blue cat"
known(model, P, P_star)
settings = dict(steps=STEPS, guidance=5.0)
sources = [p2p.prompt_to_prompt(model, [P], latents=noise(seed), **settings).images[0]
           for seed in SEEDS]
show("2_sources", sources, [f"{P}, seed {seed}" for seed in SEEDS], columns=3)

# %% [markdown]
# ## How alike are two pictures?
#
# We need a number. A pixel of strong colour belongs to the cat, since the ground is pale. Of all
# the pixels that belong to either cat, which share belongs to both?
#
# $$\mathrm{overlap}(a, b) = \frac{|a \cap b|}{|a \cup b|}$$
#
# Take a thing of a strong colour: for a black cat the number is nan, which means not measured.
#
# ### Exercise 1: the overlap
#
# (`check.shared.hint()` gives a hint; each exercise has two or three.)

# %% exercise shared 2
def shared(a, b):
    # a, b: numpy arrays (height, width), True where the pixel belongs to the cat
    # returns one number: 1 for the same outline, 0 for nothing in common
    ...

# %% check shared
shared_is_right = check.shared(shared)

# %% [markdown]
# From here on `overlap` is your number, for two pictures.
#
# ## Is one noise enough?
#
# We generate both prompts from the same noise. Will the blue cats stand where the red ones stand?
# Guess the overlap.

# %% predict expect_one_noise
expect_one_noise = ""

# %%
def overlap(a, b):
    """`shared` for the outlines of two pictures; the library's own until yours is right.

    nan, not measured, if one of them has no strong colour."""
    return figures.overlap(a, b, shared if shared_is_right else figures.shared)


def edited(seed, edit=None):
    """The pictures of P and P_star from one noise."""
    return p2p.prompt_to_prompt(model, [P, P_star], edit, latents=noise(seed), **settings).images


alone = [edited(seed) for seed in SEEDS]
cells = [image for images in alone for image in images]
captions = [caption for seed, images in zip(SEEDS, alone)
            for caption in (f"{P}, seed {seed}", f"{P_star}: {overlap(*images):.2f}")]
show("2_one_noise", cells, captions, columns=6, side=150)
print("overlap:", *(f"{overlap(*images):.2f}" for images in alone))

# %% [markdown] teacher
# **Answer.** No. One noise gives similar pictures, but the cat moves and changes its pose: the
# overlap is 0.08, 0.00 and 0.29. (Eight seeds: 0.33 on average.)

# %% [markdown]
# ## What else is in a step: guidance
#
# Every step asks the network twice: with the prompt, and with an empty one. The prediction is
# pushed away from the second and past the first:
#
# $$\hat\epsilon = \epsilon_\varnothing + w\, (\epsilon - \epsilon_\varnothing)$$
#
# The paper leaves this out of Algorithm 1, but every picture needs it. Here w = 5.
#
# ### Exercise 2: classifier-free guidance

# %% exercise guided 2
def guided(eps, eps_empty, w):
    # eps, eps_empty: the noise predicted with the prompt, and without   w: a number
    ...

# %% check guided
guided_is_right = check.guided(guided)

# %% [markdown]
# ## And the edit itself
#
# For a word swap it is as simple as can be: the source's map M in place of the target's own map
# M*, until the time tau is reached. Time t runs from 1 (pure noise) towards 0 (the picture).
#
# $$\mathrm{Edit}(M, M^*, t) = M \ \text{ if } t > \tau, \ \text{ else } M^*$$
#
# ### Exercise 3: word swap
#
# M has no dimension for the targets, M_star has. PyTorch's `expand_as` can help. (At t = tau the
# targets' own maps are used already.)

# %% exercise my_word_swap 3
def my_word_swap(M, M_star, t, tau=0.2):
    # M: (heads, height, width, tokens)   M_star: (targets, heads, height, width, tokens)
    # returns M_hat, shaped like M_star; M and M_star stay as they are
    ...

# %% check my_word_swap
swap_is_right = check.my_word_swap(my_word_swap)

# %% [markdown]
# ## Algorithm 1
#
# The paper's lines, with DM for a step of the diffusion model:
#
#     z*_T = z_T
#     for t = T, ..., 1:
#         z_{t-1}, M_t = DM(z_t, P, t)
#         M*_t         = DM(z*_t, P*, t)
#         M_hat        = Edit(M_t, M*_t, t)
#         z*_{t-1}     = DM(z*_t, P*, t)  with M_hat in place of M*_t
#
# The paper calls the network three times. We need one call: source and target go through it
# as two rows of a batch, so every attention layer has both maps at hand, calls `edit`, and goes on
# with M_hat. The second call below is for guidance. It is made of *your* `guided` and
# `my_word_swap`. Where will the blue cat of seed 0 stand now?

# %% predict expect_maps
expect_maps = ""

# %%
# Until an exercise is right, the library's function stands in for yours.
guidance = guided if guided_is_right else lambda eps, empty, w: guide(w, eps, empty, None)
word_swap = my_word_swap if swap_is_right else p2p.self_replace(0.8)


@torch.no_grad()
def algorithm_1(z_T, P, P_star, edit, w=5.0):
    z, z_star = z_T, z_T                                           # one noise
    times = timesteps(model.schedule, STEPS)
    context, empty = encode(model, [P, P_star]), encode(model, ["", ""])
    for i in range(STEPS):
        t = (STEPS - i) / STEPS                                     # 1 is pure noise
        both = torch.cat([z, z_star])
        eps = model.unet(both, times[i], context, edit, None, t)   # M_hat = edit(M, M_star, t)
        eps_empty = model.unet(both, times[i], empty)
        eps = guidance(eps, eps_empty, w)
        z, z_star = step(model.schedule, both, eps, times, i).split(1)
    return z, z_star                                               # z_0, z*_0


z, z_star = algorithm_1(noise(SEEDS[0]), P, P_star, word_swap)
swapped = decode(model, torch.cat([z, z_star]))
show("2_algorithm_1", [*alone[0], swapped[1]],
     [P, f"{P_star}, same noise: {overlap(*alone[0]):.2f}",
      f"{P_star}, same noise and maps: {overlap(*swapped):.2f}"])
used = sum((STEPS - i) / STEPS > 0.2 for i in range(STEPS))
print(f"the source's maps were used in {used} of {STEPS} steps")
print(f"overlap with noise: {overlap(*alone[0]):.2f}, with noise and maps: {overlap(*swapped):.2f}")

# %% [markdown] teacher
# **Answer.** Where the red one stands, with nearly the same outline: the overlap goes from 0.08 to
# 0.68.

# %% [markdown]
# ## Is this the library's algorithm? Does the edit disturb the source?
#
# We give your Edit to the library, and then generate the red cat by itself. Source and target
# shared a batch: will the source be the same?

# %% predict expect_source
expect_source = ""

# %%
run = dict(latents=noise(SEEDS[0]), **settings)
library = p2p.prompt_to_prompt(model, [P, P_star], word_swap, **run).latents
by_itself = p2p.prompt_to_prompt(model, [P], **run).latents
print(f"largest number in the latents: {library.abs().max():.1f}")
print(f"ours and the library's differ by {(torch.cat([z, z_star]) - library).abs().max():.0e}")
print(f"the source with a target and by itself differ by {(z - by_itself).abs().max():.0e}")

# %% [markdown] teacher
# **Answer.** Twice the same, up to rounding. Rows of a batch do not see each other; only `edit`
# passes anything on, and only from the source to the target.

# %% [markdown]
# ## The noise or the maps?
#
# A fair doubt: with one noise the pictures are alike anyway, so what do the maps add? We take the
# two apart. Each source gets four targets: with the source's noise or a noise of their own, and
# with their own maps or the source's. Which keeps more of the source: its noise, or its maps?

# %% predict expect_noise_or_maps
expect_noise_or_maps = ""

# %%
def only_the_last_two(M, M_star, t):
    M_hat = M_star.clone()
    M_hat[2:] = word_swap(M, M_star[2:], t)
    return M_hat


names = ["same noise, own maps", "other noise, own maps",
         "same noise, source's maps", "other noise, source's maps"]
sheet, overlaps = [], []
for seed in SEEDS:
    same, other = noise(seed), noise(seed + 100)
    latents = torch.cat([same, same, other, same, other])          # the source, then four targets
    images = p2p.prompt_to_prompt(model, [P] + 4 * [P_star], only_the_last_two, latents=latents,
                                  **settings).images
    sheet.append(images)
    overlaps.append([overlap(images[0], image) for image in images[1:]])

def table(title, names, rows):
    print(f"{title:30}", *(f"seed {seed}" for seed in SEEDS), "  mean")
    for name, row in zip(names, np.transpose(rows)):
        print(f"{name:30}", *(f"{x:6.2f}" for x in row), f"{row.mean():6.2f}")


captions = [caption for row in overlaps
            for caption in (P, *(f"{name}: {x:.2f}" for name, x in zip(names, row)))]
show("2_noise_or_maps", [image for row in sheet for image in row], captions, columns=5, side=150)
table("overlap with the source", names, overlaps)

# %% [markdown] teacher
# **Answer.** The maps. Where the cat stands, and roughly its outline, comes with the maps, even
# into a foreign noise. On average, the maps without the noise keep more than the noise without
# the maps.
#
# (Eight seeds, in the order of the table: 0.33, 0.28, 0.73, 0.59. Less with two of the eight,
# where the noise alone does well.)

# %% teacher
from p2p_min.lessons.figures import claim

same_own, other_own, same_maps, other_maps = np.transpose(overlaps)
claim("on average, the maps in a foreign noise keep more than the noise alone",
      other_maps.mean() > same_own.mean())

# %% [markdown]
# ## Then why share the noise?
#
# Look at the ground in the sheet above. We measure its colour, the mean of the upper left corner,
# where no cat reaches, and how far two pictures are apart, in levels of 255. Which two targets
# will have nearly the same ground: two from one noise, or two with the source's maps?

# %% predict expect_ground
expect_ground = ""

# %%
def ground(image):
    return np.asarray(image, float)[:8, :48].mean((0, 1))          # red, green, blue


pairs = {"same noise, own | source's maps": (1, 3), "other noise, own | source's": (2, 4),
         "same | other noise, own maps": (1, 2), "same | other noise, source's": (3, 4),
         "the source | same noise, own": (0, 1)}
differs = [[np.abs(ground(row[i]) - ground(row[j])).mean() for i, j in pairs.values()]
           for row in sheet]
swatches = [Image.new("RGB", (64, 64), tuple(ground(image).round().astype(int).tolist()))
            for row in sheet for image in row]
show("2_grounds", swatches, len(sheet) * ["the source's ground", *names], columns=5, side=150)
table("the ground differs by", pairs, differs)

# %% [markdown] teacher
# **Answer.** Two from one noise. The tone of the ground is what no word names; it is not in the
# maps of the words, so only the noise can keep it. It does not keep it whole: "blue" tints the
# ground, too (last row), and with seed 0 and the maps the other noise comes nearer to the source's.
#
# (Eight seeds, in the order of the table: 2.40, 2.40, 6.95, 8.12, 3.22.)

# %% teacher
of_ground = np.mean(differs, 0)
claim("the ground follows the noise, whatever the maps",
      max(of_ground[:2]) < 0.5 * min(of_ground[2:4]))

# %% [markdown]
# ## In which layers?
#
# An edit may be given for some layers only, by the beginning of their names. Which part of the
# UNet holds the cat in place? One run per seed with four targets: target n is edited in part n
# alone: on the way down (16 × 16 and 8 × 8), in the middle (4 × 4), on the way up at 8 × 8, or at
# 16 × 16. Which will keep most, which least?

# %% predict expect_layers
expect_layers = ""

# %%
parts = {"down_blocks": "way down, 16 × 16 and 8 × 8", "mid_block": "middle, 4 × 4",
         "up_blocks.1": "way up, 8 × 8", "up_blocks.2": "way up, 16 × 16"}


def only_target(n):
    def edit(M, M_star, t):
        M_hat = M_star.clone()
        M_hat[n:n + 1] = word_swap(M, M_star[n:n + 1], t)
        return M_hat
    return edit


edits = {part: only_target(n) for n, part in enumerate(parts)}
images = [p2p.prompt_to_prompt(model, [P] + 4 * [P_star], edits, latents=noise(seed),
                               **settings).images for seed in SEEDS]
kept = np.array([[overlap(row[0], image) for image in row[1:]] for row in images])
show("2_layers", images[0] + [sheet[0][3]],
     [P, *(f"only {part}: {x:.2f}" for part, x in zip(parts, kept[0])),
      f"all layers: {overlaps[0][2]:.2f}"], columns=6, side=150)
nowhere, everywhere = np.array(overlaps)[:, [0]], np.array(overlaps)[:, [2]]
table("overlap, maps swapped in", ["no layer", *parts.values(), "all layers"],
      np.hstack([nowhere, kept, everywhere]))

# %% [markdown] teacher
# **Answer.** In several at once. On average, those of 8 × 8 on the way up hold most (0.53), and
# the way down nearly as much (0.45; more with seed 0). Those of 16 × 16 on the way up hold less
# (0.24). No part keeps as much as all together.
#
# Swapping the map of the 4 × 4 layer changes nothing. Lesson 1 showed why: there the map is flat.
#
# (Eight seeds, in the order of the table: 0.33, 0.56, 0.33, 0.59, 0.43, 0.73.)

# %% teacher
down, middle, up_8, up_16 = kept.T                                 # one number per seed
claim("the map of the middle does nothing", np.abs(middle - nowhere[:, 0]).max() < 0.05)
claim("the way down and 8 × 8 on the way up keep more than 16 × 16 there, and all that more "
      "than nothing and less than all together",
      everywhere.mean() > max(down.mean(), up_8.mean())
      and min(down.mean(), up_8.mean()) > up_16.mean() > nowhere.mean())

# %% [markdown]
# ## To discuss
#
# - The target stands where the source stands, from a noise of its own. So what is a seed?
# - Why does the edited cat not become red, though it has all the maps of "red"?
# - What would happen with `tau = 0`? With `tau = 1`?
#
# ## Assignment: the maps of two pictures
#
# Take `P = "a small red cat"` and `P_star = "a small blue cat"`, and two sources, the red cats of
# `noise(0)` and `noise(100)`: one stands at the left, one at the right. Give the blue cat *half of
# each map*, (M + M') / 2. Write down first what you expect: a cat in the middle, a ghost, or
# something else?
#
# Use the prompts `[P, P, P_star]` with three latents: `noise(0)`, `noise(100)`, and `noise(0)` once
# more for the target. Your Edit gets the second source as row 0 of M_star, and must leave that row
# as it is. As in exercise 3, the injection ends at tau = 0.2: from there on, the target keeps its
# own maps.
#
# 1. Which answer is right, and what does it say about what a map is?
# 2. Now give the first source's maps for the first k steps and the second's after that. From
#    which k on does the first one win? Lesson 4 goes on from there.
