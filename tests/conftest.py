"""A tokenizer, a Stable Diffusion and an SDXL of random weights, all tiny: what can be promised without training."""
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"                        # the tests' processes share the cores; before torch is there

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast

import p2p_min as p2p
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE

DEVICE = os.environ.get("P2P_MIN_DEVICE", "cpu")           # where the tests generate: "cuda" tries them there
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)

# The tokens of a word are divided by "|"; a word that is not here is spelled letter by letter.
WORDS = ("children drawing castle fluffy burger river house horse green lion next ball blue snow cat car dog big red "
         "the and on of to in a butter|fly bi|cycle wa|ter|color").split()

UNET = dict(
    _class_name="UNet2DConditionModel", sample_size=8, in_channels=4, out_channels=4, block_out_channels=[32, 64, 64],
    layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2,
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"])
VAE_ = dict(
    _class_name="AutoencoderKL", block_out_channels=[16, 16, 16], layers_per_block=1, norm_num_groups=8,
    down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, force_upcast=False)
XL_UNET = dict(
    UNET, use_linear_projection=True, cross_attention_dim=32 + 48, attention_head_dim=[1, 2, 4],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], transformer_layers_per_block=[1, 1, 2],
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=40 + 6 * 8)
XL_VAE = dict(VAE_, force_upcast=True, scaling_factor=0.13025)
SCHEDULER = dict(
    _class_name="PNDMScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
    beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False, clip_sample=False, skip_prk_steps=True)


def refuses(call, *words, error=(ValueError, FileNotFoundError)):
    """What cannot be done is an error of one line, which says these words."""
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and message.strip() == message and all(word in message for word in words), message
    return message


def refuses_to_load(path, *words, error=(ValueError, FileNotFoundError), **arguments):
    """`refuses` for p2p.load."""
    return refuses(lambda: p2p.load(path, **{"device": "cpu", **arguments}), *words, error=error)


def configure(file, **values):
    """Other values in a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def rewrite(file, change):
    """Other tensors in a safetensors file: change({name: tensor}), which may return them or change them in place."""
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def same_parts(a, b):
    """Whether two models have the same tensors under the same names in all parts."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = ({} if getattr(model, part) is None else getattr(model, part).state_dict() for model in (a, b))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            return False
    return True


# ---- runs ----------------------------------------------------------------------------------------------------------

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]


def own(M, M_star, t):
    return M_star


def inject(M, M_star, t):
    return M.expand_as(M_star)


def sample(model, prompts=PROMPTS[:2], *edits, steps=4, **arguments):
    return p2p.prompt_to_prompt(model, prompts, *edits, steps=steps, **arguments)


def assert_same(a, b, tolerance=1e-5):
    """Latents equal within 1e-5 of their scale."""
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def differ(a, b):
    return (a - b).abs().max() > 1e-3 * b.abs().max()


# ---- checkpoints ---------------------------------------------------------------------------------------------------

def build_tokenizer():
    """CLIP's BPE with merges that build exactly the pieces of WORDS, from left to right."""
    letters = sorted(ByteLevel.alphabet())
    tokens, merges = [*letters, *(x + "</w>" for x in letters)], []
    for word in WORDS:
        pieces = word.split("|")
        for n, piece in enumerate(pieces):
            parts = list(piece)
            parts[-1] += "</w>" * (n == len(pieces) - 1)
            for i in range(1, len(parts)):
                merges.append(("".join(parts[:i]), parts[i]))
                tokens.append("".join(parts[:i + 1]))
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizerFast(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=77)


@pytest.fixture(scope="session")
def tokenizer():
    """77 positions; "castle" is one token, "bicycle" and "butterfly" two, "watercolor" three."""
    tokenizer = build_tokenizer()
    for word in WORDS:
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(word.replace("|", ""))] == word.split("|")
    return tokenizer


@pytest.fixture(scope="session")
def words(tokenizer, tmp_path_factory):
    """A folder with the tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    tokenizer.save_pretrained(folder)
    return folder


def text_config(tokenizer, width, activation, **more):
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, hidden_act=activation, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **more)


def write_folder(path, unet, vae, encoders, tokenizers):
    """A checkpoint in the diffusers layout. encoders: {folder: (transformers' class, config)}; tokenizers by folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = dict(unet=(UNet(unet), unet), vae=(VAE(vae), vae))
        encoders = {name: build(config) for name, (build, config) in encoders.items()}
        for network in (networks["unet"][0], *encoders.values()):
            for name, parameter in network.named_parameters():
                if "embedding.weight" in name:
                    torch.nn.init.normal_(parameter)       # so that words differ …
                if "to_q" in name or "to_k" in name:
                    parameter.data *= 3                    # … and maps have something to show
    for name, (network, config) in networks.items():
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text(json.dumps(config))
        save_file(network.state_dict(), path / name / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    for name, part in (encoders | tokenizers).items():
        part.save_pretrained(path / name)
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return path


@pytest.fixture(scope="session")
def folder(tokenizer, tmp_path_factory):
    """A checkpoint in the diffusers layout: 32 × 32 pixels, VAE factor 4, maps of 8 × 8 and 4 × 4 and 2 × 2."""
    text = CLIPTextModel, text_config(tokenizer, 32, "quick_gelu")
    path = tmp_path_factory.mktemp("random") / "model"
    return write_folder(path, UNET, VAE_, dict(text_encoder=text), dict(tokenizer=tokenizer))


@pytest.fixture(scope="session")
def model(folder):
    return p2p.load(folder, DEVICE, "float32")


@pytest.fixture(scope="session")
def xl_folder(tokenizer, tmp_path_factory):
    """An SDXL of the same size: text of 32 + 48 numbers, 40 pooled; no maps of 8 × 8, two layers at 2 × 2."""
    second = build_tokenizer()
    second.pad_token = "!"
    encoders = dict(text_encoder=(CLIPTextModel, text_config(tokenizer, 32, "quick_gelu")),
                    text_encoder_2=(CLIPTextModelWithProjection, text_config(second, 48, "gelu", projection_dim=40)))
    return write_folder(tmp_path_factory.mktemp("random") / "xl", XL_UNET, XL_VAE, encoders,
                        dict(tokenizer=tokenizer, tokenizer_2=second))


@pytest.fixture(scope="session")
def xl(xl_folder):
    return p2p.load(xl_folder, DEVICE, "float32")
