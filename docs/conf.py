"""How Sphinx builds the site: `sphinx-build -n -W --keep-going docs docs/_build` in an environment with `.[docs]`."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
FIGURES = (DOCS.parent / "examples" / "figures", DOCS.parent / "examples" / "papers")
sys.path.insert(0, str(DOCS))

import links  # noqa: E402
import names  # noqa: E402

project = "lightning-interactions"
author = "its developers"
version = release = installed_version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
nitpicky = True

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# The scripts run in the tests; here their committed figures are shown, so that a build takes seconds.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "plot_gallery": False,
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"^(common|data|reading|recording)\.py$",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "links.place_in_gallery",
}

linkcheck_anchors = False


def link_or_believe(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name that is public somewhere else than where it was defined; leave one that only exists without a link.

    What is neither is a wrong name: with `-n` a warning.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    full = names.public().get(target.rpartition(".")[2])
    if full is not None and target != full:
        found = env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contnode)
        if found is not None:
            return found
    return contnode if names.is_known(target, names.everywhere()) else None


def figures_of(script: str) -> list[Path]:
    """Return the committed figures of a script: its own, or those that begin with its first word and are nobody's."""
    own = [path for folder in FIGURES if (path := folder / f"{script}.png").exists()]
    scripts = {path.stem for path in (DOCS.parent / "examples").glob("*.py")}
    return own or [
        path for path in sorted(FIGURES[0].glob(f"{script.split('_')[0]}_*.png")) if path.stem not in scripts
    ]


def place_figures(app: Sphinx) -> None:
    """Put the first figure of every script where the gallery looks for it: it becomes its thumbnail."""
    for script in (DOCS.parent / "examples").rglob("*.py"):
        target = DOCS / "gallery" / script.parent.relative_to(DOCS.parent / "examples") / "images"
        for figure in figures_of(script.stem)[:1]:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(figure, target / f"sphx_glr_{script.stem}_001.png")


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Show a script's figures on its page, above the code; let the links of Markdown lead somewhere."""
    if not page.startswith("gallery/"):
        source[0] = links.mend(source[0], (DOCS / page).parent, page)
        return
    code = ".. GENERATED FROM PYTHON SOURCE LINES"
    shown = "".join(
        f".. image:: {os.path.relpath(figure, (DOCS / page).parent)}\n   :alt: What the script draws\n\n"
        for figure in figures_of(page.rpartition("/")[2])
    )
    source[0] = source[0].replace(code, shown + code, 1)


def read_included(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    """Let the links of an included file lead somewhere."""
    source[0] = links.mend(source[0], (DOCS / path).resolve().parent, page)


def write_mathml(translator: Any, node: Any, *, block: bool) -> None:
    """Write a formula as MathML, which browsers show by themselves: no script, no network."""
    from docutils.nodes import SkipNode

    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="math-block">{formula}</div>' if block else formula)
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect("missing-reference", link_or_believe)
    app.connect("builder-inited", place_figures, priority=100)
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: write_mathml(self, node, block=False), None),
        block_renderers=(lambda self, node: write_mathml(self, node, block=True), None),
    )
