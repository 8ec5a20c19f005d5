"""Which token answers to which: words, word swaps, added phrases, padding."""
import pytest
import torch

from conftest import build_tokenizer
from p2p_min import LocalBlend, auto, refine, replace, reweight
from p2p_min.align import align_refine, align_swap, find_words, normal_form, pieces, spans, tokens_of, words

LENGTH = 77


def sources(alignment, j):
    """{source position: share} of the target position j; None for a word that keeps its own map."""
    column = {i: round(x, 6) for i, x in enumerate(alignment.A[:, j].tolist()) if x}
    assert bool(column) != bool(alignment.own[j])
    return column or None


# ---- words ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt, word, positions", [
    ("a big burger, red", "burger", [3]),
    ("a big burger, red", "burger,", [3]),
    ("a big burger.", "burger", [3]),
    ('a "big" burger', "big", [3]),
    ("a Cat", "cat", [2]),
    ("a cat", "CAT", [2]),
    ("a  big   cat", "cat", [3]),
    (" a cat ", "cat", [2]),
    ("a\tbig\ncat", "cat", [3]),
])
def test_punctuation_case_and_spaces_do_not_hide_a_word(tokenizer, prompt, word, positions):
    """Trap 2: with split(" "), "burger," and "Cat" and words after double spaces are missed."""
    assert tokens_of(tokenizer, prompt, word) == positions


@pytest.mark.parametrize("prompt, phrase, positions", [
    ("a red bicycle", "bicycle", [3, 4]),
    ("a watercolor of a car", "watercolor", [2, 3, 4]),
    ("a cat and a cat", "cat", [2, 5]),
    ("a big red car", "red car", [3, 4]),
    ("a big, red car", "big red", [2, 4]),
    ("a red bicycle and a red bicycle", "red  Bicycle", [2, 3, 4, 7, 8, 9]),
    ("a red car and a blue car", "blue car", [6, 7]),
])
def test_all_tokens_of_a_word_or_phrase_are_found_wherever_it_stands(tokenizer, prompt, phrase, positions):
    """Words of several tokens, repeated words and phrases are found whole, and nothing else with them."""
    assert tokens_of(tokenizer, prompt, phrase) == positions


@pytest.mark.parametrize("absent", ["dog", "cats", "ca", "cat red", "", ","])
def test_an_absent_word_is_an_error_that_names_the_words_there_are(tokenizer, absent):
    """Trap 2: an absent word must not be silently ignored; a part of a word is not that word."""
    with pytest.raises(ValueError, match="red, cat") as error:
        tokens_of(tokenizer, "red Cat", absent)
    assert repr(absent) in str(error.value)


@pytest.mark.parametrize("build", [
    lambda t, p: replace(t, p, {"default_": 0.8, "dog": 0.4}),
    lambda t, p: refine(t, p, {"dog": 0.4}),
    lambda t, p: auto(t, p, {"dog": 0.4}),
    lambda t, p: reweight(t, p, {"dog": 2.0}),
    lambda t, p: LocalBlend(t, p, ["car", "dog"]),
    lambda t, p: LocalBlend(t, p, ["car", "cat"], subtract=["dog", "red"]),
])
def test_every_builder_refuses_an_absent_word(tokenizer, build):
    """Trap 2: where words are given (windows, weights, blend, subtract), an absent one is an error naming the rest."""
    with pytest.raises(ValueError, match="'dog'.*(a, red, c)"):
        build(tokenizer, ["a red car", "a red cat"])


def test_words_are_listed_in_order_without_punctuation(tokenizer):
    """What counts as a word: text between spaces and punctuation, in lower case."""
    assert [unit.text for unit in words(tokenizer, "A  big Burger, the dog's house!")] == [
        "a", "big", "burger", "the", "dog's", "house"]


ADDED = "a SKS_dog, a red <my cat> and sks_dogs <cat-toy>"


@pytest.fixture(scope="module")
def taught(tokenizer):
    """The tokenizer with tokens added, as textual inversion does."""
    taught = build_tokenizer()
    taught.add_tokens(["sks_dog", "<my cat>", "<cat-toy>"])
    return taught


@pytest.mark.parametrize("word, positions", [
    ("sks_dog", [2]), ("SKS_Dog", [2]), ("<my cat>", [6]), ("my cat", [6]), ("red <my cat>", [5, 6]),
    ("sks_dogs", [8, 9]), ("<cat-toy>", [10]), ("cat-toy", [10]), ("red my", None), ("dog", None), ("cat", None)])
