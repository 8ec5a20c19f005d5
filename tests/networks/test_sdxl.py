"""SDXL, slimmed UNets and few steps: what differs from Stable Diffusion 1.x, on small random models."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizerFast

import p2p_min as p2p
from conftest import UNET, XL_UNET, assert_same, build_tokenizer, configure, differ, inject, own, sample
from conftest import refuses_to_load as refused
from p2p_min.align import tokens_of
from p2p_min.ddim import step, timesteps
from p2p_min.inversion import METHODS
from p2p_min.networks.text import Context, encode, tokens
from p2p_min.networks.unet import UNet as Network
from written_out import WrittenBlend

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]
SOURCE = PROMPTS[0]


@pytest.fixture
def copy(xl_folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(xl_folder, tmp_path / "copy"))


@pytest.fixture
def calls(xl, monkeypatch):
    """A list that every forward call of SDXL's UNet is added to."""
    seen, forward = [], xl.unet.forward

    def spy(z, timestep, context, *edits):
        seen.append(dict(z=z, timestep=timestep, context=context, edits=edits))
        return forward(z, timestep, context, *edits)
    monkeypatch.setattr(xl.unet, "forward", spy)
    return seen


def told(model, prompt, height=32, width=32):
    """A prompt's context, written out: both encoders' last layer but one, the second's pooled state, six sizes."""
    start, *words, end = model.tokenizer(prompt).input_ids
    ids = [torch.tensor([start, *words, end, *[padding] * 77])[None, :77] for padding in (end, 0)]
    first, second = model.text_encoder, model.text_encoder_2
    with torch.no_grad():
        states = [encoder(x, output_hidden_states=True).hidden_states[1] for encoder, x in zip((first, second), ids)]
        pooled = second(ids[1]).text_embeds
    return Context(torch.cat(states, dim=-1), pooled, torch.tensor([[height, width, 0, 0, height, width]]).float())


def same_context(a, b):
    return all(torch.equal(*pair) for pair in zip(a, b, strict=True))


# ---- text ----------------------------------------------------------------------------------------------------------

def test_each_encoder_has_its_own_padding_and_otherwise_the_same_tokens(xl):
    """CLIP's is padded with the end token, OpenCLIP's with "!"; so one alignment serves both."""
    first, second = (tokens(xl.tokenizer, PROMPTS, encoder.config.pad_token_id)
                     for encoder in (xl.text_encoder, xl.text_encoder_2))
    for a, b, prompt in zip(first, second, PROMPTS):
        n = len(xl.tokenizer(prompt).input_ids)
        assert torch.equal(a[:n], b[:n])
        assert set(a[n:].tolist()) == {xl.tokenizer.eos_token_id} and set(b[n:].tolist()) == {0}


def test_the_context_is_both_encoders_and_the_size(xl):
    """Also of an empty prompt, which is not a negative one."""
    for prompt in (*PROMPTS, ""):
        assert same_context(encode(xl, [prompt], 48, 32), told(xl, prompt, 48, 32))
    rows = encode(xl, PROMPTS, 48, 32)
    assert [tuple(part.shape) for part in rows] == [(3, 77, 80), (3, 40), (3, 6)]
    assert_same(rows.states[1:2], told(xl, PROMPTS[1]).states)


def test_an_empty_negative_prompt_is_zeros_and_no_other_is(xl):
    """Pooled too; the sizes stay."""
    both = encode(xl, ["", "snow"], 32, 32, is_negative=True)
    assert not both.states[0].any() and not both.pooled[0].any()
    assert_same(both.states[1:], told(xl, "snow").states)
    assert_same(both.pooled[1:], told(xl, "snow").pooled)
    assert torch.equal(both.sizes, told(xl, "").sizes.expand(2, -1))


@pytest.mark.parametrize("index, zeros", [
    (dict(force_zeros_for_empty_prompt=True), True), (dict(force_zeros_for_empty_prompt=False), False),
    ({}, True), (None, True)])
def test_model_index_says_whether_it_is_zeros(copy, index, zeros):
    """force_zeros_for_empty_prompt, true where it does not say."""
    if index is not None:
        (copy / "model_index.json").write_text(json.dumps(index))
    model = p2p.load(copy, "cpu")
    assert encode(model, [""], 32, 32, is_negative=True).states.any() != zeros


