"""A folder of safetensors, in the diffusers layout, as modules: strict, and without a second copy of the weights."""
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTokenizerFast

from . import keys
from .ddim import Schedule
from .layers import is_whole
from .text import text_encoder
from .unet import UNet
from .vae import VAE

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Model:
    tokenizer: object
    text_encoder: nn.Module
    unet: UNet
    vae: VAE
    schedule: Schedule
    path: str

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def dtype(self):
        return next(self.unet.parameters()).dtype

    @property
    def size(self):
        """(height, width) of its own pictures, in pixels; None where its config names none."""
        side = self.unet.config["sample_size"]
        if side is None:
            return None
        return tuple(self.vae.factor * n for n in ((side, side) if is_whole(side) else side))


def load(path="weights/toy", device=None, dtype=None):
    """A Stable Diffusion checkpoint: a folder in the diffusers layout.

    device  "cpu", "cuda", "cuda:1", "mps" or a torch.device; None: cuda if there is one, else mps, else cpu
    dtype   torch.float32, float16 or bfloat16, or its name; None: as the UNet is stored, but float32 on the CPU
    returns a `Model`: tokenizer, text_encoder, unet, vae, schedule; all in eval mode, no gradients
    Raises FileNotFoundError or ValueError, in one line, for whatever is missing, unreadable or does not fit.
    """
    folder = find_folder(path)
    device, dtype = choose_device(device), choose_dtype(dtype)
    parts = {}
    for name, build, rename in (("unet", UNet, keys.unet), ("vae", VAE, keys.vae),
                                ("text_encoder", text_encoder, keys.text)):
        config = read_json(folder / name / "config.json")
        file = weights_file(folder / name, keys.WEIGHTS[name], dtype)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else stored_dtype(file)
        part_dtype = dtype
        if name == "vae" and config.get("force_upcast") and dtype == torch.float16:
            part_dtype = torch.float32                     # this VAE overflows in fp16
        parts[name] = materialize(build, config, file, rename, device, part_dtype)
    tokenizer = load_tokenizer(folder / "tokenizer", parts["text_encoder"].config)
    schedule = load_schedule(folder / "scheduler" / "scheduler_config.json")
    widths = parts["text_encoder"].config.hidden_size, parts["unet"].config["cross_attention_dim"]
    if widths[0] != widths[1]:
        raise ValueError(f"{folder}: the text encoder gives {widths[0]} numbers per token, the UNet wants {widths[1]}")
    if parts["vae"].config["latent_channels"] != parts["unet"].config["in_channels"]:
        raise ValueError(f"{folder}: the VAE has {parts['vae'].config['latent_channels']} latent channels, the UNet "
                         f"{parts['unet'].config['in_channels']} (inpainting and depth models are not supported)")
    return Model(tokenizer, parts["text_encoder"], parts["unet"], parts["vae"], schedule, str(folder))


def find_folder(path):
    folder = Path(path)
    if str(path) == "weights/toy" and not folder.exists():      # the default, from outside the repository
        folder = Path(__file__).resolve().parents[1] / path
    if not folder.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path} (p2p_min reads folders, it downloads nothing)")
    if not folder.is_dir():
        if folder.suffix in keys.PICKLED:
            raise ValueError(pickled(folder))
        raise ValueError(f"{path} is a file; give a folder in the diffusers layout (with unet/, vae/, text_encoder/, …)")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / name).is_dir():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"{path} has no folder {name}/ (it is not a diffusers checkpoint); it holds {there}")
    return folder


def pickled(file):
    return (f"{file} is a pickled checkpoint: reading it can run any code that its maker put in, so p2p_min does not. "
            "Convert it to safetensors, or get the safetensors version")


def choose_device(device):
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"there is no device {device!r}; it must be like cpu, cuda, cuda:1 or mps") from None
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


def read_json(file):
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return config


def weights_file(folder, names, dtype):
    """The safetensors file of a part; where there is a half-precision one beside it, the one that fits `dtype`."""
    there = [folder / name for name in names if (folder / name).is_file()]
    if there:
        return there[-1] if dtype in (torch.float16, torch.bfloat16) else there[0]
    for file in sorted(folder.iterdir()):
        if file.suffix in keys.PICKLED:
            raise ValueError(pickled(file))
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}")


def open_file(file):
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from None


def stored_dtype(file):
    with open_file(file) as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


def materialize(build, config, file, rename, device, dtype):
    """The module that `build(config)` describes, its parameters those of the file.

    The module is made on the meta device, so without memory; the tensors are the mapped file itself where dtype and
    device agree with it, else one converted copy each.
    """
    try:
        with torch.device("meta"):
            module = build(config)
    except Exception as error:                             # whatever a senseless value leads to
        raise senseless(file.parent / "config.json", error) from error
    own = module.state_dict()
    prefix = keys.TEXT_PREFIX if any(k.startswith(keys.TEXT_PREFIX) for k in own) else ""
    tensors, wrong = {}, []
    with open_file(file) as stored:
        for name in stored.keys():
            new = rename(name)
            if new is None:
                continue
            tensor = stored.get_tensor(name)
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise ValueError(f"{file}: {name} is stored as {tensor.dtype}; p2p_min reads floating point of 16 bits "
                                 "or more only")
            target = own.get(prefix + new)
            if target is not None and target.shape != tensor.shape:
                wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(target.shape)}")
            tensors[prefix + new] = tensor.to(device, dtype)
    for problem, names in (("lacks", sorted(own.keys() - tensors.keys())),
                           ("has tensors that its config does not describe,", sorted(tensors.keys() - own.keys())),
                           ("does not fit its config:", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{file} {problem} {', '.join(names[:3])}{more}")
    module.load_state_dict(tensors, assign=True)
    for owner in module.modules():                         # CLIP's position numbers are no weights, and stored nowhere
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def senseless(file, error):
    """A ValueError in one line: ours as it is, a library's by its last line."""
    text = str(error).strip() or repr(error)
    return ValueError(f"{file}: {text.splitlines()[-1].strip()}")


def load_schedule(file):
    config = read_json(file)
    try:
        return Schedule.from_config(config)
    except Exception as error:
        raise senseless(file, error) from error


def load_tokenizer(folder, text_config):
    if not (folder / "tokenizer.json").is_file() and not all((folder / n).is_file() for n in ("vocab.json", "merges.txt")):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:                             # the tokenizers library raises bare Exceptions
        raise ValueError(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    if len(tokenizer) > text_config.vocab_size:
        raise ValueError(f"the tokenizer in {folder} has {len(tokenizer)} tokens, the text encoder {text_config.vocab_size}")
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)
    return tokenizer
