"""A checkpoint in p2p_min beside the same in diffusers: what they compute, and what a step costs.

`parity` and `cost` give tables, lists of rows, for paper.py's page. Both read the checkpoint's own files a second time,
by diffusers; of a single file, whose reading needs the hub, diffusers' networks get the tensors that p2p_min read.
"""
import ctypes
import hashlib
import platform
import re
import statistics
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

import p2p_min as p2p
from p2p_min.networks.text import encode

PROMPTS = ["a photo of a cat riding a bicycle", "a photo of a cat riding a car"]
TIMESTEPS, STEPS, GUIDANCE = (20, 500, 980), 10, 7.5
# What rounding alone explains, of the norm: in one call, and in ten steps of guided sampling, which amplify it.
NORMAL = {torch.float32: (1e-4, 1e-3), torch.float16: (5e-3, 1e-1), torch.bfloat16: (4e-2, 3e-1)}
REPEAT = 5                                     # of each call that is timed; the table has medians
HAS_DIFFUSERS = find_spec("diffusers") is not None
NEEDS_DIFFUSERS = "needs diffusers, which is not installed (pip install diffusers)"


# ---- diffusers -----------------------------------------------------------------------------------------------------

def read_theirs(model, part):
    """A part of the checkpoint as diffusers (or transformers) builds and reads it, where ours is and in its dtype.

    It is read in its file's dtype. Each of its tensors that equals ours is then kept once, as ours, so that both need
    hardly more memory than one.
    """
    import diffusers
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kinds = dict(unet=diffusers.UNet2DConditionModel, vae=diffusers.AutoencoderKL,
                 text_encoder=transformers.CLIPTextModel, text_encoder_2=transformers.CLIPTextModelWithProjection)
    ours, folder = getattr(model, part), Path(model.path) / part
    if folder.is_dir():
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        plain = [name for name in names if ".fp16." not in name]
        theirs = kinds[part].from_pretrained(folder, variant=None if plain else "fp16",
                                             torch_dtype=stored_dtype(folder / (plain or names)[0]))
        known = ours.state_dict()
        for name, tensor in theirs.named_parameters():
            same = known.get(name)
            if same is not None and torch.equal(same, tensor.to(same)):
                tensor.data = same
    elif part in ("unet", "vae"):
        with torch.device("meta"):
            theirs = kinds[part].from_config(ours.config)
        theirs.load_state_dict(ours.state_dict(), assign=True)
    else:
        theirs = ours                                      # transformers' own class in both
    return theirs.to(model.device, next(ours.parameters()).dtype).eval().requires_grad_(False)


def stored_dtype(file):
    """Of a safetensors file's last tensor: the first may be numbers of positions."""
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(list(tensors.keys())[-1]).dtype


def scheduler_of(model):
    """Diffusers' DDIM, by the checkpoint's file where it has one, and otherwise by what p2p_min took."""
    from diffusers import DDIMScheduler
    s, folder = model.schedule, Path(model.path) / "scheduler"
    ours = dict(prediction_type=s.prediction, timestep_spacing=s.spacing, clip_sample=False)
    if folder.is_dir():
        return DDIMScheduler.from_pretrained(folder, **ours)
    scheduler = DDIMScheduler(num_train_timesteps=len(s.alphas_cumprod), steps_offset=s.offset, **ours)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = s.alphas_cumprod, torch.tensor(s.final_alpha)
    return scheduler


def pipeline_of(model, **parts):
    """Diffusers' text-to-image pipeline; what is not among the parts is left out, and must not be needed."""
    import diffusers
    tokenizers = dict(tokenizer=tokenizer_of(model, "tokenizer"))
    if model.text_encoder_2 is None:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, **tokenizers, scheduler=scheduler_of(model), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False)
    else:
        tokenizers["tokenizer_2"] = tokenizer_of(model, "tokenizer_2")
        pipeline = diffusers.StableDiffusionXLPipeline(
            **parts, **tokenizers, scheduler=scheduler_of(model), add_watermarker=False,
            force_zeros_for_empty_prompt=model.zeros_for_empty)
    pipeline.scheduler = scheduler_of(model)               # again: the pipeline sets an offset of 0 to 1
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tokenizer_of(model, name):
    folder = Path(model.path) / name
    return transformers.CLIPTokenizer.from_pretrained(folder) if folder.is_dir() else model.tokenizer


