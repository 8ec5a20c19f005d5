"""p2p_min against diffusers and transformers at full size, with random weights; and what loading takes.

    python scripts/verify_full_size.py [sd15|sd21] [--dir DIR] [--latents HEIGHT WIDTH]

Writes a folder of 4.3 GB (sd15) or 5.2 GB (sd21), has one model in memory at a time, exits with 1 if anything fails.
Needs diffusers and, for the memory figures, Linux.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

import p2p_min as p2p
from p2p_min.text import encode

# The configs as runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1 have them.
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
        scheduler=dict(SCHEDULER, _class_name="DDIMScheduler", prediction_type="v_prediction")))

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
seconds, running = time.perf_counter() - start, False
thread.join()
print(seconds, max(*seen, anonymous()) - before, sum(p.nbytes for m in (model.unet, model.vae, model.text_encoder) for p in m.parameters()))
"""


def inputs(configs, height, width):
    """z, the text states, and a picture: the same for both sides."""
    torch.manual_seed(0)
    return (torch.randn(1, 4, height, width), torch.randn(1, 77, configs["unet"]["cross_attention_dim"]),
            torch.rand(1, 3, 8 * height, 8 * width) * 2 - 1)


def randomize(model):
    """Norms and biases too, which start at 1 and 0 and would hide their branch."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def save(model, config, folder):
    model.save_pretrained(folder)                          # its config has more keys than the real one
    (folder / "config.json").write_text(json.dumps(config))


def make(configs, folder, height, width):
    """Writes the checkpoint part by part, and what diffusers and transformers compute with each."""
    z, context, picture = inputs(configs, height, width)
    unet = randomize(diffusers.UNet2DConditionModel.from_config(configs["unet"]))
    expected = {"unet": unet(z, TIMESTEP, context).sample}
    save(unet, configs["unet"], folder / "unet")
    del unet
    vae = randomize(diffusers.AutoencoderKL.from_config(configs["vae"]))
    expected["vae encode"] = vae.encode(picture).latent_dist.mean * vae.config.scaling_factor
    expected["vae decode"] = vae.decode(z / vae.config.scaling_factor).sample
    save(vae, configs["vae"], folder / "vae")
    del vae
    tokenizer = transformers.CLIPTokenizer().train_new_from_iterator(PROMPTS * 4, vocab_size=600, show_progress=False)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder / "tokenizer")
    text = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs["text_encoder"])))
    expected["text"] = text(tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids).last_hidden_state
    save(text, configs["text_encoder"], folder / "text_encoder")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    save_file(expected, folder / "expected.safetensors")


def errors(configs, folder, height, width):
    """(what, relative error of p2p_min) one by one."""
    z, context, picture = inputs(configs, height, width)
    model = p2p.load(folder, "cpu", torch.float32)
    ours = {"unet": lambda: model.unet(z, TIMESTEP, context),
            "vae encode": lambda: model.vae.encode(picture), "vae decode": lambda: model.vae.decode(z),
            "text": lambda: encode(model.tokenizer, model.text_encoder, PROMPTS)}
    for name, expected in load_file(folder / "expected.safetensors").items():
        yield name, float((ours[name]() - expected).norm() / expected.norm())


def check(folder, kind, height, width):
    """Prints the tables; whether all is within its limit."""
    configs, passed = MODELS[kind], True
    make(configs, folder, height, width)
    print(f"{kind}, latents {height} x {width}\n{'':12}{'relative error':>16}   at most {MAX_ERROR:g}")
    for name, error in errors(configs, folder, height, width):
        print(f"{name:12}{error:16.1e}")
        passed &= error <= MAX_ERROR
    print(f"{'load as':12}{'seconds':>10}{'anonymous MB':>15}{'weights MB':>13}{'ratio':>8}   at most {MAX_MEMORY:g}")
    for dtype in ("float32", "bfloat16", "float16"):
        answer = subprocess.check_output([sys.executable, "-c", MEASURE, str(folder), dtype], text=True)
        seconds, taken, weights = map(float, answer.split()[-3:])
        print(f"{dtype:12}{seconds:10.1f}{taken / 1e6:15.0f}{weights / 1e6:13.0f}{taken / weights:8.2f}")
        passed &= taken <= MAX_MEMORY * weights
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", nargs="?", choices=MODELS, default="sd15")
    parser.add_argument("--dir", type=Path, help="where the checkpoint goes, and stays (a temporary folder)")
    parser.add_argument("--latents", type=int, nargs=2, default=(32, 32), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        passed = check(args.dir or Path(temporary), args.kind, *args.latents)
    sys.exit(0 if passed else "FAILED")


if __name__ == "__main__":
    main()
