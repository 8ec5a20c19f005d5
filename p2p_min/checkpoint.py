"""From safetensors to modules: strict, and without a second copy of the weights."""
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTokenizerFast

from . import keys
from .ddim import Schedule
from .files import find, find_tokenizer, has_tokenizer, refuse_pickle
from .keys import some
from .layers import is_whole
from .recognise import PREDICTIONS, SCHEDULER, recognise
from .text import text_encoder
from .unet import UNet
from .vae import VAE

PARTS = dict(unet=UNet, vae=VAE, text_encoder=text_encoder, text_encoder_2=partial(text_encoder, projects=True))
RENAME = dict(unet=str, vae=keys.vae, text_encoder=keys.text, text_encoder_2=keys.text)
OPENCLIP_PADDING = "!"                                     # token 0, where CLIP's own encoder is padded with the end token
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Model:
    tokenizer: object
    text_encoder: nn.Module
    unet: UNet
    vae: VAE
    schedule: Schedule
    path: str
    tokenizer_2: object = None                             # SDXL's second encoder, whose tokens are the first one's
    text_encoder_2: nn.Module | None = None
    zeros_for_empty: bool = True                           # SDXL: an empty negative prompt is zeros
    about: str = ""                                        # of a single file: what it was taken for, and why

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


def load(path="weights/toy", device=None, dtype=None, *, prediction=None, tokenizer=None):
    """A Stable Diffusion 1.x, 2.x or XL checkpoint.

    path        a folder in the diffusers layout; a .safetensors file in the original layout; or a model on the hub,
                "owner/name" or "owner/name@revision", from the local cache or fetched
    device      "cpu", "cuda", "cuda:1", "mps" or a torch.device; None: cuda if there is one, else mps, else cpu
    dtype       torch.float32, float16 or bfloat16, or its name; None: as the UNet is stored, but float32 on the CPU
    prediction  "epsilon" or "v_prediction", what the UNet was trained to predict; None: as the folder or the file says
    tokenizer   a folder with the tokenizer; None: the one in the folder, beside the file, or in the local hub cache
    returns     a `Model`: tokenizer, text_encoder, unet, vae, schedule; all in eval mode, no gradients
    Raises FileNotFoundError or ValueError, in one line, for whatever is missing, unreadable or does not fit.
    """
    device, dtype = choose_device(device), choose_dtype(dtype)
    if prediction not in (None, *PREDICTIONS):
        raise ValueError(f"prediction must be {' or '.join(PREDICTIONS)}, not {prediction!r}")
    path = find(path, dtype)
    model = (load_folder if path.is_dir() else load_file)(path, device, dtype, prediction, tokenizer)
    check_parts(model)
    return model


def load_folder(folder, device, dtype, prediction, tokenizer):
    check_folder(folder)
    parts = {}
    for name in PARTS:
        if name != "text_encoder_2" or (folder / name).is_dir():
            parts[name] = load_part(name, folder / name, device, dtype)
            dtype = dtype or next(parts["unet"].parameters()).dtype
    for name in ("tokenizer", "tokenizer_2"):
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        if encoder is not None:
            parts[name] = load_tokenizer(folder / name if tokenizer is None else Path(tokenizer), encoder.config.to_dict())
    schedule = load_schedule(folder / "scheduler" / "scheduler_config.json")
    if prediction is not None:
        schedule = schedule._replace(prediction=prediction)
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    return Model(**parts, schedule=schedule, path=str(folder),
                 zeros_for_empty=bool(index.get("force_zeros_for_empty_prompt", True)))


def load_part(name, folder, device, dtype):
    config, file = read_json(folder / "config.json"), weights_file(folder, keys.WEIGHTS[name], dtype)
    with open_file(file) as stored:
        dtype = dtype or default_dtype(stored, device)
        module = describe(PARTS[name], config, folder / "config.json")
        sources = folder_sources(module, stored.keys(), RENAME[name], file)
        return fill(module, stored, sources, file, device, part_dtype(name, config, dtype))


