"""Prompt-to-Prompt: Algorithm 1 of Hertz et al. 2022, with classifier-free guidance.

    z*_T = z_T                                      the same noise for all prompts
    for t = T … 1:
        eps,  M  = DM(z_t,  P,  t)
        eps*, M* = DM(z*_t, P*, t)    with M_hat = Edit(M, M*, t) in place of M* in every attention
        z_{t-1}, z*_{t-1} = step(z_t, eps), step(z*_t, eps*)
        z*_{t-1} = blend(z_{t-1}, z*_{t-1}, t)      optional: local editing
"""
from dataclasses import dataclass

import torch

from .attention import Edits, shaped
from .checks import check_functions, check_inversion, check_prompts, latent_size
from .ddim import bar, predict, step, timesteps
from .inversion import Inversion, check_finite, check_same_model, fingerprint
from .networks.text import encode
from .pictures import png, sheet, to_image

# The unconditional rows join the prompts' call if it then has at most this many rows: a call of four is 1.3 times as
# fast as two of two, one of eight 1.05 times as fast as two; more rows gain nothing, and memory would double.
ONE_CALL = 8


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """What a run generated. A notebook displays it as a picture.

    images     PIL pictures, source first
    latents    (prompts, 4, height/f, width/f), final, before the VAE, fp32
    inversion  the source's trajectory, for later edits; the Result itself can also be passed as `inversion`
    prompts    of the pictures, source first
    """
    images: list
    latents: torch.Tensor
    inversion: Inversion
    prompts: list

    def __repr__(self):
        width, height = self.images[0].size
        return f"Result({len(self.images)} images of {width} × {height}: {', '.join(map(repr, self.prompts))})"

    def _repr_png_(self):
        return png(sheet(self.images, self.prompts))


