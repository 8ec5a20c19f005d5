"""Single files in the original layouts: what they are is said in one line; all of them is used or refused."""
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

import originals
import p2p_min as p2p
from conftest import refuses_to_load as refused
from conftest import same_parts
from originals import UNET, VAE, fill, write
from p2p_min.__main__ import main
from p2p_min.checkpoints.detect import detect
from p2p_min.checkpoints.tensors import open_weights
from p2p_min.ddim import timesteps

LAST_NORM = UNET + "output_blocks.3.1.transformer_blocks.0.norm1.bias"
PROMPTS = ["a red bicycle", "a blue car on snow"]


@pytest.fixture(scope="module")
def tensors(tokenizer):
    """kind -> {name: tensor} of a whole file, as new: SD 1.x of mixed precision, SDXL in fp16."""
    made = {}

    def get(kind):
        if kind not in made:
            make = dict(sd1=originals.sd1, sd2=originals.sd2, sdxl=originals.sdxl)[kind.removesuffix("-v")]
            found = fill(make(len(tokenizer)), dtype=torch.float16 if kind == "sdxl" else torch.float32)
            if kind == "sd1":
                found = {name: tensor.half() if name.startswith(UNET) else tensor for name, tensor in found.items()}
            if kind == "sd2":
                found[LAST_NORM] = found[LAST_NORM] / 10
            made[kind] = found
        return dict(made[kind])
    return get


