"""`{{ xcom... }}` templates: parsed once, rendered from values at hand (floor 3, pure)."""

from __future__ import annotations

from dagrelay.templates.expression import RETURN_VALUE as RETURN_VALUE
from dagrelay.templates.expression import Expression as Expression
from dagrelay.templates.expression import Filter as Filter
from dagrelay.templates.expression import Template as Template
from dagrelay.templates.expression import format_path as format_path
from dagrelay.templates.expression import format_reference as format_reference
from dagrelay.templates.parser import ALL_ROOTS as ALL_ROOTS
from dagrelay.templates.parser import parse as parse
from dagrelay.templates.resolver import MAX_RENDERED_CHARS as MAX_RENDERED_CHARS
from dagrelay.templates.resolver import Scope as Scope
from dagrelay.templates.resolver import missing_key_hint as missing_key_hint
from dagrelay.templates.resolver import render as render
from dagrelay.templates.resolver import walk as walk
from dagrelay.templates.structure import LiteralText as LiteralText
from dagrelay.templates.structure import Tree as Tree
from dagrelay.templates.structure import compile_tree as compile_tree
from dagrelay.templates.structure import literal as literal
from dagrelay.templates.structure import render_tree as render_tree

__all__ = (
    "ALL_ROOTS",
    "MAX_RENDERED_CHARS",
    "RETURN_VALUE",
    "Expression",
    "Filter",
    "LiteralText",
    "Scope",
    "Template",
    "Tree",
    "compile_tree",
    "format_path",
    "format_reference",
    "literal",
    "missing_key_hint",
    "parse",
    "render",
    "render_tree",
    "walk",
)
