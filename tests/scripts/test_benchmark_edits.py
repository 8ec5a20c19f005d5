"""The benchmark of edits: its measures, its two sources of items, and that a run may be killed and shared."""
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

import benchmark_edits
import drawn_scenes
import judge as judging
import measures
import p2p_min as p2p
import pie_bench
import presets
import report
import world

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "benchmark_edits.py"
FAST = ["direct", "negative-prompt"]
COUNT = 7                                      # drawn scenes, one of each kind
ALL = COUNT * (1 + 2 * len(FAST))              # results of them: the VAE's, and those of two presets


def noisy(seed, height=24, width=20):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pair():
    """Two pictures that resemble each other, and a mask of what to keep."""
    a = noisy(0)
    b = Image.fromarray((np.asarray(a) * 0.8 + np.asarray(noisy(1)) * 0.1).astype(np.uint8))
    keep = np.random.default_rng(2).random((24, 20)) > 0.4
    keep[:9] = True
    return a, b, keep


# ---- measures ------------------------------------------------------------------------------------------------------

def test_mse_and_psnr_are_of_the_masked_pictures_over_all_pixels():
    """A sum pixel by pixel: what is masked counts as equal."""
    a, b, keep = pair()
    total = 0.0
    for y in range(24):
        for x in range(20):
            for one, other in zip(a.getpixel((x, y)), b.getpixel((x, y))):
                total += ((one - other) / 255) ** 2 if keep[y, x] else 0
    error = total / (24 * 20 * 3)
    assert measures.mse(a, b, keep) == pytest.approx(error, rel=1e-9)
    assert measures.psnr(a, b, keep) == pytest.approx(10 * math.log10(1 / error), rel=1e-9)
    assert measures.psnr(a, a) == measures.MOST


def test_ssim_is_that_of_a_slow_loop():
    """Window by window, 11 × 11, with a Gaussian of 1.5 pixels; only windows that lie inside."""
    a, b, keep = pair()
    g = [math.exp(-(i - 5) ** 2 / (2 * 1.5 ** 2)) for i in range(11)]
    weights = np.outer(g, g) / sum(g) ** 2
    x, y = (np.asarray(image) / 255 * keep[..., None] for image in (a, b))
    found = []
    for channel in range(3):
        for top in range(24 - 10):
            for left in range(20 - 10):
                p, q = (z[top:top + 11, left:left + 11, channel] for z in (x, y))
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                cov = (weights * (p - mean_p) * (q - mean_q)).sum()
                variances = (weights * (p - mean_p) ** 2).sum() + (weights * (q - mean_q) ** 2).sum()
                found.append((2 * mean_p * mean_q + 1e-4) * (2 * cov + 9e-4)
                             / ((mean_p ** 2 + mean_q ** 2 + 1e-4) * (variances + 9e-4)))
    assert measures.ssim(a, b, keep) == pytest.approx(np.mean(found), rel=1e-9)
    assert measures.ssim(a, a) == pytest.approx(1)


def test_nothing_is_measured_outside_a_mask_that_is_everything():
    a, b, _ = pair()
    assert measures.outside(a, b, np.ones((24, 20), bool)) == {}


@pytest.fixture(scope="module")
def clip_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=8)
    text = dict(small, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=dict(small, image_size=32, patch_size=16), projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_similarity_is_the_cosine_of_the_embeddings(clip_folder, tokenizer):
    """Times 100 and not below 0; calculated here from the model's parts."""
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPImageProcessor.from_pretrained(clip_folder)
    score = measures.clip_similarity(clip_folder, "cpu")
    for seed, text in enumerate(["a red car", "a house in the snow", "a " * 100]):
        image = noisy(seed, 40, 48)
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=77).input_ids
        pixels = processor(image, return_tensors="pt").pixel_values
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(pixels).pooler_output)
            said = model.text_projection(model.text_model(tokens).pooler_output)
        cosine = (seen @ said.T / seen.norm() / said.norm()).item()
        assert score(image, text) == pytest.approx(max(0, 100 * cosine), abs=1e-3)