@pytest.fixture(scope="module")
def files(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    get = lambda kind: folder / f"{kind}.safetensors"
    return lambda kind: get(kind) if get(kind).exists() else write(get(kind), tensors(kind))


@pytest.fixture(scope="module")
def loaded(files, words):
    made = {}
    return lambda kind: made.get(kind) or made.setdefault(kind, p2p.load(files(kind), "cpu", tokenizer=words))


# ---- what is recognised, and how it is said ------------------------------------------------------------------------

@pytest.mark.parametrize("kind, about", [
    ("sd1", "SD 1.x, epsilon: as SD 1.x has it, unless --prediction says otherwise"),
    ("sd2", "SD 2.x, epsilon: judged by the spread of one norm, 0.0"),
    ("sd2-v", "SD 2.x, v_prediction: judged by the spread of one norm, 0.2"),
    ("sdxl", "SDXL, epsilon: as SDXL has it, unless --prediction says otherwise")])
def test_what_a_file_is_taken_for_is_said_in_one_line(loaded, kind, about):
    """Kind, prediction, and how the prediction is known."""
    assert loaded(kind).about.startswith(about) and "\n" not in loaded(kind).about
    assert loaded(kind).schedule.prediction == about.split(", ")[1].split(":")[0]


def test_the_command_line_says_what_a_file_is(files, words, tmp_path, capsys):
    """On standard output, with the path and what else no file says; --prediction, --spacing and --tokenizer reach the
    loader."""
    assert main(["a red car", "a blue car", "--model", str(files("sd1")), "--tokenizer", str(words), "--steps", "1",
                 "--height", "16", "--width", "16", "--prediction", "v_prediction", "--spacing", "trailing",
                 "--device", "cpu", "--out", str(tmp_path / "out.png")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{files('sd1')} (SD 1.x, v_prediction: as given; trailing timesteps, see --spacing; "
                               "128 × 128 pixels, see --height and --width) on cpu, float32\n") and not told.err


def test_the_size_that_a_file_is_taken_for_is_said(loaded):
    """XL's turbo files look like the others, of twice their size: the first line says which, and how it is changed."""
    height, width = loaded("sdxl").size
    assert (height, width) == (256, 256)                   # 128 latents; the VAE of these files has a factor of 2
    assert f"; {height} × {width} pixels, see --height and --width" in loaded("sdxl").about


def turbo(tensors):
    """SD Turbo: a 2.x in SDXL's layout."""
    return {name.replace("cond_stage_model.", "conditioner.embedders.0."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind, spacing, found", [
    ("turbo", None, "trailing"), ("turbo", "leading", "leading"), ("sd1", None, "leading"), ("sd2", None, "leading"),
    ("sdxl", None, "leading"), ("sdxl", "trailing", "trailing"), ("sdxl", "linspace", "linspace")])
def test_few_steps_of_a_file_begin_at_noise_where_it_is_turbo_or_spacing_says_so(
        tensors, files, loaded, words, tmp_path, kind, spacing, found):
    """SD Turbo's layout is trailing by itself; the tensors of other few-step files look like any, and get a warning."""
    file = write(tmp_path / "turbo", turbo(tensors("sd2"))) if kind == "turbo" else files(kind)
    is_loaded = kind != "turbo" and spacing is None
    model = loaded(kind) if is_loaded else p2p.load(file, "cpu", spacing=spacing, tokenizer=words)
    assert model.schedule.spacing == found and f"; {found} timesteps, see --spacing" in model.about
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if found == "leading" else "error")
        first = {steps: timesteps(model.schedule, steps)[0] for steps in (2, 4)}
        assert found != "trailing" or timesteps(model.schedule, 1) == [999]
    assert first == ({2: 501, 4: 751} if found == "leading" else {2: 999, 4: 999})


def test_a_folders_spacing_may_be_overruled(folder, model):
    """Some distilled folders say leading; and what there is not is named."""
    assert model.schedule.spacing == "leading"
    model = p2p.load(folder, "cpu", spacing="trailing")
    assert (model.schedule.spacing, model.schedule.prediction) == ("trailing", "epsilon")
    refused(folder, "leading or trailing or linspace", "'Trailing'", spacing="Trailing")


@pytest.mark.parametrize("kind, mark, metadata, given, prediction, why", [
    ("sd1", None, None, "v_prediction", "v_prediction", "as given"),
    ("sd2-v", "v_pred", None, "epsilon", "epsilon", "as given"),
    ("sd2", "v_pred", None, None, "v_prediction", "it has a tensor named v_pred"),
    ("sd1", "v_pred", "epsilon", None, "v_prediction", "it has a tensor named v_pred"),
    ("sd2", None, "v", None, "v_prediction", "its metadata say so"),
    ("sd2-v", None, "epsilon", None, "epsilon", "its metadata say so"),
    ("sd2-v", None, "something", None, "v_prediction", "judged by")])
def test_a_prediction_is_given_or_marked_before_it_is_judged(tensors, words, tmp_path, kind, mark, metadata, given,
                                                             prediction, why):
    """--prediction, then a tensor named v_pred, then the file's metadata, then the statistic."""
    marked = tensors(kind) | ({mark: torch.zeros(0)} if mark else {})
    file = write(tmp_path / "file.safetensors", marked, metadata and {"modelspec.prediction_type": metadata})
    model = p2p.load(file, "cpu", prediction=given, tokenizer=words)
    assert model.schedule.prediction == prediction and f", {prediction}: {why}" in model.about


@pytest.mark.parametrize("metadata, prediction, says", [
    ({"prediction_type": "v_prediction"}, "v_prediction", "its metadata say so"),
    ({"prediction_type": "eps", "predict_key": "epsilon"}, "epsilon", "its metadata say so"),
    ({"predict_key": "v"}, "v_prediction", "its metadata say so"),
    ({"predict_key": "V-Prediction"}, "v_prediction", "its metadata say so"),
    ({"prediction_type": "x0", "predict_key": "v"}, "v_prediction", "its metadata say so"),
    ({"prediction_type": "x0"}, "epsilon",
     "as SD 1.x has it, unless --prediction says otherwise; its metadata say 'x0'")])
def test_prediction_in_the_metadata(tensors, tmp_path, metadata, prediction, says):
    """Metadata say the prediction under two keys and in many spellings; what nobody knows is told."""
    metadata = {f"modelspec.{key}": value for key, value in metadata.items()}
    with open_weights(write(tmp_path / "file.safetensors", tensors("sd1"), metadata)) as stored:
        found = detect(stored)
    assert found.prediction == prediction and says in found.why


@pytest.mark.parametrize("said", ["v-zsnr", "v_prediction_zero_terminal"])
def test_metadata_that_say_zero_snr(tensors, words, tmp_path, said):
    """Another schedule, about which --prediction says nothing."""
    metadata = {"modelspec.predict_key": "v", "modelspec.prediction_type": said}
    file = write(tmp_path / "file.safetensors", tensors("sd1"), metadata)
    for prediction in (None, "v_prediction"):
        refused(file, "zero terminal SNR", said, tokenizer=words, prediction=prediction)


@pytest.mark.parametrize("full", [True, False])
def test_statistic_of_a_slimmed_file(tokenizer, tmp_path, full):
    """It is known for the last attention of the whole UNet of 2.x; for another it is a guess, which is said."""
    file = write(tmp_path / "file.safetensors", fill(originals.sd2(len(tokenizer), full=full)))
    with open_weights(file) as stored:
        assert ("guess" in detect(stored).why) != full


def test_a_prediction_that_there_is_not_is_named(files, folder):
    """Of a folder and of a file."""
    for path in (files("sd1"), folder):
        refused(path, "epsilon or v_prediction", "'sample'", prediction="sample")


def test_a_folders_prediction_may_be_overruled(folder):
    """As with a file."""
    assert p2p.load(folder, "cpu", prediction="v_prediction").schedule.prediction == "v_prediction"


SLIM = {                               # the name; of what there is: how many transformers the middle has
    "SSD-1B": (dict(down=[[0, 0], [2, 2], [4, 4]], middle=0, up=[[4, 4, 10], [2, 1, 1], [0, 0, 0]]), 0),
    "Vega": (dict(down=[[0, 0], [1, 1], [2, 2]], middle=0, up=[[2, 2, 2], [1, 1, 1], [0, 0, 0]]), 0),
    "KOALA-700M": (dict(down=[[0], [2], [5]], middle=None, up=[[5, 5], [2, 2], [0, 0]]), 0),
    "KOALA-1B": (dict(down=[[0], [2], [6]], middle=6, up=[[6, 6], [2, 2], [0, 0]]), 1)}


@pytest.mark.parametrize("name", SLIM)
def test_slimmed_files_are_recognised(tokenizer, words, tmp_path, name):
    """Other depths on the way up than down, fewer layers, less of a middle or none: every tensor finds its place."""
    shape, middle = SLIM[name]
    slim = fill(originals.sdxl(len(tokenizer), widths=(64, 64, 64), **shape))
    model = p2p.load(write(tmp_path / "slim.safetensors", slim), "cpu", tokenizer=words)
    assert [[len(a.transformer_blocks) for a in block.attentions] for block in model.unet.up_blocks] == [
        [n for n in depths if n] for depths in shape["up"]]
    assert len(model.unet.mid_block.attentions) == middle


def gapped(tensors, layers=1):
    """The file as diffusers' conversion script writes it: numbered as if each block had 2 layers down and 3 up, with
    what doubles the size in the third place of its block.
    """
    def down(match):
        block, i = divmod(int(match[1]) - 1, layers + 1)
        return f"input_blocks.{3 * block + (3 if i == layers else i + 1)}."

    def up(match):
        block, i = divmod(int(match[1]), layers + 1)
        if match[3]:
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.conv."
        return f"output_blocks.{3 * block + i}."
    rename = lambda name: re.sub(r"output_blocks\.(\d+)\.((\d)\.conv\.)?", up,
                                 re.sub(r"input_blocks\.([1-9]\d*)\.", down, name))
    return {rename(name): tensor for name, tensor in tensors.items()}


SMALL = dict(widths=(32, 32, 32, 32), down=[[1], [1], [1], [0]], up=[[0, 0], [1, 1], [1, 1], [1, 1]])


@pytest.mark.parametrize("make, middle", [(originals.sd1, 1), (originals.sd1, None), (originals.sd2, None)])
def test_gaps_in_the_numbers_of_a_slimmed_file_are_followed(tokenizer, words, tmp_path, make, middle):
    """1, 3, 4, 6, 7 …: as small-sd and BK-SDM come out of diffusers' script, the same model as without gaps."""
    widths = dict(widths=(64, 64, 64, 64)) if make == originals.sd2 else {}
    dense = fill(make(len(tokenizer), **{**SMALL, **widths}, middle=middle))
    there = gapped(dense)
    for name in ("input_blocks.9.0.op.weight", "output_blocks.2.1.conv.bias", "output_blocks.5.2.conv.bias",
                 "output_blocks.10.1.proj_in.bias"):
        assert UNET + name in there
    a, b = (p2p.load(write(tmp_path / f"{i}.safetensors", content), "cpu", tokenizer=words)
            for i, content in enumerate((dense, there)))
    assert same_parts(a, b)
    moved = {name.replace("output_blocks.5.2.conv", "output_blocks.6.2.conv"): tensor for name, tensor in there.items()}
    refused(write(tmp_path / "moved.safetensors", moved), str(tmp_path / "moved.safetensors"), tokenizer=words)


def test_gaps_with_names_of_diffusers(tokenizer, words, tmp_path):
    """As tiny-sd comes out of that script, which expects no attention in the first block up and leaves its names."""
    shape = dict(widths=(32, 32, 32), down=[[1], [1], [1]], up=[[1, 1], [1, 1], [1, 1]], middle=None)
    dense = fill(originals.sd1(len(tokenizer), **shape))
    spelt = {re.sub(r"output_blocks\.([01])\.1\.", r"up_blocks.0.attentions.\1.", name): dense[name] for name in dense}
    files = (write(tmp_path / f"{i}.safetensors", content) for i, content in enumerate((dense, gapped(spelt))))
    a, b = (p2p.load(file, "cpu", tokenizer=words) for file in files)
    assert same_parts(a, b) and any("diffusion_model.up_blocks.0.attentions.1." in name for name in gapped(spelt))


def test_layouts_that_differ_in_names_alone_are_the_same_model(tensors, words, loaded, tmp_path):
    """Old merges without text_model.; SD Turbo in SDXL's layout; a folder's 23 layers; a linear projection."""
    def check(kind, change):
        file = write(tmp_path / f"{kind}.safetensors", change(tensors(kind)))
        assert same_parts(p2p.load(file, "cpu", tokenizer=words), loaded(kind))
    check("sd1", lambda t: {name.replace("transformer.text_model.", "transformer."): t[name] for name in t})
    check("sd2", turbo)
    check("sd2-v", lambda t: {name: tensor for name, tensor in t.items() if ".resblocks.23." not in name})
    projection = "conditioner.embedders.1.model.text_projection"
    check("sdxl", lambda t: t | {projection + ".weight": t.pop(projection).T.contiguous()})


def test_vae_attention_may_be_stored_as_matrices(tensors, words, loaded, tmp_path):
    """As some tools save it, where others have 1×1 convolutions; but not in any shape of as many numbers."""
    flat = {name: tensor.flatten(1) if ".attn_1." in name and tensor.ndim == 4 else tensor
            for name, tensor in tensors("sd1").items()}
    assert same_parts(p2p.load(write(tmp_path / "file.safetensors", flat), "cpu", tokenizer=words), loaded("sd1"))
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    bent = write(tmp_path / "bent.safetensors", flat | {name: flat[name].reshape(32, 8, 4, 1)})
    refused(bent, name, "(32, 8, 4, 1), not (32, 32)", tokenizer=words)


def mixed(tensors):
    """The VAE's attention with today's names, as diffusers' script left it from 2023-05 to 12: matrices."""
    rename = lambda name: re.sub(r"(mid\.attn_1)\.(q|k|v)\.", r"\1.to_\2.", name).replace(".attn_1.proj_out.",
                                                                                          ".attn_1.to_out.0.")
    return {rename(name): tensor.flatten(1) if rename(name) != name and tensor.ndim == 4 else tensor
            for name, tensor in tensors.items()}


def biases(tensors):
    """… and until 2024-02: the names are right, but biases have become 1×1 convolutions as well."""
    return {name: tensor[:, None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.bias", name) else tensor
            for name, tensor in tensors.items()}


@pytest.mark.parametrize("spell", [mixed, biases])
def test_vae_attention_may_be_spelt_as_conversions_left_it(tensors, words, loaded, tmp_path, spell):
    """The same model; a parameter in two spellings is refused."""
    spelt = spell(tensors("sd1"))
    assert {name: tensor.shape for name, tensor in spelt.items()} != {n: t.shape for n, t in tensors("sd1").items()}
    assert same_parts(p2p.load(write(tmp_path / "file.safetensors", spelt), "cpu", tokenizer=words), loaded("sd1"))
    if spell == mixed:
        name = "first_stage_model.decoder.mid.attn_1.to_k.bias"
        both = write(tmp_path / "both.safetensors", tensors("sd1") | {name: spelt[name].clone()})
        refused(both, "which are the same parameter", name, tokenizer=words)


# ---- a VAE from elsewhere ------------------------------------------------------------------------------------------

def of_today(vae):
    return dict(vae.state_dict())


def of_first(vae):
    """query, key, value, proj_attn, as diffusers wrote them before 2023."""
    new = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    spelt = of_today(vae)
    for today, first in new:
        spelt = {name.replace(f"attentions.0.{today}.", f"attentions.0.{first}."): t for name, t in spelt.items()}
    return spelt


@pytest.mark.parametrize("kind", ["prefixed", "bare", "today", "first"])
def test_a_vae_file_is_read_in_every_spelling(tensors, words, loaded, tmp_path, kind):
    """Original names with or without first_stage_model., diffusers' of any age; for a checkpoint that has none."""
    alone = {name: tensor for name, tensor in tensors("sd1").items() if name.startswith(VAE)}
    spelt = dict(prefixed=lambda: alone, bare=lambda: {name.removeprefix(VAE): t for name, t in alone.items()} | {
        "loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)},
        today=lambda: of_today(loaded("sd1").vae), first=lambda: of_first(loaded("sd1").vae))[kind]()
    vae = write(tmp_path / "vae.safetensors", spelt)
    without = {name: tensor for name, tensor in tensors("sd1").items() if name not in alone}
    file = write(tmp_path / "file.safetensors", without)
    model = p2p.load(file, "cpu", tokenizer=words, vae=vae)
    assert same_parts(model, loaded("sd1"))
    assert model.about == f"{loaded('sd1').about}; with the VAE of {vae}"
    if kind == "bare":
        refused(file, str(file), "has no VAE", "--vae", tokenizer=words)


def test_a_vae_is_taken_in_place_of_the_files_own(files, folder, words, tensors, tmp_path, capsys):
    """--vae: a file's for a file and for a folder, a folder's for a file; what is not known in it is named."""
    alone = {name.removeprefix(VAE): 2 * t for name, t in tensors("sd1").items() if name.startswith(VAE)}
    vae, name = write(tmp_path / "vae.safetensors", alone), "quant_conv.weight"
    for path in (files("sd1"), folder):
        assert torch.equal(p2p.load(path, "cpu", tokenizer=words, vae=vae).vae.quant_conv.weight, alone[name])
    assert p2p.load(files("sdxl"), "cpu", tokenizer=words, vae=vae).vae.config["scaling_factor"] == 0.13025
    theirs = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")[name]
    assert main(["a red car", "a blue car", "--model", str(files("sd1")), "--tokenizer", str(words), "--steps", "1",
                 "--height", "16", "--width", "16", "--device", "cpu", "--out", str(tmp_path / "out.png"),
                 "--vae", str(folder / "vae")]) == 0
    assert f"; with the VAE of {folder / 'vae'}) on cpu" in capsys.readouterr().out
    assert torch.equal(p2p.load(files("sd1"), "cpu", tokenizer=words, vae=folder / "vae").vae.quant_conv.weight, theirs)
    for whole, says in ((folder, f"give its folder {folder / 'vae'} to --vae"),
                        (files("sd1"), "--vae takes a file with only a VAE")):
        refused(files("sd1"), str(whole), "is a whole checkpoint", says, tokenizer=words, vae=whole)
    spoilt = write(tmp_path / "spoilt.safetensors", alone | {"encoder.stranger": torch.zeros(1)})
    refused(files("sd1"), str(spoilt), "without a place", "encoder.stranger", tokenizer=words, vae=spoilt)


def test_every_encoder_has_its_own_padding(loaded, tokenizer, files, tmp_path):
    """CLIP is padded with the end token, OpenCLIP with "!", whatever the tokenizer that was found says."""
    end, mark = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("!")
    assert loaded("sd1").tokenizer.pad_token_id == loaded("sdxl").tokenizer.pad_token_id == end
    assert loaded("sd2").tokenizer.pad_token_id == loaded("sdxl").text_encoder_2.config.pad_token_id == mark
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "!"}))
    assert p2p.load(files("sd1"), "cpu", tokenizer=tmp_path).tokenizer.pad_token_id == end


# ---- what else is in a file ----------------------------------------------------------------------------------------

RESTS = ("model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modeltime_embed0weight", "betas",
         "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "log_one_minus_alphas_cumprod",
         "sqrt_recipm1_alphas_cumprod", "posterior_log_variance_clipped", "posterior_mean_coef1", "logvar",
         "lvlb_weights", "scale_factor", "denoiser.sigmas", "global_step", "optimizer_states.0.state.0.exp_avg",
         "lr_schedulers.0.last_epoch", "cond_stage_model.logit_scale", "v_pred", "first_stage_model.loss.logvar",
         "cond_stage_model.transformer.text_model.embeddings.position_ids",
         "cond_stage_model.transformer.text_projection.weight")


def test_averages_schedules_and_what_training_left(tensors, words, loaded, tmp_path):
    """An unpruned file is the pruned one: what is not needed is skipped, of any dtype, finite or not."""
    rests = {name: torch.full((2,), float("nan")) if i % 2 else torch.arange(2) for i, name in enumerate(RESTS)}
    full = p2p.load(write(tmp_path / "full.safetensors", tensors("sd1") | rests), "cpu", tokenizer=words)
    assert same_parts(full, loaded("sd1"))
    assert "averaged weights (model_ema.) are ignored" in full.about and "model_ema" not in loaded("sd1").about


@pytest.mark.parametrize("name", [
    "stranger", "alphas", "alphas_cumprod_stranger", "model_emaX", "edm_mean", "logvar.stranger", UNET + "stranger",
    UNET + "label_emb.0.0.weight", UNET + "output_blocks.2.9.conv.weight",
    UNET + "input_blocks.1.1.transformer_blocks.0.norm4.bias",
    "first_stage_model.encoder.down.0.attn.0.q.weight", "cond_stage_model.transformer.text_model.stranger",
    "cond_stage_model.transformer.vision_model.stranger", "depth_model.stranger", "a\nb"])
def test_any_other_tensor_is_refused_by_name(tensors, words, tmp_path, name):
    """At the top, in each part; nothing is dropped because a pattern is loose."""
    file = write(tmp_path / "file.safetensors", tensors("sd1") | {name: torch.zeros(2)})
    refused(file, str(file), ascii(name)[1:-1], tokenizer=words)


def test_of_the_text_layers_that_are_read_no_tensor_is_skipped(tensors, words, tmp_path):
    """SD 2.x leaves its last layer out, and that one alone."""
    name = "cond_stage_model.model.transformer.resblocks.22.stranger"
    refused(write(tmp_path / "file.safetensors", tensors("sd2") | {name: torch.zeros(2)}), "without a place", name,
            tokenizer=words)


@pytest.mark.parametrize("gone, lacks", [
    (UNET + "out.2.weight", "conv_out.weight"), (UNET + "middle_block.1.norm.bias", "mid_block.attentions.0.norm.bias"),
    (UNET + "input_blocks.0.0.weight", "conv_in.weight"), ("first_stage_model.quant_conv.weight", "quant_conv.weight"),
    ("first_stage_model.decoder.up.0.block.1.conv1.bias", "decoder.up_blocks.1.resnets.1.conv1.bias"),
    ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "final_layer_norm.weight"),
    ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "token_embedding.weight")])
