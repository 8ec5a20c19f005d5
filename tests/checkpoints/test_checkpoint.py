"""Loading is strict: what does not fit is named, what is fine is read as it lies in the file."""
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import p2p_min as p2p
from conftest import SCHEDULER, VAE_, XL_UNET, build_tokenizer
from originals import shard
from p2p_min import ddim
from p2p_min.checkpoints.folder import load_part
from p2p_min.checkpoints.tensors import read_json
from p2p_min.checkpoints.tokenizers import fit_tokenizer, load_tokenizer
from p2p_min.ddim import Schedule
from p2p_min.networks import text, unet, vae
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE as Autoencoder

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def rewrite(file, change):
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def configure(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(path, *says, error=(ValueError, FileNotFoundError), **arguments):
    """The one line with which `path` is refused; it has every text of `says`."""
    with pytest.raises(error) as caught:
        p2p.load(path, **{"device": "cpu", **arguments})
    line = str(caught.value)
    assert "\n" not in line and all(text in line for text in says), line
    return line


# ---- tensors -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file, name", [
    (UNET, "conv_in.weight"), (UNET, "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
    (VAE, "quant_conv.bias"), (VAE, "encoder.mid_block.attentions.0.to_q.weight"), (TEXT, "final_layer_norm.weight")])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_tensor_that_is_missing_unexpected_or_wrongly_shaped_is_named(copy, file, name, change):
    """Nothing is filled with noise, dropped or broadcast: the tensor is named, and for a shape both shapes are."""
    def spoil(tensors):
        full = next(key for key in tensors if key.endswith(name))
        if change == "missing":
            del tensors[full]
        elif change == "unexpected":
            tensors[full.replace("weight", "stranger").replace("bias", "stranger")] = tensors[full].clone()
        else:
            tensors[full] = torch.zeros(*tensors[full].shape, 1)
    rewrite(copy / file, spoil)
    stem = name.rpartition(".")[0]
    line = refused(copy, str(copy / file), f"{stem}.stranger" if change == "unexpected" else name)
    assert {"missing": "lacks", "unexpected": "does not describe", "shape": ", 1), not ("}[change] in line


def test_the_first_of_many_wrong_tensors_are_named_and_the_others_counted(copy):
    """A file of another model gives a line that can be read, not a page."""
    rewrite(copy / UNET, lambda tensors: {"strange": torch.zeros(1)})
    assert " more" in refused(copy, "lacks") and len(refused(copy)) < 600


def test_tensors_of_integers_are_refused(copy):
    """Quantised weights are not silently read as floating point."""
    rewrite(copy / UNET, lambda tensors: tensors.update({"conv_in.bias": tensors["conv_in.bias"].to(torch.int8)}))
    refused(copy, "conv_in.bias", "int8")


@pytest.mark.parametrize("old", [
    lambda t: {k.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
               .replace("to_out.0", "proj_attn"): v for k, v in t.items()}])
def test_old_names_of_the_vaes_attention_are_known(copy, model, old):
    """VAE files with query, key, value, proj_attn load to the same weights."""
    rewrite(copy / VAE, old)
    assert not any("to_q" in name for name in load_file(copy / VAE))
    for name, tensor in p2p.load(copy, "cpu").vae.state_dict().items():
        assert torch.equal(tensor, model.vae.state_dict()[name])


@pytest.mark.parametrize("prefixed", [True, False])
def test_text_encoders_load_with_and_without_prefix_and_with_position_ids(copy, model, prefixed):
    """`text_model.` or not, and a stray position_ids: the same encoder."""
    def spell(tensors):
        tensors = {k.removeprefix("text_model."): v for k, v in tensors.items()}
        tensors["embeddings.position_ids"] = torch.arange(77)[None]
        return {"text_model." * prefixed + k: v for k, v in tensors.items()}
    rewrite(copy / TEXT, spell)
    loaded = p2p.load(copy, "cpu").text_encoder
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).last_hidden_state, model.text_encoder(ids).last_hidden_state)


# ---- configs -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part, key, value", [
    ("unet", "some_new_setting", 3), ("unet", "act_fn", "gelu"), ("unet", "class_embed_type", "timestep"),
    ("unet", "addition_embed_type", "image"), ("unet", "flip_sin_to_cos", False), ("unet", "freq_shift", 1),
    ("unet", "resnet_time_scale_shift", "scale_shift"), ("unet", "dual_cross_attention", True),
    ("unet", "only_cross_attention", True), ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("unet", "conv_in_kernel", 5), ("unet", "encoder_hid_dim_type", "text_proj"), ("unet", "num_attention_heads", 4),
    ("unet", "time_cond_proj_dim", 256), ("vae", "some_new_setting", "x"), ("vae", "act_fn", "relu"),
    ("vae", "shift_factor", 0.1), ("vae", "latents_mean", [0.0]), ("text_encoder", "hidden_act", "some_new_act"),
    ("scheduler", "prediction_type", "sample"), ("scheduler", "beta_schedule", "squaredcos_cap_v2"),
    ("scheduler", "rescale_betas_zero_snr", True), ("scheduler", "thresholding", True),
    ("scheduler", "timestep_spacing", "random")])