# ---- PIE-Bench -----------------------------------------------------------------------------------------------------

def runs_of(mask):
    """[start, length, ...] of a mask, row by row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.flatten().astype(int), [0]])))
    return np.stack([edges[::2], edges[1::2] - edges[::2]], 1).flatten().tolist()


def test_runs_count_pixels_row_by_row_and_the_border_is_masked():
    mask = np.zeros((5, 7), bool)
    mask[1, 3:6] = mask[2, 2] = True
    expected = mask.copy()
    expected[0] = expected[-1] = expected[:, 0] = expected[:, -1] = True
    assert (pie_bench.decode([10, 3, 16, 1], 5, 7) == expected).all()
    assert (pie_bench.decode(runs_of(mask), 5, 7) == expected).all()
    assert pie_bench.decode([30, 100], 5, 7)[-1].all()      # a run may be longer than the picture, as published


ENTRIES = {                                    # prompts, type, blended words, picture's width and height
    "000000000000": ("a [red] car", "a [blue] car", "6", "car car", 48, 48),
    "111000000001": ("a cat on the [snow]", "a cat on the [river]", "8", "", 48, 48),
    "121000000002": ("a [cat]", "a [dog]", "1", "cat puppy", 64, 48),
    "922000000003": ("a house", "[children drawing of] a house", "9", "", 48, 48)}


@pytest.fixture(scope="module")
def pie(tmp_path_factory):
    """A small folder as PIE-Bench writes it."""
    folder = tmp_path_factory.mktemp("pie")
    mapping = {}
    for n, (key, (source, target, kind, words, width, height)) in enumerate(ENTRIES.items()):
        path = folder / "annotation_images" / f"{kind}_kind" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noisy(n, 6, 6).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
        mask = np.zeros((height, width), bool)
        mask[10:30, 12:30] = True
        mask |= kind == "9"
        mapping[key] = dict(image_path=f"{kind}_kind/{key}.jpg", original_prompt=source, editing_prompt=target,
                            editing_instruction="", editing_type_id=kind, blended_word=words, mask=runs_of(mask))
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def test_items_of_pie_bench(pie):
    """Brackets are no part of prompts; words, kinds and pictures are as annotated."""
    items = {item.key: item for item in pie_bench.items(pie)}
    assert list(items) == list(ENTRIES)
    first, background, wide, style = items.values()
    assert (first.prompts, first.words, first.kind) == (["a red car", "a blue car"], ("car", "car"), "change colour")
    assert background.words == (None, None) and style.prompts[1] == "children drawing of a house"
    assert [len(pie_bench.items(pie, n)) for n in (1, 3, 99)] == [1, 3, 4]
    source, right, mask = wide.pictures(32, 4)
    assert right is None and source.size == (40, 32) and mask.shape == (32, 40)
    given = pie_bench.decode(wide.runs, 48, 64)
    assert mask.mean() == pytest.approx(given.mean(), abs=0.04)
    assert style.pictures(48, 4)[2].all() and not first.pictures(48, 4)[2].all()
    assert (first.pictures(48, 4)[2] == pie_bench.decode(first.runs, 48, 48)).all()


def test_a_word_that_the_prompt_does_not_have_is_skipped(pie, model):
    """The blend then looks at the other prompt's word alone, and no word is re-weighted."""
    item = pie_bench.items(pie)[2]
    arguments, skipped = presets.arguments(model.tokenizer, item, None, presets.PUBLISHED)
    assert skipped == ["'puppy' is not in 'a dog'"]
    rows = arguments["blend"].words
    cat = p2p.align.tokens_of(model.tokenizer, "a cat", "cat")
    assert rows[0].nonzero().flatten().tolist() == cat and not rows[1].any()
    assert not hasattr(arguments["cross_edit"], "c")


