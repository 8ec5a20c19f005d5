"""p2p_min against diffusers, transformers and OpenCLIP at full size, with random weights; and the cost of loading.

    python scripts/verify_full_size.py [sd15|sd21|sdxl] [--dir DIR] [--latents HEIGHT WIDTH] [--narrow]

Writes a folder and a single file, each of 4.3 GB (sd15), 5.2 GB (sd21) or 7.1 GB (sdxl, fp16), keeps one model in
memory at a time (sdxl: 14 GB in fp32), and exits with status 1 if anything fails. --narrow does the same with narrow
layers, in a minute. Needs diffusers and, for the memory figures, Linux; uses open_clip_torch if it is installed.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import importlib.util
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import load_file, save_file

import p2p_min as p2p
from p2p_min.networks.text import Context, encode

# The configs of runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1 and stable-diffusion-xl-base-1.0.
UNET = dict(
    act_fn="silu", attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280], center_input_sample=False,
    cross_attention_dim=768, down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], downsample_padding=1,
    flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
    norm_num_groups=32, out_channels=4, sample_size=64, up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
VAE = dict(
    act_fn="silu", block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3,
    latent_channels=4, layers_per_block=2, norm_num_groups=32, out_channels=3, sample_size=512,
    up_block_types=["UpDecoderBlock2D"] * 4)
TEXT = dict(
    architectures=["CLIPTextModel"], attention_dropout=0.0, bos_token_id=0, dropout=0.0, eos_token_id=2,
    hidden_act="quick_gelu", hidden_size=768, initializer_factor=1.0, initializer_range=0.02, intermediate_size=3072,
    layer_norm_eps=1e-05, max_position_embeddings=77, model_type="clip_text_model", num_attention_heads=12,
    num_hidden_layers=12, pad_token_id=1, projection_dim=768, torch_dtype="float32", vocab_size=49408)
SCHEDULER = dict(
    _class_name="PNDMScheduler", beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False,
    num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None)
MODELS = dict(
    sd15=dict(unet=UNET, vae=VAE, text_encoder=TEXT, scheduler=SCHEDULER),
    sd21=dict(
        unet=dict(UNET, attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, dual_cross_attention=False,
                  only_cross_attention=False, sample_size=96, use_linear_projection=True, upcast_attention=True),
        vae=dict(VAE, sample_size=768),
        text_encoder=dict(TEXT, hidden_act="gelu", hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
                          num_hidden_layers=23, projection_dim=512),
        scheduler=dict(SCHEDULER, _class_name="DDIMScheduler", prediction_type="v_prediction")),
    sdxl=dict(
        unet=dict(UNET, addition_embed_type="text_time", addition_time_embed_dim=256, attention_head_dim=[5, 10, 20],
                  block_out_channels=[320, 640, 1280], cross_attention_dim=2048, sample_size=128,
                  down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
                  projection_class_embeddings_input_dim=2816, transformer_layers_per_block=[1, 2, 10],
                  up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], upcast_attention=None,
                  use_linear_projection=True),
        vae=dict(VAE, force_upcast=True, sample_size=1024, scaling_factor=0.13025),
        text_encoder=TEXT,
        text_encoder_2=dict(TEXT, architectures=["CLIPTextModelWithProjection"], hidden_act="gelu", hidden_size=1280,
                            intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280),
        scheduler=dict(SCHEDULER, _class_name="EulerDiscreteScheduler", timestep_spacing="leading")))
STORED = dict(sd15=torch.float32, sd21=torch.float32, sdxl=torch.float16)
FILES = dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model") | dict(text_encoder="model", text_encoder_2="model")

PROMPTS, TIMESTEP = ["a photo of a cat riding a bicycle", ""], 500
MAX_ERROR, MAX_MEMORY = 1e-4, 1.2
MEASURE = """
import sys, threading, time, torch
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
def watch():                                               # the peak: a second copy would be gone at the end
    while running:
        seen.append(anonymous())
        time.sleep(0.005)
before, running, seen = anonymous(), True, []
import p2p_min
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = p2p_min.load(sys.argv[1], "cpu", sys.argv[2])
parts = [part for part in (model.unet, model.vae, model.text_encoder, model.text_encoder_2) if part is not None]
if len(sys.argv) > 3:
    start, seen = time.perf_counter(), []
    prompts = ["a photo of a cat riding a bicycle", "a photo of a dog riding a bicycle"]
    edits = p2p_min.replace(model.tokenizer, prompts), p2p_min.self_replace()
    images = p2p_min.prompt_to_prompt(model, prompts, *edits, steps=2, height=512, width=512).images
    assert [image.size for image in images] == [(512, 512)] * 2