def test_a_setting_that_is_not_implemented_is_named(copy, part, key, value):
    """An unknown key or a value that is not implemented is an error: nothing that changes the maths is passed over."""
    config = copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    configure(config, **{key: value})
    refused(copy, str(value) if key == "hidden_act" else key)


@pytest.mark.parametrize("part, values, says", [
    ("unet", dict(down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"]), "AttnDownBlock2D"),
    ("unet", dict(up_block_types=["UpBlock2D"]), "1 values for 3 blocks"),
    ("unet", dict(attention_head_dim=[2, 2]), "2 values for 3 blocks"),
    ("unet", dict(attention_head_dim=5), "5 attention heads"), ("unet", dict(norm_num_groups=7), "unet"),
    ("unet", dict(block_out_channels="wide"), "unet"), ("unet", dict(block_out_channels=[]), "unet"),
    ("unet", dict(cross_attention_dim=48), "unet"), ("unet", dict(attention_head_dim=0), "unet"),
    ("unet", dict(layers_per_block="two"), "unet"),
    ("vae", dict(down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"]), "AttnDown"),
    ("text_encoder", dict(num_attention_heads=5), "text_encoder"),
    ("text_encoder", dict(vocab_size=10), "text_encoder"),
    ("scheduler", dict(num_train_timesteps="many"), "num_train_timesteps"),
    ("scheduler", dict(beta_start="low"), "beta_start"),
    ("scheduler", dict(beta_schedule=None, _class_name="EDMEulerScheduler"), "EDMEulerScheduler has neither")])
def test_a_config_that_makes_no_network_is_an_error(copy, part, values, says):
    """Wrong block names, counts, widths or types: one line, no traceback of the library beneath."""
    configure(copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    refused(copy, says)


def test_a_config_of_another_width_names_a_tensor_and_both_shapes(copy):
    """A config and a file that do not belong together."""
    configure(copy / "unet" / "config.json", cross_attention_dim=48)
    refused(copy, "does not fit its config", "attn2.to_k.weight is (32, 32), not (32, 48)")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff\xfe", None])
def test_an_unreadable_config_is_named(copy, part, content):
    """Empty, cut off, no object, no text, not there: the file is named."""
    file = copy / part / "config.json"
    file.unlink() if content is None else file.write_bytes(content.encode("latin-1"))
    refused(copy, str(file))


TEXT_ = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
BUILDERS = dict(                       # part: what makes it, a config that is right, the file with its tables
    unet=(UNet, XL_UNET, unet), vae=(Autoencoder, VAE_, vae), scheduler=(Schedule.from_config, SCHEDULER, ddim),
    text_encoder=(text.text_encoder, TEXT_, text))
NEVER_RIGHT = [
    "0.5", "true", "", "\n", "a" * 10 ** 5, -1, -0.5, 10 ** 9, 10 ** 400, 1e300, math.nan, math.inf, -math.inf, {},
    {"a": 1}, [], [[]], [None], [True], [8.0], ["8"], [-1], [10 ** 9], [math.nan], [1] * 10 ** 5, [[1] * 10 ** 5],
    [[[[1]]]]]


@pytest.mark.parametrize("part, key", [(part, key) for part, (_, _, tables) in BUILDERS.items()
                                       for key in (*tables.USED, *tables.FIXED)])
def test_a_value_of_a_wrong_type_or_size_is_refused_by_its_key(part, key):
    """Of every key that is read: text or truth for numbers, numbers for truth, negative, infinite, absurd, nested."""
    build, config, tables = BUILDERS[part]
    is_flag = isinstance(tables.USED.get(key, tables.FIXED.get(key))[0], bool)
    never = 0 if is_flag else True, 1 if is_flag else False, -8.5 if key == "scaling_factor" else 8.5
    with torch.device("cpu" if part == "scheduler" else "meta"):
        build(config)
        for value in (*NEVER_RIGHT, *never):
            with pytest.raises(ValueError, match=f"its config has {key} = ") as caught:
                build({**config, key: value})
            assert str(caught.value).isprintable() and len(str(caught.value)) < 600


@pytest.mark.parametrize("part, values", [
    ("unet", dict(sample_size=[96, 64], layers_per_block=[2, 2, 1], attention_head_dim=[1, 2, 4])),
    ("unet", dict(transformer_layers_per_block=[0, [2], [4]], reverse_transformer_layers_per_block=[[4, 1], 2, 0])),
    ("unet", dict(mid_block_type=None, resnet_out_scale_factor=1.0, dropout=0.0, act_fn="swish")),
    ("vae", dict(scaling_factor=1, sample_size=[1, "x"], force_upcast=True, act_fn="swish")),
    ("vae", dict(mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False)),
    ("text_encoder", dict(num_hidden_layers=32, vocab_size=49408, model_type="clip", return_dict=False, dropout=0.1)),
    ("scheduler", dict(beta_schedule="linear", beta_start=1e-6, beta_end=0.01, set_alpha_to_one=None, _x=[[]])),
    ("scheduler", dict(trained_betas=[0.01] * 1000, timestep_spacing="linspace", prediction_type="v_prediction"))])
def test_real_values_of_every_kind_are_read(part, values):
    """The tables keep out nothing that checkpoints have, and keys that do not matter may be anything."""
    build, config, _ = BUILDERS[part]
    with torch.device("cpu" if part == "scheduler" else "meta"):
        build({**config, **values})


@pytest.mark.parametrize("content, says", [
    ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key c is there twice"), ('{"\\n\\u001b": 1, "\\n\\u001b": 1}', "twice"),
    ("[" * 10 ** 5, "recursion"), ('{"a":' * 10 ** 5, "recursion"), ('{"a": NaN}', "NaN is no number"),
    ('{"a": [-Infinity]}', "-Infinity is no number"), ('{"a": 1' + "0" * 5000 + "}", "digits")])
def test_json_that_python_would_let_pass_is_refused(tmp_path, content, says):
    """Keys that are there twice, what is no number, what is nested too deeply: one line with the file's name."""
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=says) as caught:
        read_json(tmp_path / "x.json")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'x.json'} is not readable JSON") and line.isprintable()


@pytest.mark.parametrize("file", ["vae/config.json", "scheduler/scheduler_config.json", "model_index.json",
                                  "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
def test_every_json_file_is_read_strictly(copy, file):
    """The tokenizer's too, which a library reads."""
    there = (copy / file).read_text().rstrip()[1:] if (copy / file).exists() else "}"
    (copy / file).write_text('{"twice": 1, "twice": 1' + (", " if len(there) > 1 else "") + there)
    refused(copy, f"{copy / file} is not readable JSON", "twice")


@pytest.mark.parametrize("value", ["false", 0])
def test_model_index_answers_with_true_or_false(xl_folder, tmp_path, value):
    """"false" is not false, and was taken for true."""
    copy = Path(shutil.copytree(xl_folder, tmp_path / "copy"))
    (copy / "model_index.json").write_text(json.dumps(dict(force_zeros_for_empty_prompt=value)))
    refused(copy, str(copy / "model_index.json"), "force_zeros_for_empty_prompt", "true or false")


@pytest.mark.parametrize("value", ["0.18215", 0, -1, math.inf, True, [0.18215]])
def test_a_scale_that_is_none_is_refused_where_another_vae_is_given_too(folder, copy, value):
    """Of the checkpoint's own VAE, which is not built then."""
    configure(copy / "vae" / "config.json", scaling_factor=value)
    refused(copy, str(copy / "vae" / "config.json"), "number" if value == math.inf else "scaling_factor",
            vae=folder / "vae")


# ---- files ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(copy, file, keep):
    """Cut anywhere, down to nothing: an error with the file's name."""
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[:keep])
    refused(copy, str(copy / file))


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_a_pickled_checkpoint_is_refused_with_the_reason(copy, suffix):
    """Reading a pickle can run any code; both a pickled file and a folder that has only pickles are refused for it."""
    pickled = (copy / UNET).with_suffix(suffix)
    (copy / UNET).rename(pickled)
    refused(copy, str(pickled), "pickled", "run any code")
    refused(pickled, "pickled", "run any code")


@pytest.mark.parametrize("make, says", [
    (lambda p: p / "nowhere", "no checkpoint"), (lambda p: (p / "empty").mkdir() or p / "empty", "nothing"),
    (lambda p: (p / "note.txt").write_text("x") and p / "note.txt", "note.txt"),
    (lambda p: (p / "other" / "text").mkdir(parents=True) or p / "other", "text")])
def test_a_path_that_is_no_checkpoint_says_what_is_there(tmp_path, make, says):
    """Nowhere, an empty folder, a file, some other folder."""
    path = make(tmp_path)
    refused(path, str(path), says)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_folder_is_named(copy, name):
    """Each of the five parts is needed."""
    shutil.rmtree(copy / name)
    refused(copy, f"{name}/", error=FileNotFoundError)


@pytest.mark.parametrize("name", [UNET, VAE, TEXT, "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(copy, name):
    """A part without its weights, a scheduler without its config."""
    (copy / name).unlink()
    refused(copy, Path(name).name, Path(name).parent.name, error=FileNotFoundError)


def test_a_folder_without_tokenizer_files_or_with_broken_ones_is_refused(copy):
    """Neither an empty tokenizer folder nor half a file becomes a tokenizer."""
    for file in (copy / "tokenizer").iterdir():
        file.unlink()
    refused(copy, "tokenizer", "vocab.json", error=FileNotFoundError)
    (copy / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0", "mod')
    refused(copy, str(copy / "tokenizer"))


@pytest.mark.parametrize("form", ["vocab.json and merges.txt", "tokenizer.json"])
def test_a_tokenizer_is_read_in_either_form(copy, tokenizer, form):
    """vocab.json + merges.txt, or tokenizer.json alone: the same tokens, and 77 positions though no file says so."""
    bpe = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())["model"]
    for file in (copy / "tokenizer").iterdir():
        if file.name != form:
            file.unlink()
    if form.startswith("vocab"):
        (copy / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"]))
        merges = "".join(f"{' '.join(pair)}\n" for pair in bpe["merges"])
        (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + merges)
    loaded = p2p.load(copy, "cpu").tokenizer
    prompt = "a red bicycle, watercolor"
    assert loaded(prompt).input_ids == tokenizer(prompt).input_ids and loaded.model_max_length == 77


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(copy):
    """A tokenizer of another model is found out before it asks for an embedding that is not there."""
    file = copy / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["\u263a"] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content))
    refused(copy, "tokens", "text encoder")


# ---- what makes a tokenizer CLIP's ---------------------------------------------------------------------------------

@pytest.fixture
def words(folder, tmp_path):
    """A copy of the checkpoint's tokenizer, to be spoilt."""
    return Path(shutil.copytree(folder / "tokenizer", tmp_path / "words"))


def read_words(folder, count=len(build_tokenizer())):
    """The tokenizer in a folder, for an encoder with `count` tokens."""
    tokenizer = load_tokenizer(folder)
    fit_tokenizer(tokenizer, dict(text_encoder=dict(vocab_size=count, max_position_embeddings=77)))
    return tokenizer


def refused_words(folder, *says):
    with pytest.raises(ValueError) as caught:
        read_words(folder)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600 and all(text in line for text in (str(folder), *says)), line


def change_words(folder, change, name="tokenizer.json"):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def as_words(content):
    content["model"] = dict(type="WordLevel", vocab=content["model"]["vocab"], unk_token="<|endoftext|>")


def add_word(content):
    content["added_tokens"].append(dict(content["added_tokens"][0], content="sks", id=900))


@pytest.mark.parametrize("change, says", [
    (as_words, "its merges"), (lambda t: t["model"]["merges"].clear(), "its merges"),
    (lambda t: t["model"]["merges"].pop(), "its merges"),
    (lambda t: t["model"]["vocab"].update(q=5), "the same number"),
    (lambda t: t["model"]["vocab"].pop("<|startoftext|>"), "start token <|startoftext|>"),
    (lambda t: t["model"]["vocab"].pop("<|endoftext|>"), "end token <|endoftext|>"),
    (lambda t: t["model"]["vocab"].pop("cat</w>"), "cat</w>"), (add_word, "tokens, the text encoder"),
    (lambda t: t["model"]["vocab"].update({"<|endoftext|>": 900}), "tokens, the text encoder"),
    (lambda t: t["model"]["vocab"].update(q=-1), "tokenizer"),
    (lambda t: t["model"]["vocab"].update(q="5"), "tokenizer"),
    (lambda t: t["model"].update(vocab={}), "tokenizer"), (lambda t: t.pop("model"), "tokenizer"),
    (lambda t: t.update(model=[]), "tokenizer"), (lambda t: t.update(added_tokens=5), "tokenizer")])
def test_a_tokenizer_that_is_not_clips_is_refused(words, change, says):
    """Another kind of model, merges that are cut off, numbers twice or beyond the embedding, no start or end."""
    change_words(words, change)
    refused_words(words, says)


@pytest.mark.parametrize("lines", [0, 1, 40, -1])
def test_merges_that_are_cut_off_are_refused(words, lines):
    """Half a download of merges.txt would spell words letter by letter, in silence."""
    bpe = json.loads((words / "tokenizer.json").read_text())["model"]
    (words / "tokenizer.json").unlink()
    (words / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    merges = [f"{' '.join(pair)}\n" for pair in bpe["merges"]]
    (words / "merges.txt").write_text("#version: 0.2\n" + "".join(merges))
    read_words(words)
    (words / "merges.txt").write_text("#version: 0.2\n" + "".join(merges[:lines]))
    refused_words(words, "its merges, which may be cut off, do not make its tokens")


@pytest.mark.parametrize("change", [
    dict(padding=dict(strategy=dict(Fixed=20), direction="Left", pad_to_multiple_of=None, pad_id=5, pad_type_id=0,
                      pad_token="d")),
    dict(truncation=dict(direction="Left", max_length=4, strategy="LongestFirst", stride=0)), dict(normalizer=None),
    dict(pre_tokenizer=dict(type="Whitespace")), dict(post_processor=None)])
def test_what_else_a_tokenizer_says_does_not_count(words, tokenizer, change):
    """CLIP's reading is always the same: lower case, start, words, end, and padding on the right."""
    change_words(words, lambda content: content.update(change))
    loaded = read_words(words)
    for prompt in ("", "A red  cat, a dog"):
        assert loaded(prompt).input_ids == tokenizer(prompt).input_ids
        padded = loaded(prompt, padding="max_length", max_length=77).input_ids
        assert padded == tokenizer(prompt, padding="max_length").input_ids


@pytest.mark.parametrize("values", [
    dict(padding_side="left"), dict(truncation_side="left"), dict(model_max_length=None),
    dict(model_max_length=10 ** 30), dict(do_lower_case=False, add_prefix_space=True, split_special_tokens=True),
    dict(add_bos_token=False, add_eos_token=False), dict(unk_token="cat</w>")])
def test_a_tokenizer_pads_and_reads_as_clips_whatever_its_config_says(words, folder, values):
    """On the left, the picture would be another, and maps would be counted from the wrong end."""
    change_words(words, lambda content: content.update(values), "tokenizer_config.json")
    ids = [text.tokens(read_words(path), ["a red cat", ""], 3) for path in (words, folder / "tokenizer")]
    assert torch.equal(*ids)


@pytest.mark.parametrize("key, value", [
    *(("model_max_length", value) for value in ("77", True, 77.0, 2, 0, -1, [], {}, [77])),
    *(("known_words", value) for value in ("cat", 5, {}, [1], [["cat"]], True)),
    ("bos_token", "<|endoftext|>"), ("bos_token", "cat</w>"), ("eos_token", "dog</w>"), ("eos_token", "<|stop|>"),
    ("bos_token", 5), ("eos_token", [])])
def test_a_tokenizers_config_that_makes_no_sense_is_refused(words, key, value):
    """A length that is none, a start that is a word: by its key, or by what there must be."""
    change_words(words, lambda content: content.update({key: value}), "tokenizer_config.json")
    refused_words(words, "token" if key.endswith("token") else f"{key} = {value!r}; it must be")


# ---- shards --------------------------------------------------------------------------------------------------------

def change_index(index, change):
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))


def test_shards_are_one_file(copy, model):
    """Of every part: the same tensors as the file that was split."""
    for file in (UNET, VAE, TEXT):
        shard(copy / file, shards=3)
    loaded = p2p.load(copy, "cpu")
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in getattr(loaded, part).state_dict().items():
            assert torch.equal(tensor, getattr(model, part).state_dict()[name])


@pytest.mark.parametrize("dtype, marked, halves", [
    (None, 1.0, "sharded"), ("float16", 2.0, "sharded"), ("float32", 1.0, "whole"), ("float16", 2.0, "whole")])
def test_of_two_precisions_in_shards_the_wanted_one_is_read(copy, dtype, marked, halves):
    """*.index.fp16.json beside *.index.json, or one file beside an index."""
    shutil.copy(copy / UNET, copy / "spare")
    rewrite(copy / UNET, lambda tensors: tensors["conv_in.bias"].fill_(1) is None)
    shard(copy / UNET)
    shutil.copy(copy / "spare", copy / UNET)
    rewrite(copy / UNET, lambda tensors: tensors["conv_in.bias"].fill_(2) is None)
    if halves == "sharded":
        assert shard(copy / UNET, ".fp16").name == "diffusion_pytorch_model.safetensors.index.fp16.json"
    else:
        (copy / UNET).rename((copy / UNET).with_suffix(".fp16.safetensors"))
    unet, _ = load_part("unet", copy / "unet", torch.device("cpu"), dtype and getattr(torch, dtype))
    assert (unet.conv_in.bias == marked).all()


def test_weights_that_are_there_twice_are_refused(copy):
    """One file and an index of the same precision may differ, and nothing says which is meant."""
    shutil.copy(copy / UNET, copy / "spare")
    shard(copy / UNET)
    shutil.copy(copy / "spare", copy / UNET)
    refused(copy, str(copy / "unet"), "twice", "diffusion_pytorch_model.safetensors.index.json", error=ValueError)


@pytest.mark.parametrize("change, says", [
    (lambda places: places.pop("conv_in.bias"), "does not list what its shards have, conv_in.bias"),
    (lambda places: places.update(stranger=places["conv_in.bias"]), "not in their shards, stranger"),
    (lambda places: places.update({"conv_in.bias": next(x for x in places.values() if x != places["conv_in.bias"])}),
     "not in their shards, conv_in.bias"),
    (lambda places: places.update({"conv_in.bias": "../vae/diffusion_pytorch_model.safetensors"}), "beside it"),
    (lambda places: places.update({"conv_in.bias": "x.bin"}), "beside it"),
    (lambda places: places.update({"conv_in.bias": 3}), "beside it"), (dict.clear, "beside it")])
def test_an_index_that_lies_is_refused(copy, change, says):
    """A tensor in no shard, in another one, not named; files elsewhere or of another kind."""
    index = shard(copy / UNET)
    change_index(index, change)
    refused(copy, str(index), says, error=ValueError)


def test_shards_that_are_missing_or_overlap_are_named(copy):
    """A tensor in two shards; then a shard that is not there; then the index."""
    index = shard(copy / UNET)
    first, second = sorted(copy.glob("unet/*-of-*"))
    rewrite(first, lambda tensors: tensors | dict(list(load_file(second).items())[:1]))
    refused(copy, str(index), "does not list", first.name)
    second.unlink()
    refused(copy, str(index), second.name, "missing", error=FileNotFoundError)
    index.unlink()
    refused(copy, first.name, "no index", index.name, error=FileNotFoundError)


# ---- what is no file of weights ------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, says", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    (b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", "web page"), (b"\xef\xbb\xbf <HTML>", "web page")])
def test_what_came_in_place_of_weights_is_named(copy, content, says):
    """A Git LFS pointer and a web page, in a folder, as a shard, as a single file, as a config."""
    index = shard(copy / VAE)
    first = sorted(copy.glob("vae/*-of-*"))[0]
    for file, path in ((first, copy), (copy / UNET, copy), (copy / "file.safetensors", copy / "file.safetensors"),
                       (copy / "unet/config.json", copy)):
        file.write_bytes(content)
        assert index.exists() and refused(path, f"{file} is ", says)


@pytest.mark.parametrize("key, value, says", [
    ("time_cond_proj_dim", 256, "LCM"), ("class_embed_type", "projection", "unCLIP")])
def test_kinds_that_are_not_run_are_named_by_their_config(copy, key, value, says):
    """Not only the setting, but what it means."""
    configure(copy / "unet" / "config.json", **{key: value})
    refused(copy, says, key)


@pytest.mark.parametrize("inputs, says", [(5, "depth"), (8, "instruct-pix2pix"), (9, "inpainting")])
def test_kinds_that_are_not_run_are_named_by_their_channels(copy, inputs, says):
    """Of the UNet's input."""
    rewrite(copy / UNET, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(32, inputs, 3, 3)}))
    configure(copy / "unet" / "config.json", in_channels=inputs)
    refused(copy, says, str(inputs))


def test_a_unet_that_gives_other_channels_than_it_takes_is_refused(copy):
    """As those do that predict a variance too."""
    rewrite(copy / UNET, lambda tensors: tensors.update({"conv_out.weight": torch.zeros(8, 32, 3, 3),
                                                         "conv_out.bias": torch.zeros(8)}))
    configure(copy / "unet" / "config.json", out_channels=8)
    refused(copy, "the UNet gives 8 channels for the 4 it takes")


# ---- configs of their age ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version, size, wanted", [
    ("0.8.1", 32, 64), ("0.2.2", 32, 64), ("0.9.0", 32, 32), ("0.10.2", 32, 32), (None, 32, 32), ("0.6.0", 48, 48)])
