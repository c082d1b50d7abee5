"""The claims of a sweep file: their keys, and the reader that checks them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any, Protocol

from mixsweep.core.errors import did_you_mean
from mixsweep.core.toml.keys import declared_keys, read_keys, toml_key, toml_key_by_hand
from mixsweep.core.toml.reader import Reader
from mixsweep.core.trainables.declared import DeclaredTrainable
from mixsweep.core.trainables.interface import COSTS, Trainable

CLAIM_KINDS = ("better", "worse", "best", "worst", "alike", "monotone", "faster")
TRENDS = ("increasing", "decreasing")
ERRORS = ("own", "pooled")
MODES = ("max", "min")

WITH_THAN = ("better", "worse", "faster")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that the report tests. It has one of better, worse, best, worst, alike, monotone and faster."""

    text: str = toml_key("", "the statement, as the report prints it")
    compare: str = toml_key_by_hand(MISSING, "the field of [space] whose values are compared", required=True)
    better: tuple[Any, ...] = toml_key_by_hand((), "the value, or a list of values, that is claimed better")
    worse: tuple[Any, ...] = toml_key_by_hand((), "the value, or a list of values, that is claimed worse")
    best: tuple[Any, ...] = toml_key_by_hand((), "the value that is claimed better than all others")
    worst: tuple[Any, ...] = toml_key_by_hand((), "the value that is claimed worse than all others")
    alike: tuple[Any, ...] | str = toml_key_by_hand(
        (), "values, or all, that are claimed to differ by less than `within`"
    )
    monotone: str = toml_key_by_hand(
        "", "increasing or decreasing: the metric's trend along the field's values"
    )
    faster: tuple[Any, ...] = toml_key_by_hand((), "the value, or a list of values, that is claimed faster")
    than: tuple[Any, ...] | str = toml_key_by_hand("rest", "a value, a list of values, or rest: all others")
    within: float | None = toml_key(
        None, "the margin of alike, in the metric's units: 0.01 is a point", above=0
    )
    metric: str = toml_key_by_hand(
        "", "what is compared; left out: the sweep's metric, or seconds for faster"
    )
    mode: str = toml_key(
        "", "whether more or less of it is better; left out: as the metric wants", choices=MODES
    )
    error: str = toml_key("", "own or pooled over values; left out: as the sweep file says", choices=ERRORS)
    primary: bool = toml_key(False, "tested first and without a correction for the other claims")

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(name for name in CLAIM_KINDS if getattr(self, name))


class CheckValue(Protocol):
    """Check a value of a field by itself."""

    def __call__(self, where: str, name: str, value: Any) -> None: ...


def read_claims(
    reader: Reader,
    trainable: Trainable,
    table: Mapping[str, Any],
    where: str,
    space: Mapping[str, Any],
    check_value: CheckValue,
) -> tuple[Claim, ...]:
    """Read the claims of a part.

    Args:
        where: the dotted path of the part, for the errors.

    Raises:
        UserError: of the reader's class; names the key, its value, and what is allowed.
    """
    tables = table.get("claims", [])
    if not isinstance(tables, list) or not all(isinstance(claim, Mapping) for claim in tables):
        raise reader.error(f"{where}claims", "write [[claims]] tables")
    claims = []
    for number, claim in enumerate(tables):
        at = f"{where}claims[{number}]."
        reader.keys(claim, declared_keys(Claim), at)
        compare = reader.choice(claim, "compare", "", space, at)
        kind = _kind(reader, claim, at)
        known = space[compare].get("grid_search", space[compare].get("choice"))
        check = partial(_check_values, reader, known=known, compare=compare, check_value=check_value)
        plain = read_keys(reader, claim, Claim, at)
        values = _own_keys(reader, claim, kind, at, check, trainable.field(compare).is_list)
        metric = _metric(reader, trainable, claim, kind, at)
        claims.append(Claim(**plain, compare=compare, **values, metric=metric))
    return tuple(claims)


