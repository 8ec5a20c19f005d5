"""Safetensors to modules: strict, and without a second copy of the weights."""
import json
import re
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from safetensors import SafetensorError, safe_open

from ..networks.text import text_encoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .names import PICKLED, TEXT_PREFIX, some

PARTS = dict(unet=UNet, vae=VAE, text_encoder=text_encoder, text_encoder_2=partial(text_encoder, projects=True))


@contextmanager
def blaming(what):
    """Whatever goes wrong inside is a ValueError of one line about `what`."""
    try:
        yield
    except Exception as error:
        text = str(error).strip() or repr(error)
        raise ValueError(f"{what} {text.splitlines()[-1].strip()}") from error


class Stored(dict):
    """{name of a tensor: the open file that it is in}; the tensors stay on disk."""

    def tensor(self, name):
        return self[name].get_tensor(name)

    def shape(self, name):
        return tuple(self[name].get_slice(name).get_shape())


@contextmanager
def open_weights(file):
    """The tensors of a safetensors file, or of all the shards that an index names, as `Stored`."""
    files = [file]
    if file.suffix == ".json":
        shards = read_json(file).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{file} is not an index of shards: it has no weight_map")
        files = [file.parent / str(shard) for shard in sorted(set(shards.values()))]
    with ExitStack() as stack:
        opened = [stack.enter_context(open_file(each)) for each in files]
        yield Stored({name: each for each in opened for name in each.keys()})


def open_file(file):
    """An open safetensors file. Raises ValueError for any other file, such as a pickle."""
    refuse_pickle(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        why = instead(file) or f"not a readable safetensors file: {' '.join(str(error).split())}"
        raise ValueError(f"{file} is {why}") from None


def refuse_pickle(file):
    if file.is_file() and file.suffix in PICKLED:
        raise ValueError(f"{file} is a pickled checkpoint: loading it can run any code that is hidden in it, so "
                         "p2p_min does not. Convert it to safetensors, or get the safetensors version")


def instead(file):
    """What a file is instead of the expected one, if its first bytes tell; otherwise None."""
    with open(file, "rb") as opened:
        start = opened.read(100).lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run git lfs pull in the clone"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page, not the file: download the file itself"
    return None


def read_json(file):
    """The object in a JSON file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is {instead(file) or f'not readable JSON: {error}'}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content


def load_part(part, config, config_file, stored, sources, file, device, dtype):
    """The module of a part; its config is from `config_file`, its tensors are in the open `file`, with the names of
    `names.sources`. The dtype is that of the whole model: SDXL's VAE, which overflows in fp16, gets fp32.
    """
    with blaming(f"{config_file}:"), torch.device("meta"):             # where a module takes no memory
        module = PARTS[part](config)
    if part == "vae" and module.config["force_upcast"] and dtype == torch.float16:
        dtype = torch.float32
    if part.startswith("text"):
        sources = without_skipped_layers(sources, module.config.num_hidden_layers)
    return fill(module, stored, sources, file, device, dtype)


def without_skipped_layers(sources, layers):
    """Without the text layers that the config leaves out: the last of SD 2.x, and those of "CLIP skip"."""
    def is_skipped(name):
        match = re.fullmatch(r"encoder\.layers\.(\d{1,3})\.(.+)", name)
        return match and int(match[1]) >= layers and f"encoder.layers.0.{match[2]}" in sources
    return {name: source for name, source in sources.items() if not is_skipped(name)}


def fill(module, stored, sources, file, device, dtype):
    """The module with the parameters of an open file: memory-mapped from the file if dtype and device match, otherwise
    one converted copy each. Strict: no parameter may be missing, left over or of another shape.
    """
    own = {name.removeprefix(TEXT_PREFIX): (name, tensor.shape) for name, tensor in module.state_dict().items()}
    refuse(file, "lacks", own.keys() - sources.keys())
    extra = [sources[name][0] for name in sources.keys() - own.keys()]
    refuse(file, "has tensors without a place in its network,", extra)
    tensors, wrong = {}, []
    for parameter, (stored_name, convert) in sources.items():
        name, shape = own[parameter]
        with blaming(f"{file}: {some([stored_name])} cannot be read:"):        # its type, say
            tensor = convert(stored.tensor(stored_name))
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"{file}: {some([stored_name])} is stored as {tensor.dtype}; p2p_min only reads "
                             "floating point of 16 bits or more")
        if tensor.shape != shape:
            wrong.append(f"{stored_name} is {tuple(tensor.shape)}, not {tuple(shape)}")
        tensors[name] = tensor.to(device, dtype).contiguous()
    refuse(file, "does not fit its config:", wrong)
    module.load_state_dict(tensors, assign=True)
    for owner in module.modules():                         # CLIP's position ids are not weights, and are not stored
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def refuse(file, problem, names):
    if names:
        raise ValueError(f"{file} {problem} {some(names)}")


def default_dtype(stored, sources, device):
    """The UNet's own dtype, but float32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    return stored.tensor(next(iter(sources.values()))[0]).dtype