def swap_ids(bpe):
    bpe["vocab"]["cat</w>"], bpe["vocab"]["dog</w>"] = bpe["vocab"]["dog</w>"], bpe["vocab"]["cat</w>"]


def turn_merges(bpe):
    bpe["merges"].reverse()


@pytest.mark.parametrize("change", [swap_ids, turn_merges])
def test_two_tokenizers_that_differ_are_refused(copy, change):
    """In their numbers, or only in the order of their merges."""
    file = copy / "tokenizer_2" / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content["model"])
    file.write_text(json.dumps(content))
    refused(copy, "its two tokenizers differ", "one alignment cannot serve both")


def test_two_tokenizers_in_two_forms_are_the_same(copy, xl):
    """tokenizer.json here, vocab.json and merges.txt there."""
    folder = copy / "tokenizer_2"
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in bpe["merges"]))
    start = dict(content="<|startoftext|>", lstrip=False, rstrip=False, normalized=True, single_word=False)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!", "bos_token": start}))
    assert same_context(encode(p2p.load(copy, "cpu"), PROMPTS, 32, 32), encode(xl, PROMPTS, 32, 32))


MARKS = ["wow!!! a cat", "!", "a cat! ! and !!dog"]


def declare_padding(folder):
    """The tokenizer in a folder as transformers writes it once it pads with "!": as a special token of both files."""
    CLIPTokenizerFast.from_pretrained(folder, pad_token="!").save_pretrained(folder)
    assert any(token["content"] == "!" for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"])


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_typed_exclamation_mark_is_text_and_padding_is_padding(copy, tokenizer, part):
    """Also where "!" is the padding token, of the second encoder in SDXL, of the only one in SD 2.x; both encoders see
    the same words. (diffusers differs: test_parity.py.)"""
    declare_padding(copy / part)
    model = p2p.load(copy, "cpu")
    paddings = [encoder.config.pad_token_id for encoder in (model.text_encoder, model.text_encoder_2)]
    assert paddings == [0 if part == "tokenizer" else tokenizer.eos_token_id, 0]
    assert model.tokenizer.pad_token_id == paddings[0]
    for padding in paddings:
        for ids, prompt in zip(tokens(model.tokenizer, MARKS, padding).tolist(), MARKS):
            words = tokenizer(prompt).input_ids
            assert ids == words + [padding] * (77 - len(words))
    assert [tokens_of(model.tokenizer, prompt, "cat") for prompt in MARKS[::2]] == [[8], [2]]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder with the same tokenizer, which says that it pads with "a"."""
    folder = tmp_path_factory.mktemp("other")
    build_tokenizer().save_pretrained(folder)
    configure(folder / "tokenizer_config.json", pad_token="a</w>")
    return folder


@pytest.mark.parametrize("is_own_there", [True, False])
def test_another_tokenizer_leaves_each_encoder_its_padding(copy, xl, other, is_own_there):
    """tokenizer=, --tokenizer: the padding is what the encoder came with, else what its kind was trained with."""
    for folder in (copy / "tokenizer", copy / "tokenizer_2"):
        for file in () if is_own_there else folder.iterdir():
            file.unlink()
    assert same_context(encode(p2p.load(copy, "cpu", tokenizer=other), PROMPTS, 32, 32), encode(xl, PROMPTS, 32, 32))


def test_a_tokenizer_without_the_padding_is_refused(xl_folder, other, tmp_path):
    """Silence would pad with the end token."""
    file = Path(shutil.copytree(other, tmp_path / "words")) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["\u263a"] = content["model"]["vocab"].pop("!")
    file.write_text(json.dumps(content))
    refused(xl_folder, str(file.parent), "has no '!', which the text encoder uses as padding", tokenizer=file.parent)


@pytest.fixture
def taught(copy):
    """The checkpoint with a word "sks_dog" as textual inversion adds it; its encoders' configs are those of old."""
    for name in ("text_encoder", "text_encoder_2"):
        folder = copy / name.replace("text_encoder", "tokenizer")
        words = CLIPTokenizerFast.from_pretrained(folder)
        words.add_tokens("sks_dog")
        words.save_pretrained(folder)
        weights = load_file(copy / name / "model.safetensors")
        key, = (key for key in weights if key.endswith("token_embedding.weight"))
        weights[key] = torch.cat([weights[key], -weights[key][:1]])
        save_file(weights, copy / name / "model.safetensors", metadata={"format": "pt"})
        configure(copy / name / "config.json", vocab_size=len(words), bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return copy


def test_the_pooled_text_is_that_of_the_end_with_added_words_too(taught, xl):
    """Old configs have eos_token_id 2, which means the largest token: that is the added one. The tokenizer knows."""
    model = p2p.load(taught, "cpu")
    for prompt, n in (("a sks_dog on snow", 5), ("a dog", 3)):
        ids = tokens(model.tokenizer, [prompt], 0)
        with torch.no_grad():
            read = model.text_encoder_2(ids)
            ends = model.text_encoder_2.text_projection(read.last_hidden_state[:, n])
        assert ids[0, n] == model.tokenizer.eos_token_id
        torch.testing.assert_close(encode(model, [prompt], 32, 32).pooled, ends)
    assert tokens_of(model.tokenizer, "a sks_dog on snow", "sks_dog") == [2]
    for encoder in (model.text_encoder, model.text_encoder_2):
        assert encoder.config.eos_token_id == model.tokenizer.eos_token_id
        assert encoder.config.bos_token_id == model.tokenizer.bos_token_id
    assert same_context(encode(model, PROMPTS, 32, 32), encode(xl, PROMPTS, 32, 32))


def test_a_word_that_only_one_tokenizer_has_is_refused(taught, xl_folder):
    """The other encoder would see other tokens from there on."""
    shutil.rmtree(taught / "tokenizer_2")
    shutil.copytree(xl_folder / "tokenizer_2", taught / "tokenizer_2")
    refused(taught, str(taught), "its two tokenizers differ")


# ---- runs ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("negative, guidance", [("", 7.5), ("snow", 7.5), ("", 1)])
def test_the_run_is_algorithm_1(xl, negative, guidance):
    """Not square; the loop of the paper and what the UNet is told, written out, give the same latents."""
    edit, self_edit = p2p.replace(xl.tokenizer, PROMPTS[:2], 0.5), p2p.self_replace(0.5)
    ours = sample(xl, PROMPTS[:2], edit, self_edit, guidance=guidance, negative=negative, seed=3, height=48)
    z = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(3)).expand(2, -1, -1, -1)
    P = Context(*map(torch.cat, zip(*(told(xl, prompt, 48) for prompt in PROMPTS[:2]))))
    empty = told(xl, negative, 48)
    if not negative:
        empty = empty._replace(states=0 * empty.states, pooled=0 * empty.pooled)
    times = timesteps(xl.schedule, 4)
    with torch.no_grad():
        for i in range(4):
            eps = xl.unet(z, times[i], P, edit, self_edit, (4 - i) / 4)
            eps_u = xl.unet(z, times[i], empty.expand(2))
            z = step(xl.schedule, z, eps_u + guidance * (eps - eps_u), times, i)
    assert_same(ours.latents, z)
    assert ours.images[0].size == (32, 48)


@pytest.mark.parametrize("part", ["pooled", "sizes"])
def test_pooled_text_and_sizes_matter(xl, part):
    """Each changes what the UNet says."""
    z, context = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), told(xl, SOURCE)
    with torch.no_grad():
        other = context._replace(**{part: 2 * getattr(context, part)})
        assert differ(xl.unet(z, 500, other), xl.unet(z, 500, context))


