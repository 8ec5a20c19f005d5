# %% [markdown]
# # 5. Real pictures
#
# So far the model painted every source. To edit a picture from elsewhere we need noise that it could have come from:
# *inversion*. Ours is drawn by `scripts/toy/world.py`, which can draw it with one thing changed: we know the answer.

# %%
import os
import sys
import time

import numpy as np
import torch
from PIL import Image, ImageDraw

import p2p_min as p2p
from figures import save, show
from p2p_min.ddim import inverse_step, step, timesteps
from p2p_min.editing import decode
from p2p_min.networks.text import encode
from p2p_min.pictures import to_tensor

sys.path.append("scripts/toy")
import world

STEPS = int(os.environ.get("LESSON_STEPS", 20))            # of the denoising; a test takes fewer
model = p2p.load("weights/toy")
scene = world.Scene(seed=5, place="on the beach", things=(world.Thing("car", "red", named=frozenset({"color"})),))
P, P_star = world.caption(scene), world.caption(world.change(scene, color="blue"))
picture, right = world.render(scene)[0], world.render(world.change(scene, color="blue"))[0]


def psnr(a, b):
    """Likeness of two pictures in dB: 20 where they are a tenth of the range apart, 40 where a hundredth."""
    return -10 * np.log10(max(1e-10, ((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean() / 255 ** 2))


# %% [markdown]
# ## Up the stairs
#
# DDIM has no dice, so a step can be taken backwards: the same formula, from less noise to more. One thing is missing:
# the step down from z_t uses eps(z_t, t); going up there is no z_t yet, so we ask about z_{t-1}. Hence a small error.

# %%
times, context, empty = timesteps(model.schedule, STEPS), encode(model, [P]), encode(model, [""])
with torch.no_grad():
    z = model.vae.encode(to_tensor(picture))
    trajectory = [z]                                       # z_T comes first in the end
    for i in reversed(range(STEPS)):
        z = inverse_step(model.schedule, z, model.unet(z, times[i], context), times, i)
        trajectory.insert(0, z)
assert torch.equal(torch.stack(trajectory), p2p.invert(model, picture, P, "ddim", STEPS).latents)
print(f"z_T has mean {z.mean():.2f} and deviation {z.std():.2f}: nearly noise, which would have 0 and 1")

# %% [markdown]
# ## And down again: the error against guidance
#
# From z_T down, with eps_u + w (eps − eps_u). We came up with w = 1; edits want ≈ 5. How far do we stray, step by step?

# %%
guidances = [1.0, 2.0, 3.0, 5.0, 7.5]
w, n = torch.tensor(guidances).view(-1, 1, 1, 1), len(guidances)
z, distances = trajectory[0].expand(n, -1, -1, -1), [torch.zeros(n)]
with torch.no_grad():
    for i in range(STEPS):
        eps, eps_u = (model.unet(z, times[i], text.expand(n)) for text in (context, empty))
        z = step(model.schedule, z, eps_u + w * (eps - eps_u), times, i)
        distances.append((z - trajectory[i + 1]).square().mean((1, 2, 3)).sqrt())


def curves(name, lines, labels):
    """Each line over the steps, its label at its end, all on one scale from 0."""
    page, (left, right, top, bottom) = Image.new("RGB", (640, 320), "white"), (20, 520, 40, 300)
    draw, high = ImageDraw.Draw(page), lines.max().item()
    draw.line([(left, top), (left, bottom), (right, bottom)], "gray")
    draw.text((left, 10), "distance of z_t from the trajectory (root mean square), from noise to picture",
              "black", font_size=15)
    for line, label, color in zip(lines.tolist(), labels, ("navy", "teal", "green", "darkorange", "crimson")):
        points = [(left + (right - left) * i / STEPS, bottom - (bottom - top) * y / high) for i, y in enumerate(line)]
        draw.line(points, color, 3)
        draw.text((right + 8, points[-1][1]), label, color, anchor="lm", font_size=15)
    save(name, page)


distances, (vae, *back) = torch.stack(distances, 1), decode(model, torch.cat([trajectory[-1], z]))
curves("5_guidance", distances, [f"w {g}: {d:.2f}" for g, d in zip(guidances, distances[:, -1])])
show("5_ddim", [picture, vae, *back], ["the picture", f"VAE alone: {psnr(vae, picture):.1f} dB",
     *(f"back with w {g}: {psnr(image, picture):.1f} dB" for g, image in zip(guidances, back))], side=160)
assert STEPS < 20 or (distances[:-1, -1] < distances[1:, -1]).all()

# %% [markdown]
# The VAE's own loss is the most that an inversion can reach. At w = 1, DDIM comes near; guided, it follows a direction
# never taken on the way up. Four answers. **ddim**: none. **null-text** optimises what the unconditional row reads,
# until each step lands on the trajectory. **negative-prompt** lets that row read P: for the source, eps_u = eps.
# **direct** puts the source back after each step. The same edit with each, then with local blend on the car:

# %%
settings, found, kinds = dict(steps=STEPS, guidance=5.0), {}, ("", ", edit", ", blend")
inject = lambda M, M_star, t: M.expand_as(M_star) if 1 - t < 0.4 - 1e-6 else M_star


def paint(method, edit=inject, **blend):
    return p2p.prompt_to_prompt(model, [P, P_star], edit, edit, inversion=found[method], **blend, **settings)


blend = p2p.LocalBlend(model.tokenizer, [P, P_star], ["car", "car"])
best = decode(model, model.vae.encode(to_tensor(right)).detach())[0]
table = [[(picture, P), (right, "the right answer"), (best, f"it, through the VAE alone: {psnr(best, right):.1f} dB")]]
for method in ("ddim", "null-text", "negative-prompt", "direct"):
    start, found[method] = time.perf_counter(), p2p.invert(model, picture, P, method, **settings)
    took, images = time.perf_counter() - start, [*paint(method).images, paint(method, blend=blend).images[1]]
    psnrs = [psnr(image, truth) for image, truth in zip(images, (picture, right, right))]
    print("{:16} source {:.1f}, edit {:.1f}, with blend {:.1f} dB; inverted in {:.1f} s".format(method, *psnrs, took))
    table.append([(image, f"{method}{kind}: {x:.1f} dB") for image, kind, x in zip(images, kinds, psnrs)])
show("5_methods", *zip(*(column[i] for i in range(3) for column in table)), columns=5, side=160)

# %% [markdown]
# ## Is "direct" the same as storing latents?
#
# For the source, yes: row 0 *is* the stored latents. And the *target*? It sees the source through M alone (and a
# blend's z): without an edit it gains nothing. On this picture negative-prompt edits best: its guidance points from P
# to P_star, and cancels where they agree. One picture proves little; `scripts/benchmark_edits.py` takes many.

# %%
assert torch.equal(paint("direct").latents[0], trajectory[-1][0])
for name, edit in (("without an edit", None), ("with the edit", inject)):
    ddim, direct = (paint(method, edit).latents[1] for method in ("ddim", "direct"))
    difference = ((ddim - direct).norm() / ddim.norm()).item()
    print(f"{name}, the targets of ddim and of direct differ by {difference:.1e}")
    assert edit or difference < 1e-3
