"""Which token of the source prompt corresponds to which token of the target prompt.

Words are found by the tokenizer's own offsets into the prompt; case and surrounding punctuation do not matter. An emoji
is a word too: it has tokens and maps.
"""
import re
import unicodedata
from functools import cache
from typing import NamedTuple

import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from .networks.text import spans

# A word: letters, digits and marks, which apostrophes or hyphens may join (also the non-breaking hyphen, and Persian's
# zero-width joint); one letter of a script without spaces; or symbols with what joins and colours them.
NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
LETTERS, JOINT = rf"[[\p{{L}}&&[^{NO_SPACES}]]\p{{N}}\p{{M}}]+", r"['’\-\u2011\u200c]"
SYMBOLS = r"\p{So}[\p{So}\p{M}🏻-🏿[\p{Cf}&&[^\u200c]]]*"
WORD = Regex(rf"{LETTERS}(?:{JOINT}{LETTERS})*|[[{NO_SPACES}]&&\p{{L}}]\p{{M}}*|{SYMBOLS}")


class Piece(NamedTuple):
    """A word, or one punctuation token between words."""
    text: str                          # in the form used for comparison
    tokens: list[int]                  # positions among the prompt's tokens; the start token is position 0
    is_word: bool
    place: tuple[int, int]             # its start and end in the prompt


class Alignment(NamedTuple):
    """M A + M* · own gives every target token a map: the source's, or its own if it is a new word."""
    A: torch.Tensor                    # (source tokens, target tokens); a column sums to 1, for a new word to 0, for a
                                       # swap of m source tokens to n target tokens to m/n
    own: torch.Tensor                  # (target tokens,): 1 for a new word, else 0


def find_words(text):
    """(start, end, word) of each word of a text."""
    for _, (start, end) in Split(WORD, "removed", invert=True).pre_tokenize_str(text):
        yield start, end, normal_form(text[start:end])


def normal_form(word):
    """A word in the form used for comparison: lower case, composed Unicode (NFC), straight apostrophes."""
    return unicodedata.normalize("NFC", word).casefold().replace("’", "'").strip()


def pieces(tokenizer, prompt):
    """The prompt's words and punctuation tokens in order, as `Piece`s."""
    offsets = spans(tokenizer, prompt)
    found, taken = [], set()
    for first, last, word in find_words(prompt):
        tokens = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
        if tokens and tokens[0] in taken:                  # one token for several written words: an added "sks_dog"
            tokens = sorted({*found.pop().tokens, *tokens})
            first, last = offsets[tokens[0]][0], offsets[tokens[-1]][1]
            word = normal_form(prompt[first:last])
        if tokens:
            found.append(Piece(word, tokens, True, (first, last)))
            taken.update(tokens)
    found += [Piece(prompt[start:end].strip(), [i], False, (start, end)) for i, (start, end) in enumerate(offsets)
              if i not in taken and 0 < i < len(offsets) - 1]
    return sorted(found, key=lambda piece: piece.tokens)


def words(tokenizer, prompt):
    return [piece for piece in pieces(tokenizer, prompt) if piece.is_word]


def unknown_words(tokenizer, *prompts):
    """Sorted words of the prompts that are none of the "known_words" in a small model's tokenizer_config.json."""
    known = tokenizer.init_kwargs.get("known_words")
    used = {piece.text for prompt in prompts for piece in words(tokenizer, prompt)}
    return sorted(used.difference(known)) if known else []