seconds, running = time.perf_counter() - start, False
thread.join()
print(seconds, max(*seen, anonymous()) - before, sum(p.nbytes for part in parts for p in part.parameters()))
"""


def narrow(configs):
    """The same model with thin layers."""
    unet, heads = configs["unet"], configs["unet"]["attention_head_dim"]
    thin = dict(configs)
    for name in [name for name in configs if name.startswith("text")]:
        thin[name] = dict(configs[name], hidden_size=128, intermediate_size=256, num_attention_heads=2,
                          num_hidden_layers=3, projection_dim=128)
    thin["vae"] = dict(configs["vae"], block_out_channels=[32, 64, 64, 64])
    thin["unet"] = dict(unet, block_out_channels=[n // 5 for n in unet["block_out_channels"]],
                        attention_head_dim=heads if heads == 8 else [n // 5 for n in heads],
                        cross_attention_dim=128 * sum(name.startswith("text") for name in thin))
    if "text_encoder_2" in thin:
        thin["unet"].update(projection_class_embeddings_input_dim=128 + 6 * 256, transformer_layers_per_block=[1, 2, 3])
    return thin


def inputs(configs, height, width):
    """z, what the UNet is told, and a picture: the same for both sides."""
    torch.manual_seed(0)
    unet = configs["unet"]
    context = Context(torch.randn(1, 77, unet["cross_attention_dim"]))
    if "text_encoder_2" in configs:
        context = context._replace(pooled=torch.randn(1, configs["text_encoder_2"]["projection_dim"]),
                                   sizes=torch.tensor([[512.0, 768, 0, 0, 512, 768]]))
    return torch.randn(1, 4, height, width), context, torch.rand(1, 3, 8 * height, 8 * width) * 2 - 1


def randomize(model, stored):
    """Norms and biases too, which start at 1 and 0 and would hide their branch; all as they can be stored."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data = parameter.data.to(stored).float()
    return model.eval().requires_grad_(False)


def save(model, config, folder, stored):
    model.to(stored).save_pretrained(folder, max_shard_size="100GB")        # its config has more keys than the real one
    (folder / "config.json").write_text(json.dumps(config))


def make_tokenizer(folder, **padding):
    """CLIP's letters without merges; the end token has the highest number, as in the real one."""
    letters = list(transformers.CLIPTokenizer().get_vocab())
    letters = sorted(token for token in letters if not token.startswith("<|"))
    vocab = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, **padding)
    tokenizer.save_pretrained(folder)
    return tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids


def make(configs, folder, height, width, stored):
    """Writes the checkpoint part by part; what diffusers and transformers compute with each, and the last tokens."""
    z, context, picture = inputs(configs, height, width)
    unet = randomize(diffusers.UNet2DConditionModel.from_config(configs["unet"]), stored)
    more = {} if context.pooled is None else dict(
        added_cond_kwargs=dict(text_embeds=context.pooled, time_ids=context.sizes))
    expected = {"unet": unet(z, TIMESTEP, context.states, **more).sample}
    save(unet, configs["unet"], folder / "unet", stored)
    del unet
    vae = randomize(diffusers.AutoencoderKL.from_config(configs["vae"]), stored)
    expected["vae encode"] = vae.encode(picture).latent_dist.mean * vae.config.scaling_factor
    expected["vae decode"] = vae.decode(z / vae.config.scaling_factor).sample
    save(vae, configs["vae"], folder / "vae", stored)
    del vae
    two = "text_encoder_2" in configs
    ids = make_tokenizer(folder / "tokenizer", **(dict(pad_token="!") if is_openclip(configs, "text_encoder") else {}))
    text = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs["text_encoder"])), stored)
    out = text(ids, output_hidden_states=True)
    expected["text"] = out.hidden_states[-2] if two else out.last_hidden_state
    save(text, configs["text_encoder"], folder / "text_encoder", stored)
    del text
    if two:
        ids = make_tokenizer(folder / "tokenizer_2", pad_token="!")
        text = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**configs["text_encoder_2"]))
        out = randomize(text, stored)(ids, output_hidden_states=True)
        expected["text"] = torch.cat([expected["text"], out.hidden_states[-2]], dim=-1)
        expected["text pooled"] = out.text_embeds
        save(text, configs["text_encoder_2"], folder / "text_encoder_2", stored)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    return expected, ids


