"""The command line, in process: what it writes, and one line for what a model or a file cannot do."""
import dataclasses
import json
import shlex
import warnings
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.__main__ import main
from p2p_min.cli.options import parse
from p2p_min.cli.run import load
from p2p_min.pictures import png

SOURCE, TARGET = "a big car next to a river", "a big bicycle next to a river"


@pytest.fixture
def model(model):
    """As `run` loads it: few steps that begin at noise."""
    return dataclasses.replace(model, schedule=model.schedule._replace(spacing="trailing"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(*arguments) in an empty folder, with the small random model: (exit status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, steps=3):
        own = [] if "--model" in arguments else ["--model", str(folder)]
        own += ["--steps", str(steps)] if steps else []
        own += [] if "--spacing" in arguments else ["--spacing", "trailing"]
        own += [] if "--device" in arguments else ["--device", "cpu"]
        with warnings.catch_warnings():
            try:
                status = main([*map(str, arguments), *own])
            except SystemExit as stop:                     # argparse's way
                status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err
    return run


def files():
    return sorted(str(path) for path in Path().rglob("*"))


def watch(monkeypatch):
    """The prompts that a run is asked for, in a list that fills."""
    asked = []
    sample = p2p.prompt_to_prompt

    def spy(model, prompts, *edits, **arguments):
        asked.append((prompts, edits, arguments))
        return sample(model, prompts, *edits, **arguments)
    monkeypatch.setattr(p2p, "prompt_to_prompt", spy)
    return asked


# ---- what it writes ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", [TARGET, "a big red car next to a river", "a car", SOURCE])
def test_target_of_any_length(run, target):
    """Trap 6: any target is fine: equal word counts swap, others refine. Status 0, one picture, its path last."""
    status, out, err = run(SOURCE, target)
    assert status == 0 and files() == ["p2p.png"] and out.split()[-1] == "p2p.png"
    assert Image.open("p2p.png").format == "PNG"
    assert "error" not in err and "arning" not in err


def test_output_begins_with_model_and_device(run, folder):
    """The first line of the output."""
    line = run(SOURCE, TARGET)[1].splitlines()[0]
    assert str(folder) in line and "cpu" in line and "float32" in line


def test_singles_are_the_library_s(run, model):
    """--singles writes each picture, source first; they are what prompt_to_prompt generates with these arguments."""
    prompts = [SOURCE, TARGET, "a big red car next to a river"]
    args = ["--singles", "--out", "x.png", "--seed", "4", "--guidance", "3", "--negative", "snow", "--height", "40",
            "--width", "24", "--cross-steps", "0.5", "--cross-steps", "bicycle=0.2,0.9", "--self-steps", "0.3"]
    assert run(*prompts, *args)[0] == 0
    assert files() == ["x-0.png", "x-1.png", "x-2.png", "x.png"]
    cross = p2p.auto(model.tokenizer, prompts, {"default_": 0.5, "bicycle": (0.2, 0.9)})
    result = p2p.prompt_to_prompt(model, prompts, cross, p2p.self_replace(0.3), steps=3, guidance=3.0, seed=4,
                                  height=40, width=24, negative="snow")
    for i, image in enumerate(result.images):
        assert Image.open(f"x-{i}.png").tobytes() == image.tobytes()


def test_text_of_a_picture_repeats_its_edit(run):
    """The PNG's text holds all parameters and the command, which generates the same picture again."""
    run("a big café", "a red café", "--seed", "7", "--guidance", "2.5", "--reweight", "red=1.5", "--out", "first.png")
    parameters = json.loads(Image.open("first.png").text["parameters"])
    for name, value in dict(prompts=["a big café", "a red café"], seed=7, guidance=2.5, steps=3, negative="",
                            self_steps=[0, 0.4], reweight=[["red", [1.5]]], out="first.png", device="cpu",
                            dtype="torch.float32", p2p_min=p2p.__version__).items():
        assert parameters[name] == value
    assert {"model", "height", "width", "cross_steps", "blend", "subtract", "torch"} <= parameters.keys()
    command = shlex.split(parameters["command"])
    assert command[:3] == ["python", "-m", "p2p_min"]
    Path("first.png").rename("kept.png")
    assert main(command[3:]) == 0
    assert Image.open("first.png").tobytes() == Image.open("kept.png").tobytes()


def test_reweighting_is_on_top_of_the_edit(run, monkeypatch, tokenizer):
    """Of the swap here; several factors make one target each."""
    asked = watch(monkeypatch)
    assert run(SOURCE, TARGET, "--reweight", "bicycle=1,2")[0] == 0
    (prompts, (edit, _), _), = asked
    base = p2p.auto(tokenizer, prompts, {"default_": 0.8})
    assert prompts == [SOURCE, TARGET, TARGET]
    assert (edit.c == p2p.reweight(tokenizer, prompts, [{"bicycle": 1}, {"bicycle": 2}], base).c).all()
    assert (edit.base.A == base.A).all() and (edit.base.end == base.end).all()


@pytest.mark.parametrize("options, words, subtract", [
    (["--blend", "big"], ["big", "big"], None),
    (["--blend", "car", "bicycle", "--subtract", "river", "next to"], ["car", "bicycle"], ["river", "next to"]),
    (["--blend", "car", "-"], ["car", None], None)])
def test_blend_is_the_local_blend_of_its_words(run, model, options, words, subtract):
    """One word for all prompts or one per prompt; - leaves a prompt without one."""
    assert run(SOURCE, TARGET, "--singles", *options)[0] == 0
    prompts = [SOURCE, TARGET]
    blend = p2p.LocalBlend(model.tokenizer, prompts, words, subtract)
    edits = p2p.auto(model.tokenizer, prompts), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, prompts, *edits, blend=blend, steps=3)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()


@pytest.fixture
def photo(tmp_path):
    """A picture of 60 × 40 pixels, photo.png, and mask.png of the same size: its right third may change."""
    photo, mask = Image.radial_gradient("L").resize((60, 40)).convert("RGB"), Image.new("L", (60, 40))
    mask.paste(255, (40, 0, 60, 40))
    photo.save(tmp_path.parent / "photo.png")
    mask.save(tmp_path.parent / "mask.png")
    return photo, mask


@pytest.mark.parametrize("arguments, size, taken", [
    ([], None, "48 × 32"), (["--invert", "ddim", "--size", "24"], 24, "36 × 24"),
    (["--invert", "negative-prompt", "--size", "32x40"], (40, 32), "32 × 40"),
    (["--invert", "null-text"], None, "48 × 32")])
def test_image_is_inverted_and_edited(run, model, photo, arguments, size, taken):
    """--image: it is inverted as --invert says (direct), resized as the output says, and edited as the library does."""
    status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--singles", *arguments)
    assert status == 0 and f"60 × 40 taken as {taken}" in out
    assert not err or arguments == ["--invert", "null-text"] and "null-text ends" in err   # untrained, in three steps
    method = arguments[1] if arguments else "direct"
    inversion = p2p.invert(model, photo[0], SOURCE, method, 3, size=size)
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, steps=3, inversion=inversion)
    for i, image in enumerate(result.images):
        assert Image.open(f"p2p-{i}.png").tobytes() == image.tobytes()
    assert json.loads(Image.open("p2p.png").text["parameters"])["image"] == "../photo.png"