def test_edits_see_sdxls_maps(xl):
    """M_star returned edits nothing, the source is untouched; there are maps at two sizes, two layers in the middle."""
    shapes = []
    look = lambda M, M_star, t: shapes.append(tuple(M.shape[:3])) or M_star
    unedited, edited = sample(xl), sample(xl, PROMPTS[:2], look, own)
    assert_same(edited.latents, unedited.latents)
    one_step = shapes[:len(shapes) // 4]
    assert sorted(set(one_step)) == [(2, 4, 4), (4, 2, 2)] and xl.unet.map_sizes(8, 8) == [(4, 4), (2, 2)]
    assert one_step.count((2, 4, 4)) == 3 and one_step.count((4, 2, 2)) == 8
    z = sample(xl, PROMPTS[:2], {"up_blocks": inject}).latents
    assert_same(z[0], unedited.latents[0])
    assert differ(z[1], unedited.latents[1])


@pytest.mark.parametrize("subtract", [None, ["river", "river", "snow"]])
def test_local_blend_is_what_the_design_says(xl, subtract):
    """The mask written independently, from recorded maps, as for Stable Diffusion 1.x."""
    words, edit = ["car", "bicycle", "red car"], p2p.auto(xl.tokenizer, PROMPTS, 0.5)

    def places(words):
        return words and [tokens_of(xl.tokenizer, prompt, word) for prompt, word in zip(PROMPTS, words)]
    recorder = WrittenBlend(edit, (4, 4), places(words), places(subtract), 0.2, (0.8, 0.9))
    expected = sample(xl, PROMPTS, recorder, blend=recorder.blend, steps=5).latents
    blend = p2p.LocalBlend(xl.tokenizer, PROMPTS, words, subtract, 0.2, (0.8, 0.9))
    assert_same(sample(xl, PROMPTS, edit, blend=blend, steps=5).latents, expected)
    assert 0.02 < torch.stack(recorder.masks).float().mean() < 0.98
    assert differ(expected, sample(xl, PROMPTS, edit, steps=5).latents)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(xl_folder, dtype):
    """The VAE, which overflows in fp16, is float32 there; zeros stay zeros; pictures come."""
    model = p2p.load(xl_folder, "cpu", dtype)
    assert {model.dtype, model.text_encoder_2.dtype} == {dtype}
    assert model.vae.quant_conv.weight.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    context = encode(model, [""], 32, 32, is_negative=True)
    assert context.states.dtype == context.pooled.dtype == dtype and not context.states.any()
    assert context.sizes.dtype == torch.float32            # 1024 and its neighbours are not in bfloat16
    edits = p2p.replace(model.tokenizer, PROMPTS[:2]), p2p.self_replace()
    assert len(sample(model, PROMPTS[:2], *edits, steps=2, guidance=2).images) == 2


@pytest.mark.parametrize("change", [lambda c: c.states, lambda c: c._replace(pooled=None), lambda c: Context(c.states)])
def test_the_unet_asks_for_a_context(xl, change):
    """Bare states, or a Context of Stable Diffusion 1.x, are not enough."""
    with pytest.raises(ValueError, match="needs pooled text and sizes .*text.encode"):
        xl.unet(torch.zeros(1, 4, 8, 8), 500, change(told(xl, SOURCE)))


def test_other_unets_take_states_or_a_context(model):
    """The states alone, or the Context that holds them and nothing else."""
    z, context = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), encode(model, [SOURCE])
    assert context.pooled is None and context.sizes is None
    with torch.no_grad():
        assert torch.equal(model.unet(z, 500, context), model.unet(z, 500, context.states))


