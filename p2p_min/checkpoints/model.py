"""A checkpoint as a `Model`: its tokenizer, networks and schedule, wherever it is stored."""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..checks import PREDICTIONS, SPACINGS, is_whole
from ..ddim import Schedule
from ..networks.unet import UNet
from ..networks.vae import VAE
from . import names
from .folder import load_folder
from .hub import find
from .single_file import load_file, load_vae

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    tokenizer: object
    text_encoder: nn.Module
    unet: UNet
    vae: VAE
    schedule: Schedule
    path: str
    text_encoder_2: nn.Module | None = None                # SDXL's, which reads the same tokens, padded differently
    zeros_for_empty: bool = True                           # SDXL: an empty negative prompt is zeros
    about: str = ""                                        # what it was recognised as, and why; what is ignored

    def __repr__(self):
        return f"Model({self.path!r} on {self.device}, {str(self.dtype).removeprefix('torch.')})"

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def dtype(self):
        return next(self.unet.parameters()).dtype

    @property
    def size(self):
        """(height, width) of its own pictures, in pixels; None if its config has no size."""
        side = self.unet.config["sample_size"]
        if side is None:
            return None
        return tuple(self.vae.factor * n for n in ((side, side) if is_whole(side) else side))


def load(path="weights/toy", device=None, dtype=None, *, prediction=None, spacing=None, tokenizer=None, vae=None):
    """A Stable Diffusion 1.x, 2.x or XL checkpoint.

    path        a folder in the diffusers layout; a .safetensors file in the original layout; or a model on the hub,
                "owner/name" or "owner/name@revision", from the local cache or downloaded
    device      "cpu", "cuda", "cuda:1", "mps" or a torch.device; None: cuda if there is one, else mps, else cpu
    dtype       torch.float32, float16 or bfloat16, or its name; None: as the UNet is stored, but float32 on the CPU
    prediction  "epsilon" or "v_prediction", what the UNet was trained to predict; None: as the folder or the file says
    spacing     of the timesteps: "leading", "trailing" or "linspace"; few-step models (turbo, lightning) need
                "trailing"; None: as the folder says; for a file "leading", but "trailing" in SD Turbo's layout
    tokenizer   a folder with the tokenizer; None: the one in the folder, beside the file, or in the local hub cache
    vae         a diffusers vae/ folder, or a file with only a VAE, to use instead of the checkpoint's own
    returns     a `Model`: tokenizer, text_encoder, unet, vae, schedule; all in eval mode, no gradients
    Raises FileNotFoundError or ValueError, with a one-line message, for anything missing, unreadable or mismatched.
    """
    device, dtype = choose_device(device), choose_dtype(dtype)
    if prediction not in (None, *PREDICTIONS):
        raise ValueError(f"prediction must be {' or '.join(PREDICTIONS)}, not {prediction!r}")
    if spacing not in (None, *SPACINGS):
        raise ValueError(f"spacing must be {', '.join(SPACINGS[:-1])} or {SPACINGS[-1]}, not {spacing!r}")
    path = find(path, dtype, vae is None)
    read = load_folder if path.is_dir() else load_file
    parts = read(path, device, dtype, prediction, spacing, tokenizer, vae is None)
    about = [parts["about"]]
    if vae is not None:
        parts["vae"] = load_vae(Path(vae), path, parts, device)
    if not path.is_dir():                                  # the size depends on the kind only: too large for XL Turbo
        side = parts["unet"].config["sample_size"] * parts["vae"].factor
        about.append(f"{side} × {side} pixels, see --height and --width")
    if vae is not None:
        about.append(f"with the VAE of {vae}")
    parts["about"] = "; ".join(filter(None, about))
    model = Model(**parts, path=str(path))
    check_parts(model)
    return model


def check_parts(model):
    """Raises ValueError if the parts do not fit each other."""
    encoders = [encoder for encoder in (model.text_encoder, model.text_encoder_2) if encoder is not None]
    width, wanted = sum(encoder.config.hidden_size for encoder in encoders), model.unet.config["cross_attention_dim"]
    if width != wanted:
        raise ValueError(f"{model.path}: the text encoder{'s give' if len(encoders) > 1 else ' gives'} {width} numbers "
                         f"per token, the UNet needs {wanted}")
    if (model.unet.add_embedding is None) != (model.text_encoder_2 is None):
        raise ValueError(f"{model.path}: an SDXL UNet and a second text encoder go together; this has one without the "
                         "other")
    if model.text_encoder_2 is not None:
        c, pooled = model.unet.config, model.text_encoder_2.config.projection_dim
        if pooled + 6 * c["addition_time_embed_dim"] != c["projection_class_embeddings_input_dim"]:
            raise ValueError(f"{model.path}: pooled text of {pooled} and 6 sizes of {c['addition_time_embed_dim']} do "
                             "not add up to projection_class_embeddings_input_dim = "
                             f"{c['projection_class_embeddings_input_dim']}")
    latent, c = model.vae.config["latent_channels"], model.unet.config
    if latent != (inputs := c["in_channels"]):
        raise ValueError(f"{model.path}: the VAE has {latent} latent channels, the UNet {inputs}: it is "
                         f"{names.INPUTS.get(inputs, 'another kind of model')}, which p2p_min does not run")
    if latent != c["out_channels"]:
        raise ValueError(f"{model.path}: the UNet gives {c['out_channels']} channels for the {inputs} it takes, which "
                         "p2p_min does not run")


def choose_device(device):
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"there is no device {device!r}; use cpu, cuda, cuda:1 or mps") from None
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"the device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def choose_dtype(dtype):
    chosen = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen is not None and chosen not in DTYPES:
        raise ValueError(f"dtype must be float32, float16 or bfloat16, not {dtype!r}")
    return chosen