def test_a_token_of_several_written_words_is_one_word(taught, word, positions):
    """Tokens that were added hold "_" or blanks: found whole, and not by a part of them."""
    assert [unit.text for unit in words(taught, ADDED)] == [
        "a", "sks_dog", "a", "red", "<my cat>", "and", "sks_dogs", "cat-toy"]
    if positions is None:
        with pytest.raises(ValueError, match="its words are: a, sks_dog, red, <my cat>, and"):
            tokens_of(taught, ADDED, word)
    else:
        assert tokens_of(taught, ADDED, word) == positions


@pytest.mark.parametrize("source, target, is_swap", [
    ("a red car on snow", "a sks_dog on snow", False), ("a sks_dog on snow", "a red car on snow", False),
    ("a sks_dog on snow", "a <my cat> on snow", True), ("a cat on snow", "a sks_dog on snow", True),
    (ADDED, ADDED, True)])
def test_an_added_token_takes_the_map_of_one_word(taught, source, target, is_swap):
    """Counted as two words, it was given those of two: its column of A summed to 2."""
    edit = auto(taught, [source, target])
    assert torch.equal(edit.A[0].sum(0) + edit.own[0], torch.ones(LENGTH))
    assert torch.equal(edit.A[0], torch.eye(LENGTH)) == is_swap


@pytest.mark.parametrize("prompt, texts", [
    ("a 🐱, red", ["a", "🐱", "red"]), ("cat🐱!", ["cat", "🐱"]), ("🐱🐶 🐱", ["🐱🐶", "🐱"]),
    ("I ❤️ cats", ["i", "❤️", "cats"]),
    ("👩🏽‍🚀 on snow", ["👩🏽‍🚀", "on", "snow"]), ("🇩🇪 1️⃣", ["🇩🇪", "1️⃣"]), ("a ★ – $ ^ _ ~", ["a", "★"])])
def test_an_emoji_is_a_word_and_those_written_together_are_one(tokenizer, prompt, texts):
    """With its marks, colours and joiners; other signs are punctuation. Every token belongs to one unit."""
    there = pieces(tokenizer, prompt)
    assert [unit.text for unit in there if unit.is_word] == texts
    assert sorted(i for unit in there for i in unit.tokens) == list(range(1, len(spans(tokenizer, prompt)) - 1))
    for unit in words(tokenizer, prompt):
        assert set(unit.tokens) <= set(tokens_of(tokenizer, prompt, unit.text))
        assert prompt[slice(*unit.place)].casefold() == unit.text


def test_emoji_are_swapped_like_words(tokenizer):
    """Four tokens each, one to one; a letter's word for it takes their sum."""
    assert torch.equal(align_swap(tokenizer, "a 🐱 on snow", "a 🐶 on snow").A, torch.eye(LENGTH))
    assert sources(align_swap(tokenizer, "a 🐱 on snow", "a cat on snow"), 2) == {2: 1, 3: 1, 4: 1, 5: 1}


@pytest.mark.parametrize("prompt, word, positions", [
    ("a cat and a cat", "cat#2", [5]), ("a cat and a cat", "CAT#1", [2]), ("a cat and a cat", "a cat#2", [4, 5]),
    ("a red bicycle and a red bicycle", "red bicycle#2", [7, 8, 9]), ("a cat", "cat#1", [2]), ("the #1 car", "#1", [3]),
    ("cat cat cat", "cat cat#2", [2, 3]), ("a cat", "<start>", [0]), ("a cat", "<end>", [3]), ("", "<end>", [1])])
def test_a_repeated_word_by_its_number_and_the_tokens_around_all_words_by_name(tokenizer, prompt, word, positions):
    """"cat#2" is the second one alone; "cat" stays both."""
    assert tokens_of(tokenizer, prompt, word) == positions


@pytest.mark.parametrize("word, says", [
    ("cat#3", "'cat#3' is not in the prompt 'a cat and a cat'; its words are: cat#1, cat#2"),
    ("cat#0", "cat#1, cat#2"), ("and#2", "its words are: and#1"),
    ("dog#1", "'dog#1' is not in .*its words are: a, cat, and"), ("#1", "its words are")])
def test_a_number_that_is_not_there_is_an_error(tokenizer, word, says):
    with pytest.raises(ValueError, match=says):
        tokens_of(tokenizer, "a cat and a cat", word)