# ---- inversion -----------------------------------------------------------------------------------------------------

def picture():
    noise = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0))
    return Image.fromarray((255 * noise).byte().numpy()).resize((48, 32), Image.BICUBIC)


@pytest.fixture(scope="module")
def inverted(xl):
    """method -> the inversion of one picture, 48 × 32, in two steps."""
    return {method: p2p.invert(xl, picture(), SOURCE, method, 2) for method in METHODS}


def edit(model, inv, **arguments):
    return p2p.prompt_to_prompt(model, PROMPTS, p2p.auto(model.tokenizer, PROMPTS), steps=2, inversion=inv, **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_unconditional_rows_see(xl, inverted, calls, method):
    """null-text: its states, with the zeros of the empty prompt pooled; negative-prompt: all of the source's; and the
    sizes of the picture, in both directions."""
    inv, states, pooled = inverted[method], *told(xl, SOURCE, 32, 48)[:2]
    edit(xl, inv)
    p2p.invert(xl, picture(), SOURCE, method, 1)
    sizes = torch.tensor([32.0, 48, 0, 0, 32, 48])
    assert all((call["context"].sizes == sizes).all() for call in calls)
    seen = Context(*(part[-2:] for part in calls[0]["context"]))     # a step's last rows
    if method == "negative-prompt":
        assert torch.equal(seen.states[0], states[0]) and torch.equal(seen.pooled[0], pooled[0])
    else:
        assert not seen.pooled.any() and seen.states.any() == (method == "null-text")


@pytest.mark.parametrize("method", METHODS)
def test_save_and_load_with_pooled_text(xl, inverted, tmp_path, method):
    """To the last bit; and so is the edit."""
    inv = inverted[method]
    inv.save(tmp_path / "it")
    again = p2p.Inversion.load(tmp_path / "it")
    assert (inv.pooled is None) == (again.pooled is None) == (method in ("ddim", "direct"))
    assert inv.pooled is None or (torch.equal(inv.pooled, again.pooled) and again.pooled.shape == (1, 40))
    assert torch.equal(edit(xl, again).latents, edit(xl, inv).latents)


def test_direct_gives_the_source_back_and_negative_prompt_cancels_guidance(xl, inverted):
    """At any guidance; the targets are other pictures."""
    z = edit(xl, inverted["direct"]).latents
    assert torch.equal(z[:1], inverted["direct"].latents[-1]) and differ(z[1], z[0]) and differ(z[2], z[0])
    unguided = edit(xl, inverted["ddim"], guidance=1).latents[0]
    assert_same(edit(xl, inverted["negative-prompt"]).latents[0], unguided, 1e-4)      # guidance makes rounding larger


def test_null_text_comes_nearer_than_ddim(xl, inverted):
    """From zeros, which its optimisation leaves."""
    far, near = ((edit(xl, inverted[method]).latents[0] - inverted[method].latents[-1]).norm()
                 for method in ("ddim", "null-text"))
    assert near < 0.95 * far and inverted["null-text"].unconditional.any()


# ---- folders -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part, values, says", [
    ("unet", dict(addition_embed_type="image"), "addition_embed_type in its config must be 'text_time', not 'image'"),
    ("unet", dict(projection_class_embeddings_input_dim=None), "unet/config.json"),
    ("unet", dict(projection_class_embeddings_input_dim=80), "add_embedding.linear_1.weight is (128, 88), not (128,"),
    ("unet", dict(addition_embed_type=None), "add_embedding"),
    ("unet", dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"), "not 'UNetMidBlock2DSimpleCrossAttn'"),
    ("unet", dict(mid_block_type=None), "mid_block"),
    ("unet", dict(cross_attention_dim=[80, 80, 80]), "must be a whole number, not [80, 80, 80]"),
    ("unet", dict(transformer_layers_per_block=[1, 2]), "transformer_layers_per_block must be one value or a list of"),
    ("unet", dict(reverse_transformer_layers_per_block=[2, 1]), "must be one value or a list of 3, not [2, 1]"),
    ("unet", dict(transformer_layers_per_block=[1, [1, 1], 2]), "must be one value or a list of 1, not [1, 1]"),
    ("unet", dict(time_cond_proj_dim=256), "must be absent or null (it is an LCM), not 256"),
    ("unet", dict(encoder_hid_dim_type="text_image_proj"), "encoder_hid_dim_type in its config must be"),
    ("text_encoder_2", dict(hidden_act="new_act"), "new_act"), ("text_encoder_2", dict(model_type="t5"), "'t5'"),
    ("text_encoder_2", dict(projection_dim=64), "text_projection.weight is (40, 48), not (64, 48)"),
    ("vae", dict(latents_mean=[0.0]), "latents_mean"), ("scheduler", dict(rescale_betas_zero_snr=True), "zero_snr")])