def test_mask_is_cropped_like_its_image(run, model, photo):
    """White may change; the share of the picture that may change is on the output."""
    status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--mask", "../mask.png", "--singles",
                           "--size", "32x32")
    assert status == 0 and not err and "25% of the picture may change" in out     # 60 × 40 is cropped to its middle 40
    inversion = p2p.invert(model, photo[0], SOURCE, "direct", 3, size=(32, 32))
    blend = p2p.LocalBlend(model.tokenizer, [SOURCE, TARGET], None, mask=photo[1].crop((10, 0, 50, 40)))
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, blend=blend, steps=3, inversion=inversion)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()


def test_mask_without_an_image(run, model):
    """--mask without --image, of the picture's shape; with --blend both must allow a change."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save("../half.png")
    assert run(SOURCE, TARGET, "--mask", "../half.png", "--blend", "big", "--singles")[0] == 0
    blend = p2p.LocalBlend(model.tokenizer, [SOURCE, TARGET], ["big", "big"], mask=mask)
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, blend=blend, steps=3)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()


def test_out_may_exist(run):
    """--out may exist; files beside it stay, and no unfinished file is left."""
    Path("p2p.png").write_text("old")
    Path("other.txt").write_text("mine")
    assert run(SOURCE, TARGET, "--out", "p2p.png")[0] == 0
    assert files() == ["other.txt", "p2p.png"] and Image.open("p2p.png").format == "PNG"


def test_maps_and_page_of_an_edit(run, model):
    """--maps: the sheet of all words; --page: the explorer. The picture is the one that is generated without them."""
    assert run(SOURCE, TARGET, "--out", "alone.png")[0] == 0
    status, out, err = run(SOURCE, TARGET, "--maps", "maps.png", "--page", "page.html")
    assert status == 0 and not err and out.split()[-3:] == ["p2p.png", "maps.png", "page.html"]
    assert files() == ["alone.png", "maps.png", "p2p.png", "page.html"]
    assert Image.open("p2p.png").tobytes() == Image.open("alone.png").tobytes()
    recorder = p2p.Recorder(model.tokenizer, [SOURCE, TARGET])
    result = p2p.prompt_to_prompt(model, recorder.prompts, p2p.auto(model.tokenizer, recorder.prompts),
                                  p2p.self_replace(), recorder=recorder, steps=3)
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "python -m p2p_min" in page


def data_of_page():
    return json.loads(Path("page.html").read_text(encoding="utf-8").split('type="application/json">')[1].split("</")[0])


def test_page_shows_targets_without_injection(run, model, monkeypatch):
    """One more run of the same settings, without edits; targets that differ in their weights alone are in it once."""
    asked = watch(monkeypatch)
    assert run(SOURCE, "--reweight", "big=-2,1", "--blend", "car", "--page", "page.html", "--seed", "3")[0] == 0
    (prompts, *_), (plain, edits, settings) = asked
    assert prompts == [SOURCE] * 3 and plain == [SOURCE] * 2 and not edits and settings.get("blend") is None
    assert settings["seed"] == 3 and [of["label"] for of in data_of_page()["prompts"]] == [None, "big=-2", "big=1"]
    image = p2p.prompt_to_prompt(model, plain, steps=3, seed=3).images[1]
    assert f"data:image/png;base64,{b64encode(png(image)).decode()}" in data_of_page()["without"]


@pytest.mark.parametrize("options, labels", [
    ([TARGET, "a big car", "--reweight", "big=2"], [None] * 2),
    ([TARGET, "--reweight", "big=2", "--reweight", "river=0.5"], ["big=2, river=0.5"])])
def test_page_tells_targets_apart_by_weights(run, options, labels):
    """Where all differ; otherwise they have numbers."""
    assert run(SOURCE, *options, "--page", "page.html")[0] == 0
    assert [of["label"] for of in data_of_page()["prompts"][1:]] == labels


def test_maps_of_one_prompt(run, model):
    """The picture and its maps, as the library makes them."""
    status, out, err = run(SOURCE, "--maps", "maps.png", "--page", "page.html")
    assert status == 0 and not err and files() == ["maps.png", "p2p.png", "page.html"]
    recorder = p2p.Recorder(model.tokenizer, [SOURCE])
    result = p2p.prompt_to_prompt(model, [SOURCE], None, recorder=recorder, steps=3)
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()
    assert run(SOURCE, "--page", "only.html", "--singles")[0] == 0
    assert Image.open("p2p-0.png").tobytes() == result.images[0].tobytes()


@pytest.mark.parametrize("method", ["direct", "negative-prompt"])
def test_maps_of_an_image(run, model, photo, method):
    """--image with its prompt alone: the picture as it comes back, and what its words look at."""
    status, out, err = run(SOURCE, "--image", "../photo.png", "--maps", "maps.png", "--singles", "--invert", method)
    assert status == 0 and not err and files() == ["maps.png", "p2p-0.png", "p2p.png"]
    inversion, recorder = p2p.invert(model, photo[0], SOURCE, method, 3), p2p.Recorder(model.tokenizer, [SOURCE])
    result = p2p.prompt_to_prompt(model, [SOURCE], None, recorder=recorder, steps=3, inversion=inversion)
    assert Image.open("p2p-0.png").tobytes() == result.images[0].tobytes()
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()


# ---- what it refuses -----------------------------------------------------------------------------------------------

BAD = {
    "device": (["--device", "nonsense"], "nonsense"),
    "device of a torch that is not here": (["--device", "hpu"], "'hpu' cannot be used here, but maybe cpu"),
    "device that is not here": (["--device", "cuda:99"], "cuda:99"),
    "dtype": (["--dtype", "float64"], "float64"),
    "seed below zero": (["--seed", "-1"], "seed"),
    "no steps": (["--steps", "0"], "steps"),
    "too many steps": (["--steps", "1001"], "steps"),
    "guidance nan": (["--guidance", "nan"], "guidance"),
    "height that is no multiple": (["--height", "33"], "height"),
    "size beyond all memory": (["--height", str(4 * 10 ** 9), "--width", str(4 * 10 ** 9)], "height"),
    "window of an absent word": (["--cross-steps", "dog=0.4"], "bicycle"),
    "weight of an absent word": (["--reweight", "dog=2"], "bicycle"),
    "weight nan": (["--reweight", "big=nan"], "nan"),
    "weight of a word that is not so often there": (["--reweight", "a#3=2"], "#"),
    "blend on a word of the source only": (["--blend", "car"], "bicycle"),
    "subtract on an absent word": (["--blend", "big", "--subtract", "dog"], "dog"),
    "negative too long": (["--negative", "big " * 76], "78 tokens"),
    "model that is not there": (["--model", "nowhere"], "nowhere"),
    "image that is not there": (["--image", "nowhere.png"], "nowhere.png"),
    "image without a name": (["--image", ""], "no picture"),
    "image that is no picture": (["--image", __file__], "picture"),
    "image that is an address": (["--image", "https://example.org/a.png"], "https://example.org/a.png is an address"),
    "image with a size below the factor": (["--image", "../photo.png", "--size", "3"], "size"),
    "mask that is not there": (["--mask", "nowhere.png"], "nowhere.png"),
    "mask of another size than the image": (["--image", "../photo.png", "--mask", "../black.png"], "(60, 40)"),
    "mask of another shape than the picture": (["--mask", "../mask.png"], "aspect ratio"),
    "mask without white": (["--mask", "../black.png"], "white"),
    "target too long": (["big " * 76], "78 tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, photo, case):
    """Exit status 2, one line on standard error that names what is wrong, and no file, also no unfinished one."""
    Image.new("L", (32, 32)).save("../black.png")
    arguments, says = BAD[case]
    status, out, err = run(SOURCE, TARGET, *arguments, steps=0 if "--steps" in arguments else 1)
    assert (status, err.count("\n"), files()) == (2, 1, []), err
    assert says in err and err.startswith("p2p-min: error: ")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried\nto")], ids=repr)
def test_memory_that_runs_out_says_what_to_do(run, monkeypatch, error):
    """Any other RuntimeError is a fault of ours, and shows where."""
    def raises(*_, **__):
        raise error
    monkeypatch.setattr(p2p, "prompt_to_prompt", raises)
    status, out, err = run(SOURCE, TARGET)
    assert status == 2 and err == "p2p-min: error: not enough memory; try a smaller --height and --width, or --dtype\n"

    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        run(SOURCE, TARGET)


def test_warnings_of_libraries_are_silent_and_ours_are_one_line(run, monkeypatch, model):
    """A library's warning does not reach the terminal; a warning of p2p_min's own code does."""
    def load(*arguments, **options):
        warnings.warn_explicit("not ours", FutureWarning, "torch/x.py", 1, module="torch.x")
        warnings.warn_explicit("ours", UserWarning, "p2p_min/x.py", 1, module="p2p_min.x")
        return model
    monkeypatch.setattr(p2p, "load", load)
    before = list(warnings.filters), warnings.showwarning
    status, out, err = run(SOURCE, TARGET)
    assert status == 0 and "not ours" not in err and "p2p-min: warning: ours\n" in err
    assert (list(warnings.filters), warnings.showwarning) == before    # those of a program around it are as they were


def test_words_that_the_toy_does_not_know_are_a_warning(run):
    """A "lemon cake" would be a cake of any colour, without a word. Case and commas do not make a word unknown."""
    for prompt, unknown in (("a Cake, on the GRASS", ""), ("a lemon cake with a candle", "candle, lemon, with")):
        status, _, errors = run(prompt, "a cake on the grass", "--model", "weights/toy", steps=1)
        warned = [line for line in errors.splitlines() if "does not know" in line]
        assert status == 0 and len(warned) == bool(unknown) and all(f"know {unknown};" in line for line in warned)


def test_unknown_words_of_the_negative_prompt(run):
    errors = run("a cake", "a ball", "--negative", "a zebra", "--model", "weights/toy", steps=1)[2]
    assert "this model does not know zebra; it knows a an and" in errors


@pytest.mark.parametrize("text, found", [
    ("a (big:1.3) car", "(big:1.3)"), ("a ((big)) car", "((big)"), ("a [big] car", "[big]"),
    ("a car BREAK a dog", "BREAK"), ("a car <lora:x:0.8>", "<lora:x:0.8>"), ("a (big) car: 1.3, break", None)])
def test_syntax_of_other_tools_is_one_warning(run, text, found):
    """In a prompt or the negative one: it is plain text here, and what does it."""
    for arguments in ([SOURCE, text], [SOURCE, TARGET, "--negative", text]):
        status, _, errors = run(*arguments, steps=1)
        assert status == 0 and errors.count("\n") == bool(found), errors
        assert not found or f"'{found}' in a prompt is plain text here" in errors and "--reweight WORD=C" in errors


def test_guidance_of_zero_is_a_warning(run):
    """Without guidance is 1 here, and the recipes of turbo models say 0."""
    status, _, errors = run(SOURCE, TARGET, "--guidance", "0")
    assert status == 0 and errors.count("\n") == 1 and "guidance 0 leaves the prompts out" in errors


@pytest.mark.parametrize("device, stored, asked, told", [
    ("cuda", torch.float32, None, True), ("cuda", torch.float32, "float32", False),
    ("cuda", torch.float16, None, False), ("cpu", torch.float32, None, False)])
def test_float32_on_a_gpu_is_told(model, monkeypatch, capsys, device, stored, asked, told):
    """The first line says what halves the time and the memory."""
    loaded = SimpleNamespace(unet=model.unet, device=torch.device(device), dtype=stored, path="x", about="")
    monkeypatch.setattr(p2p, "load", lambda *_, **__: loaded)
    load(parse([SOURCE, TARGET, *(["--dtype", asked] if asked else [])]))
    assert ("--dtype float16 halves time and memory" in capsys.readouterr().out) == told


def test_threads_of_a_small_model_on_the_cpu(run, monkeypatch):
    """One, unless the person has said how many: two processes that wait for each other's take ten times as long."""
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run(SOURCE, TARGET, steps=1)[0] == 0 and chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert run(SOURCE, TARGET, steps=1)[0] == 0 and chosen == [1]


def test_few_steps_far_from_noise_are_one_warning_in_each_run(run, photo):
    """The inversion and the edit have the same timesteps, which are told once; and again in the next run."""
    for _ in range(2):
        status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--spacing", "leading", steps=1)
        assert status == 0 and err.count("\n") == 1 and err.startswith("p2p-min: warning: leading spacing puts"), err
