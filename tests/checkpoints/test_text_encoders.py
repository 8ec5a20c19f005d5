"""Text encoders as people have them: textual inversions of several vectors, projections, whole CLIP models."""
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast

import p2p_min as p2p
from conftest import refuses, sample
from p2p_min.align import align_swap, tokens_of, words
from p2p_min.networks.text import encode, spans, tokens

VECTORS = dict([("<x>", 3), ("<MyCat>", 2), ("sks", 2), ("<one>", 1)])
PROMPTS = ["a <x> and a dog", "a <MyCat> and a dog"]
CLOSE = 1e-5                           # relative, to diffusers


def names_of(word):
    return [word, *(f"{word}_{n}" for n in range(1, VECTORS[word]))]


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module", params=["folder", "xl_folder"])
def taught(request, tmp_path_factory):
    """A checkpoint with textual inversions, as diffusers saves them: <x>, <x>_1, <x>_2."""
    path = Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path_factory.mktemp("taught") / "model"))
    for n, encoder in enumerate(sorted(path.glob("text_encoder*"))):
        words = CLIPTokenizerFast.from_pretrained(path / encoder.name.replace("text_encoder", "tokenizer"))
        words.add_tokens([name for word in VECTORS for name in names_of(word)])
        words.save_pretrained(path / encoder.name.replace("text_encoder", "tokenizer"))
        model = (CLIPTextModelWithProjection if n else CLIPTextModel).from_pretrained(encoder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n)
            model.resize_token_embeddings(len(words), mean_resizing=False)
            new = model.get_input_embeddings().weight.data[-sum(VECTORS.values()):]
            torch.nn.init.normal_(new)
        model.save_pretrained(encoder)
    return path


def theirs(path, prompt, negative):
    """(states, pooled) of both prompts, by diffusers on the same folder."""
    diffusers = pytest.importorskip("diffusers")
    build = dict(text_encoder=CLIPTextModel, text_encoder_2=CLIPTextModelWithProjection)
    parts = {folder.name: build[folder.name].from_pretrained(folder) for folder in path.glob("text_encoder*")}
    parts |= {folder.name: CLIPTokenizerFast.from_pretrained(folder) for folder in path.glob("tokenizer*")}
    if "text_encoder_2" in parts:
        pipe = diffusers.StableDiffusionXLPipeline(vae=None, unet=None, scheduler=None, **parts, add_watermarker=False)
        a, b, pooled_a, pooled_b = pipe.encode_prompt(prompt, device="cpu", negative_prompt=negative)
        return (a, pooled_a), (b, pooled_b)
    pipe = diffusers.StableDiffusionPipeline(vae=None, unet=None, scheduler=None, **parts, safety_checker=None,
                                             feature_extractor=None, requires_safety_checker=False)
    a, b = pipe.encode_prompt(prompt, "cpu", 1, True, negative)
    return (a, None), (b, None)


def ours(model, prompt, is_negative=False):
    context = encode(model, [prompt], 32, 32, is_negative)
    return context.states, context.pooled


@pytest.mark.parametrize("prompt, negative", [
    ("a <x> and a dog", "a car"), ("a car", "<x> dog"), ("<x>", "sks on snow"), ("a <one> and a sks", "<x>, <one>")])
def test_every_vector_of_a_textual_inversion_is_read_as_in_diffusers(taught, prompt, negative):
    """In the prompt and in the negative one; of one, two and three vectors."""
    model = p2p.load(taught, "cpu")
    for (states, pooled), (expected, expected_pooled) in zip(
            (ours(model, prompt), ours(model, negative, True)), theirs(taught, prompt, negative)):
        assert error(states, expected) <= CLOSE
        assert pooled is None or error(pooled, expected_pooled) <= CLOSE


def test_a_name_with_capitals_has_all_its_vectors_too(taught):
    """diffusers replaces its lower-case form in the prompt, where it is not. Any case is the same word."""
    model = p2p.load(taught, "cpu")
    added = model.tokenizer.get_added_vocab()
    for prompt in ("a <MyCat> on snow", "a <mycat> on snow"):
        start, a, on, snow, end = (model.tokenizer(word).input_ids[i] for word, i in (
            ("", 0), ("a", 1), ("on", 1), ("snow", 1), ("", 1)))
        ids = [start, a, added["<MyCat>"], added["<MyCat>_1"], on, snow, end]
        assert tokens(model.tokenizer, [prompt], end)[0].tolist() == ids + [end] * (77 - len(ids))
        with torch.no_grad():
            read = model.text_encoder(torch.tensor([ids + [end] * (77 - len(ids))]), output_hidden_states=True)
        expected = read.last_hidden_state if model.text_encoder_2 is None else read.hidden_states[-2]
        assert error(ours(model, prompt)[0][..., :32], expected) <= CLOSE


