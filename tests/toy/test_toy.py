"""The model that ships: what the README's first command and the paper's examples rest on."""
import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import p2p_min as p2p
import world
from conftest import DEVICE
from p2p_min.align import tokens_of
from p2p_min.checkpoints import hub
from p2p_min.networks.text import encode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "weights" / "toy"

EXAMPLES = [["a ball on the grass", "a cake on the grass"],
            ["a castle next to a river", "children drawing of a castle next to a river"]]


@pytest.fixture(scope="module")
def toy():
    return p2p.load(FOLDER, DEVICE, "float32")


def sample(model, prompts, *edits, **arguments):
    return p2p.prompt_to_prompt(model, prompts, *edits, **{"steps": 10, "guidance": 5.0, **arguments})


def pixels(image):
    return np.asarray(image, dtype=float)


def injected(model, prompts):
    return p2p.auto(model.tokenizer, prompts, 0.8), p2p.self_replace(0.4)


def test_the_folder_is_small_and_holds_nothing_that_could_run():
    """At most 45 MiB; safetensors, json and the tokenizer's text only."""
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 45 * 2 ** 20
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}


def test_it_is_found_from_anywhere(tmp_path, monkeypatch):
    """`load()` without a path means the model in the repository, whatever the current folder is."""
    monkeypatch.chdir(tmp_path)
    assert Path(p2p.load(device="cpu").path) == FOLDER


