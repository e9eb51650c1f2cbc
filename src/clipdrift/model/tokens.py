"""Train a small CLIP tokenizer (byte-level BPE) on a list of captions.

The end token must not have id 2: transformers' CLIP text tower then falls back to pooling at the largest
token id instead of at the end of the text. Here the two special tokens take the last two ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], merges: int = 400, context: int = 64) -> CLIPTokenizer:
    """A CLIPTokenizer whose merges were learnt on ``texts``; any other text falls back to bytes.

    Args:
        texts: captions; their order does not matter.
        merges: number of BPE merges at most.
        context: largest number of tokens of a text, start and end included.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        # given beforehand: otherwise they are numbered as a hash map yields the words, and ties between
        # pairs, which are broken by number, fall otherwise in every process
        special_tokens=[c + "</w>" for c in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(sorted(texts), trainer)
    learnt = json.loads(trained.to_str())["model"]["merges"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in learnt]
    words = [*alphabet, *(c + "</w>" for c in alphabet)]
    words += [w for w in dict.fromkeys(a + b for a, b in pairs) if w not in set(words)]
    vocab = {word: index for index, word in enumerate([*words, START, END])}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=context)