def test_vectors_that_are_written_out_are_read_once(taught):
    """As people wrote them who knew that only the first was used."""
    model = p2p.load(taught, "cpu")
    a, b = (tokens(model.tokenizer, [prompt], 5) for prompt in ("a <x> cat", "a <x> <x>_1 <x>_2 cat"))
    assert torch.equal(a, b)


def test_a_textual_inversion_is_one_word_with_all_its_tokens(taught):
    """For maps, weights, blends and alignments; each token has the place of the word."""
    words_of = p2p.load(taught, "cpu").tokenizer
    assert tokens_of(words_of, PROMPTS[0], "<x>") == [2, 3, 4] and tokens_of(words_of, PROMPTS[0], "dog") == [7]
    assert tokens_of(words_of, PROMPTS[1], "<mycat>") == [2, 3]
    assert tokens_of(words_of, "a sks dog", "sks dog") == [2, 3, 4]
    assert spans(words_of, PROMPTS[0])[1:6] == [(0, 1), (2, 5), (2, 5), (2, 5), (6, 9)]
    assert [piece.text for piece in words(words_of, PROMPTS[0])] == ["a", "x", "and", "a", "dog"]
    A = align_swap(words_of, *PROMPTS).A
    assert torch.equal(A[2:5, 2:4], torch.full((3, 2), 0.5)) and A[7, 6] == 1


def test_a_textual_inversion_in_edits_blends_and_maps(taught):
    """A swap from one to another, re-weighted, blended and recorded; its map is that of its three tokens."""
    model = p2p.load(taught, "cpu")
    edit = p2p.reweight(model.tokenizer, PROMPTS, {"<MyCat>": 2.0}, p2p.auto(model.tokenizer, PROMPTS))
    recorder = p2p.Recorder(model.tokenizer, PROMPTS)
    blend = p2p.LocalBlend(model.tokenizer, PROMPTS, ["<x>", "<MyCat>"])
    result = sample(model, PROMPTS, edit, steps=2, blend=blend, recorder=recorder, negative="<x>")
    assert result.latents.isfinite().all() and recorder.maps("<x>").min() >= 0
    plain = sample(model, PROMPTS, edit, steps=2, blend=blend)
    assert not torch.equal(plain.latents, result.latents)              # the negative prompt counts


def test_a_prompt_of_too_many_vectors_is_refused(taught):
    """The vectors count as tokens."""
    model = p2p.load(taught, "cpu")
    encode(model, ["<x> " * 25], 32, 32)
    refuses(lambda: encode(model, ["<x> " * 26], 32, 32), "80 tokens and the model reads 77", "<x>")


# ---- more than a text encoder --------------------------------------------------------------------------------------

def whole_clip(encoder, width):
    """A CLIPModel around a text encoder's weights, saved in its place."""
    text = CLIPTextModel.from_pretrained(encoder)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8,
                  patch_size=4)
    clip = CLIPModel(CLIPConfig(text_config=text.config.to_dict(), vision_config=vision, projection_dim=width))
    stored = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    clip.text_model.load_state_dict(stored)
    shutil.rmtree(encoder)
    clip.save_pretrained(encoder)


def projected(encoder, width):
    """The same encoder with a projection, saved in its place."""
    tensors = load_file(encoder / "model.safetensors")
    save_file(tensors | {"text_projection.weight": torch.randn(width, 32)}, encoder / "model.safetensors",
              metadata=dict(format="pt"))


@pytest.mark.parametrize("save", [projected, whole_clip])
def test_an_encoder_with_a_projection_or_a_vision_tower_is_the_text_encoder_in_it(folder, model, tmp_path, save):
    """What is not text is left out by its name; the states are diffusers'."""
    path = Path(shutil.copytree(folder, tmp_path / "model"))
    save(path / "text_encoder", 24)
    assert any("projection" in name for name in load_file(path / "text_encoder" / "model.safetensors"))
    states = ours(p2p.load(path, "cpu"), "a red car")[0]
    assert error(states, ours(model, "a red car")[0]) <= CLOSE
    assert error(states, theirs(path, "a red car", "")[0][0]) <= CLOSE


def test_sdxls_second_encoder_keeps_its_projection_and_leaves_out_the_vision(xl_folder, xl, tmp_path):
    """Of a whole CLIP model only the text and its projection are read."""
    path = Path(shutil.copytree(xl_folder, tmp_path / "model"))
    file = path / "text_encoder_2" / "model.safetensors"
    more = {"logit_scale": torch.tensor(1.0), "vision_model.embeddings.class_embedding": torch.randn(4),
            "visual_projection.weight": torch.randn(4, 4)}
    save_file(load_file(file) | more, file, metadata=dict(format="pt"))
    for a, b in zip(ours(p2p.load(path, "cpu"), "a red car"), ours(xl, "a red car")):
        assert error(a, b) <= CLOSE