@pytest.mark.parametrize("word, tokens", [("cat#2", [5]), ("<start>", [0]), ("<end>", [6])])
def test_numbers_and_names_go_wherever_a_word_is_named(tokenizer, word, tokens):
    """Weights, windows, blend, subtract; maps are in test_maps.py."""
    prompts = ["a cat and a cat"] * 2
    assert (reweight(tokenizer, prompts, {word: 2.0}).c[0] == 2).nonzero().flatten().tolist() == tokens
    assert (auto(tokenizer, prompts, {word: 0.4}).end[0] < 0.5).nonzero().flatten().tolist() == tokens
    blend = LocalBlend(tokenizer, prompts, ["a", word], [word, "a"])
    assert blend.words[1].nonzero().flatten().tolist() == blend.subtract[0].nonzero().flatten().tolist() == tokens


# ---- word swap -----------------------------------------------------------------------------------------------------

def test_swap_shares_one_token_among_two_and_shifts_the_tail(tokenizer):
    """Trap 1: car -> bicycle. The map is shared equally, and everything after moves by one place with its word."""
    a = align_swap(tokenizer, "a big car next to a river", "a big bicycle next to a river")
    assert sources(a, 3) == sources(a, 4) == {3: 0.5}
    assert [sources(a, j) for j in range(5, 9)] == [{4: 1}, {5: 1}, {6: 1}, {7: 1}]
    assert sources(a, 9) == {8: 1}                         # the end token
    assert sources(a, 10) == {10: 1}                       # padding


def test_swap_sums_two_tokens_into_one_and_shifts_the_tail(tokenizer):
    """Trap 1: bicycle -> car. The two maps are summed; the tail's words map one to one."""
    a = align_swap(tokenizer, "a big bicycle next to a river", "a big car next to a river")
    assert sources(a, 3) == {3: 1, 4: 1}
    assert [sources(a, j) for j in range(4, 8)] == [{5: 1}, {6: 1}, {7: 1}, {8: 1}]
    assert sources(a, 8) == {9: 1}
    assert sources(a, 9) == {10: 1} and sources(a, 10) == {10: 1}      # never onto the source's end


@pytest.mark.parametrize("source, target, share", [
    ("car", "watercolor", 1 / 3), ("bicycle", "watercolor", 1 / 3), ("watercolor", "bicycle", 1 / 2),
    ("watercolor", "car", 1.0), ("car", "bicycle", 1 / 2)])
def test_a_swapped_words_maps_are_summed_and_shared_equally(tokenizer, source, target, share):
    """Trap 1: with n old and m new tokens, each new one takes 1/m of the sum of the old: no attention lost or made."""
    a = align_swap(tokenizer, f"a {source} on the river", f"a {target} on the river")
    old, new = tokens_of(tokenizer, f"a {source}", source), tokens_of(tokenizer, f"a {target}", target)
    torch.testing.assert_close(a.A[old][:, new], torch.full((len(old), len(new)), share))
    torch.testing.assert_close(a.A[old].sum(1), torch.ones(len(old)))
    after = a.A[old[-1] + 1:old[-1] + 4, new[-1] + 1:new[-1] + 4]
    assert torch.equal(after, torch.eye(3))


def test_swap_of_equal_token_counts_is_one_to_one(tokenizer):
    """bicycle -> butterfly, two tokens each: first to first, second to second."""
    a = align_swap(tokenizer, "a bicycle on a river", "a butterfly on a river")
    assert torch.equal(a.A, torch.eye(LENGTH)) and not a.own.any()


def test_swap_follows_the_order_of_repeated_words(tokenizer):
    """The second "cat" keeps the map of the second "cat", and the new word takes that of the first."""
    a = align_swap(tokenizer, "a cat and a cat", "a bicycle and a cat")
    assert sources(a, 2) == sources(a, 3) == {2: 0.5}
    assert sources(a, 6) == {5: 1}


def test_swap_of_several_words_at_once(tokenizer):
    """Two swapped words with different token counts: the shifts add up."""
    a = align_swap(tokenizer, "a bicycle and a car on snow", "a car and a watercolor on snow")
    assert sources(a, 2) == {2: 1, 3: 1}
    assert [sources(a, j) for j in (5, 6, 7)] == [{6: 0.333333}] * 3
    assert [sources(a, j) for j in (8, 9, 10)] == [{7: 1}, {8: 1}, {9: 1}]


