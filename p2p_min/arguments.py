"""Checks of a run's arguments, kept apart from the algorithm."""
import torch

from .inversion import Inversion
from .networks.config import is_number, is_whole
from .networks.text import Context
from .pictures import LARGEST


def check_arguments(prompts, guidance, **functions):
    """Raises ValueError for invalid arguments of a run."""
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise ValueError(f"prompts must be a list of texts, the source first, not {prompts!r}")
    if not (is_number(guidance) or callable(guidance)):
        raise ValueError(f"guidance must be a finite number in float32, not {guidance!r}; or a function (eps_c, eps_u, "
                         "t) -> eps")
    for name, function in functions.items():
        for each in function.values() if isinstance(function, dict) else [function]:
            if not (each is None or callable(each) or hasattr(each, "begin" if name == "blend" else "attend")):
                raise ValueError(f"{name} must be a function, not {each!r}")


def check_inversion(inversion, source, steps, guidance, negative, latents):
    """Raises ValueError if the arguments of a run do not match its inversion."""
    if not isinstance(inversion, Inversion):
        raise ValueError(f"inversion must come from invert, or be a result, not {type(inversion).__name__}")
    if source != inversion.prompt:
        raise ValueError(f"the first prompt must be the inversion's, {inversion.prompt!r}, not {source!r}")
    if steps != inversion.steps:
        raise ValueError(f"the inversion has {inversion.steps} steps; give steps={inversion.steps}, or invert with "
                         f"{steps}")
    if latents is not None:
        raise ValueError("give latents or an inversion, not both: an inversion has its own")
    if inversion.unconditional is not None and negative:
        raise ValueError(f"{inversion.method} has its own unconditional embeddings; leave the negative prompt empty")
    if inversion.method == "null-text" and guidance != inversion.guidance:
        raise ValueError(f"the null-text inversion was made for guidance {inversion.guidance:g}; give that, or invert "
                         + ("with another method: null-text cannot be made for a function" if callable(guidance) else
                            f"again with {guidance:g}"))


def latent_size(model, prompts, seed, height, width, latents):
    """[height/f, width/f] of a run. Raises ValueError if its seed, size or latents are invalid."""
    channels, f = model.unet.config["in_channels"], model.vae.factor
    if latents is None:
        if not is_whole(seed) or not 0 <= seed < 2 ** 63:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
        return [pixels(model, name, value) // f for name, value in (("height", height), ("width", width))]
    if (not isinstance(latents, torch.Tensor) or latents.ndim != 4 or not latents.numel()
            or latents.shape[0] not in (1, prompts) or latents.shape[1] != channels):
        shape = tuple(latents.shape) if isinstance(latents, torch.Tensor) else type(latents).__name__
        raise ValueError(f"latents must be (1 or {prompts}, {channels}, height/{f}, width/{f}), not {shape}")
    if not latents.to(torch.float32).isfinite().all():
        raise ValueError("latents hold numbers that are not finite")
    for name, value, cells in (("height", height, latents.shape[2]), ("width", width, latents.shape[3])):
        if value not in (None, cells * f):
            raise ValueError(f"{name} is {value}, but the given latents make it {cells * f}; leave {name} out")
    return list(latents.shape[-2:])


def pixels(model, name, value):
    """The height or the width of the pictures: as given, or the model's own."""
    f = model.vae.factor
    if value is None:
        if model.size is None:
            raise ValueError(f"this model has no size of its own; give {name} in pixels, a multiple of {f}")
        value = model.size[("height", "width").index(name)]
    if not is_whole(value) or not f <= value <= LARGEST or value % f:
        raise ValueError(f"{name} must be a multiple of {f} pixels, from {f} to {LARGEST}, not {value!r}")
    return value


def check_context(context, encoded):
    """The `Context` in the dtype of the `encoded` prompts. Raises ValueError unless it has the same shapes."""
    context = Context(context) if isinstance(context, torch.Tensor) else context
    ours, theirs = ([tuple(getattr(part, "shape", ())) for part in each] if isinstance(each, Context) else
                    type(each).__name__ for each in (encoded, context))
    if ours != theirs:
        raise ValueError(f"context must be a Context as networks.text.encode makes it, its parts of shapes {ours}, not "
                         f"{theirs}")
    return Context(*(None if part is None else part.to(like) for part, like in zip(context, encoded)))