# ---- what they compute ---------------------------------------------------------------------------------------------

@torch.no_grad()
def parity(model, height, width):
    """Rows (what, relative error, what is normal, whether it is)."""
    rows, (z, picture) = [], inputs(model, height, width)
    torch.backends.cudnn.allow_tf32 = False                # float32 is to mean it

    def compare(what, ours, theirs, dtype=model.dtype, sampled=False):
        error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
        limit = NORMAL[dtype][sampled]
        rows.append([what, f"{error:.1e}", f"{limit:.0e}", "yes" if error <= limit else "NO"])

    # Text: the pipeline's own way from prompts to states.
    names = [name for name in ("text_encoder", "text_encoder_2") if getattr(model, name) is not None]
    vae = read_theirs(model, "vae")
    pipeline = pipeline_of(model, vae=vae, unet=read_theirs(model, "unet"),
                           **{name: read_theirs(model, name) for name in names})
    ours, unet = encode(model, PROMPTS[:1], height, width), pipeline.unet
    states, _, *pooled = pipeline.encode_prompt(PROMPTS[0], device=model.device, num_images_per_prompt=1,
                                                do_classifier_free_guidance=True)
    compare("text states", ours.states, states)
    if pooled:
        compare("text, pooled", ours.pooled, pooled[0])
    # Pictures to latents and back.
    of_vae = next(vae.parameters()).dtype
    scale = vae.config.scaling_factor
    compare("VAE, encoding", model.vae.encode(picture), vae.encode(picture).latent_dist.mean * scale, of_vae)
    compare("VAE, decoding", model.vae.decode(z.to(of_vae)), vae.decode(z.to(of_vae) / scale).sample, of_vae)
    # The UNet, then ten steps of it, from the prompt to the latents.
    for timestep in TIMESTEPS:
        compare(f"UNet, timestep {timestep}", model.unet(z, timestep, ours), call_theirs(unet, z, timestep, ours))
    sampled = pipeline(PROMPTS[0], height=height, width=width, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                       latents=z.clone(), output_type="latent").images
    result = p2p.prompt_to_prompt(model, PROMPTS[:1], steps=STEPS, guidance=GUIDANCE, latents=z.float())
    compare(f"{STEPS} steps, guidance {GUIDANCE}", result.latents, sampled, sampled=True)
    # The edited call, beside every map written out in diffusers.
    calls = step_calls(model, unet, height, width)
    compare("UNet with edits, beside written-out maps", calls[EDITED](), calls[OFFICIAL]())
    return [["", "relative error", "normal up to", "within"], *rows]