@pytest.mark.parametrize("align", [align_swap, align_refine])
def test_punctuation_goes_with_punctuation(tokenizer, align):
    """Trap 2: the comma after a swapped word keeps the comma's map, and the word before it is still the word."""
    a = align(tokenizer, "a burger, a car", "a bicycle, a car")
    assert sources(a, 4) == {3: 1}                         # the comma
    assert sources(a, 6) == {5: 1}                         # the car
    assert sources(a, 2) == ({2: 0.5} if align is align_swap else None)


@pytest.mark.parametrize("align", [align_swap, align_refine])
def test_case_and_spaces_change_no_alignment(tokenizer, align):
    """Trap 2: the same prompts in capitals and with double spaces are aligned the same way."""
    plain = align(tokenizer, "a big car on snow", "a red car on snow")
    shabby = align(tokenizer, "A  big  Car on snow ", " a red car  On SNOW")
    assert torch.equal(plain.A, shabby.A) and torch.equal(plain.own, shabby.own)


@pytest.mark.parametrize("target", ["a red big car", "car", ""])
def test_swap_names_the_counts_where_they_differ(tokenizer, target):
    """Trap 6: unequal word counts are told at once and in words, with what to use instead."""
    with pytest.raises(ValueError, match=f"the same number of words.* 2 .* {len(target.split())}.*refine"):
        replace(tokenizer, ["a car", target])


def test_auto_swaps_where_the_counts_agree_and_else_refines(tokenizer):
    """Trap 6: auto never refuses for a count; each target gets the edit that fits it."""
    prompts = ["a red car", "a red bicycle", "a big red car"]
    chosen = auto(tokenizer, prompts)
    for i, one in enumerate((replace(tokenizer, prompts[:2]), refine(tokenizer, prompts[::2]))):
        assert torch.equal(chosen.A[i], one.A[0]) and torch.equal(chosen.own[i], one.own[0])


# ---- added phrase --------------------------------------------------------------------------------------------------

def test_an_added_phrase_keeps_its_own_maps_and_the_rest_takes_the_sources(tokenizer):
    """The paper's example: "children drawing of" is new, the castle and the river are the source's."""
    a = align_refine(tokenizer, "a castle next to a river", "children drawing of a castle next to a river")
    assert [sources(a, j) for j in range(11)] == [{0: 1}, None, None, None] + [{i: 1} for i in range(1, 7)] + [{7: 1}]


def test_a_new_word_in_the_middle_or_at_the_end(tokenizer):
    """Words before a new word stay where they are, words after it shift."""
    a = align_refine(tokenizer, "a cat on snow", "a fluffy cat on snow and river")
    assert [sources(a, j) for j in range(9)] == [{0: 1}, {1: 1}, None, {2: 1}, {3: 1}, {4: 1}, None, None, {5: 1}]


def test_a_kept_word_of_several_tokens_maps_token_by_token(tokenizer):
    """"watercolor" in both prompts: three tokens, each onto its own."""
    a = align_refine(tokenizer, "a watercolor", "a big watercolor")
    assert [sources(a, j) for j in range(7)] == [{0: 1}, {1: 1}, None, {2: 1}, {3: 1}, {4: 1}, {5: 1}]


def test_repeated_words_are_kept_in_order(tokenizer):
    """"a cat and a cat": the added word makes only itself new."""
    a = align_refine(tokenizer, "a cat and a cat", "a cat and a big cat")
    assert [sources(a, j) for j in range(8)] == [{0: 1}, {1: 1}, {2: 1}, {3: 1}, {4: 1}, None, {5: 1}, {6: 1}]


@pytest.mark.parametrize("source, target, kept", [
    ("a cat on a car", "a big cat on a car and a cat on a river", [1, 3, 4, 5, 6]),
    ("a cat", "a fluffy ball and a cat", [5, 6]),
    ("a red car on the snow", "a big red car and a dog on the snow", [1, 3, 4, 8, 9, 10])])
def test_adding_a_phrase_keeps_every_word_of_the_source(tokenizer, source, target, kept):
    """Where the target only adds words, each of the source's words takes its map, and neighbours stay together."""
    a = align_refine(tokenizer, source, target)
    n = len(source.split())
    assert [int(a.A[i, 1:-1].argmax()) + 1 for i in range(1, n + 1)] == kept
    assert a.A[1:n + 1].sum() == n and a.own.sum() == len(target.split()) - n


# ---- padding and length --------------------------------------------------------------------------------------------