def test_its_name_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    """Where it is missing, that is the error: a stranger's model of the same name would be another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "p2p_min" / "checkpoints" / "hub.py"))
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="weights/toy"):
        p2p.load()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_of_torch_changes_nothing(dtype):
    """Neither the seed's noise, nor the schedule, nor an edit: all say their own."""
    prompts = ["a red car", "a blue car"]

    def run():
        model = p2p.load(FOLDER, "cpu")
        edit = p2p.reweight(model.tokenizer, prompts, {"blue": 1.5}, p2p.auto(model.tokenizer, prompts, {"car": 0.3}))
        blend = p2p.LocalBlend(model.tokenizer, prompts, ["car", "car"])
        return p2p.prompt_to_prompt(model, prompts, edit, p2p.self_replace(0.4), steps=5, blend=blend).latents

    expected = run()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(run(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_generates_what_the_world_draws_at_its_size(toy):
    """128 × 128 pixels, by a VAE of factor 8 as in Stable Diffusion; a drawing comes through it nearly as it was."""
    assert toy.vae.factor == 8 and toy.size == (128, 128)
    drawing = world.render(world.sample(20_000_000, two=False, styled=False))[0]
    with torch.no_grad():
        z = toy.vae.encode(torch.from_numpy(np.array(drawing)).permute(2, 0, 1)[None].to(toy.device) / 127.5 - 1)
        seen = toy.vae.decode(z)[0].permute(1, 2, 0).cpu().numpy() * 127.5 + 127.5
    assert seen.shape == (128, 128, 3) and ((seen - pixels(drawing)) ** 2).mean() < 255 ** 2 / 10 ** 2.4    # 24 dB


def test_its_words_are_those_of_the_drawn_world(toy):
    """So that the command line can warn of others: all that captions say, and nothing else."""
    said = {word for seed in range(3000) for word in world.caption(world.sample(seed)).split()}
    assert set(toy.tokenizer.init_kwargs["known_words"]) == said


def test_an_edit_that_returns_M_star_is_the_unedited_run(toy):
    """Latents within 1e-5 of their scale, pixels within 1/255. In float64, since ten steps enlarge all rounding."""
    prompts, toy = EXAMPLES[0], copy.deepcopy(toy)
    for part in (toy.text_encoder, toy.unet, toy.vae):
        part.double()
    edited = sample(toy, prompts, lambda M, M_star, t: M_star, lambda M, M_star, t: M_star)
    plain = sample(toy, prompts)
    assert (edited.latents - plain.latents).abs().max() <= 1e-5 * plain.latents.abs().max()
    for a, b in zip(edited.images, plain.images, strict=True):
        assert np.abs(pixels(a) - pixels(b)).max() <= 1


@pytest.mark.parametrize("prompts", EXAMPLES)
def test_equal_prompts_give_equal_pictures(toy, prompts):
    """Source = target, with every kind of injection: the source again."""
    twice = prompts[:1] * 2
    a, b = sample(toy, twice, *injected(toy, twice)).images
    assert np.abs(pixels(a) - pixels(b)).max() <= 1


@pytest.mark.parametrize("prompts, seeds", [
    (EXAMPLES[0], 2), (EXAMPLES[1], 2), *(pytest.param(prompts, 8, marks=pytest.mark.long) for prompts in [
        *EXAMPLES, ["a red car on the grass", "a blue car on the grass"]])])
def test_injection_keeps_the_picture_where_the_seed_alone_does_not(toy, prompts, seeds):
    """The point of the paper: over all seeds, the edited picture is nearer to its source than the seed alone brings
    it, and it is still another picture."""
    alone, edited = [], []
    for seed in range(seeds):
        source, target = map(pixels, sample(toy, prompts, seed=seed).images)
        alone.append(np.abs(source - target).mean())
        target = pixels(sample(toy, prompts, *injected(toy, prompts), seed=seed).images[1])
        edited.append(np.abs(source - target).mean())
    assert 1 < np.mean(edited) < 0.9 * np.mean(alone)


def test_the_map_of_a_word_lies_on_what_it_names(toy):
    """Pictures drawn by the toy world, with noise on them: the object's word looks hardest inside the object.

    Chance would be the object's share of the picture.
    """
    hits, chance = [], []
    for seed in range(20_000_000, 20_000_024):             # none of them in training
        scene = world.sample(seed, two=False, styled=False)
        picture, masks = world.render(scene)
        mask = torch.from_numpy(masks["object 0"]).reshape(16, 8, 16, 8).mean((1, 3)) > 0.25
        z = toy.vae.encode(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
        alpha = toy.schedule.alphas_cumprod[500]
        prompt, seen = world.caption(scene), []
        context = encode(toy, [prompt]).states
        with torch.no_grad():
            toy.unet(alpha ** 0.5 * z + (1 - alpha) ** 0.5 * noise, 500, context,
                     lambda M, M_star, t: seen.append(M) or M_star, t=0.5)
        tokens = tokens_of(toy.tokenizer, prompt, scene.things[0].kind)
        of_word = sum(M[..., tokens].sum((0, 3)) for M in seen if M.shape[1:3] == (16, 16))
        hits.append(mask.flatten()[of_word.argmax()].item())
        chance.append(mask.float().mean().item())
    assert np.mean(hits) > 0.85 > 2 * np.mean(chance)


def test_a_result_edited_later_is_the_edit_in_one_go(toy):
    """Create first, edit later: the source's picture unchanged, the target's latents within 1e-5 of their norm."""
    prompts = EXAMPLES[0]
    together = sample(toy, prompts, *injected(toy, prompts), guidance=7.5)
    first = sample(toy, prompts[:1], guidance=7.5, seed=0)
    later = sample(toy, prompts, *injected(toy, prompts), guidance=7.5, inversion=first)
    assert later.images[0].tobytes() == first.images[0].tobytes()
    assert (later.latents - together.latents).norm() <= 1e-5 * together.latents.norm()
    assert np.abs(pixels(later.images[1]) - pixels(together.images[1])).max() <= 1


@pytest.mark.long
def test_a_picture_is_found_again_in_the_order_of_the_literature(toy):
    """A picture drawn by the toy world, 6 steps, guidance 7.5: direct gives it back exactly, null-text less than half
    as wrong as plain DDIM, which guidance leads astray; negative-prompt, which undoes the guidance, lies between."""
    scene = world.sample(20_000_001, two=False, styled=False)
    picture, prompt = world.render(scene)[0], world.caption(scene)
    wrong = {}
    for method in ("direct", "null-text", "negative-prompt", "ddim"):
        inversion = p2p.invert(toy, picture, prompt, method, steps=6, guidance=7.5)
        z = sample(toy, [prompt], inversion=inversion, steps=6, guidance=7.5).latents
        wrong[method] = float((z - inversion.latents[-1]).norm() / inversion.latents[-1].norm())
    assert wrong["direct"] == 0 and 2 * wrong["null-text"] < wrong["ddim"]
    assert wrong["null-text"] < wrong["negative-prompt"] < wrong["ddim"] and wrong["null-text"] < 0.2
