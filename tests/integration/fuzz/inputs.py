"""What is fed to the program: random TOML trees around the schema, mutated sweep files, odd words of a command line."""

import os
import tomllib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from mixsweep.core.trainables.kinds import find_trainable
from mixsweep.sweep.planning.schema import TABLES, TOP_KEYS
from mixsweep.sweep.planning.space import DISTRIBUTIONS
from mixsweep.sweep.presets.catalog import PRESETS, preset_names

# Examples of a test: a few in CI, always the same ones; as many as this variable says by hand, new ones each time.
_ASKED = int(os.environ.get("MIXSWEEP_FUZZ_EXAMPLES", "0"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Settings of a fuzzing test: `examples` of them, or what MIXSWEEP_FUZZ_EXAMPLES says."""
    return settings(
        max_examples=_ASKED or examples,
        derandomize=not _ASKED,
        database=None,
        deadline=None,
        stateful_step_count=12,
        phases=(Phase.explicit, Phase.generate, Phase.shrink) if _ASKED else (Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


ODD_WORDS = [
    "", " ", ".", "..", "/", "//", "../x", "*", "**", "?", "[", "[a-", "%", "%j", "{}", "{0}",
    "$HOME", "~", "-", "--", "-1", "0",
    "nan", "inf", "1e400", "99999999999999999999", "0x" + "f" * 5000, "9" * 5000, "a\nb", "a\tb",
    "a\\b", "\x1b[2J", "\x7f",
    "a'b\"c", "é" * 300, "\u202e", "🦆", "\udcff", "a" * 5000, "[red]x[/red]", "[/]", "con", "true",
    "null", "demo", "runs",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    0, 1, -1, 2**31, 2**63 - 1, -(2**63), 1.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), True, False,
    "", "a", "\x00", "a\nb", "🦆", "x" * 5000, [], [[]], {}, {"": {}}, [1, "a"], [True], [0.1] * 50,
]  # fmt: skip

_fields = find_trainable().field_names
KEYS = st.sampled_from(
    [*TOP_KEYS, *TABLES, *_fields, *DISTRIBUTIONS, "", "a.b", "é", "x" * 300, "parts", "seed"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.sampled_from([value for value in ODD_VALUES if not isinstance(value, list | dict)])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.booleans()
    | st.dates()
    | st.datetimes()
    | st.sampled_from(
        [
            "relu",
            "mlp",
            "mixer",
            "resnet18",
            "sgd",
            "digits",
            "asha",
            "tpe",
            "pbt",
            "best:2",
            "valid_loss",
            "lr",
        ]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(KEYS, VALUES, max_size=8)


@st.composite
def mutated_presets(draw: st.DrawFn) -> dict[str, Any]:
    """A shipped sweep file with some values of another type, deleted, doubled, nested, or under other keys."""
    name = draw(st.sampled_from(preset_names()))
    tree: dict[str, Any] = deepcopy(tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8")))
    if draw(st.booleans()):
        tree["search"] = draw(
            st.sampled_from(
                [{"algorithm": "tpe", "trials": 2}, {"algorithm": "pbt", "mutate": ["lr"], "population": 2}]
            )
        )
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_spots(tree))
        if not spots:
            break
        holder, key = draw(st.sampled_from(spots))
        change = draw(
            st.sampled_from(["replace", "odd", "delete", "double", "nest", "rename", "add", "swap"])
        )
        if change == "replace":
            holder[key] = draw(VALUES)
        elif change == "odd":
            holder[key] = deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif change == "delete":
            del holder[key]
        elif change == "nest":
            for _ in range(draw(st.sampled_from([1, 5, 40]))):
                holder[key] = [holder[key]] if isinstance(holder, list) else {"a": holder[key]}
        elif change == "double" and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(KEYS)] = holder.pop(key)
        elif change == "add" and isinstance(holder, dict):
            holder[draw(KEYS)] = draw(VALUES)
        elif change == "swap":
            other, its = draw(st.sampled_from(spots))
            holder[key] = deepcopy(other[its])
    return tree


def _spots(tree: Any) -> Any:
    """Every place of a tree: a table or list, and a key or index in it."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _spots(value)