def test_a_size_of_32_meant_64_before_diffusers_0_9(copy, version, size, wanted):
    """Where the config says by which version it was written."""
    configure(copy / "unet" / "config.json", sample_size=size, _diffusers_version=version)
    assert load_part("unet", copy / "unet", torch.device("cpu"), None)[0].config["sample_size"] == wanted


@pytest.mark.parametrize("key, value, expected", [
    ("absent", None, torch.float32), ("force_upcast", None, torch.float32), ("force_upcast", False, torch.float16)])
def test_an_xl_vae_that_does_not_say_so_is_upcast(xl_folder, folder, tmp_path, key, value, expected):
    """The key came in 2023-07: until then SDXL's VAE, and it alone, is float32 in an fp16 model without it."""
    for source, wanted in ((xl_folder, expected), (folder, torch.float16))[:2 if key == "absent" else 1]:
        file = Path(shutil.copytree(source, tmp_path / source.name)) / "vae" / "config.json"
        config = {name: content for name, content in json.loads(file.read_text()).items() if name != "force_upcast"}
        file.write_text(json.dumps(config if key == "absent" else config | {key: value}))
        assert p2p.load(tmp_path / source.name, "cpu", "float16").vae.quant_conv.weight.dtype == wanted


def test_clip_skip_is_honoured_and_said(copy, model):
    """A config that names fewer layers than the file has: the last ones are skipped; but nothing else that is there."""
    configure(copy / "text_encoder" / "config.json", num_hidden_layers=1)
    loaded, ids = p2p.load(copy, "cpu"), torch.tensor([[5, 6, 7]])
    assert loaded.about == "text_encoder without the last 1 of its 2 layers, as its config says (CLIP skip)"
    with torch.no_grad():
        before = model.text_encoder(ids, output_hidden_states=True).hidden_states[1]
        norm = next(part for name, part in model.text_encoder.named_modules() if name.endswith("final_layer_norm"))
        assert torch.equal(loaded.text_encoder(ids).last_hidden_state, norm(before))
    assert model.about == ""
    rewrite(copy / TEXT, lambda tensors: tensors.update({"text_model.encoder.layers.1.stranger": torch.zeros(1)}))
    refused(copy, "layers.1.stranger", "does not describe")


