"""Prompt-to-Prompt: Algorithm 1 of Hertz et al. 2022."""
from dataclasses import dataclass

import torch
from tqdm import tqdm

from .ddim import predict, step, timesteps
from .inversion import Inversion, check_facts, check_finite, facts
from .networks.config import is_number, is_whole
from .networks.text import encode
from .pictures import LARGEST, png, sheet, to_image

# Rows that go in one call at most. Four in one are 1.3 times as fast as two and two, eight 1.05 times, more not at all
# (the toy model, a thread of a CPU), and memory would double.
ONE_CALL = 8


@dataclass(frozen=True)
class Result:
    """What a run generated. A notebook shows it by itself.

    images     PIL pictures, source first
    latents    (prompts, 4, height/f, width/f), final, before the VAE, fp32
    inversion  the source's trajectory, with which it can be edited later; a Result serves as `inversion` by itself
    prompts    of the pictures, source first
    """
    images: list
    latents: torch.Tensor
    inversion: Inversion
    prompts: list

    def _repr_png_(self):
        return png(sheet(self.images, self.prompts))


@torch.no_grad()
def prompt_to_prompt(model, prompts, cross_edit=None, self_edit=None, *, blend=None, negative="", steps=50,
                     guidance=7.5, seed=0, height=None, width=None, latents=None, inversion=None,
                     watch=None, progress=False):
    """Generate [source, target, ...] together, the targets' attention maps edited by the source's.

    Without an edit nothing is injected: the prompts then share their noise and nothing else.

    model       from `load`
    prompts     the source, then any number of targets
    cross_edit  Edit(M, M_star, t) -> M_hat for every cross-attention (`replace`, `refine`, `reweight`, or your own
                function), or {"up_blocks": edit, ...} by module-name prefix; see attention.py
    self_edit   the same for every self-attention (`self_replace`)
    blend       blend(z, z_star, t) -> z_star after each step, such as a `LocalBlend`
    negative    the unconditional prompt
    steps       number of DDIM steps
    guidance    w in eps_u + w (eps_c - eps_u); 1 is the conditional prediction alone, and halves the work
    seed        of the noise; drawn on the CPU, so that it means the same picture on every device
    height, width   of the pictures, in pixels; None: the model's own size
    latents     the noise itself, (1, 4, height/f, width/f) shared, or one per prompt; None: from the seed
    inversion   of a picture, from `invert`, or a Result of an earlier run: the source is that picture, its prompt comes
                first; as many steps as it has; `seed` is not used then
    watch       watch(z_0, t) is shown what each step predicts, before the blend: z_0 like `Result.latents`
    progress    whether to show a progress bar on standard error
    returns     `Result`
    Raises ValueError for what cannot be done, saying why.
    """
    check_arguments(prompts, guidance, cross_edit=cross_edit, self_edit=self_edit, blend=blend, watch=watch)
    times = timesteps(model.schedule, steps)
    model_facts = facts(model, times)
    if inversion is not None:
        inversion = getattr(inversion, "inversion", inversion)
        check_inversion(inversion, prompts[0], steps, guidance, negative, latents)
        check_facts(inversion, model_facts)
        latents = inversion.latents[0]            # (1, 4, height/f, width/f)
    z = noise(model, len(prompts), seed, height, width, latents)
    size = [model.vae.factor * n for n in z.shape[-2:]]
    context = encode(model, list(prompts), *size)
    empty = encode(model, [negative], *size, is_negative=True)
    unconditional = [empty] * steps
    if inversion is not None and inversion.unconditional is not None:
        unconditional = inversion.unconditional_context(empty)
    # With direct inversion the source is put back on its trajectory after each step, so it needs no guidance.
    is_direct = inversion is not None and inversion.method == "direct"
    guided = slice(1 if is_direct else 0, None if guidance != 1 else 0)         # the rows that get guidance
    trajectory = [z[:1]]
    if hasattr(blend, "begin"):
        sizes = model.unet.map_sizes(*z.shape[-2:])
        cross_edit, blend = blend.begin(cross_edit, sizes, z.shape[-2:])

    for i in tqdm(range(steps), desc="denoising", disable=not progress):
        t = 1 - i / steps
        eps, eps_u = denoise(model, z, times[i], context, guided, unconditional[i], cross_edit, self_edit, t)
        eps[guided] = eps_u + guidance * (eps[guided] - eps_u)
        if watch is not None:
            watch(predict(model.schedule, z, eps, times, i), t)
        z = step(model.schedule, z, eps, times, i)
        if is_direct:
            z = torch.cat([inversion.latents[i + 1].to(z), z[1:]])
        if blend is not None:
            z = torch.cat([z[:1], blend(z[:1], z[1:], t)])
        trajectory.append(z[:1])
    kept = Inversion(torch.stack(trajectory).cpu(), prompts[0], "direct", guidance, facts=model_facts)
    return Result(decode(model, z), z, kept, list(prompts))