@torch.no_grad()
def prompt_to_prompt(model, prompts, cross_edit=None, self_edit=None, *, blend=None, negative="", steps=50,
                     guidance=7.5, seed=0, height=None, width=None, latents=None, inversion=None, context=None,
                     edit_unconditional=False, sampler=None, recorder=None, watch=None, progress=False):
    """Generate [source, target, ...] together, with the targets' attention maps edited using the source's.

    Without an edit nothing is injected: the prompts share only their noise. Safe in threads that share a model.

    model       from `load`
    prompts     the source, then any number of targets
    cross_edit  Edit(M, M_star, t) -> M_hat for every cross-attention (`replace`, `refine`, `reweight`, or your own
                function), or {"up_blocks": edit, ...} by module-name prefix; see attention.py
    self_edit   the same for every self-attention (`self_replace`)
    blend       blend(z, z_star, t) -> z_star after each step, such as a `LocalBlend`
    negative    the unconditional prompt
    steps       number of DDIM steps
    guidance    w in eps_u + w (eps_c - eps_u); 1 is the conditional prediction alone, and halves the work; or a
                function (eps_c, eps_u, t) -> eps of the rows that get guidance, fp32 (v, if the model predicts v)
    seed        of the noise, drawn on the CPU: the same noise on every device
    height, width   of the pictures, in pixels; None: the model's own size
    latents     the noise itself, (1, 4, height/f, width/f) shared, or one per prompt; None: from the seed
    inversion   of a picture, from `invert`, or a Result of an earlier run: the source is that picture, the first prompt
                its prompt, `steps` its number of steps; `seed` is not used
    context     in place of the encoded prompts: a `networks.text.Context` with a row for each, as `encode` makes it;
                with an inversion, the first row is the encoded prompt
    edit_unconditional  whether the edits also see the unconditional rows, in a second call at the same t: row 0 is the
                source's, the others are the targets'. Blends and recorders do not see them
    sampler     in place of `ddim.step`, over all rows: sampler(schedule, z_t, output, times, i) -> z_{t-1}; output is
                the guided prediction. Direct inversion resets row 0 after it
    recorder    a `Recorder`, which keeps the maps and each step's prediction, and changes nothing
    watch       watch(z_0, t) is called with each step's prediction, before the blend; z_0 is like `Result.latents`
    progress    whether to show a progress bar on standard error; or a function (steps, desc) -> steps, like tqdm
    Returns a `Result`; raises ValueError for anything that cannot be done, saying why.
    """
    check_prompts(prompts, negative=negative)
    check_functions(prompts, guidance, cross_edit=cross_edit, self_edit=self_edit, blend=blend, sampler=sampler,
                    recorder=recorder, watch=watch)
    prompts = list(prompts)
    guidance = guidance if callable(guidance) else float(guidance)             # accepts Fraction and NumPy numbers
    times = timesteps(model.schedule, steps)
    # The noise: from the seed, as given, or from an inversion.
    ours = fingerprint(model, times)
    trajectory = None
    if inversion is not None:
        inversion = getattr(inversion, "inversion", inversion)
        check_inversion(inversion, prompts[0], steps, guidance, negative, latents)
        check_same_model(inversion, ours)
        latents = inversion.latents[0]                     # (1, 4, height/f, width/f)
        trajectory = inversion.latents if inversion.method == "direct" else None
    z = noise(model, len(prompts), seed, height, width, latents)
    # The prompts, and what the unconditional rows see in each step.
    size = [model.vae.factor * n for n in z.shape[-2:]]
    encoded = encode(model, prompts, *size)
    context = encoded if context is None else encoded.like(context)
    empty = encode(model, [negative], *size, is_negative=True)
    unconditional = [empty] * steps
    if inversion is not None and inversion.unconditional is not None:
        for i, states in enumerate(inversion.unconditional):
            own = empty._replace(states=states, pooled=inversion.pooled)
            unconditional[i] = empty.like(own, "unconditional of the inversion")
    # Who looks at the maps and at the predictions of this run.
    looks = []
    watches = [] if watch is None else [watch]
    if recorder is not None:
        edited_by = cross_edit, self_edit, blend
        recorder.begin(edited_by)
        looks.append({recorder.layers: recorder.look})
        watches.append(recorder.watch)
    if hasattr(blend, "begin"):
        look, blend = blend.begin(model.unet.map_sizes(*z.shape[-2:]), z.shape[-2:])
        looks += [] if look is None else [look]
    edits = Edits(cross_edit, self_edit, None, len(prompts), tuple(looks))
    z, trajectory = algorithm_1(
        model, z, times, context, unconditional, guidance, edits, edit_unconditional, blend, trajectory,
        sampler or step, watches, progress)
    w = "its guidance" if callable(guidance) else f"guidance {guidance:g}"
    images = decode(model, z, f"an edit, a blend or {w} caused this, or ")
    source = Inversion(trajectory, prompts[0], "direct", 1.0, fingerprint=ours)            # for later edits
    return Result(images, z, source, prompts)


