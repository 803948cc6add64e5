"""How Sphinx builds the documentation; nothing in it needs a network."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "swoosh_async"
author = "swoosh_async contributors"
copyright = "swoosh_async contributors"
release = version = version_of("swoosh-async")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"swoosh_async {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_legacy_class_based = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True

# Each run of the examples starts with an empty working directory of its own, and leaves it.
doctest_global_setup = """
import os, tempfile
_home, _scratch = os.getcwd(), tempfile.TemporaryDirectory()
os.chdir(_scratch.name)
"""
doctest_global_cleanup = """
os.chdir(_home)
_scratch.cleanup()
"""

# References that lead out of this documentation: resolving them would need the inventories of other projects, and so a
# network, so they stand as plain text.
nitpick_ignore_regex = [
    # the standard library and built-in types
    (r"py:.*", r"(abc|collections|contextlib|enum|os|pathlib|types|typing|typing_extensions)(\..*)?"),
    # what the package is built on
    (r"py:.*", r"(aiofiles|anyio|immutables|msgspec)(\..*)?"),
    # what a signature names and users only pass on: private names, and names in private modules
    (r"py:.*", r"swoosh_async\.(.*\.)?_\w+(\..*)?"),
    # type variables have no page of their own
    (r"py:.*", r"swoosh_async\..*\.[A-Z]"),
]


def plain_defaults(*event: Any) -> tuple[str, str] | None:
    """Write a field's default that is made anew each time as ``...``: msgspec's ``<factory>`` is no Python to parse."""
    *_, signature, returns = event
    return (signature.replace("<factory>", "..."), returns) if signature else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx once, before it reads anything."""
    app.connect("autodoc-process-signature", plain_defaults)