def test_tensor_that_is_missing(tensors, words, tmp_path, gone, lacks):
    """As in folders: nothing is filled with noise. It is named as in diffusers."""
    spoilt = tensors("sd1")
    del spoilt[gone]
    file = write(tmp_path / "file.safetensors", spoilt)
    refused(file, str(file), "lacks", lacks, tokenizer=words)


def test_tensors_of_sdxl_that_are_missing_or_of_another_shape(tensors, words, tmp_path):
    """Its sizes; a fused projection that has no thirds."""
    without = {name: tensor for name, tensor in tensors("sdxl").items() if "label_emb" not in name}
    refused(write(tmp_path / "a.safetensors", without), "lacks add_embedding.linear_1.weight", tokenizer=words)
    name = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias"
    spoilt = tensors("sdxl") | {name: torch.tensor(1.0)}
    refused(write(tmp_path / "b.safetensors", spoilt), name, "cannot be read", tokenizer=words)


# ---- what is no Stable Diffusion that p2p_min runs -----------------------------------------------------------------

REFUSED = {
    "LoRA": (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "is a LoRA"),
    "diffusers' LoRA": (["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"], "is a LoRA"),
    "LCM": ([UNET + "input_blocks.0.0.weight", UNET + "time_embed.cond_proj.weight"], "is an LCM"),
    "LCM, half converted": ([UNET + "input_blocks.0.0.weight", UNET + "time_embedding.cond_proj.weight"], "is an LCM"),
    "unCLIP": ([UNET + "input_blocks.0.0.weight", "noise_augmentor.time_embed.0.weight"], "is an unCLIP model"),
    "refiner": (["conditioner.embedders.0.model.ln_final.weight", UNET + "label_emb.0.0.weight",
                 UNET + "input_blocks.0.0.weight"], "SDXL's refiner"),
    "a folder's UNet": (["down_blocks.0.resnets.0.norm1.weight", "conv_in.weight"],
                        "one part of a model, not the diffusers folder"),
    "a VAE": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "one part of a model"),
    "a text encoder": (["text_model.final_layer_norm.weight"], "one part of a model"),
    "a UNet alone": ([UNET + "input_blocks.0.0.weight"], "without a text encoder that p2p_min knows"),
    "half of SDXL": ([UNET + "input_blocks.0.0.weight", "conditioner.embedders.1.model.ln_final.weight"],
                     "without a text encoder that p2p_min knows"),
    "SD 3": (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "not a Stable Diffusion 1.x, 2.x or XL"),
    "something": (["emb_params"], "it begins with emb_params"), "nothing": ([], "not a Stable Diffusion")}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path, what):
    """One sentence that begins with the file, and needs no tokenizer to be said."""
    names, says = REFUSED[what]
    file = write(tmp_path / "file.safetensors", {name: torch.zeros(2, 2) for name in names})
    assert refused(file, says).startswith(f"{file} ")


