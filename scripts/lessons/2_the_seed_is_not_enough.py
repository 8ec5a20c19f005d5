# %% [markdown]
# # 2. The seed is not enough
#
# We want a red cat and then *the same cat*, in blue. The first idea: both prompts, one noise. The paper's: also give
# the second picture the attention maps of the first. Its Algorithm 1 is short, so we write it out; then we ask what did
# the work, the noise or the maps.

# %%
import os

import numpy as np
import torch

import p2p_min as p2p
from figures import overlap, show
from p2p_min.ddim import step, timesteps
from p2p_min.editing import decode
from p2p_min.networks.text import encode

STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; a test takes fewer
model = p2p.load("weights/toy")
P, P_star = "a red cat", "a blue cat"


def noise(seed):
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


# %% [markdown]
# ## Algorithm 1
#
# The paper calls its network three times a step: for M, for M*, and for z* with the edited map. Here the two prompts go
# through the network as two rows of one call; every attention layer has both maps at hand, and there calls `edit`. The
# second call, with an empty prompt, is for classifier-free guidance, which the algorithm leaves unsaid. We measure by
# `overlap`: of all pixels that either cat covers, the share that both do.

# %%
@torch.no_grad()
def algorithm_1(z_T, P, P_star, edit, guidance=5.0):
    z, z_star = z_T, z_T                                                        # one noise
    times = timesteps(model.schedule, STEPS)
    context, empty = encode(model, [P, P_star]), encode(model, ["", ""])
    for i in range(STEPS):
        t = 1 - i / STEPS                                                       # 1 is pure noise
        both = torch.cat([z, z_star])
        eps = model.unet(both, times[i], context, edit, None, t)                # M_t, M*_t; M^_t = edit(M_t, M*_t, t)
        eps_empty = model.unet(both, times[i], empty)
        eps = eps_empty + guidance * (eps - eps_empty)
        z, z_star = step(model.schedule, both, eps, times, i).split(1)          # z_{t-1}, z*_{t-1}
    return z, z_star


def word_swap(M, M_star, t, tau=0.2):
    return M.expand_as(M_star) if t > tau else M_star


alone = decode(model, torch.cat(algorithm_1(noise(0), P, P_star, None)))
z, z_star = algorithm_1(noise(0), P, P_star, word_swap)
swapped = decode(model, torch.cat([z, z_star]))
show("2_one_noise", [*alone, swapped[1]], [P, f"{P_star}: same noise; overlap {overlap(*alone):.2f}",
                                           f"{P_star}: same noise, same maps; overlap {overlap(*swapped):.2f}"])

# %% [markdown]
# Is it the library's algorithm? And is the source really left alone, though it sits in one batch with its target?

# %%
library = p2p.prompt_to_prompt(model, [P, P_star], word_swap, latents=noise(0), guidance=5.0, steps=STEPS).latents
source = p2p.prompt_to_prompt(model, [P], latents=noise(0), guidance=5.0, steps=STEPS).latents
ours = torch.cat([z, z_star])
print(f"ours and the library's: {(ours - library).abs().max():.1e} apart; the source and the same prompt painted "
      f"by itself: {(z - source).abs().max():.1e}; latents reach {ours.abs().max():.1f}")
assert (ours - library).abs().max() < 1e-3 and (z - source).abs().max() < 1e-3

# %% [markdown]
# ## Does the map swap do anything beyond the seed?
#
# A fair doubt: with one noise the pictures are alike anyway. So we take the two apart. One source and four targets:
# with the source's noise or a noise of their own, with their own maps or the source's. Three sources, none picked.

# %%
def only_the_last_two(M, M_star, t):
    M_hat = M_star.clone()
    M_hat[2:] = word_swap(M, M_star[2:], t)
    return M_hat


ground = lambda picture: np.asarray(picture, float)[:8].mean((0, 1))                 # the colour of the uppermost rows
rows, overlaps, grounds = [], [], []
for seed in range(3):
    same, other = noise(seed), noise(seed + 100)
    latents = torch.cat([same, same, other, same, other])
    images = p2p.prompt_to_prompt(model, [P] + 4 * [P_star], only_the_last_two, latents=latents, guidance=5.0,
                                  steps=STEPS).images
    rows += images
    overlaps.append([overlap(images[0], image) for image in images[1:]])
    grounds.append([np.abs(ground(image) - ground(images[0])).mean() for image in images[1:]])
names = ["same noise, own maps", "other noise, own maps", "same noise, source's maps", "other noise, source's maps"]
captions = [caption for each in overlaps for caption in [P, *(f"{name}: {x:.2f}" for name, x in zip(names, each))]]
show("2_noise_or_maps", rows, captions, columns=5)
mean = dict(zip(names, np.mean(overlaps, 0)))
print("mean of three seeds", f"{'overlap':>16} {'ground differs by':>20}")
for (name, x), y in zip(mean.items(), np.mean(grounds, 0)):
    print(f"  {name:28}{x:5.2f} {y:20.1f}")
assert mean[names[3]] > mean[names[0]], "the maps without the noise keep more than the noise without the maps"

# %% [markdown]
# The maps say where things are and what outline they have; a foreign noise hardly spoils that. What the noise decides
# is what no word names, such as the tone of the ground, in levels of 255. So why share it? Then that is kept, too.
#
# ## In which layers?
#
# An edit may be given for some layers only, by the beginning of their names. Which of them hold the cat in place?

# %%
parts = {"down_blocks": "on the way down", "mid_block": "in the middle, 4 by 4", "up_blocks.1": "on the way up, 8 by 8",
         "up_blocks.2": "on the way up, 16 by 16"}
images = [p2p.prompt_to_prompt(model, [P, P_star], {part: word_swap}, latents=noise(0), guidance=5.0,
                               steps=STEPS).images[1] for part in parts]
kept = [overlap(swapped[0], image) for image in images]
show("2_layers", [swapped[0], *images, swapped[1]],
     [P, *(f"only {place}: {x:.2f}" for place, x in zip(parts.values(), kept)), f"everywhere: {overlap(*swapped):.2f}"],
     columns=6)
assert overlap(*swapped) > max(kept) - 0.1