def tokens_of(tokenizer, prompt, phrase, required=True):
    """Positions of all tokens of a word, or of a phrase of several words, wherever it occurs in the prompt.

    "red#2" is only the second "red"; "<start>" and "<end>" are the tokens before and after the words.
    Raises ValueError if it does not occur, listing the words of the prompt; if it is not `required`: none.
    """
    if not isinstance(phrase, str):
        raise ValueError(f"a word must be text, not {type(phrase).__name__}: {phrase!r}")
    if phrase in ("<start>", "<end>"):
        return [0 if phrase == "<start>" else len(spans(tokenizer, prompt)) - 1]
    # All runs of words that read like the phrase; one token may hold several written words.
    name, number = re.fullmatch(r"(.+?|)(?:#(\d+))?", phrase, re.DOTALL).groups()
    wanted, there = [word for *_, word in find_words(name)], words(tokenizer, prompt)
    parts = [[word for *_, word in find_words(piece.text)] for piece in there]
    runs = [(i, j) for i in range(len(there)) for j in range(i + 1, min(i + len(wanted), len(there)) + 1)]
    places = [there[i:j] for i, j in runs if sum(parts[i:j], []) == wanted]
    chosen = places if number is None else places[int(number) - 1:int(number)]
    if required and not chosen:
        names = [f"{name}#{n + 1}" for n in range(len(places))] or dict.fromkeys(piece.text for piece in there)
        raise ValueError(f"{phrase!r} is not in the prompt {prompt!r}; its words are: "
                         + (", ".join(names) or "none"))
    return sorted({token for place in chosen for piece in place for token in piece.tokens})


def align_swap(tokenizer, source, target):
    """Alignment for a word swap: the n-th word of the target takes the map of the n-th word of the source.
    Raises ValueError if the prompts do not have the same number of words."""
    source_words, target_words = words(tokenizer, source), words(tokenizer, target)
    if len(source_words) != len(target_words):
        raise ValueError(f"a word swap needs prompts with the same number of words; {source!r} has {len(source_words)} "
                         f"and {target!r} has {len(target_words)}. Use refine (or auto) instead.")
    pairs = list(zip(source_words, target_words))
    # Punctuation between two words is matched with the same marks in the same gap of the other prompt.
    gaps = [gaps_of(pieces(tokenizer, prompt)) for prompt in (source, target)]
    pairs += [(a, b) for gap_a, gap_b in zip(*gaps) for a, b in zip(gap_a, gap_b) if a.text == b.text]
    return token_map(tokenizer, source, target, pairs)


def gaps_of(sequence):
    """The punctuation before each word and after the last, gap by gap."""
    gaps = [[]]
    for piece in sequence:
        if piece.is_word:
            gaps.append([])
        else:
            gaps[-1].append(piece)
    return gaps


def align_refine(tokenizer, source, target):
    """Alignment for an added phrase: words that both prompts share, in order, take the source's map."""
    a, b = pieces(tokenizer, source), pieces(tokenizer, target)
    pairs = [(a[i], b[j]) for i, j in longest_common([u.text for u in a], [u.text for u in b])]
    return token_map(tokenizer, source, target, pairs)


def longest_common(a, b):
    """The longest common subsequence of two lists as index pairs; of several, one in the fewest runs."""
    @cache
    def best(i, j, joins):
        """Of a[:i], b[:j]: (pairs, how many directly follow another, the pairs). joins: a[i] goes with b[j]."""
        if i == 0 or j == 0:
            return 0, 0, ()
        options = [best(i - 1, j, False), best(i, j - 1, False)]
        if a[i - 1] == b[j - 1]:
            pairs, joints, before = best(i - 1, j - 1, True)
            options.insert(0, (pairs + 1, joints + joins, (*before, (i - 1, j - 1))))
        return max(options, key=lambda option: option[:2])
    return best(len(a), len(b), False)[2]


def token_map(tokenizer, source, target, pairs):
    """The `Alignment` for pairs of pieces, with the start token, the end token and the padding: at position j, it takes
    the source's map at max(j, number of source tokens), so never the map of a word."""
    length = tokenizer.model_max_length
    n_source, n_target = len(spans(tokenizer, source)), len(spans(tokenizer, target))
    A = torch.zeros(length, length, dtype=torch.float32)
    A[0, 0] = A[n_source - 1, n_target - 1] = 1
    for j in range(n_target, length):
        A[min(max(j, n_source), length - 1), j] = 1
    for a, b in pairs:
        if len(a.tokens) == len(b.tokens):
            A[a.tokens, b.tokens] = 1
        else:                                              # summed, and shared equally
            A[torch.tensor(a.tokens)[:, None], torch.tensor(b.tokens)] = 1 / len(b.tokens)
    return Alignment(A, (A.sum(0) == 0).float())