def test_the_published_protocol(pie, model):
    """50 steps, guidance 7.5, refinement even for word swaps, 0.4 and 0.6, blend on the words, the target's times 2."""
    item = pie_bench.items(pie)[0]
    arguments, _ = presets.arguments(model.tokenizer, item, None, presets.settings("published", item.kind))
    edit, blend, own = (arguments[name] for name in ("cross_edit", "blend", "self_edit"))
    base = p2p.refine(model.tokenizer, item.prompts, 0.4)
    assert (edit.base.A == base.A).all() and (edit.base.own == base.own).all() and (edit.base.end == base.end).all()
    car = p2p.align.tokens_of(model.tokenizer, item.prompts[1], "car")
    assert (edit.c[0, car] == 2).all() and (edit.c != 1).sum() == len(car) and (edit.end == base.end).all()
    assert (own.start, own.end) == (0, 0.6)
    assert (blend.words == p2p.LocalBlend(model.tokenizer, item.prompts, ["car", "car"]).words).all()
    assert [arguments[name] for name in ("steps", "guidance", "seed")] == [50, 7.5, 1234]


@pytest.mark.parametrize("change, message", [
    (dict(mask=[1]), "mask"), (dict(editing_type_id="12"), "type 12"), (dict(original_prompt=None), "not as PIE-Bench"),
    (dict(mask=None), "mask")])
def test_an_entry_that_is_not_as_published_is_told(pie, tmp_path, change, message):
    entry = json.loads((pie / "mapping_file.json").read_text())["000000000000"] | change
    (tmp_path / "mapping_file.json").write_text(json.dumps({"000000000000": entry}))
    with pytest.raises(ValueError, match=message):
        pie_bench.items(tmp_path)


# ---- drawn scenes --------------------------------------------------------------------------------------------------

def test_there_are_as_many_drawn_scenes_of_every_kind():
    """16 each; the first ones do not depend on how many there are."""
    items = drawn_scenes.items()
    kinds = [item.kind for item in items]
    assert len(items) == 112 and {kinds.count(kind) for kind in kinds} == {16} and len(set(kinds)) == 7
    assert len({item.key for item in items}) == 112 and items[:9] == drawn_scenes.items(9)


def test_captions_masks_and_words_of_drawn_scenes(model):
    """Each pair of prompts differs but for the re-weighted ones; outside the mask source and right answer are equal."""
    for item in drawn_scenes.items(42):
        source, right, mask = item.pictures(32, 4)
        assert (item.prompts[0] == item.prompts[1]) == (item.kind == "fluff") == bool(item.factors)
        assert source.size == right.size == (32, 32) and mask.shape == (32, 32) and source != right
        assert (np.asarray(source)[~mask] == np.asarray(right)[~mask]).all()
        assert mask.all() == (item.region == "style")
        if item.kind in ("object", "colour", "size", "fluff"):
            assert mask.mean() < 0.75
        assert not presets.arguments(model.tokenizer, item, mask, presets.PUBLISHED)[1]         # no word is skipped


def seen(scene):
    """A Reading of what is in the scene."""
    truth = judging.truth(scene)

    def logits(index, n):
        return torch.nn.functional.one_hot(torch.tensor([max(index, 0)]), n).float()

    colors = torch.cat([logits(int(i), len(judging.COLORS)) for i in truth.colors])[None]
    amounts = torch.tensor(truth.amounts, dtype=torch.float).clamp(min=0)[None]
    return judging.Reading(torch.tensor(truth.kinds).float()[None], colors, amounts, logits(truth.size, 3),
                           logits(truth.place, len(judging.PLACES)), logits(truth.style, len(judging.STYLES)), None,
                           None)