def load_file(file, device, dtype, prediction, tokenizer):
    """A single file in the original layout: what it is, is read from its tensors; all of them must have a use.

    That tensors are finite is not checked, which would read all of a file that is only mapped: pictures are (editing.py).
    """
    with open_file(file) as stored:
        try:
            kind, prefixes, configs, prediction, why = recognise(stored, prediction)
        except Exception as error:
            raise in_one_line(file, error) from error
        tokenizers = file_tokenizers(find_tokenizer(file, tokenizer), prefixes, configs)
        names, modules, sources = set(stored.keys()), {}, {}
        for part, config in configs.items():
            modules[part] = describe(PARTS[part], config, file)
            sources[part] = {name: keys.original(part, name, prefixes[part], config, names)
                             for name in modules[part].state_dict()}
        used = {stored_name for of_part in sources.values() for stored_name, _ in of_part.values()}
        unknown = [name for name in names - used if not keys.is_ignored(name, kind, configs)]
        if unknown:
            raise ValueError(f"{file} has tensors that p2p_min does not know: {some(unknown)}")
        dtype = dtype or default_dtype(stored, device, prefixes["unet"])
        parts = {part: fill(module, stored, sources[part], file, device, part_dtype(part, configs[part], dtype))
                 for part, module in modules.items()}
    schedule = Schedule.from_config(dict(SCHEDULER, prediction_type=prediction))
    return Model(**parts, **tokenizers, schedule=schedule, path=str(file), about=f"{kind}, {prediction}: {why}")


def check_parts(model):
    """Raises ValueError where the parts do not fit each other."""
    encoders = [encoder for encoder in (model.text_encoder, model.text_encoder_2) if encoder is not None]
    width, wanted = sum(encoder.config.hidden_size for encoder in encoders), model.unet.config["cross_attention_dim"]
    if width != wanted:
        raise ValueError(f"{model.path}: the text encoder{'s give' if len(encoders) > 1 else ' gives'} {width} numbers per "
                         f"token, the UNet wants {wanted}")
    if (model.unet.add_embedding is None) != (model.text_encoder_2 is None):
        raise ValueError(f"{model.path}: an SDXL UNet and a second text encoder go together; here is one without the other")
    if model.text_encoder_2 is not None:
        c, pooled = model.unet.config, model.text_encoder_2.config.projection_dim
        if pooled + 6 * c["addition_time_embed_dim"] != c["projection_class_embeddings_input_dim"]:
            raise ValueError(f"{model.path}: pooled text of {pooled} and 6 sizes of {c['addition_time_embed_dim']} are not "
                             f"projection_class_embeddings_input_dim = {c['projection_class_embeddings_input_dim']}")
    if model.tokenizer_2 is not None and spelling(model.tokenizer_2) != spelling(model.tokenizer):
        raise ValueError(f"{model.path}: its two tokenizers differ, so one alignment cannot serve both text encoders")
    if model.vae.config["latent_channels"] != model.unet.config["in_channels"]:
        raise ValueError(f"{model.path}: the VAE has {model.vae.config['latent_channels']} latent channels, the UNet "
                         f"{model.unet.config['in_channels']} (inpainting and depth models are not supported)")


def spelling(tokenizer):
    """What decides a prompt's tokens, padding apart: the vocabulary, the merges in their order, the length."""
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return bpe["vocab"], bpe["merges"], tokenizer.model_max_length


def check_folder(folder):
    if (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} is SDXL's refiner, which p2p_min does not run; give the base model")
    second = ["tokenizer_2"] * (folder / "text_encoder_2").is_dir()
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", *second):
        if not (folder / name).is_dir():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"{folder} has no folder {name}/ (it is not a diffusers checkpoint); it holds {there}")


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
        refuse_pickle(file)
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}")


def open_file(file):
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from None