def test_a_model_trained_to_zero_terminal_snr_is_refused(tensors, words, tmp_path):
    """Its schedule is another one; asking for a prediction does not change that."""
    file = write(tmp_path / "file.safetensors", tensors("sd1") | {"ztsnr": torch.zeros(0), "v_pred": torch.zeros(0)})
    refused(file, "zero terminal SNR", tokenizer=words)
    refused(file, "zero terminal SNR", tokenizer=words, prediction="v_prediction")


@pytest.mark.parametrize("inputs, says", [
    (5, "a depth model"), (7, "an upscaler"), (8, "an instruct-pix2pix model"), (9, "an inpainting model")])
def test_models_that_are_told_a_picture_are_refused(tmp_path, inputs, says):
    """More channels in than p2p_min would know what to fill with: the number of them says what it is."""
    file = write(tmp_path / "file.safetensors", {UNET + "input_blocks.0.0.weight": torch.zeros(32, inputs, 3, 3)})
    refused(file, f"{file} is {says}", str(inputs))


def test_quantised_files_are_refused(tensors, words, tmp_path):
    """fp8 and int8 are not silently read as if they were the numbers."""
    for dtype in (torch.float8_e4m3fn, torch.int8):
        name = UNET + "out.2.weight"
        file = write(tmp_path / "file.safetensors", tensors("sd1") | {name: tensors("sd1")[name].to(dtype)})
        refused(file, str(file), name, str(dtype), tokenizer=words)