def test_config_with_a_value_that_is_not_implemented_or_does_not_fit(copy, part, values, says):
    """One line, with the file."""
    file = copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    configure(file, **values)
    refused(copy, says, str(copy))


@pytest.mark.parametrize("gone, says", [
    (["text_encoder", "tokenizer"], "SDXL's refiner"), (["text_encoder"], "SDXL's refiner"),
    (["tokenizer_2"], "no folder tokenizer_2/"),
    (["text_encoder_2"], "the text's width must be the UNet's, 80, not 32"),
    (["text_encoder_2/model.safetensors"], "model.safetensors"), (["tokenizer_2/tokenizer.json"], "tokenizer_2")])
def test_a_folder_that_is_not_whole_is_refused(copy, gone, says):
    """The refiner's has the second encoder only."""
    for name in gone:
        (shutil.rmtree if (copy / name).is_dir() else Path.unlink)(copy / name)
    refused(copy, says)


@pytest.mark.parametrize("of_unet", ["SDXL", "1.x"])
def test_an_sdxl_unet_and_a_second_encoder_go_together(copy, folder, of_unet):
    """Even where the widths agree by chance."""
    if of_unet == "SDXL":
        shutil.rmtree(copy / "text_encoder_2")
        network, config = XL_UNET, dict(cross_attention_dim=32)
    else:
        network, config = UNET, dict(cross_attention_dim=80)
    save(copy, network, **config)
    refused(copy, "an SDXL UNet and a second text encoder go together")