def _kind(reader: Reader, claim: Mapping[str, Any], at: str) -> str:
    kinds = [name for name in CLAIM_KINDS if name in claim]
    if not kinds:
        raise reader.error(f"{at}better", f"missing: what is claimed; write one of {', '.join(CLAIM_KINDS)}")
    if len(kinds) > 1:
        raise reader.error(
            f"{at}{kinds[1]}", f"not with {kinds[0]}: a claim makes one statement; write another"
        )
    kind = kinds[0]
    for key, allowed in (("than", WITH_THAN), ("within", ("alike",))):
        if key in claim and kind not in allowed:
            raise reader.error(f"{at}{key}", f"not with {kind}; it goes with {' or '.join(allowed)}")
    if kind == "alike" and "within" not in claim:
        raise reader.error(f"{at}within", "missing: the margin, in the metric's units, that `alike` allows")
    return kind


def _own_keys(
    reader: Reader, claim: Mapping[str, Any], kind: str, at: str, check: "partial[None]", of_lists: bool
) -> dict[str, Any]:
    given = claim[kind]
    if kind == "monotone":
        return {"monotone": reader.choice(claim, "monotone", "", TRENDS, at)}
    if kind == "alike" and given == "all":
        return {"alike": "all"}
    values: dict[str, Any] = {kind: _values(given, of_lists)}
    check(where=at + kind, values=values[kind])
    if kind == "alike" and len(values[kind]) < 2:
        raise reader.error(f"{at}alike", f"{given!r} is one value; write two or more, or all")
    if kind in ("best", "worst") and values[kind] != (given,):
        raise reader.error(f"{at}{kind}", f"{given!r} is a list; one value is the {kind}")
    if not values[kind]:
        raise reader.error(f"{at}{kind}", "is empty; write a value of [space]")
    than = claim.get("than", "rest")
    if than != "rest":
        values["than"] = _values(than, of_lists)
        check(where=f"{at}than", values=values["than"])
    return values


def _values(given: Any, of_lists: bool) -> tuple[Any, ...]:
    """A value, or the values of a list; of a field of lists, a list without lists in it is one value."""
    if not isinstance(given, list):
        return (given,)
    is_one = of_lists and given and not any(isinstance(item, list) for item in given)
    return (given,) if is_one else tuple(given)


def _check_values(
    reader: Reader,
    where: str,
    values: Sequence[Any],
    known: Sequence[Any] | None,
    compare: str,
    check_value: CheckValue,
) -> None:
    for item in values:
        check_value(where, compare, item)
        if known is not None and item not in known:
            raise reader.error(where, f"{item!r} is not in space.{compare}: {known}")


def known_metrics(trainable: Trainable) -> tuple[str, ...]:
    """The metrics that a claim may name: of quality, of seconds, and the number of parameters."""
    own = (*trainable.result_metrics, *trainable.objectives, *trainable.second_metrics, *COSTS)
    return tuple(dict.fromkeys(own))


def _metric(reader: Reader, trainable: Trainable, claim: Mapping[str, Any], kind: str, at: str) -> str:
    metric = reader.text(claim, "metric", "", at)
    seconds = trainable.second_metrics
    if kind == "faster":
        if not metric and not seconds:
            raise reader.error(f"{at}metric", "missing: the trainable has no metric of seconds; name one")
        if metric and "seconds" not in metric:
            raise reader.error(
                f"{at}metric", f"{metric!r} is not a metric of seconds{did_you_mean(metric, seconds)}"
            )
    known = known_metrics(trainable)
    if metric and not isinstance(trainable, DeclaredTrainable) and metric not in known:
        raise reader.error(f"{at}metric", f"{metric!r} is not known{did_you_mean(metric, known)}")
    if metric and kind != "faster" and "mode" not in claim and not trainable.has_better(metric):
        more = did_you_mean(metric, known)
        raise reader.error(
            f"{at}metric", f"{metric!r} is not declared by the trainable; give its mode too{more}"
        )
    return metric
