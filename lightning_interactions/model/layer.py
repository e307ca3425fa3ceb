"""Masking the output of an inner layer instead of the input, as the papers do.

The model is called on the plain samples; a hook at the layer swaps its output for the masked copies of it, many rows
for each sample, and everything after the layer runs on those. What lies before the layer therefore runs once for each
sample of a block, not once for each coalition.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import ModelOutputError, bad_argument
from lightning_interactions.model.chunks import at_least_two
from lightning_interactions.model.quiet import Forward
from lightning_interactions.model.score import read_logits


class LayerCut:
    """A model cut at one inner layer, named as in ``model.named_modules()``; an `ArgumentError` lists near matches.

    The cut is exact when everything that follows depends on the samples through the layer's output. Where a later part
    also reads something from before the layer (a skip connection), the rows would not match; `check` finds out and from
    then on the whole model runs on repeated inputs: as exact, without the saving. What cannot be cut: a layer that runs
    more than once in a forward pass, or returns something else than one tensor with a row for each sample.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        modules = dict(model.named_modules())
        if layer not in modules or not layer:
            names = [name for name in modules if name]
            near = difflib.get_close_matches(str(layer), names, n=5, cutoff=0.3) or names[:5]
            raise bad_argument("layer", "the name of a module of the model", layer, f"Did you mean {', '.join(near)}?")
        self.name = layer
        self._module = modules[layer]
        self._repeat_inputs = False

    def of(self, model: nn.Module) -> LayerCut:
        """Cut another model of the same kind at the same layer."""
        other = LayerCut(model, self.name)
        other._repeat_inputs = self._repeat_inputs
        return other

    def features(self, forward: Forward, samples: Tensor, carried: Sequence[Tensor] = ()) -> Tensor:
        """Return the layer's output ``(B, *feature_shape)`` on unmasked samples, or say why it cannot be used."""
        seen: list[Any] = []

        def keep(output: Any) -> None:
            # A copy, for what follows may write into it: ReLU(inplace=True).
            seen.append(output.clone() if isinstance(output, Tensor) else output)

        rows = [at_least_two(x) for x in (samples, *carried)]
        with self._hooked(keep):
            forward(*rows)
        if len(seen) != 1:
            raise ModelOutputError(
                f"Layer `{self.name}` ran {len(seen)} times in one forward pass; `layer` needs one that runs once."
            )
        if not isinstance(seen[0], Tensor) or seen[0].ndim < 2 or len(seen[0]) != len(rows[0]):
            got = f"shape {tuple(seen[0].shape)}" if isinstance(seen[0], Tensor) else type(seen[0]).__name__
            raise ModelOutputError(
                f"Layer `{self.name}` should return a tensor with one row for each of {len(rows[0])} samples, but it "
                f"returned {got}. Choose another `layer`."
            )
        return seen[0][: len(samples)]

    def resume(self, forward: Forward, samples: Tensor, replaced: Tensor, carried: Sequence[Tensor] = ()) -> Tensor:
        """Logits of samples with the layer's output replaced by ``S * C`` rows, the first sample's first."""
        rows = at_least_two(replaced)
        inputs = [tensor.clone() for tensor in (samples, *carried)]  # the model may write into them
        if self._repeat_inputs:
            inputs = [tensor.repeat_interleave(len(rows) // len(samples), 0) for tensor in inputs]
        with self._hooked(lambda _: rows):
            return read_logits(forward(*inputs))[: len(replaced)]

    def check(self, forward: Forward, samples: Tensor, carried: Sequence[Tensor] = ()) -> None:
        """Compare a plain forward with one through the cut, and find out whether inputs must be repeated.

        It takes two samples at least; a `ModelOutputError` says that the model cannot be cut here.
        """
        expected = read_logits(forward(samples.clone(), *(x.clone() for x in carried))).repeat_interleave(2, 0)
        doubled = self.features(forward, samples.clone(), [x.clone() for x in carried]).repeat_interleave(2, 0)
        for self._repeat_inputs in (False, True):
            try:
                logits = self.resume(forward, samples, doubled.clone(), carried)
            except (RuntimeError, ValueError, IndexError):  # ours are among them
                continue  # rows from before and after the layer met
            alike = logits.shape == expected.shape
            if alike and torch.allclose(logits, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
                return
        raise ModelOutputError(
            f"The model cannot be cut at layer `{self.name}`: with its own output put back it gives other logits. "
            "Choose another `layer`, or mask the input (`layer=None`)."
        )

    @contextmanager
    def _hooked(self, swap: Callable[[Any], Any]) -> Iterator[None]:
        # prepend: hooks of the user's own then see what the rest of the model sees.
        handle = self._module.register_forward_hook(lambda module, args, output: swap(output), prepend=True)
        try:
            yield
        finally:
            handle.remove()