def save(path, config, **changes):
    """A UNet of random weights in place of the folder's; what it is."""
    config = {**config, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(config)
    (path / "unet" / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), path / "unet" / "diffusion_pytorch_model.safetensors")
    return network


# ---- slimmed UNets and few steps -----------------------------------------------------------------------------------

UP = dict(layers_per_block=2, reverse_transformer_layers_per_block=[[1, 3, 2], [1, 2, 1], 1])
SLIM = {                               # and how many layers attend in the middle
    "no mid block": (dict(mid_block_type=None), 0),
    "a mid block that does not attend": (dict(mid_block_type="UNetMidBlock2D"), 0),
    "own layers": (dict(UP, transformer_layers_per_block=[1, [2, 1], [1, 3]], mid_block_type="UNetMidBlock2D"), 0),
    "a mid block like the last": (dict(UP, transformer_layers_per_block=[1, [2, 1], [3, 1]]), 3)}


@pytest.mark.parametrize("slim", SLIM)
def test_slimmed_unets_are_what_their_config_says(copy, slim):
    """Layers are counted, an edit reaches every one of them, and the picture is a picture."""
    config, in_the_middle = SLIM[slim]
    save(copy, XL_UNET, **config)
    model, seen = p2p.load(copy, "cpu"), []
    names = [name for name, _ in model.unet.named_modules() if name.endswith("attn2")]
    assert sum(name.startswith("mid_block") for name in names) == in_the_middle
    if "reverse_transformer_layers_per_block" in config:
        blocks = [f"{way}.{i}." for way in ("down_blocks", "up_blocks") for i in range(3)]
        depths = [sum(name.startswith(block) for name in names) for block in blocks]
        assert depths == [0, 3, 4, 6, 4, 0]
    result = sample(model, PROMPTS[:2], lambda M, M_star, t: seen.append(t) or M_star, steps=2)
    assert len(seen) == 2 * len(names) and differ(result.latents[0], result.latents[1])
    if not in_the_middle:
        with pytest.raises(ValueError, match="no cross-attention has the prefix 'mid_block'"):
            sample(model, PROMPTS[:2], {"mid_block": inject})


@pytest.mark.parametrize("steps, times", [(1, [999]), (2, [999, 499]), (3, [999, 666, 332]), (4, [999, 749, 499, 249])])
def test_few_steps_as_turbo_models_are_used(copy, steps, times, recwarn):
    """Trailing spacing begins at pure noise; guidance 1 makes one call a step; edits are told the time as ever."""
    configure(copy / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")
    model, seen = p2p.load(copy, "cpu"), []
    forward = model.unet.forward
    model.unet.forward = lambda z, timestep, *rest: seen.append((timestep, len(z))) or forward(z, timestep, *rest)
    heard = []

    def edit(M, M_star, t):
        heard.append(t)
        return inject(M, M_star, t)
    z = sample(model, PROMPTS[:2], edit, steps=steps, guidance=1).latents
    assert seen == [(time, 2) for time in times] and not recwarn.list
    assert list(dict.fromkeys(heard)) == [(steps - i) / steps for i in range(steps)]
    if steps == 1:                                         # all the way from noise to the schedule's last level
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        alpha, alpha_to = model.schedule.alphas_cumprod[[999, 0]]
        with torch.no_grad():
            eps = forward(noise, 999, told(model, SOURCE))
        z_0 = (noise - (1 - alpha) ** 0.5 * eps) / alpha ** 0.5
        assert_same(z[:1], alpha_to ** 0.5 * z_0 + (1 - alpha_to) ** 0.5 * eps)