# ---- the single file -----------------------------------------------------------------------------------------------

def original_unet(channels, layers):
    """(original, today's) beginnings of names, in the order in which the original builds its UNet."""
    yield from (("time_embed.0.", "time_embedding.linear_1."), ("time_embed.2.", "time_embedding.linear_2."),
                ("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2."),
                ("input_blocks.0.0.", "conv_in."), ("middle_block.0.", "mid_block.resnets.0."),
                ("middle_block.1.", "mid_block.attentions.0."), ("middle_block.2.", "mid_block.resnets.1."),
                ("out.0.", "conv_norm_out."), ("out.2.", "conv_out."))
    levels, n = len(channels), 1
    for level in range(levels):
        for i in range(layers):
            yield f"input_blocks.{n}.0.", f"down_blocks.{level}.resnets.{i}."
            yield f"input_blocks.{n}.1.", f"down_blocks.{level}.attentions.{i}."
            n += 1
        yield f"input_blocks.{n}.0.op.", f"down_blocks.{level}.downsamplers.0.conv."
        n += 1
    n = 0
    for level in range(levels):
        for i in range(layers + 1):
            yield f"output_blocks.{n}.0.", f"up_blocks.{level}.resnets.{i}."
            yield f"output_blocks.{n}.1.", f"up_blocks.{level}.attentions.{i}."
            n += 1
        yield f"output_blocks.{n - 1}.UP.", f"up_blocks.{level}.upsamplers.0."


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
VAE_NAMES = ((r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
             (r"mid_block\.attentions\.0", "mid.attn_1"), (r"group_norm", "norm"), (r"to_out\.0", "proj_out"),
             (r"to_([qkv])", r"\1"), (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"),
             (r"down_blocks", "down"), (r"up_blocks\.0", "up.3"), (r"up_blocks\.1", "up.2"), (r"up_blocks\.2", "up.1"),
             (r"up_blocks\.3", "up.0"), (r"(down|up)samplers\.0", r"\1sample"), (r"\.resnets\.", ".block."))
OPENCLIP = ((r"^text_model\.", ""), (r"encoder\.layers", "transformer.resblocks"), (r"layer_norm(\d)", r"ln_\1"),
            (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"), (r"self_attn\.out_proj", "attn.out_proj"),
            (r"embeddings\.token", "token"), (r"embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"final_layer_norm", "ln_final"))


def respell(name, table):
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def original(part, tensors, configs):
    """One part's tensors under the names and in the shapes of the original layout, without prefix."""
    if part == "unet":
        places = {today: old for old, today in original_unet(configs["unet"]["block_out_channels"], 2)}
        for name, tensor in tensors.items():
            start = next(today for today in places if name.startswith(today))
            rest, place = name[len(start):], places[start]
            if ".resnets." in start:
                kind, _, leaf = rest.rpartition(".")
                rest = f"{RESNET[kind]}.{leaf}"
            if "upsamplers" in start:                      # behind the attention, if there is one
                attends = any(other.startswith(start.replace("upsamplers", "attentions")) for other in tensors)
                place = place.replace("UP", "2" if attends else "1")
            yield place + rest, tensor
    elif part == "vae":
        for name, tensor in tensors.items():
            name = respell(name, VAE_NAMES)
            yield name, tensor[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) else tensor
    elif configs[part]["hidden_act"] == "quick_gelu":
        for name, tensor in tensors.items():
            yield "text_model." + name.removeprefix("text_model."), tensor
    else:
        for name, tensor in tensors.items():
            if ".q_proj." in name:
                third = [tensors[name.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"]
                yield respell(name, OPENCLIP).replace("self_attn.q_proj.", "attn.in_proj_"), torch.cat(third)
            elif name == "text_projection.weight":
                yield "text_projection", tensor.T
            elif not re.search(r"\.[kv]_proj\.", name):
                yield respell(name, OPENCLIP), tensor


def prefixes(configs):
    """Where the names of each part begin."""
    if "text_encoder_2" in configs:
        texts = dict(text_encoder="conditioner.embedders.0.transformer.",
                     text_encoder_2="conditioner.embedders.1.model.")
    else:
        kind = "model" if is_openclip(configs, "text_encoder") else "transformer"
        texts = dict(text_encoder=f"cond_stage_model.{kind}.")
    return dict(unet="model.diffusion_model.", vae="first_stage_model.", **texts)


def is_openclip(configs, part):
    return configs[part]["hidden_act"] == "gelu"


def stored_part(folder, part):
    return load_file(folder / part / f"{FILES[part]}.safetensors")


def write_single(configs, folder, file):
    """The folder's tensors in the original layout, by this script's own tables; with what such files hold besides."""
    tensors = {prefix + name: tensor.contiguous() for part, prefix in prefixes(configs).items()
               for name, tensor in original(part, stored_part(folder, part), configs)}
    if is_openclip(configs, "text_encoder"):               # SD 2.x: the last layer, which nobody asks
        prefix, n = prefixes(configs)["text_encoder"], configs["text_encoder"]["num_hidden_layers"]
        for name in [name for name in tensors if f"{prefix}transformer.resblocks.{n - 1}." in name]:
            tensors[name.replace(f".{n - 1}.", f".{n}.")] = tensors[name].clone()
        tensors[prefix + "text_projection"] = torch.randn(2 * [configs["text_encoder"]["hidden_size"]]) / 32
    tensors["model_ema.decay"], tensors["alphas_cumprod"] = torch.zeros(()), torch.zeros(1000)
    save_file(tensors, file)


def read_back(configs, folder, file):
    """(part, whether diffusers' converters read the folder's tensors from the single file)."""
    tensors = load_file(file)
    for part, prefix in prefixes(configs).items():
        if part == "unet":
            found = converters.convert_ldm_unet_checkpoint(dict(tensors), dict(configs["unet"]))
        elif part == "vae":
            found = converters.convert_ldm_vae_checkpoint(tensors, configs["vae"])
        elif is_openclip(configs, part):
            text = types.SimpleNamespace(config=types.SimpleNamespace(**configs[part]))
            found = converters.convert_open_clip_checkpoint(text, tensors, prefix=prefix)
        else:
            found = converters.convert_ldm_clip_checkpoint(tensors, remove_prefix=prefix)
        found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
        expected = {name.removeprefix("text_model."): tensor for name, tensor in stored_part(folder, part).items()}
        yield part, all(name in found and torch.equal(found[name], tensor) for name, tensor in expected.items())


def openclip(configs, file, ids):
    """{what: tensor} of OpenCLIP's own text tower with the single file's tensors; nothing where it is not installed.

    The rest of that package wants torchvision, which is not needed here.
    """
    part = "text_encoder_2" if "text_encoder_2" in configs else "text_encoder"
    found = importlib.util.find_spec("open_clip")
    if found is None or not is_openclip(configs, part):
        return {}
    package = sys.modules["open_clip"] = types.ModuleType("open_clip")
    package.__path__ = found.submodule_search_locations
    sys.modules["torchvision.ops.misc"] = types.SimpleNamespace(FrozenBatchNorm2d=None)
    from open_clip.transformer import TextTransformer
    prefix, config, is_xl = prefixes(configs)[part], configs[part], part == "text_encoder_2"
    text = TextTransformer(width=config["hidden_size"], heads=config["num_attention_heads"],
                           output_dim=config["hidden_size"], layers=config["num_hidden_layers"] + (not is_xl),
                           mlp_ratio=config["intermediate_size"] / config["hidden_size"]).eval().requires_grad_(False)
    text.load_state_dict({name.removeprefix(prefix): tensor
                          for name, tensor in load_file(file).items() if name.startswith(prefix)})
    out = text.forward_intermediates(ids, indices=[text.transformer.layers - 2], normalize_intermediates=not is_xl,
                                     output_fmt="NLC")
    states = {"text, OpenCLIP": out["text_intermediates"][0]}
    return dict(states, **{"pooled, OpenCLIP": out["text_features"]}) if is_xl else states


# ---- what is compared ----------------------------------------------------------------------------------------------

def alike(folder, file, stored):
    """(part, whether folder and single file give identical tensors); both are mapped, so neither is in memory."""
    models = [p2p.load(path, "cpu", stored) for path in (folder, file)]
    print(f"{file.name}: {models[1].about}")
    for part in FILES:
        a, b = (getattr(model, part) for model in models)
        if a is not None:
            a, b = a.state_dict(), b.state_dict()
            yield part, a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@torch.no_grad()
def errors(configs, folder, height, width, expected):
    """(what, relative error of p2p_min) one by one."""
    z, context, picture = inputs(configs, height, width)
    model = p2p.load(folder, "cpu", torch.float32)
    told = encode(model, PROMPTS, 512, 512)
    of_openclip = slice(configs["text_encoder"]["hidden_size"] if told.pooled is not None else 0, None)
    ours = {"unet": lambda: model.unet(z, TIMESTEP, context),
            "vae encode": lambda: model.vae.encode(picture), "vae decode": lambda: model.vae.decode(z),
            "text": lambda: told.states, "text pooled": lambda: told.pooled, "pooled, OpenCLIP": lambda: told.pooled,
            "text, OpenCLIP": lambda: told.states[..., of_openclip]}
    for name, tensor in expected.items():
        yield name, float((ours[name]() - tensor).norm() / tensor.norm())


def measure(*arguments):
    """Seconds, and peak and weights in bytes, of loading (or of an edit) in a process of its own."""
    answer = subprocess.check_output([sys.executable, "-c", MEASURE, *map(str, arguments)], text=True)
    return map(float, answer.split()[-3:])


def check(folder, *args):
    """Prints the tables; whether all is within its limit. Each in processes of their own, which give memory back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        passed = pool.submit(agree, folder, *args).result()
    return loads(folder, *args) and passed


def agree(folder, kind, height, width, is_narrow):
    """Prints what is compared; whether all is within its limit."""
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    configs, stored, passed = narrow(MODELS[kind]) if is_narrow else MODELS[kind], STORED[kind], True
    file = folder / f"{kind}.safetensors"
    print(f"{kind}{', narrow' * is_narrow}, latents {height} x {width}, stored in {str(stored)[6:]}")
    with torch.no_grad():
        expected, ids = make(configs, folder, height, width, stored)
        write_single(configs, folder, file)
        expected |= openclip(configs, file, ids)
    for what, answers in (("diffusers' converters", dict(read_back(configs, folder, file))),
                          ("p2p_min", dict(alike(folder, file, stored)))):
        print(f"{what}: the same tensors from folder and single file? "
              + ", ".join(f"{part} {'yes' if same else 'NO'}" for part, same in answers.items()))
        passed &= all(answers.values())
    print(f"{'':18}{'relative error':>16}   at most {MAX_ERROR:g}")
    for name, error in errors(configs, folder, height, width, expected):
        print(f"{name:18}{error:16.1e}")
        passed &= error <= MAX_ERROR
    if kind != "sd15" and not any("OpenCLIP" in name for name in expected):
        print("open_clip_torch is not installed: its forward was not compared")
    return passed


def loads(folder, kind, height, width, is_narrow):
    """Prints what loading takes, and SDXL's edit; whether all is within its limit."""
    passed, file = True, folder / f"{kind}.safetensors"
    print(f"{'load':8}{'as':10}{'seconds':>10}{'anonymous MB':>15}{'weights MB':>13}   ratio   at most {MAX_MEMORY:g}")
    for path in (folder, file):
        for dtype in ("float32", "bfloat16", "float16"):
            seconds, taken, weights = measure(path, dtype)
            name = "file" if path == file else "folder"
            print(f"{name:8}{dtype:10}{seconds:10.1f}{taken / 1e6:15.0f}{weights / 1e6:13.0f}{taken / weights:8.2f}")
            passed &= is_narrow or taken <= MAX_MEMORY * weights
    if kind == "sdxl":
        seconds, taken, _ = measure(file, "float32", "edit")
        print(f"2 steps of an edit at 512 x 512, fp32, from the file: {seconds:.0f} s, at most {taken / 1e9:.1f} GB")
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", nargs="?", choices=MODELS, default="sd15")
    parser.add_argument("--dir", type=Path, help="where to write and keep the checkpoint (default: a temporary folder)")
    parser.add_argument("--latents", type=int, nargs=2, default=(32, 32), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--narrow", action="store_true", help="narrow layers, to test this script itself")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        passed = check(folder, args.kind, *args.latents, args.narrow)
    sys.exit(0 if passed else "FAILED")


if __name__ == "__main__":
    main()