LONG = " ".join(["big", "red"] * 37)                       # 74 words


PAIRS = [("a watercolor of a bicycle on the snow", "a car of a dog on the snow"), ("", ""),
         (LONG + " car", LONG + " dog")]
UNEQUAL = [("a big red car next to a river", "a car"), ("a car", "a big red car next to a river"), ("", "a car"),
           ("a car", ""), (LONG + " car", "a car"), ("a car", LONG + " car")]


@pytest.mark.parametrize("align, source, target", [
    *((align_swap, *pair) for pair in PAIRS), *((align_refine, *pair) for pair in PAIRS + UNEQUAL)])
def test_padding_maps_position_to_position_and_never_onto_a_word(tokenizer, align, source, target):
    """Trap 5: target position j of the padding takes source position max(j, tokens of the source), even if shorter."""
    a = align(tokenizer, source, target)
    n_source, n_target = len(spans(tokenizer, source)), len(spans(tokenizer, target))
    for j in range(n_target, LENGTH):
        assert sources(a, j) == {min(max(j, n_source), LENGTH - 1): 1}
    assert sources(a, 0) == {0: 1}
    assert sources(a, n_target - 1) == {n_source - 1: 1}   # end to end
    assert not a.A[1:n_source - 1, n_target - 1:].any()    # no word of the source goes to end or padding


@pytest.mark.parametrize("align", [align_swap, align_refine])
@pytest.mark.parametrize("prompt", ["a red bicycle, and a watercolor", "", LONG + " car"])
def test_equal_prompts_align_to_themselves(tokenizer, align, prompt):
    """Source = target: the alignment is the identity, up to all 77 tokens."""
    a = align(tokenizer, prompt, prompt)
    assert torch.equal(a.A, torch.eye(LENGTH)) and not a.own.any()


@pytest.mark.parametrize("build", [
    lambda t, p: replace(t, ["a car", p]), lambda t, p: refine(t, [p, "a car"]), lambda t, p: auto(t, ["a car", p]),
    lambda t, p: reweight(t, [p, p], {"car": 2.0}), lambda t, p: LocalBlend(t, [p, p], ["car", "car"])])
def test_a_prompt_over_the_length_is_an_error_that_says_what_would_be_lost(tokenizer, build):
    """Trap 8: no prompt is cut without a word; the error has its length, the limit and the words beyond it."""
    prompt = LONG + " car next to the river"               # 79 words, 81 tokens
    with pytest.raises(ValueError, match="81 tokens.* 77.*: 'next to the river'$"):
        build(tokenizer, prompt)


def test_a_prompt_of_exactly_the_length_is_no_error(tokenizer):
    """75 tokens between start and end are read whole."""
    assert len(spans(tokenizer, LONG + " car")) == LENGTH
    assert tokens_of(tokenizer, LONG + " car", "car") == [75]


@pytest.mark.parametrize("prompt", [None, 3, ["a car"], b"a car"])
def test_a_prompt_that_is_no_text_is_an_error(tokenizer, prompt):
    """A prompt must be a string; anything else is named."""
    with pytest.raises(ValueError, match="must be text"):
        replace(tokenizer, ["a car", prompt])


# ---- scripts without spaces ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt, expected", [
    ("一只红色的猫", list("一只红色的猫")), ("赤い猫 on snow", ["赤", "い", "猫", "on", "snow"]),
    ("カー", ["カ", "ー"]),
    ("แมวดำ", list("แมวดำ")), ("می\u200cخواهم گربه", ["می\u200cخواهم", "گربه"]),
    ("a well\u2011known cat", ["a", "well\u2011known", "cat"]), ("고양이 한 마리", ["고양이", "한", "마리"])])
def test_words_of_scripts_without_spaces_are_their_characters(prompt, expected):
    """Han, kana and Thai; Korean has spaces. Persian's zero-width non-joiner and the non-breaking hyphen join."""
    assert [word for *_, word in find_words(prompt)] == [normal_form(word) for word in expected]


def test_an_added_phrase_in_chinese_is_no_swap(tokenizer):
    """Shared characters take the source's maps, new ones keep their own."""
    source, target = "红色的猫", "大的红色的猫"
    A, own = align_refine(tokenizer, source, target)
    for word in "红色猫":
        assert A[tokens_of(tokenizer, source, word)][:, tokens_of(tokenizer, target, word)].sum() > 0
    assert own[tokens_of(tokenizer, target, "大")].all()