# ---- a VAE from elsewhere ------------------------------------------------------------------------------------------

def test_a_vae_from_another_folder_is_taken_and_said(folder, copy, tmp_path):
    """In place of the checkpoint's own, which may be missing; the message about that names the option."""
    other = tmp_path / "other"
    shutil.copytree(folder / "vae", other)
    rewrite(other / Path(VAE).name, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    for step in ("beside its own", "alone"):
        loaded = p2p.load(copy, "cpu", vae=other)
        assert torch.equal(loaded.vae.quant_conv.weight, load_file(other / Path(VAE).name)["quant_conv.weight"]), step
        assert loaded.about == f"with the VAE of {other}"
        shutil.rmtree(copy / "vae", ignore_errors=True)
    refused(copy, "no folder vae/", "--vae", error=FileNotFoundError)


def test_a_fixed_vae_makes_an_xl_vae_of_half_precision(xl_folder, tmp_path):
    """force_upcast false in the config of the VAE that is given, as that of the fp16-fixed one."""
    configure(Path(shutil.copytree(xl_folder / "vae", tmp_path / "fixed")) / "config.json", force_upcast=False)
    assert p2p.load(xl_folder, "cpu", "float16", vae=tmp_path / "fixed").vae.quant_conv.weight.dtype == torch.float16


def test_a_vae_that_is_not_there_not_one_or_of_another_kind_is_refused(folder, xl_folder, tmp_path):
    """Nowhere; pickled; a checkpoint, a UNet; SD 1's for SDXL, whose latents are scaled otherwise."""
    refused(folder, "nowhere", "--vae", vae="nowhere", error=FileNotFoundError)
    (tmp_path / "vae.pt").write_bytes(b"\x80")
    refused(folder, "pickled", vae=tmp_path / "vae.pt")
    refused(folder, "is a whole checkpoint", str(folder / "vae"), vae=folder)
    refused(folder, str(folder / UNET), "lacks", "encoder", vae=folder / UNET)
    refused(xl_folder, str(folder / "vae"), "0.18215", "0.13025", vae=folder / "vae")


# ---- dtypes and memory ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_is_loaded_as_float32_on_the_cpu(copy, stored):
    """Stored in half precision, computed in float32: the same numbers."""
    for file in (UNET, VAE, TEXT):
        rewrite(copy / file, lambda tensors: {k: v.to(stored) for k, v in tensors.items()})
    model = p2p.load(copy, "cpu")
    assert model.dtype == torch.float32
    for part in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert torch.equal(model.unet.conv_in.weight, load_file(copy / UNET)["conv_in.weight"].float())


@pytest.mark.parametrize("dtype", [torch.float16, "float16", "bfloat16", torch.float32])
def test_a_dtype_may_be_asked_for_by_name_or_as_it_is(folder, dtype):
    """All networks have it; the VAE too, where its config does not force it up."""
    model = p2p.load(folder, "cpu", dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {model.dtype, model.vae.quant_conv.weight.dtype, next(model.text_encoder.parameters()).dtype} == {wanted}


def test_a_vae_that_overflows_in_fp16_stays_in_float32(copy):
    """force_upcast: the VAE is float32 in an fp16 model."""
    configure(copy / "vae" / "config.json", force_upcast=True)
    model = p2p.load(copy, "cpu", "float16")
    assert model.dtype == torch.float16 and model.vae.quant_conv.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype, marked", [(None, 1.0), ("float32", 1.0), ("float16", 2.0), ("bfloat16", 2.0)])
def test_of_two_files_the_one_of_the_wanted_precision_is_read(copy, dtype, marked):
    """*.fp16.safetensors beside the plain name."""
    spare = copy / "unet" / "spare"
    for file, mark in ((UNET, 1.0), (UNET.replace(".safetensors", ".fp16.safetensors"), 2.0)):
        shutil.copy(copy / UNET, spare) if mark == 1 else shutil.move(spare, copy / file)
        rewrite(copy / file, lambda tensors, mark=mark: tensors["conv_in.bias"].fill_(mark) is None)
    assert (p2p.load(copy, "cpu", dtype).unet.conv_in.bias == marked).all()


def test_a_file_of_half_precision_alone_is_found(copy):
    """*.fp16.safetensors instead of the plain name, in every part."""
    for file in (UNET, VAE, TEXT):
        (copy / file).rename((copy / file).with_suffix(".fp16.safetensors"))
    p2p.load(copy, "cpu")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's table of mapped files")
@pytest.mark.parametrize("part, file", [("unet", UNET), ("vae", VAE), ("text_encoder", TEXT)])
def test_parameters_are_the_mapped_file_where_the_dtype_agrees(folder, part, file):
    """No second copy of the weights: every parameter lies in the memory that the file is mapped to."""
    network = getattr(p2p.load(folder, "cpu"), part)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()
             if line.endswith(str(folder / file))]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    for name, parameter in network.named_parameters():
        assert any(a <= parameter.data_ptr() < b for a, b in ranges), name


def test_loaded_networks_are_in_eval_mode_without_gradients_and_whole(model):
    """Nothing is left on the meta device, nothing wants gradients."""
    for part in (model.unet, model.vae, model.text_encoder):
        assert not part.training and not any(p.requires_grad or p.is_meta for p in part.parameters())
        assert not any(buffer.is_meta for buffer in part.buffers())


@pytest.mark.parametrize("arguments, says", [
    (dict(device="nonsense"), "nonsense"), (dict(device="cuda:99"), "cuda:99"), (dict(device="meta"), "meta"),
    (dict(dtype="float64"), "float64"), (dict(dtype="nonsense"), "nonsense"),
    (dict(dtype="load"), "load"), (dict(dtype=torch.int8), "int8"), (dict(dtype=16), "16"), (dict(dtype=""), "dtype")])
def test_an_impossible_device_or_dtype_is_named(folder, arguments, says):
    """Devices that are not here and types that nobody computes in."""
    refused(folder, says, **arguments)


def test_unknown_keyword_arguments_are_errors(folder):
    """Trap 7: keyword arguments are not swallowed."""
    with pytest.raises(TypeError):
        p2p.load(folder, torch_dtype="float16")


def test_a_scheduler_of_another_name_gives_its_betas(model):
    """A folder that names PNDM: DDIM with its betas, offset and prediction; diffusers' defaults for absent keys."""
    s = model.schedule
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
    torch.testing.assert_close(s.alphas_cumprod, (1 - betas).cumprod(0))
    assert (s.offset, s.spacing, s.prediction) == (1, "leading", "epsilon")
    assert s.final_alpha == pytest.approx(1 - 0.00085)


def test_an_error_about_a_config_is_plain_text(copy):
    """One line that begins with the file: no quotes around it, no escapes in it."""
    configure(copy / "unet" / "config.json", class_embed_type="timestep")
    with pytest.raises(ValueError) as error:
        p2p.load(copy, "cpu")
    assert str(error.value) == (f"{copy / 'unet' / 'config.json'}: UNet: its config has class_embed_type = 'timestep'; "
                                "p2p_min implements None only")


def test_what_training_scripts_leave_in_a_config_does_no_harm(copy):
    """diffusers' EMA writes its bookkeeping into the UNet's config; it changes nothing that is computed."""
    configure(copy / "unet" / "config.json", decay=0.9999, inv_gamma=1.0, min_decay=0.0, optimization_step=3,
              power=0.75, update_after_step=0, use_ema_warmup=False)
    p2p.load(copy, "cpu")


@pytest.mark.parametrize("size", ["16", [16], [16, "16"], 1.5])
def test_a_size_of_its_own_that_is_none_is_an_error(copy, size):
    """sample_size is a number or [height, width]."""
    configure(copy / "unet" / "config.json", sample_size=size)
    refused(copy, "sample_size")
