"""Text networks: a transformer trained from nothing, and a pre-trained sentence encoder to fine-tune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class WordTokenizer:
    """Words to ids by a vocabulary of the training sentences; attributes are named as in Hugging Face tokenizers."""

    pad_token_id, unk_token_id, cls_token_id, mask_token_id = range(4)
    all_special_ids = (pad_token_id, unk_token_id, cls_token_id, mask_token_id)

    def __init__(self, sentences: Iterable[str], vocab_size: int = 5000) -> None:
        counts = Counter(word for sentence in sentences for word in sentence.lower().split())
        kept = counts.most_common(vocab_size - len(self.all_special_ids))
        self.ids = {word: i for i, (word, _) in enumerate(kept, start=len(self.all_special_ids))}
        self.words = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", *self.ids]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """What the ids stand for: the monitor shows these words in its pictures."""
        return [self.words[i] for i in ids]

    def __len__(self) -> int:
        return len(self.all_special_ids) + len(self.ids)

    def __call__(self, sentences: Sequence[str], max_length: int = 32) -> Tensor:
        """Long ``(B, max_length)``: CLS, the words, PAD."""
        out = torch.full((len(sentences), max_length), self.pad_token_id)
        for row, sentence in zip(out, sentences, strict=True):
            words = sentence.lower().split()[: max_length - 1]
            ids = [self.cls_token_id, *(self.ids.get(word, self.unk_token_id) for word in words)]
            row[: len(ids)] = torch.tensor(ids)
        return out


class TextTransformer(nn.Module):
    """A transformer encoder over word ids ``(B, L)``, padded with ``pad_id``; logits from the first token (CLS)."""

    def __init__(
        self, vocab_size: int, pad_id: int = 0, width: int = 64, depth: int = 2, max_length: int = 32,
        dropout: float = 0.1, num_classes: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pad_id = pad_id
        self.words = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.position = nn.Parameter(0.02 * torch.randn(max_length, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.position[: ids.shape[1]]
        return self.head(self.blocks(x, src_key_padding_mask=ids == self.pad_id)[:, 0])


class SentenceEncoder(nn.Module):
    """A pre-trained Hugging Face encoder with a linear head on its mean-pooled tokens; everything is fine-tuned.

    Returns an object with ``.logits``, as Hugging Face's own classifiers do.
    """

    def __init__(self, encoder: Any, num_classes: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return SimpleNamespace(logits=self.head((tokens * weights).sum(1) / weights.sum(1)))