def default_dtype(stored, device, prefix=""):
    """The UNet's own dtype, but float32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    name = next((name for name in stored.keys() if name.startswith(prefix)), None)
    return None if name is None else stored.get_tensor(name).dtype


def part_dtype(name, config, dtype):
    """SDXL's VAE overflows in fp16."""
    return torch.float32 if name == "vae" and config.get("force_upcast") and dtype == torch.float16 else dtype


def describe(build, config, file):
    """The module that `build(config)` describes, on the meta device, so without memory."""
    try:
        with torch.device("meta"):
            return build(config)
    except Exception as error:                             # whatever a senseless value leads to
        raise in_one_line(f"{file}:", error) from error


def folder_sources(module, names, rename, file):
    """{parameter: (name in the file, None)}; what the module does not have keeps its name, for `fill` to refuse."""
    own = {name.removeprefix(keys.TEXT_PREFIX): name for name in module.state_dict()}   # transformers' prefix comes and goes
    sources = {}
    for name in names:
        new = own.get(rename(name), rename(name))
        if new in sources:
            raise ValueError(f"{file} has {some([name, sources[new][0]])}, which are one parameter")
        if new is not None:
            sources[new] = name, None
    return sources


def fill(module, stored, sources, file, device, dtype):
    """The module with the parameters of an open file: the mapped file itself where dtype and device agree with it, else
    one converted copy each. Strict: nothing may lack, nothing be left over, no shape differ.
    """
    own, there = module.state_dict(), set(stored.keys())
    tensors, wrong = {}, []
    for name, (stored_name, take) in sources.items():
        if stored_name not in there:
            continue
        try:
            tensor = stored.get_tensor(stored_name)
            tensor = tensor if take is None else take(tensor)
        except Exception as error:                         # a type that torch does not have, a shape that has no thirds
            raise in_one_line(f"{file}: {some([stored_name])} cannot be read:", error) from error
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"{file}: {some([stored_name])} is stored as {tensor.dtype}; p2p_min reads floating "
                             "point of 16 bits or more only")
        target = own.get(name)
        if target is not None and target.shape != tensor.shape:
            wrong.append(f"{stored_name} is {tuple(tensor.shape)}, not {tuple(target.shape)}")
        tensors[name] = tensor.to(device, dtype).contiguous()
    lacking = [sources.get(name, (name,))[0] for name in own.keys() - tensors.keys()]
    extra = tensors.keys() - own.keys()
    for problem, names in (("lacks", lacking), ("has tensors that its config does not describe,", extra),
                           ("does not fit its config:", wrong)):
        if names:
            raise ValueError(f"{file} {problem} {some(names)}")
    module.load_state_dict(tensors, assign=True)
    for owner in module.modules():                         # CLIP's position numbers are no weights, and stored nowhere
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def in_one_line(what, error):
    """A ValueError about `what`: ours as it is, a library's by its last line."""
    text = str(error).strip() or repr(error)
    return ValueError(f"{what} {text.splitlines()[-1].strip()}")


def load_schedule(file):
    config = read_json(file)
    try:
        return Schedule.from_config(config)
    except Exception as error:
        raise in_one_line(f"{file}:", error) from error


def file_tokenizers(folder, prefixes, configs):
    """The tokenizer of each text encoder of a single file, whose config is told its special tokens."""
    found = {}
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs:
            tokenizer = load_tokenizer(folder, configs[name])
            tokenizer.pad_token = OPENCLIP_PADDING if keys.is_openclip(prefixes[name]) else tokenizer.eos_token
            configs[name] |= {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
            found[name.replace("text_encoder", "tokenizer")] = tokenizer
    return found


def load_tokenizer(folder, text_config):
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:                             # the tokenizers library raises bare Exceptions
        raise ValueError(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    if len(tokenizer) > text_config["vocab_size"]:
        raise ValueError(f"the tokenizer in {folder} has {len(tokenizer)} tokens, the text encoder "
                         f"{text_config['vocab_size']}")
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config["max_position_embeddings"])
    return tokenizer