def denoise(model, z, timestep, context, guided, unconditional, *edits):
    """eps of the prompts (source, then targets), and eps_u of those of them that are `guided`; fp32.

    One call of the network: its rows are the source, the targets, then the unconditional ones, which no edit sees.
    Where that would be more than ONE_CALL rows, the unconditional ones go in a call of their own.
    """
    z = z.to(model.dtype)
    rows, z_u = len(z), z[guided]
    unconditional = unconditional.expand(len(z_u))
    if len(z_u) and rows + len(z_u) > ONE_CALL:
        eps, eps_u = model.unet(z, timestep, context, *edits), model.unet(z_u, timestep, unconditional)
    else:
        both = model.unet(torch.cat([z, z_u]), timestep, context.join(unconditional), *edits, rows)
        eps, eps_u = both.split([rows, len(z_u)])
    return eps.float(), eps_u.float()


def check_arguments(prompts, guidance, **functions):
    """Raises ValueError for what cannot be an argument of a run."""
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise ValueError(f"prompts must be a list of texts, the source first, not {prompts!r}")
    if not is_number(guidance):
        raise ValueError(f"guidance must be a finite number, not {guidance!r}")
    for name, function in functions.items():
        for each in function.values() if isinstance(function, dict) else [function]:
            if not (each is None or callable(each) or (name == "blend" and hasattr(each, "begin"))):
                raise ValueError(f"{name} must be a function, not {each!r}")


def check_inversion(inversion, source, steps, guidance, negative, latents):
    """Raises ValueError where the arguments of a run do not go with its inversion."""
    if not isinstance(inversion, Inversion):
        raise ValueError(f"inversion must come from invert, or be a result, not {type(inversion).__name__}")
    if source != inversion.prompt:
        raise ValueError(f"the first prompt must be the one of the inversion, {inversion.prompt!r}, not {source!r}")
    if steps != inversion.steps:
        raise ValueError(f"the inversion has {inversion.steps} steps; give steps={inversion.steps}, or invert with "
                         f"{steps}")
    if latents is not None:
        raise ValueError("give latents or an inversion, not both: an inversion brings its own")
    if inversion.unconditional is not None and negative:
        raise ValueError(f"{inversion.method} brings its own unconditional embeddings; leave the negative prompt empty")
    if inversion.method == "null-text" and guidance != inversion.guidance:
        raise ValueError(f"the null-text inversion was made for guidance {inversion.guidance:g}; give that, or invert "
                         f"again with {guidance:g}")


def noise(model, prompts, seed, height, width, latents):
    """z_T, the same for every prompt: (prompts, 4, height/f, width/f), fp32."""
    channels, f = model.unet.config["in_channels"], model.vae.factor
    if latents is None:
        size = [pixels(model, name, value) for name, value in (("height", height), ("width", width))]
        if not is_whole(seed) or not 0 <= seed < 2 ** 63:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
        generator = torch.Generator("cpu").manual_seed(int(seed))
        latents = torch.randn(1, channels, size[0] // f, size[1] // f, generator=generator, device="cpu")
    elif (not isinstance(latents, torch.Tensor) or latents.ndim != 4 or not latents.numel()
            or latents.shape[0] not in (1, prompts) or latents.shape[1] != channels):
        shape = tuple(latents.shape) if isinstance(latents, torch.Tensor) else type(latents).__name__
        raise ValueError(f"latents must be (1 or {prompts}, {channels}, height/{f}, width/{f}), not {shape}")
    elif not latents.isfinite().all():
        raise ValueError("latents hold numbers that are not finite")
    else:
        for name, value, cells in (("height", height, latents.shape[2]), ("width", width, latents.shape[3])):
            if value not in (None, cells * f):
                raise ValueError(f"{name} is {value}, but the latents given make {cells * f}; leave {name} out")
    return latents.to(model.device, torch.float32).expand(prompts, -1, -1, -1)


def pixels(model, name, value):
    f = model.vae.factor
    if value is None:
        if model.size is None:
            raise ValueError(f"this model names no size of its own; give {name} in pixels, a multiple of {f}")
        value = model.size[("height", "width").index(name)]
    if not is_whole(value) or not f <= value <= LARGEST or value % f:
        raise ValueError(f"{name} must be a multiple of {f} pixels, from {f} to {LARGEST}, not {value!r}")
    return value


@torch.no_grad()
def decode(model, z):
    """Latents as PIL pictures, one at a time: the VAE is what needs the most memory.

    Raises ValueError where numbers are not finite, which would otherwise be a black picture.
    """
    dtype = next(model.vae.parameters()).dtype
    pictures = [model.vae.decode(row[None].to(dtype))[0].float() for row in z]
    for what, numbers, kind in (("latents", z, model.dtype), ("decoded pictures", torch.stack(pictures), dtype)):
        check_finite(f"the {what}", numbers, kind, "an edit made them so, or ")
    return [to_image(x) for x in pictures]
