"""Safetensors to modules: strict, and without a second copy of the weights."""
import json
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from safetensors import SafetensorError, safe_open

from ..networks.config import read_config
from ..networks.text import text_encoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .names import PICKLED, TEXT_PREFIX, numbers, some

PARTS = dict(unet=UNet, vae=VAE, text_encoder=text_encoder, text_encoder_2=partial(text_encoder, projects=True))
PICKLE = ("a pickled checkpoint: loading it can run any code that is hidden in it, so p2p_min does not. Convert it to "
          "safetensors, or get the safetensors version")
INSTEAD = {                            # how the content of a file begins, in lower case: what it is instead
    (b"pk\x03\x04", *(b"\x80%c" % protocol for protocol in range(2, 6))): PICKLE,
    (b"gguf",): "a GGUF file, which p2p_min does not read: get the safetensors version",
    (b"version https://git-lfs",): "a Git LFS pointer, not the file itself: run git lfs pull in the clone",
    (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--"): "a web page, not the file: download the file itself",
    (b"entry not found", b"invalid ", b"access to ", b'{"error'): "a server's error message, not the file: open it"}


@contextmanager
def blaming(what):
    """Whatever goes wrong inside is a ValueError of one line about `what`."""
    try:
        yield
    except Exception as error:
        text = str(error).strip() or repr(error)
        raise ValueError(f"{what} {text.splitlines()[-1].strip()}") from error


@contextmanager
def open_weights(file):
    """{name: the open file with that tensor, memory-mapped} of a safetensors file, or of all shards of an index."""
    files, stored = [file], {}
    if file.suffix == ".json":
        shards = read_json(file).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{file} is not an index of shards: it has no weight_map")
        files = [file.parent / str(shard) for shard in sorted(set(shards.values()))]
    with ExitStack() as stack:
        for each in files:
            if not each.is_file():
                raise FileNotFoundError(f"{each} is missing")
            if each.suffix in PICKLED:
                raise ValueError(f"{each} is {PICKLE}")
            try:
                opened = stack.enter_context(safe_open(each, framework="pt"))
            except (SafetensorError, OSError) as error:
                why = instead(each) or f"not a readable safetensors file: {' '.join(str(error).split())}"
                raise ValueError(f"{each} is {why}") from None
            stored.update(dict.fromkeys(opened.keys(), opened))
        yield stored


def instead(file):
    """What a file is instead of the expected one, if its first bytes tell; otherwise None."""
    with open(file, "rb") as opened:
        start = opened.read(100)
    if start[8:9] == b"{":                                 # after the length of a safetensors file's header
        return "cut off, or damaged: download it again"
    start = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((what for starts, what in INSTEAD.items() if start.startswith(starts)), None)


def read_json(file):
    """The object in a JSON file, in any of Unicode's encodings."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is {instead(file) or f'not readable JSON: {error}'}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content


def read_settings(file, keys):
    """The settings of a table of `keys` in a JSON file, which may be missing and may hold others."""
    return read_config(read_json(file) if file.is_file() else {}, str(file), keys, ignored=None)


def load_part(part, config, config_file, stored, sources, file, device, dtype):
    """The module of a part; no tensor of the open `file` may be missing, left over or of another shape.
    sources: of `names`; dtype: the whole model's; SDXL's VAE, which overflows in fp16, gets fp32."""
    with blaming(f"{config_file}:"), torch.device("meta"):             # where a module takes no memory
        module = PARTS[part](config)
    if part == "vae" and module.config["force_upcast"] and dtype == torch.float16:
        dtype = torch.float32
    if part.startswith("text"):                            # the config may leave out layers: SD 2.x's last, "CLIP skip"
        kept = module.config.num_hidden_layers
        skipped = tuple(f"encoder.layers.{i}." for i in numbers(sources, "encoder.layers.#.") if i >= kept)
        sources = {name: source for name, source in sources.items() if not name.startswith(skipped)}
        module.skipped = len(skipped)
    # The module's parameters and the file's must be the same.
    own = {name.removeprefix(TEXT_PREFIX): (name, tensor.shape) for name, tensor in module.state_dict().items()}
    if missing := own.keys() - sources.keys():
        raise ValueError(f"{file} lacks {some(missing)}")
    if extra := [sources[name][0] for name in sources.keys() - own.keys()]:
        raise ValueError(f"{file} has tensors without a place in its network, {some(extra)}")
    tensors, wrong = {}, []
    for parameter, (stored_name, convert) in sources.items():
        name, shape = own[parameter]
        with blaming(f"{file}: {some([stored_name])} cannot be read:"):        # its type, say
            tensor = convert(stored[stored_name].get_tensor(stored_name))
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"{file}: {some([stored_name])} is {tensor.dtype}; p2p_min takes floats of 16 bits and up")
        if tensor.shape != shape:
            wrong.append(f"{stored_name} is {tuple(tensor.shape)}, not {tuple(shape)}")
        tensors[name] = tensor.to(device, dtype).contiguous()
    if wrong:
        raise ValueError(f"{file} does not fit its config: {some(wrong)}")
    module.load_state_dict(tensors, assign=True)
    for owner in module.modules():                         # CLIP's position ids are not weights, and are not stored
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def default_dtype(stored, sources, device):
    """The dtype of the UNet's largest tensor (some files keep norms in float32), but float32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    return max((stored[name].get_tensor(name) for name, _ in sources.values()), key=torch.numel).dtype
