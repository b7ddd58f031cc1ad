"""Damage for tests of loaders: values nobody expects, trees with one of them, texts and bytes cut or changed.

ICU_RAY_FUZZ_EXAMPLES=5000 makes such tests long.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from icu_ray.cli.main import main
from icu_ray.errors import UserError


def fuzz(examples: int) -> settings:
    """Bounded in the suite; long, and told as it is found, when asked for."""
    asked = os.environ.get("ICU_RAY_FUZZ_EXAMPLES")
    return settings(
        max_examples=int(asked or examples),
        phases=[Phase.explicit, Phase.generate] if asked else list(Phase),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([0.5, -0.0, 5e-324, 1e308, float("nan"), float("inf")]),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *(
                "",
                " ",
                ".",
                "..",
                "/",
                "~",
                "null",
                "nan",
                "1e5",
                "[/red]",
                "[bold",
                "{sample}",
                "{",
                "%s",
                "a\0b",
                "\ud800",
            ),
            *("../../etc/passwd", "/etc/passwd", "/proc/self/mem", "file://", "file:///nowhere", "://", "nosuch://x/y"),
            *("a" * 300, "a/" * 2100, "\u202e", "\x1b[31m", "=1+1", "!!python/name:os.system", "x.jsonl", "base"),
        ]
    ),
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a plain tree, its root left out."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def damaged(draw: Callable[..., Any], tree: Any, junk: st.SearchStrategy[Any] = JUNK, most: int = 3) -> Any:
    """A copy of a plain tree in which some values are replaced, removed, moved to another key or joined by others.

    What is put in is a copy as well: one drawn from a list of values is the same object every time, and put into
    itself it would be a tree without an end.
    """
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        found = list(places(tree))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        node = tree
        for key in way:
            node = node[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "twice"]))
        if what == "replace":
            node[last] = copy.deepcopy(draw(junk))
        elif what == "remove":
            del node[last]
        elif isinstance(node, list):
            node.insert(0, copy.deepcopy(node[last] if what == "twice" else draw(junk)))
        elif what == "rename":
            node[draw(TEXTS)] = node.pop(last)
        else:
            node[draw(TEXTS)] = copy.deepcopy(draw(junk))
    return tree


@st.composite
def damaged_bytes(draw: Callable[..., Any], content: bytes) -> bytes:
    """A file's bytes cut, changed, repeated, or with others put between them."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        end = min(len(content), at + draw(st.integers(0, 40)))
        more = draw(
            st.binary(max_size=6)
            | st.sampled_from([b"\n", b'"', b",", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"9" * 5000, b"[" * 3000])
        )
        content = draw(
            st.sampled_from(
                [
                    content[:at],
                    content[:at] + more + content[at:],
                    content[:at] + more + content[end:],
                    content[:end] * 2,
                ]
            )
        )
    return content


@st.composite
def damaged_lines(draw: Callable[..., Any], rows: list[dict[str, Any]]) -> bytes:
    """A JSON Lines file of rows of which some are damaged, in their values or in their bytes."""
    content = b"".join(f"{json.dumps(row)}\n".encode() for row in draw(damaged(rows)))
    return draw(damaged_bytes(content)) if draw(st.integers(0, 3)) == 0 else content


def to_yaml(tree: Any) -> bytes:
    """A plain tree as YAML; PyYAML's own writer takes seconds for a long text."""
    text = json.dumps(tree, indent=1)
    for name, written in (("NaN", ".nan"), ("Infinity", ".inf")):
        text = text.replace(f" {name}", f" {written}").replace(f" -{name}", f" -{written}")
    return text.encode()


def value_or_refusal(load: Callable[[], Any]) -> str | None:
    """None where `load` gives a value, what it says where it refuses; whatever else it raises fails the test."""
    try:
        load()
    except UserError as error:
        said = str(error)
        assert said.strip() and "Traceback" not in said
        return said
    return None


def command(*arguments: str) -> tuple[int, str, str]:
    """icu-ray with `arguments`: exit code, output, errors. Whatever it raises fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as left:  # argparse's own refusal
            code = int(left.code or 0)
    assert code in (0, 1, 2), (code, arguments)
    assert "Traceback" not in err.getvalue()
    if code == 2:
        assert any(re.match(r"icu-ray[\w -]*: ", line) for line in err.getvalue().splitlines()), err.getvalue()
    return code, out.getvalue(), err.getvalue()