def algorithm_1(model, z, times, context, unconditional, guidance, edits, edit_unconditional, blend, source_trajectory,
                sampler, watches, progress):
    """Denoises z, (prompts, 4, h, w): row 0 is z_t, the source; the rows after it are z*_t, the targets.

    source_trajectory  (steps + 1, 1, 4, h, w): direct inversion resets the source to it after each step, so that it
                       needs no guidance; None: the source is denoised like the targets
    returns            z at the end, and the source's trajectory, (steps + 1, 1, 4, h, w), on the CPU
    """
    trajectory = [z[:1]]
    # Which rows get guidance, and whether anybody needs the time.
    first = 0 if source_trajectory is None or edit_unconditional else 1
    guided_rows = slice(0, 0) if guidance == 1 else slice(first, None)
    are_plain = edits.cross_edit is edits.self_edit is None and not edits.looks
    for i, timestep in enumerate(bar(progress, times, "denoising")):
        t = (len(times) - i) / len(times)                                       # 1 is pure noise
        # In every attention of the network: M_hat = Edit(M, M_star, t), in place of M_star.
        edits_t = edits if are_plain else edits._replace(t=t)
        eps, eps_u = denoise(model, z, timestep, context, guided_rows, unconditional[i], edits_t, edit_unconditional)
        eps[guided_rows] = guide(guidance, eps[guided_rows], eps_u, t)
        for watch in watches:
            watch(predict(model.schedule, z, eps, times, i), t)
        # z_{t-1}, z*_{t-1}. Functions of one's own get copies, which they may modify in place.
        z_below = sampler(model.schedule, z.clone(), eps, times, i)
        z = shaped(z_below, z.shape, "a sampler must return latents shaped like z_t").to(z)
        if source_trajectory is not None:
            z = torch.cat([source_trajectory[i + 1].to(z), z[1:]])
        if blend is not None:
            z_star = shaped(blend(z[:1].clone(), z[1:].clone(), t), z[1:].shape,
                            "a blend must return latents shaped like z_star")
            z = torch.cat([z[:1], z_star.to(z)])
        trajectory.append(z[:1])
    return z, torch.stack(trajectory).cpu()


def guide(guidance, eps_c, eps_u, t):
    """Classifier-free guidance (Ho & Salimans 2022), or a function of one's own in its place, which gets copies."""
    if callable(guidance):
        eps = guidance(eps_c.clone(), eps_u.clone(), t)
        return shaped(eps, eps_c.shape, "guidance must return eps, shaped like eps_c").to(eps_c)
    return eps_u + guidance * (eps_c - eps_u)


def denoise(model, z, timestep, context, guided_rows, unconditional, edits, edit_unconditional):
    """DM: eps of the prompts (source, then targets), and eps_u of the `guided_rows`; fp32.

    One call of the network. Its rows are the source, the targets, then the unconditional rows, which no edit sees.
    With more than ONE_CALL rows, or to be edited among themselves, the unconditional rows get a call of their own.
    """
    # For torch.compile: numbers that change with each step would be compiled into the network.
    z, timestep = z.to(model.dtype), torch.tensor(timestep, device=z.device)
    z_u = z[guided_rows]
    unconditional = unconditional.expand(len(z_u))
    if len(z_u) and (edit_unconditional or len(z) + len(z_u) > ONE_CALL):
        edits_u = edits._replace(looks=()) if edit_unconditional else Edits(rows=0)
        eps = model.unet(z, timestep, context, *edits)
        eps_u = model.unet(z_u, timestep, unconditional, *edits_u)
    else:
        both = model.unet(torch.cat([z, z_u]), timestep, context.join(unconditional), *edits)
        eps, eps_u = both.split([len(z), len(z_u)])
    return eps.float(), eps_u.float()


def noise(model, prompts, seed, height, width, latents):
    """z_T, the same for every prompt: (prompts, 4, height/f, width/f), fp32."""
    size = latent_size(model, prompts, seed, height, width, latents)
    if latents is None:                                    # on the CPU: a seed gives the same picture everywhere
        generator = torch.Generator("cpu").manual_seed(int(seed))
        shape = 1, model.unet.config["in_channels"], *size
        latents = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    return latents.to(model.device, torch.float32).expand(prompts, -1, -1, -1)


@torch.no_grad()
def decode(model, z, or_why="an edit caused this, or "):
    """Latents as PIL pictures, decoded one at a time, because the VAE needs the most memory.
    Raises ValueError if numbers are not finite, saying why; otherwise the picture would be black."""
    check_finite("the latents", z, model.dtype, or_why)
    dtype = next(model.vae.parameters()).dtype
    pictures = [model.vae.decode(row[None].to(dtype))[0].float() for row in z]
    check_finite("the decoded pictures", torch.stack(pictures), dtype, or_why)
    return [to_image(x) for x in pictures]