def test_the_judge_is_asked_for_the_edit_and_for_the_rest(monkeypatch):
    """A perfect edit is read as such; the untouched source has the rest and not the edit; another scene has little."""
    for item in drawn_scenes.items(42):
        for scene, target, kept in ((item.right, 1, 1), (item.source, 0, 1)):
            monkeypatch.setattr(judging, "read", lambda judge, images: seen(scene))
            read = item.read(None, noisy(0))
            swapped = item.kind == "object" and scene is item.source         # nobody asks for another object's colour
            assert read["target"] == target and (read["kept"] == kept or swapped)
        other = world.change(item.right, place=next(p for p in world.PLACES if p and p != item.right.place))
        monkeypatch.setattr(judging, "read", lambda judge, images: seen(other))
        read = item.read(None, noisy(0))
        assert read["target"] == 0 if item.changed == "place" else read["target"] == 1 and read["kept"] < 1


# ---- whole runs ----------------------------------------------------------------------------------------------------

def without_time(path):
    """The report, without what a clock said."""
    found = json.loads(Path(path).read_text())
    for result in found["results"]:
        result["numbers"].pop("seconds", None)
    for blocks in found["summary"].values():
        for rows in blocks.values():
            for row in rows.values():
                row.pop("seconds", None)
    return found


