"""What a Recorder sees of a run, that the run does not notice it, and the maps as pictures."""
import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_min as p2p
from conftest import refuses
from p2p_min.align import tokens_of
from p2p_min.ddim import alphas, timesteps
from p2p_min.maps import sheet as sheets
from p2p_min.pictures import sheet

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]
ATTENTIONS = {(8, 8): 3, (4, 4): 3, (2, 2): 1}             # cross-attentions of each size, in the model of conftest.py


def sample(model, edit, prompts=PROMPTS, steps=4, **arguments):
    return p2p.prompt_to_prompt(model, prompts, edit, steps=steps, guidance=2.0, **arguments)


@pytest.fixture
def recorder(tokenizer):
    return p2p.Recorder(tokenizer, PROMPTS, per_step=True)


def edit_of(tokenizer, prompts=PROMPTS):
    return p2p.auto(tokenizer, prompts, 0.5)


def scribble(M, M_star, t):
    """Writes into both maps."""
    M_star[..., 3] *= 2
    M.zero_()
    return M_star


# ---- the run does not notice ---------------------------------------------------------------------------------------

EDITS = {
    "none": lambda t: None,
    "auto": edit_of,
    "a plain function": lambda t: lambda M, M_star, time: M_star if time < 0.6 else M.expand_as(M_star),
    "one that writes into the maps": lambda t: scribble,
    "by prefix": lambda t: {"up_blocks": edit_of(t), "mid_block": scribble},
    "re-weighting": lambda t: p2p.reweight(t, PROMPTS, {"a": 2.0}, edit_of(t), 0.6),
    "re-weighting by prefix": lambda t: p2p.reweight(t, PROMPTS, {"a": 2.0}, {"up_blocks": edit_of(t)}, 0.6),
}


@pytest.mark.parametrize("name", EDITS)
def test_the_run_is_the_same_to_the_bit(model, tokenizer, recorder, name):
    """Whatever the edit, whether it is active or not, and with a blend that watches too."""
    edit = EDITS[name](tokenizer)
    blend = p2p.LocalBlend(tokenizer, PROMPTS, ["car", "bicycle", "car"])
    alone = sample(model, edit, self_edit=p2p.self_replace(0.5), blend=blend)
    watched = sample(model, edit, self_edit=p2p.self_replace(0.5), blend=blend, recorder=recorder)
    assert torch.equal(alone.latents, watched.latents)
    assert [calls for (_, t), (_, calls) in recorder.seen.items() if t is None] == [4 * n for n in ATTENTIONS.values()]