def test_a_pickled_file_is_refused_unread(tmp_path):
    """By its name: it is not opened."""
    (tmp_path / "sd.ckpt").write_bytes(b"\x80")
    refused(tmp_path / "sd.ckpt", "pickled", "safetensors")


# ---- the tokenizer -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("place", ["tokenizer", ".", "sd1/tokenizer"])
def test_the_tokenizer_beside_the_file_is_found(files, tokenizer, tmp_path, monkeypatch, place):
    """In a folder tokenizer/, in the file's own folder, in that of a folder with the file's name."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    (tmp_path / "sd1.safetensors").symlink_to(files("sd1"))
    tokenizer.save_pretrained(tmp_path / place)
    model = p2p.load(tmp_path / "sd1.safetensors", "cpu")
    assert model.tokenizer(PROMPTS).input_ids == tokenizer(PROMPTS).input_ids and model.tokenizer.model_max_length == 77


def test_the_tokenizer_of_the_hubs_cache_is_found(files, tokenizer, tmp_path, monkeypatch):
    """vocab.json and merges.txt of CLIP, as any use of Stable Diffusion leaves them; without a word to the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--openai--clip-vit-large-patch14"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (snapshot / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    refused(files("sd1"), "without a tokenizer", error=FileNotFoundError)              # half of it is not enough
    (snapshot / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in bpe["merges"]))
    assert p2p.load(files("sd1"), "cpu").tokenizer(PROMPTS).input_ids == tokenizer(PROMPTS).input_ids


