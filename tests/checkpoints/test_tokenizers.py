"""Tokenizers: CLIP's are read as CLIP's, whatever their files say; others are refused."""
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import p2p_min as p2p
from conftest import build_tokenizer, refuses
from conftest import refuses_to_load as refused
from p2p_min.checkpoints.tokenizers import fit_tokenizer, load_tokenizer
from p2p_min.networks import text


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


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
    fit_tokenizer(tokenizer, [SimpleNamespace(vocab_size=count, max_position_embeddings=77)])
    return tokenizer


def refused_words(folder, *says):
    refuses(lambda: read_words(folder), str(folder), *says)


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


def test_merges_that_are_not_utf_8_are_refused(words):
    """By the folder's name, as everything else in it."""
    bpe = json.loads((words / "tokenizer.json").read_text())["model"]
    (words / "tokenizer.json").unlink()
    (words / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (words / "merges.txt").write_bytes("#version: 0.2\n".encode("utf-16"))
    refused_words(words, "cannot be read")


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
    ("model_max_length", "77"), ("model_max_length", True), ("known_words", "cat"), ("known_words", [1]),
    ("bos_token", "<|endoftext|>"), ("bos_token", "cat</w>"), ("eos_token", "dog</w>"), ("eos_token", "<|stop|>"),
    ("bos_token", 5), ("eos_token", [])])
def test_tokenizer_config_that_makes_no_sense(words, key, value):
    """A length that is none, a start that is a word: by its key, or by what there must be."""
    change_words(words, lambda content: content.update({key: value}), "tokenizer_config.json")
    refused_words(words, "token" if key.endswith("token") else f"{key} in its config must be")