def test_a_blend_without_an_edit_watches_unnoticed_too(model, tokenizer):
    """LocalBlend looks by the same means: its own maps cost no rounding in the run before it acts."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS, ["car", "bicycle", "car"], start=1.0)
    assert torch.equal(sample(model, None).latents, sample(model, None, blend=blend).latents)


def test_a_run_leaves_no_trace_in_the_edit(model, tokenizer, recorder):
    edit = edit_of(tokenizer)
    assert edit.windows                                    # found when first asked for, and kept
    before = copy.deepcopy(vars(edit))
    sample(model, edit, recorder=recorder)
    assert vars(edit).keys() == before.keys()
    for name, value in vars(edit).items():
        assert torch.equal(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name]


def test_an_edit_that_writes_into_the_maps_does_not_reach_what_was_seen_before(model, tokenizer, recorder):
    """Trap 9: M and M_star are those that attention made; M_hat is what the edit left."""
    sample(model, None, recorder=recorder, steps=1)
    again = p2p.Recorder(tokenizer, PROMPTS, layers="mid_block")         # elsewhere it changes what later layers see
    sample(model, {"mid_block": scribble}, recorder=again, steps=1)
    for prompt in (0, 1, 2):
        word = again.words(prompt)[2]                      # token 3, which is written into
        seen = recorder.maps(word, prompt, size=again.size)
        np.testing.assert_allclose(again.maps(word, prompt, edited=False), seen, rtol=1e-5)
    assert again.maps("car", 2).max() > 1.5 * again.maps("car", 2, edited=False).max()


# ---- what it holds -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run(model, tokenizer):
    """(recorder, edit, all that it saw as (t, M, M_star)) of one run of a swap and a refinement."""
    edit, calls = edit_of(tokenizer), []

    def spy(M, M_star, t):
        calls.append((t, M.clone(), M_star.clone()))
        return edit(M, M_star, t)
    recorder = p2p.Recorder(tokenizer, PROMPTS, per_step=True)
    result = sample(model, spy, recorder=recorder)
    return recorder, edit, calls, result


@pytest.mark.parametrize("size", ATTENTIONS)
@pytest.mark.parametrize("word, prompt", [("river", 0), ("bicycle", 1), ("big bicycle", 1), ("a", 2), ("snow", 2),
                                          ("a#2", 0), ("<start>", 1), ("<end>", 2)])
def test_maps_are_the_averages_of_what_attention_made(run, tokenizer, size, word, prompt):
    """Of the run, each step, each head; a phrase is the sum of its tokens; M_star before the edit, M_hat after."""
    recorder, edit, calls, _ = run
    tokens = tokens_of(tokenizer, PROMPTS[prompt], word)
    for edited in (False, True):
        seen = {}
        for t, M, M_star in calls:
            if M.shape[1:3] == size:
                rows = torch.cat([M[None], edit(M, M_star, t) if edited else M_star])
                seen.setdefault(t, []).append(rows[prompt][..., tokens].sum(-1))
        steps = np.stack([np.mean([maps.numpy() for maps in of_step], 0) for of_step in seen.values()])
        # (steps, heads, height, width)
        options = dict(prompt=prompt, edited=edited, size=size)
        np.testing.assert_allclose(recorder.maps(word, **options), steps.mean((0, 1)), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(recorder.maps(word, per_step=True, **options), steps.mean(1), rtol=1e-4, atol=1e-7)
        if all(len(of_step) == 1 for of_step in seen.values()):
            heads = recorder.maps(word, per_head=True, **options)
            np.testing.assert_allclose(heads, steps.mean(0), rtol=1e-4, atol=1e-7)
        else:
            with pytest.raises(ValueError, match="of several layers, whose heads have nothing in common"):
                recorder.maps(word, per_head=True, **options)


def test_the_edit_shows_in_the_maps(run):
    """M_hat is the source's map while the swap lasts, half of the steps here, and then the target's own, M_star."""
    recorder = run[0]
    M = recorder.maps("car", per_step=True)
    M_star, M_hat = (recorder.maps("bicycle", 1, edited=edited, per_step=True) for edited in (False, True))
    assert recorder.times == [1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(M_hat[:2], M[:2], rtol=1e-4)
    np.testing.assert_array_equal(M_hat[2:], M_star[2:])
    assert abs(M_star[:2] - M[:2]).max() > 1e-3


def test_the_usual_size_is_the_one_nearest_to_16(run, tokenizer):
    recorder = run[0]
    assert recorder.sizes == [(8, 8), (4, 4), (2, 2)] and recorder.size == (8, 8) and recorder.maps("a").shape == (8, 8)
    watched = recorder_of(tokenizer, [(64, 64), (32, 32), (16, 20), (8, 10)])
    assert watched.size == (16, 20)


def recorder_of(tokenizer, sizes, **options):
    """One that was shown maps of these sizes at t = 1."""
    recorder = p2p.Recorder(tokenizer, PROMPTS[:2], **options)
    for size in sizes:
        M, M_star = torch.rand(2, *size, 77), torch.rand(1, 2, *size, 77)
        recorder.look(M, M_star, M_star, 1.0)
    return recorder


def test_memory_does_not_grow_with_the_run(model, tokenizer):
    """Without per_step there is one average a size; of its tokens, those of the prompts, not the padding."""
    recorder, held = p2p.Recorder(tokenizer, PROMPTS), []
    for steps in (1, 3):
        sample(model, edit_of(tokenizer), steps=steps, recorder=recorder)
        held.append(sum(maps.numel() for maps, _ in recorder.seen.values()))
    assert held[0] == held[1] == 5 * 2 * (64 + 16 + 4) * 10 and not recorder.predictions


def test_steps_are_kept_of_small_maps_only(tokenizer):
    """32 × 32 at most; larger ones on average."""
    recorder = recorder_of(tokenizer, [(40, 40), (32, 32)], per_step=True)
    assert {s for s, t in recorder.seen if t} == {(32, 32)} and recorder.maps("car", size=(40, 40)).shape == (40, 40)
    refuses(lambda: recorder.maps("car", size=(40, 40), per_step=True), "size must be one of [(32, 32)]", "larger maps")


def test_a_new_run_starts_anew(model, tokenizer, recorder):
    """The recorder is of the last run, also of one with other steps."""
    sample(model, scribble, steps=3, recorder=recorder)
    sample(model, edit_of(tokenizer), steps=2, recorder=recorder)
    again = p2p.Recorder(tokenizer, PROMPTS, per_step=True)
    sample(model, edit_of(tokenizer), steps=2, recorder=again)
    assert recorder.times == [1, 0.5] == list(recorder.predictions)
    assert (recorder.maps("bicycle", 1) == again.maps("bicycle", 1)).all()


def test_an_interrupted_run_leaves_nothing_in_the_next(model, tokenizer, recorder):
    """Ctrl-C in the third of four steps, and then a run from another seed."""
    def interrupted(steps, desc):
        for n, step in enumerate(steps):
            if n == 2:
                raise KeyboardInterrupt
            yield step
    with pytest.raises(KeyboardInterrupt):
        sample(model, None, recorder=recorder, progress=interrupted)
    assert recorder.times == [1, 0.75]
    again = p2p.Recorder(tokenizer, PROMPTS, per_step=True)
    for each in (recorder, again):
        sample(model, None, steps=3, seed=1, recorder=each)
    assert recorder.times == again.times == list(recorder.predictions)
    for word, prompt in (("car", 0), ("bicycle", 1)):
        for options in ({}, dict(per_step=True)):
            np.testing.assert_array_equal(recorder.maps(word, prompt, **options), again.maps(word, prompt, **options))


def test_it_sees_only_its_layers(model, tokenizer):
    recorder = p2p.Recorder(tokenizer, PROMPTS, layers="mid_block")
    sample(model, {"up_blocks": edit_of(tokenizer)}, steps=1, recorder=recorder)
    assert recorder.sizes == [(2, 2)]


def test_a_prompt_alone_can_be_watched(model, tokenizer):
    recorder = p2p.Recorder(tokenizer, ["a red car"])
    sample(model, None, ["a red car"], steps=1, recorder=recorder)
    assert recorder.words() == ["a", "red", "car"] and 0 < recorder.maps("red car").max() <= 1


def test_start_and_end_and_numbers_name_their_tokens(tokenizer):
    """The start is token 0 of every prompt, the end its own last one; "a#2" is one of the two "a"."""
    recorder, maps = p2p.Recorder(tokenizer, ["a car and a cat", "a car"]), torch.zeros(2, 1, 2, 8, 8, 77)
    for row, end in ((0, 6), (1, 3)):
        maps[row, ..., 0], maps[row, ..., end], maps[row, ..., 1] = 0.5 + row, 0.2 + row, 0.1
    recorder.look(maps[0, 0], maps[1], maps[1], 1.0)
    for row in (0, 1):
        assert np.allclose(recorder.maps("<start>", row), 0.5 + row)
        assert np.allclose(recorder.maps("<end>", row), 0.2 + row)
    assert np.allclose(recorder.maps("a#1"), 0.1) and not recorder.maps("a#2").any()
    assert "<start>" not in recorder.words()


def test_words_are_each_there_once(recorder):
    assert recorder.words() == ["a", "big", "car", "next", "to", "river"]


# ---- predictions ---------------------------------------------------------------------------------------------------

def test_what_a_step_foresees_is_where_its_noise_points(model, run):
    """z_t and z_{t-1} are the same z_0 and eps, mixed twice: the z_0 that solves both is what `watch` was shown."""
    recorder, _, _, result = run
    times, z = timesteps(model.schedule, 4), result.inversion.latents
    assert list(recorder.predictions) == recorder.times
    for i, z_0 in enumerate(recorder.predictions.values()):
        a, b = alphas(model.schedule, times, i)
        mix = torch.tensor([[a ** 0.5, (1 - a) ** 0.5], [b ** 0.5, (1 - b) ** 0.5]])
        solved = torch.einsum("ij,j...->i...", mix.inverse(), torch.stack([z[i], z[i + 1]]))[0]
        assert z_0.shape == result.latents.shape
        torch.testing.assert_close(z_0[:1], solved, rtol=1e-3, atol=1e-3 * solved.abs().max().item())


def test_watch_must_be_a_function(model):
    refuses(lambda: sample(model, None, watch="yes"), "watch must be a function")


# ---- what it refuses -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ask, says", [
    (lambda r: r.maps("dog"), "'dog' is not in the prompt 'a big car next to a river'; its words are: a, big, car"),
    (lambda r: r.maps("bicycle"), "its words are: a, big, car"),
    (lambda r: r.maps("a", 3), "prompt must be a number from 0, the source, to 2, not 3"),
    (lambda r: r.maps("a", -1), "prompt must be"),
    (lambda r: r.maps("a", size=(5, 5)), "size must be one of [(8, 8), (4, 4), (2, 2)], not (5, 5)"),
    (lambda r: r.maps("a", per_step=True, per_head=True), "one of per_step and per_head"),
    (lambda r: p2p.Recorder(r.tokenizer, "a car"), "prompts must be a list"),
    (lambda r: p2p.Recorder(r.tokenizer, PROMPTS).maps("a"), "nothing is recorded yet"),
    (lambda r: p2p.word_sheet(r, [Image.new("RGB", (8, 8))] * 2), "images must be one for each"),
])
def test_impossible_requests_say_why(run, ask, says):
    refuses(lambda: ask(run[0]), says)


def test_a_recorder_of_other_prompts_says_so_in_the_run(model, tokenizer):
    """Fewer, or as many."""
    for prompts in (PROMPTS[:2], PROMPTS[::-1]):
        recorder = p2p.Recorder(tokenizer, prompts)
        refuses(lambda: sample(model, None, steps=1, recorder=recorder), "those that its Recorder was built for")


def test_a_recorder_in_the_place_of_an_edit_is_told_where_it_belongs(model, recorder):
    for name in ("cross_edit", "self_edit", "watch"):
        refuses(lambda: p2p.prompt_to_prompt(model, PROMPTS, steps=1, **{name: recorder}), name, "recorder=")
    refuses(lambda: sample(model, {"up_blocks": recorder}), "cross_edit", "recorder=")
    refuses(lambda: sample(model, None, recorder=lambda M, M_star, t: M_star), "recorder must be a Recorder")


def test_steps_that_were_not_asked_for_are_an_error(tokenizer):
    refuses(lambda: recorder_of(tokenizer, [(8, 8)]).maps("a", per_step=True), "per_step=True")


# ---- pictures ------------------------------------------------------------------------------------------------------

def lightness(colours):
    """CIE L*, from 0 to 100."""
    x = np.asarray(colours) / 255
    x = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return np.where(x > 0.008856, 116 * np.cbrt(x) - 16, 903.3 * x)


def test_the_colours_are_even():
    """Equal steps of a map are nearly equal steps of lightness, upwards from black at 0, on either side."""
    for sign in (1, -1):
        light = lightness(sheets.colours(sign * np.linspace(0, 1, 11)))
        assert light[0] < 1 and light[-1] > 90 and np.all((np.diff(light) > 6) & (np.diff(light) < 14))
    warm, cold = sheets.colours(np.array([0.5, -0.5])).astype(int)
    assert warm[0] > warm[2] and cold[0] < cold[2]
    assert (sheets.colours(np.array([2.0, -2.0])) == sheets.colours(np.array([1.0, -1.0]))).all()


def test_a_map_lies_on_its_picture_where_it_belongs():
    """Row 0 is at the top; 0 is dark, `top` bright, half as much less so; the picture shines through."""
    values = np.zeros((4, 8), np.float32)
    values[0, 7], values[3, 0] = 1, 0.5
    light = lightness(sheets.overlay(Image.new("RGB", (160, 80), "gray"), values, 1.0))
    assert light.shape == (80, 160) and light[5, 155] > light[75, 5] + 20 and light[75, 5] > light[5, 5] + 20
    half = Image.new("RGB", (160, 80), "black")
    half.paste("white", (80, 0, 160, 80))
    light = lightness(sheets.overlay(half, values * 0, 1.0))
    assert light[40, 120] > light[40, 40] + 10


def test_all_maps_of_a_sheet_are_on_one_scale_and_it_says_which(run, monkeypatch):
    """Every word of every prompt, targets before and after the edit, over the largest number of all."""
    recorder, _, _, result = run
    drawn, said = [], []
    overlay, legend = sheets.overlay, sheets.legend
    monkeypatch.setattr(sheets, "overlay", lambda im, maps, top: drawn.append((maps, top)) or overlay(im, maps, top))
    monkeypatch.setattr(sheets, "legend", lambda text, width: said.append(text) or legend(text, width))
    page = p2p.word_sheet(recorder, result.images)
    assert len(drawn) == sum(len(recorder.words(i)) * n for i, n in ((0, 1), (1, 2), (2, 2)))
    top = max(maps.max() for maps, _ in drawn)
    assert {scale for _, scale in drawn} == {top} and f"0 to {top:.2g}" in said[0] and "blue" not in said[0]
    assert page.width > 7 * 160 and page.height > 5 * 160


def test_negative_maps_are_said_to_be_blue(model, tokenizer, monkeypatch):
    said, legend = [], sheets.legend
    monkeypatch.setattr(sheets, "legend", lambda text, width: said.append(text) or legend(text, width))
    recorder = p2p.Recorder(tokenizer, ["a car"] * 2)
    edit = p2p.reweight(tokenizer, ["a car"] * 2, {"car": -2.0})
    result = sample(model, edit, ["a car"] * 2, steps=1, recorder=recorder)
    p2p.word_sheet(recorder, result.images)
    assert "below 0 is blue" in said[0]


def test_a_notebook_shows_a_result_by_itself(run):
    """`_repr_png_` is a PNG: all pictures over their prompts."""
    result = run[3]
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.format == "PNG" and shown.size == sheet(result.images, PROMPTS).size and result.prompts == PROMPTS


def test_runs_of_one_step_are_each_their_own(model, recorder):
    """Their t is the same; each run begins the recorder anew."""
    found = []
    for seed in (0, 1, 0):
        sample(model, None, recorder=recorder, steps=1, seed=seed)
        found.append(recorder.maps("car"))
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])