def inputs(model, height, width):
    """Latents, in the UNet's dtype, and a picture, in the VAE's: the same on every machine."""
    random, factor = torch.Generator().manual_seed(0), model.vae.factor
    z = torch.randn(1, model.unet.config["in_channels"], height // factor, width // factor, generator=random)
    picture = torch.rand(1, 3, height, width, generator=random) * 2 - 1
    return (z.to(model.device, model.dtype),
            picture.to(model.device, next(model.vae.parameters()).dtype))


def call_theirs(unet, z, timestep, context):
    more = {} if context.pooled is None else dict(
        added_cond_kwargs=dict(text_embeds=context.pooled, time_ids=context.sizes))
    return unet(z, timestep, context.states, **more).sample


# ---- what a step costs ---------------------------------------------------------------------------------------------

THEIRS, OFFICIAL = "diffusers, no edit", "diffusers, every map written out, edits"
EDITED, UNEDITED = "p2p_min, edits in their windows", "p2p_min, no edit"


class EveryMap:
    """An attention processor for diffusers that works as the official Prompt-to-Prompt code does.

    Every attention writes out the maps of all rows, softmax(Q Kᵀ / √d). Row 0 is the source; row 1, the target, takes
    its maps: those of words through the alignment A, those of pixels as they are, up to 32 × 32 of them. That code
    also stores the small maps for its blend, which is left out here.
    """

    def __init__(self, A):
        self.A = A                                         # (source tokens, target tokens)

    def __call__(self, attn, x, encoder_hidden_states=None, **unused):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)    # (rows, heads, pixels or keys, d)
                   for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        maps = (q * attn.scale @ k.transpose(-1, -2)).softmax(-1)
        if encoder_hidden_states is not None:
            maps[1] = maps[0] @ self.A
        elif x.shape[1] <= 32 * 32:
            maps[1] = maps[0]
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def step_calls(model, theirs, height, width):
    """{name: one call of four rows}: source, target, two unconditional."""
    z = inputs(model, height, width)[0].repeat(4, 1, 1, 1)
    context = encode(model, PROMPTS, height, width).join(encode(model, ["", ""], height, width, is_negative=True))
    edits = p2p.replace(model.tokenizer, PROMPTS, 0.8), p2p.self_replace(0.4)
    with torch.device("meta"):                             # a second network of diffusers with the same tensors
        official = type(theirs).from_config(theirs.config)
    official.load_state_dict(theirs.state_dict(), assign=True)
    official.eval().set_attn_processor(EveryMap(edits[0].A[0].to(z)))
    return {
        THEIRS: lambda: call_theirs(theirs, z, 500, context),
        OFFICIAL: lambda: call_theirs(official, z, 500, context),
        EDITED: lambda: model.unet(z, 500, context, *edits, t=1.0, rows=2),
        UNEDITED: lambda: model.unet(z, 500, context),
    }


@torch.no_grad()
def cost(model, height, width, repeat):
    """Rows (what, seconds, as a ratio, MiB added). The calls take turns, so that a busy machine slows all of them."""
    calls = step_calls(model, read_theirs(model, "unet"), height, width)
    seconds = {name: [] for name in calls}
    for _ in range(1 + repeat):                            # the first warms up
        for name, call in calls.items():
            seconds[name].append(timed(call, model.device))
    seconds = {name: times[1:] for name, times in seconds.items()}
    memory = {name: added_memory(call, model.device) for name, call in calls.items()}
    base = statistics.median(seconds[THEIRS])
    rows = [[name, f"{(median := statistics.median(times)):.3f}", f"{median / base:.2f}",
             "" if memory[name] is None else f"{memory[name]:.0f}"] for name, times in seconds.items()]
    return [["one step of four rows", "seconds", "ratio", "MiB added"], *rows]


def timed(call, device):
    """Seconds of a call, when the device has done what it was told."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def added_memory(call, device):
    """MiB that a call adds at its peak: on a GPU what torch has allocated, else this process's; None where unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2 ** 20
    if device.type != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)                       # what was given up before would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5")          # the peak begins anew
    before = process_memory("VmRSS")
    call()
    return process_memory("VmHWM") - before


def process_memory(what):
    """A figure of this process in MiB (Linux)."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


# ---- what was measured ---------------------------------------------------------------------------------------------

def versions(model):
    """Rows that say where and with what a page was made."""
    rows = [["p2p_min", p2p.__version__], ["python", platform.python_version()], ["torch", torch.__version__]]
    for name in ("transformers", "diffusers"):
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, "not installed"])
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    else:
        device = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return [["", ""], *rows, ["device", f"{model.device}, {device}"],
            ["dtype", str(model.dtype).removeprefix("torch.")], ["checkpoint", model.path]]


def files(path):
    """Rows (file, bytes, SHA-256) of a checkpoint: the hub shows the same of each of its files."""
    path = Path(path)
    found = [path] if path.is_file() else sorted(
        file for pattern in ("*/*.safetensors", "scheduler/*.json", "unet/config.json") for file in path.glob(pattern))
    return [["file", "bytes", "SHA-256"],
            *([str(file.relative_to(path)) if path.is_dir() else file.name, f"{file.stat().st_size:,}", sha256(file)]
              for file in found)]


def sha256(file):
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