def same(a, b):
    """Equal but for the rounding of numbers: processes differ in their threads."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == pytest.approx(b, rel=1e-2, abs=1e-2) if isinstance(a, float) else a == b


def run(*arguments):
    return benchmark_edits.main([str(argument) for argument in arguments])


def test_pie_bench_from_end_to_end(pie, folder, clip_folder, tmp_path, capsys):
    """The published columns for every method, CLIP, the skipped word, a contact sheet; values as measured by hand."""
    out = tmp_path / "out.json"
    assert run("--pie", pie, "--model", folder, "--clip", clip_folder, "--steps", 2, "--work", tmp_path / "work",
               "--json", out, "--sheet", tmp_path / "sheet.png", "--device", "cpu") == 0
    text = capsys.readouterr().out
    assert "'puppy' is not in 'a dog'" in text and "MSE" in text and "CLIP" in text and "published" in text
    found = json.loads(out.read_text())
    assert found["skipped"] == ["121000000002: 'puppy' is not in 'a dog'"]
    results = {(r["item"], r["method"]): r["numbers"] for r in found["results"]}
    assert len(results) == len(found["results"]) == 4 * 5
    for method in benchmark_edits.ORDER:
        of_method = [results[key, method] for key in ENTRIES]
        assert all({"psnr", "mse", "ssim", "clip", "clip_edited", "rows"} <= n.keys() for n in of_method[:3])
        assert "psnr" not in of_method[3]                  # all of it may change
        row = found["summary"]["published"]["all"][method]
        assert row["psnr"] == pytest.approx(np.mean([n["psnr"] for n in of_method[:3]])) and row["count"] == 4
    assert results["000000000000", "direct"]["rows"] == 2 + 2 * 3      # inversion, and 1 + 2n rows a step
    assert results["000000000000", "ddim"]["rows"] == 2 + 2 * 4
    for key in ENTRIES:
        assert results[key, "direct"]["reconstruction"] == results[key, "vae"]["reconstruction"]
    assert Image.open(tmp_path / "sheet.png").size[0] > 100
    assert not [file for file in tmp_path.rglob("*") if "part" in file.suffix]

    model, item = p2p.load(folder, "cpu"), pie_bench.items(pie)[1]
    source, _, mask = item.pictures(32, 4)
    inversion = p2p.invert(model, source, item.prompts[0], "ddim", 2)
    edited = p2p.prompt_to_prompt(model, item.prompts, p2p.refine(model.tokenizer, item.prompts, 0.4),
                                  p2p.self_replace(0.6), steps=2, guidance=7.5, inversion=inversion).images[1]
    keep = ~mask[..., None]
    error = (((np.asarray(source) / 255 - np.asarray(edited) / 255) * keep) ** 2).mean()
    assert results[item.key, "ddim"]["mse"] == pytest.approx(error, rel=1e-3)


@pytest.fixture(scope="module")
def drawn(folder, tmp_path_factory):
    """What to add to a command line to edit drawn scenes with the random model and a random judge; and a whole run."""
    path = tmp_path_factory.mktemp("drawn")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judging.save(judging.Judge(), path / "judge.safetensors")
    arguments = ["--model", folder, "--judge", path / "judge.safetensors", "--count", COUNT, "--steps", 2,
                 "--device", "cpu", "--methods", *FAST, "--preset", "ours", "published"]
    assert run(*arguments, "--work", path / "work", "--json", path / "whole.json") == 0
    return list(map(str, arguments)), path


def test_a_run_on_drawn_scenes(drawn, capsys):
    """Every measure for every method and preset, by kind; the table shows them."""
    arguments, path = drawn
    assert run(*arguments, "--work", path / "work", "--sheet", path / "sheet.png") == 0
    text = capsys.readouterr().out
    for word in ("ours", "published", "VAE alone", "direct", "negative-prompt", "target", "kept", *drawn_scenes.EDITS):
        assert word in text
    found = json.loads((path / "whole.json").read_text())
    assert len(found["results"]) == ALL
    for preset in ("ours", "published"):
        for kind in drawn_scenes.EDITS:
            for method, row in found["summary"][preset][kind].items():
                assert row["count"] == 1 and {"reconstruction", "target", "kept"} <= row.keys()
                assert ("right" in row) == (kind in ("colour", "background"))
                assert ("psnr" in row) == (kind != "style") and ("rows" in row) == (method != "vae")


def test_an_inversion_serves_all_presets(drawn, tmp_path, monkeypatch):
    """One inversion for each item and method, though two presets were asked for."""
    made = []
    invert = p2p.invert
    monkeypatch.setattr(p2p, "invert", lambda *a, **k: made.append(a[3]) or invert(*a, **k))
    assert run(*drawn[0], "--count", 2, "--work", tmp_path) == 0
    assert made == FAST * 2


def command(arguments, work):
    return [sys.executable, str(SCRIPT), *arguments, "--work", str(work)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def results(work):
    return {file: file.stat().st_mtime_ns for file in Path(work).glob("*-*.json")}


@pytest.mark.long
def test_a_killed_run_goes_on_where_it_was(drawn, tmp_path, monkeypatch):
    """Killed for good in the middle: started again, it makes what is missing and nothing else, and reports the same."""
    arguments, path = drawn
    work = tmp_path / "work"
    process = subprocess.Popen(command(arguments, work), env=environment(), stdout=subprocess.DEVNULL)
    try:
        while len(results(work)) < 6 and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = results(work)
    assert 6 <= len(before) < ALL
    made = []
    written = benchmark_edits.store.write_json
    monkeypatch.setattr(benchmark_edits.store, "write_json", lambda file, obj: (made.append(file), written(file, obj)))
    assert run(*arguments, "--work", work, "--json", tmp_path / "resumed.json") == 0
    assert same(without_time(tmp_path / "resumed.json"), without_time(path / "whole.json"))
    after = results(work)
    assert len(after) == ALL and {file: after[file] for file in before} == before
    assert len(made) == ALL - len(before) + 1               # and the report
    assert not [file for file in work.iterdir() if file.suffix == ".part"]


@pytest.mark.long                              # this one and the next start two processes each
def test_processes_share_the_work(drawn, tmp_path):
    """torchrun with one folder: the same numbers, each result made once."""
    arguments, path = drawn
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, *command(arguments, tmp_path / "work")[1:], "--json", str(tmp_path / "shared.json")],
        env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and f"{ALL} results, 0 of them" in done.stdout
    assert same(without_time(tmp_path / "shared.json"), without_time(path / "whole.json"))


@pytest.mark.long
def test_machines_need_no_folder_in_common(drawn, tmp_path):
    """Each with its own, and some results already there, one of them twice: all are used, and counted once."""
    arguments, path = drawn
    files = sorted(results(path / "work"))
    for rank, part in enumerate((files[:15], files[14:30])):
        (tmp_path / f"work{rank}").mkdir()
        for file in (*part, path / "work" / "settings.json"):
            (tmp_path / f"work{rank}" / file.name).write_bytes(file.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [subprocess.Popen(
        [*command(arguments, tmp_path / f"work{rank}"), "--json", str(tmp_path / f"out{rank}.json")], text=True,
        stdout=subprocess.PIPE, env={**environment(), "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2",
                                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in range(2)]
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert f"{ALL} results, 30 of them done already" in texts[0]
    assert all(line.startswith("[Gloo]") for line in texts[1].splitlines())    # torch's own; of ours, one speaks
    assert not (tmp_path / "out1.json").exists()
    assert same(without_time(tmp_path / "out0.json"), without_time(path / "whole.json"))
    own = [set(file.name for file in results(tmp_path / f"work{rank}")) for rank in range(2)]
    assert len(own[0] | own[1]) == ALL and len(own[0] & own[1]) == 1


def test_more_items_and_presets_reuse_what_there_is(drawn, tmp_path, capsys):
    """--count and --preset may grow, and the table may be asked for again."""
    arguments = [*drawn[0][:-3], "--work", tmp_path]
    for count, preset, line in ((1, ["ours"], "3 results, 0 of"), (2, ["ours"], "6 results, 3 of"),
                                (2, ["published", "ours"], "10 results, 6 of")):
        assert run(*arguments, "--count", count, "--preset", *preset) == 0
        assert line in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["--steps", 3], "ours, object = "), (["--dtype", "bfloat16"], "dtype = torch.float32, not torch.bfloat16"),
    (["--count", 0], "--count"), (["--sheet", "x.jpg"], ".png"), (["--json", "nowhere/x.json"], "nowhere"),
    (["--model", "nowhere"], "no checkpoint"), (["--preset", "best"], "best"), (["--pie", "nowhere"], "not PIE-Bench"),
    (["--pie", "nowhere", "--model", None], "--model"), (["--clip", "nowhere"], "CLIP"), (["--steps", 0], "steps")])
def test_what_cannot_be_done_is_told_in_one_line(drawn, arguments, message, capsys, tmp_path):
    """Exit status 2 and one line; a folder of results that were made otherwise is not mixed with new ones."""
    own, path = drawn
    if None in arguments:
        own, arguments = own[2:], arguments[:-2]
    work = tmp_path if arguments == ["--steps", 0] else path / "work"
    before = results(path / "work")
    assert run(*own, "--work", work, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("benchmark_edits: error: ")
    assert results(path / "work") == before


def test_without_the_judge_the_rest_is_measured(drawn, tmp_path, capsys):
    assert run(*drawn[0], "--count", 1, "--judge", tmp_path / "none", "--work", tmp_path) == 0
    text = capsys.readouterr().out
    assert "without the judge" in text and "others" not in text.split("source:")[0]


def test_a_mask_of_ones_own_is_one_of_the_settings(model):
    """blend="mask" keeps what lies outside the item's mask."""
    item = drawn_scenes.items(1)[0]
    mask = item.pictures(32, 4)[2]
    arguments, _ = presets.arguments(model.tokenizer, item, mask, presets.OURS | dict(blend="mask"))
    assert (np.asarray(arguments["blend"].mask) > 0).tolist() == mask.tolist() and arguments["blend"].words is None


def test_means_leave_out_what_was_not_measured():
    three = [dict(numbers=dict(psnr=1.0)), dict(numbers=dict(psnr=3.0, ssim=0.5)), dict(numbers={})]
    assert report.means(three) == dict(count=3, psnr=2.0, ssim=0.5)


def test_the_round_trip_of_ddim(drawn, tmp_path, capsys):
    """A line for each number of steps, and no results; nonsense is told in one line."""
    arguments, work = drawn[0], tmp_path / "work"
    assert run(*arguments, "--work", work, "--round-trip", "1", "3") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [line[0] for line in lines] == ["1", "3"] and all(float(number) > 0 for line in lines for number in line)
    assert not work.exists()
    assert run(*arguments, "--work", work, "--round-trip", "0") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
