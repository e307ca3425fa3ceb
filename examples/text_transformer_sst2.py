"""Transformer on film reviews
===========================

A small transformer learns film reviews from nothing: words are players, absent ones show the mask token.

::

    python examples/text_transformer_sst2.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import Data, sst2
from models import Classifier, TextTransformer, WordTokenizer
from torch.utils.data import TensorDataset

from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.players import Tokens


def main() -> None:
    options = parse(__doc__)
    sentences, labels, val_sentences, val_labels = sst2(options.data, train=options.size(4000), val=options.size(872))
    tokenizer = WordTokenizer(sentences)
    data = Data(
        f"SST-2, {len(sentences)} sentences",
        TensorDataset(tokenizer(sentences), labels),
        TensorDataset(tokenizer(val_sentences), val_labels),
        num_classes=2,
    )
    model = Classifier(TextTransformer(len(tokenizer)), lr=5e-4, optimizer="adamw", weight_decay=0.01)
    words = Tokens(mask_token_id=tokenizer.mask_token_id, special_token_ids=tokenizer.all_special_ids)
    run(model, data, TwoPhaseMonitor(words, **options.measuring()), options, epochs=20, batch_size=32)


if __name__ == "__main__":
    main()