def test_without_a_tokenizer_the_message_says_what_to_download_and_where_to_put_it(files, tmp_path, monkeypatch):
    """The two files, from where, into which folder, or which option."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    refused(files("sd1"), str(files("sd1")), "vocab.json and merges.txt",
            "https://huggingface.co/openai/clip-vit-large-patch14", str(files("sd1").parent / "tokenizer"),
            "--tokenizer", error=FileNotFoundError)
    refused(files("sd1"), str(tmp_path), "neither tokenizer.json nor", error=FileNotFoundError, tokenizer=tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tensors, words, tmp_path):
    """More tokens than the text encoder has embeddings for."""
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    file = write(tmp_path / "file.safetensors", tensors("sd1") | {name: torch.zeros(100, 64)})
    refused(file, "tokens, the text encoder 100", tokenizer=words)


# ---- dtypes and memory ---------------------------------------------------------------------------------------------

def test_sdxls_vae_stays_in_float32(files, words):
    """It overflows in fp16; the rest is what was asked for."""
    model = p2p.load(files("sdxl"), "cpu", "float16", tokenizer=words)
    assert model.dtype == torch.float16 and model.vae.quant_conv.weight.dtype == torch.float32
    for part in (model.unet, model.text_encoder, model.text_encoder_2):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float16}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's table of mapped files")
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_parameters_are_the_mapped_file_where_the_dtype_agrees(loaded, files, part):
    """No second copy of the weights, nor of the thirds of a fused projection."""
    network = getattr(loaded("sd2"), part)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()
             if line.endswith(str(files("sd2")))]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    for name, parameter in network.named_parameters():
        assert any(a <= parameter.data_ptr() < b for a, b in ranges), name


def test_values_are_the_files_own(files, loaded):
    """Converted, where the file is fp16, and otherwise untouched."""
    stored = load_file(files("sd1"))
    assert torch.equal(loaded("sd1").unet.conv_out.weight, stored[UNET + "out.2.weight"].float())
    assert torch.equal(loaded("sd1").vae.quant_conv.weight, stored["first_stage_model.quant_conv.weight"])
