"""What each kind of logger can take besides scalars: histograms, figures, texts, files, a layout of charts.

The class is asked by name: ``fast_dev_run`` and ranks above 0 bring dummies that accept any call, and
`pytorch_lightning` has its own classes. A logger that is not known takes nothing but scalars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_interactions.metrics.drawing import pixels, png
from lightning_interactions.report.history import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Charts = Mapping[str, Sequence[tuple[str, ...]]]
"""Charts by title: a series is a tag, or a tag with those of its lower and upper bound."""


class Sink:
    """One logger; the methods of this base class do nothing. All tags are full names."""

    shows_histograms: ClassVar[bool] = False  # whether they can be looked at in its user interface
    shows_figures: ClassVar[bool] = False

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        """Write ``(bins,)`` counts, which need not be whole numbers; return whether the logger has them now."""
        return False

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Write a figure."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Write a text in Markdown."""

    def file(self, name: str, text: str) -> None:
        """Keep a file with the run, in place of an older one of that name."""

    def charts(self, category: str, charts: Charts) -> None:
        """Arrange curves in charts of their own, below a common title."""

    def line(self, tag: str, step: int, ends: tuple[float, float]) -> None:
        """Draw a vertical line into a chart, between two values of y."""


class _FolderSink(Sink):
    """A logger that has a folder: it keeps files."""

    def file(self, name: str, text: str) -> None:
        write_whole(f"{self.logger.log_dir}/{name}", text)


class _TensorBoardSink(_FolderSink):
    """TensorBoard takes everything."""

    shows_histograms = shows_figures = True

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        middle = (edges[:-1] + edges[1:]) / 2
        self.logger.experiment.add_histogram_raw(
            tag,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=float(counts.sum()),
            sum=float((counts * middle).sum()),
            sum_squares=float((counts * middle**2).sum()),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )
        return True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        # torch's ``add_image`` would take the pixels to floats and back, resample them, and compress them harder.
        from tensorboard.compat.proto.summary_pb2 import Summary

        drawn = pixels(figure)
        image = Summary.Image(**dict(zip(("height", "width", "colorspace"), drawn.shape, strict=True)))
        image.encoded_image_string = png(drawn)
        self.logger.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.experiment.add_text(tag, text, step)

    def charts(self, category: str, charts: Charts) -> None:
        # torch's ``add_custom_scalars`` knows no second series beside one with bounds.
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        made = []
        for title, series in charts.items():
            if any(len(tags) == 3 for tags in series):
                names = "value", "lower", "upper"
                bands = [dict(zip(names, tags * (3 // len(tags)), strict=True)) for tags in series]
                made.append({"title": title, "margin": {"series": bands}})
            else:
                tags = [f"^{tag}$" for (tag,) in series]
                made.append({"title": title, "multiline": {"tag": tags}})
        layout = layout_pb2.Layout(category=[{"title": category, "chart": made}])
        value = Summary.Value(
            tag=metadata.CONFIG_SUMMARY_TAG,
            metadata=metadata.create_summary_metadata(),
            tensor={"dtype": "DT_STRING", "string_val": [layout.SerializeToString()], "tensor_shape": {}},
        )
        self.logger.experiment.file_writer.add_summary(Summary(value=[value]))

    def line(self, tag: str, step: int, ends: tuple[float, float]) -> None:
        # At neighbouring steps: of two points at one step its charts draw only the second, as a dot.
        for i, end in enumerate(ends):
            self.logger.experiment.add_scalar(tag, end, step + i)


class _WandbSink(Sink):
    """Weights & Biases."""

    shows_histograms = shows_figures = True

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        import wandb

        self._log(tag, wandb.Histogram(np_histogram=(counts, edges)), step)
        return True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        import wandb

        self._log(tag, wandb.Image(pixels(figure)), step)

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.log_text(tag, columns=["step", "text"], data=[[step, text]], step=step)

    def file(self, name: str, text: str) -> None:
        # What is in the folder of the run is uploaded with it.
        write_whole(Path(self.logger.experiment.dir) / name, text)

    def _log(self, tag: str, value: Any, step: int) -> None:
        # As Lightning's own logger does it: W&B's ``step=`` would drop whatever comes late.
        self.logger.experiment.log({tag: value, "trainer/global_step": step})


class _MLflowSink(Sink):
    """MLflow keeps figures, texts and files as artifacts; it has no histograms, only files that hold one."""

    shows_figures = True

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        content = {"step": step, "edges": edges.tolist(), "counts": counts.tolist()}
        self.logger.experiment.log_dict(self.logger.run_id, content, f"{tag}/step_{step:08d}.json")
        return True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        # The latest one stays.
        self.logger.experiment.log_image(self.logger.run_id, pixels(figure), f"{tag}.png")

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, text, f"{tag}/step_{step:08d}.md")

    def file(self, name: str, text: str) -> None:
        self.logger.experiment.log_text(self.logger.run_id, text, name)


class _CometSink(Sink):
    """Comet, online and offline."""

    shows_histograms = shows_figures = True

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        # Comet chooses bins of its own, about 10 % wide.
        from comet_ml.data_structure import Histogram

        if not counts.any():
            return True  # Comet would warn of each of them
        # Comet counts in whole numbers: fractions are told as so many in ten thousand.
        whole = counts if (counts == counts.round()).all() else (10_000 * counts / counts.sum()).round()
        histogram = Histogram()
        histogram.add(((edges[:-1] + edges[1:]) / 2).tolist(), counts=whole.astype(int).tolist())
        self.logger.experiment.log_histogram_3d(histogram, name=tag, step=step)
        return True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self.logger.experiment.log_image(pixels(figure), name=tag, step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.experiment.log_text(text, step=step, metadata={"tag": tag})

    def file(self, name: str, text: str) -> None:
        self.logger.experiment.log_asset_data(text, name=name, overwrite=True)


class _TrackioSink(Sink):
    """Trackio. Lightning has no logger for it; those that people write are called so, and begin the active run."""

    shows_histograms = shows_figures = True

    def histogram(self, tag: str, counts: NDArray[np.float64], edges: NDArray[np.float64], step: int) -> bool:
        import trackio

        trackio.log({tag: trackio.Histogram(np_histogram=(counts, edges))}, step=step)
        return True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        import trackio

        trackio.log({tag: trackio.Image(pixels(figure))}, step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        import trackio

        trackio.log({tag: trackio.Markdown(text)}, step=step)


class _LitSink(_FolderSink):
    """Lightning's own service keeps files."""

    shows_figures = True

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        # The latest one stays.
        path = Path(self.logger.log_dir) / f"{tag.replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        self.logger.log_file(str(path))

    def file(self, name: str, text: str) -> None:
        super().file(name, text)
        self.logger.log_file(str(Path(self.logger.log_dir) / name))


_SINKS: dict[str, type[Sink]] = {
    "TensorBoardLogger": _TensorBoardSink,
    "WandbLogger": _WandbSink,
    "MLFlowLogger": _MLflowSink,
    "CometLogger": _CometSink,
    "TrackioLogger": _TrackioSink,
    "LitLogger": _LitSink,
    "CSVLogger": _FolderSink,
}


def sink_of(logger: Any) -> Sink:
    """Return what a logger, or anything else, can take."""
    known = (_SINKS[cls.__name__] for cls in type(logger).__mro__ if cls.__name__ in _SINKS)
    return next(known, Sink)(logger)
