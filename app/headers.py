"""Request headers to `Constraints`, and a reply's headers: RFC 9651 structured fields.

| header | type | parameters |
|---|---|---|
| `Infer-Max-Latency-Ms` | number > 0 | `pctl` (50 to 99), `soft` |
| `Infer-Max-Cost` | number ≥ 0, US dollars per million inferences | `soft` |
| `Infer-Min-Accuracy` | number ≥ 0 | `soft`, `point` |
| `Infer-Max-Accuracy-Drop` | number ≥ 0, percentage points | `soft` |
| `Infer-Objective` | token `accuracy`, `cost`, `latency` or `weighted` | weights of the last |
| `Infer-Variants` | list of strings or tokens | |
| `Infer-Model` | string or token | |
| `Infer-Explain` | boolean | |
| `Infer-Cascade` | boolean | |
| `Prefer` (RFC 7240) | `handling=strict` or `handling=lenient` | |
| `Priority` (RFC 9218) | dictionary with `u` from 0 to 7 | |
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast, get_args
from urllib.request import parse_http_list

import http_sf
from http_sf import StructuredFieldError, Token

from app.errors import Malformed
from router.constraints import Bound, Constraints, Objective, ObjectiveName
from router.decision import Verdict
from router.narrow import Narrowed
from router.weights import Weights

RawHeaders = Iterable[tuple[bytes, bytes]]

_KNOWN = frozenset(
    {
        b"infer-model",
        b"infer-max-latency-ms",
        b"infer-max-cost",
        b"infer-min-accuracy",
        b"infer-max-accuracy-drop",
        b"infer-objective",
        b"infer-variants",
        b"infer-explain",
        b"infer-cascade",
    }
)
_READ = _KNOWN | {b"prefer", b"priority"}

_WEIGHT = r"; *(accuracy|cost|latency)=[0-9]+(\.[0-9]{1,3})?"
OBJECTIVE_PATTERN = rf"^(accuracy|cost|latency|weighted({_WEIGHT})+)$"
"""For the description of the API."""

MAX_DECIMAL = 999_999_999_999.0
"""Twelve integer digits are all that a decimal can have (RFC 9651, section 3.3.2)."""

REMEMBERED_BYTES = 512
"""Headers up to this size are parsed once; longer ones each time, so that memory stays bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferHeaders:
    """What the headers of one inference request say."""

    model: str | None
    constraints: Constraints
    explain: bool
    handling: str | None
    """The `handling` preference as it was sent, to be echoed."""
    clamped: bool
    """Whether the deadline was cut to the longest that the gateway allows."""


def parse(raw: RawHeaders, *, max_latency_s: float) -> InferHeaders:
    """Read the request headers; deadlines above `max_latency_s` are clamped to it.

    Raises `Malformed` naming the header that is malformed, unknown, repeated or contradictory.
    """
    relevant = tuple(
        (name, value) for name, value in raw if name in _READ or name.startswith(b"infer-")
    )
    if sum(len(value) for _, value in relevant) > REMEMBERED_BYTES:
        return _parse(relevant, max_latency_s)
    return _remembered(relevant, max_latency_s)


@lru_cache(maxsize=1024)
def _remembered(relevant: tuple[tuple[bytes, bytes], ...], max_latency_s: float) -> InferHeaders:
    return _parse(relevant, max_latency_s)


def _parse(relevant: tuple[tuple[bytes, bytes], ...], max_latency_s: float) -> InferHeaders:
    values: dict[bytes, bytes] = {}
    for name, value in relevant:
        if name not in _READ:
            known = ", ".join(sorted(_display(k) for k in _KNOWN))
            raise Malformed(
                f"unknown header {_display(name)}; known: {known}", field=_display(name)
            )
        if name in values and name in _KNOWN:
            raise Malformed(f"{_display(name)} is repeated; send it once", field=_display(name))
        values[name] = values[name] + b", " + value if name in values else value
    soft: set[Bound] = set()
    latency = _number(values, b"infer-max-latency-ms", "max_latency", soft, {"pctl"})
    cost = _number(values, b"infer-max-cost", "max_cost", soft, set())
    accuracy = _number(values, b"infer-min-accuracy", "min_accuracy", soft, {"point"})
    drop = _number(values, b"infer-max-accuracy-drop", "max_accuracy_drop", soft, set())
    handling = _handling(values.get(b"prefer"))
    constraints = Constraints(
        max_latency_s=None if latency is None else min(latency[0] / 1000, max_latency_s),
        latency_percentile=_percentile(latency),
        max_cost_usd_per_million=None if cost is None else cost[0],
        min_accuracy=None if accuracy is None else accuracy[0],
        accuracy_point=accuracy is not None and _flag(accuracy[1], "point", "Infer-Min-Accuracy"),
        max_accuracy_drop_points=None if drop is None else drop[0],
        soft=frozenset(soft),
        objective=_objective(values),
        variants=_variants(values.get(b"infer-variants")),
        lenient=handling == "lenient",
        urgency=_urgency(values.get(b"priority")),
        cascade=_boolean(values, b"infer-cascade"),
    )
    if constraints.max_latency_s == 0:
        raise Malformed("Infer-Max-Latency-Ms must be greater than 0", field="Infer-Max-Latency-Ms")
    return InferHeaders(
        model=_model(values),
        constraints=constraints,
        explain=_boolean(values, b"infer-explain"),
        handling=handling,
        clamped=latency is not None and latency[0] / 1000 > max_latency_s,
    )


def effective(narrowed: Narrowed) -> bytes:
    """The header `Infer-Effective`, as a line: the bounds of the key as they hold, and whose.

    `max-cost=3.000;from=key, max-latency-ms=20.000;from=request`; empty for a key without bounds.
    """
    if not narrowed.sides:
        return b""
    fields = []
    for bound, side in narrowed.sides:
        limit = narrowed.constraints.limit(bound) or 0.0
        name = bound.replace("_", "-")
        if bound == "max_latency":
            name, limit = f"{name}-ms", limit * 1000
        fields.append(f"{name}={reply_number(limit)};from={side}")
    return f"infer-effective: {', '.join(fields)}\r\n".encode()


def reply_number(value: float) -> str:
    """A decimal with three fractional digits (RFC 9651, section 4.1.5, says how it is parsed)."""
    if not -MAX_DECIMAL <= value <= MAX_DECIMAL:
        value = MAX_DECIMAL if value > 0 else -MAX_DECIMAL
    return f"{value:.3f}"


def promised(predicted: Verdict) -> str:
    """The value of `Infer-Predicted`: what is known of the variant, and how long it should take.

    `latency-ms=3.210, cost=0.002, accuracy=0.908`; empty where nothing is known, and then the
    header is left out (RFC 9651, section 3.2).
    """
    told = []
    if (latency_s := predicted.predicted_latency_s) is not None and latency_s < math.inf:
        told.append(f"latency-ms={reply_number(latency_s * 1e3)}")
    if predicted.cost_usd_per_million is not None:
        told.append(f"cost={reply_number(predicted.cost_usd_per_million)}")
    if predicted.accuracy is not None:
        told.append(f"accuracy={reply_number(predicted.accuracy)}")
    return ", ".join(told)


def _display(name: bytes) -> str:
    return name[:80].decode("latin-1").title()


def _item(values: dict[bytes, bytes], name: bytes) -> tuple[Any, dict[str, Any]] | None:
    if name not in values:
        return None
    try:
        parsed = http_sf.parse(values[name], tltype="item")
    except (StructuredFieldError, ValueError) as error:
        raise _malformed(name, values[name], str(error)) from error
    return cast(tuple[Any, dict[str, Any]], parsed)


def _number(
    values: dict[bytes, bytes], name: bytes, bound: Bound, soft: set[Bound], parameters: set[str]
) -> tuple[float, dict[str, Any]] | None:
    item = _item(values, name)
    if item is None:
        return None
    value, found = item
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        raise _malformed(name, values[name], "a number of at least 0 is expected")
    if unknown := found.keys() - parameters - {"soft"}:
        allowed = ", ".join(sorted(parameters | {"soft"}))
        raise _malformed(
            name, values[name], f"unknown parameter {min(unknown)!r}; allowed: {allowed}"
        )
    if _flag(found, "soft", _display(name)):
        soft.add(bound)
    return float(value), found


def _percentile(latency: tuple[float, dict[str, Any]] | None) -> int:
    if latency is None:
        return 95
    percentile = latency[1].get("pctl", 95)
    if (
        isinstance(percentile, bool)
        or not isinstance(percentile, int)
        or not 50 <= percentile <= 99
    ):
        raise Malformed(
            f"Infer-Max-Latency-Ms: pctl is {percentile}; an integer from 50 to 99 is expected",
            field="Infer-Max-Latency-Ms",
        )
    return percentile


def _flag(parameters: dict[str, Any], name: str, header: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Malformed(f"{header}: {name} takes no value, or ?0 or ?1", field=header)
    return value


def _objective(values: dict[bytes, bytes]) -> Objective | None:
    found = _item(values, b"infer-objective")
    if found is None:
        return None
    item, parameters = found
    if isinstance(item, Token) and str(item) == "weighted":
        return _weights(values[b"infer-objective"], parameters)
    if not isinstance(item, Token) or str(item) not in get_args(ObjectiveName) or parameters:
        raise _malformed(
            b"infer-objective",
            values[b"infer-objective"],
            "accuracy, cost, latency or weighted;accuracy=0.7;cost=0.3 is expected",
        )
    return cast(ObjectiveName, str(item))


def _weights(raw: bytes, parameters: dict[str, Any]) -> Weights:
    for name, weight in parameters.items():
        number = isinstance(weight, int | Decimal) and not isinstance(weight, bool)
        if name not in get_args(ObjectiveName) or not number or weight < 0:
            shown = f"{name[:80]}={weight}"[:120]
            raise _malformed(
                b"infer-objective",
                raw,
                f"{shown}: accuracy, cost and latency take weights of at least 0",
            )
    if not any(parameters.values()):
        raise _malformed(b"infer-objective", raw, "weighted needs a weight above 0, as accuracy=1")
    shares = {name: float(weight) for name, weight in parameters.items()}
    return Weights(
        accuracy=shares.get("accuracy", 0.0),
        cost=shares.get("cost", 0.0),
        latency=shares.get("latency", 0.0),
    )


def _variants(raw: bytes | None) -> tuple[str, ...] | None:
    if raw is None:
        return None
    try:
        items = cast(list[tuple[Any, dict[str, Any]]], http_sf.parse(raw, tltype="list"))
    except (StructuredFieldError, ValueError) as error:
        raise _malformed(b"infer-variants", raw, str(error)) from error
    if not items or not all(isinstance(name, str | Token) and not rest for name, rest in items):
        raise _malformed(b"infer-variants", raw, 'names such as "int8", "fp16" are expected')
    return tuple(dict.fromkeys(str(name) for name, _ in items))


def _handling(raw: bytes | None) -> str | None:
    """The `handling` preference; other preferences may be ignored (RFC 7240, section 2)."""
    found: str | None = None
    for part in parse_http_list((raw or b"").decode("latin-1")):
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip().lower() != "handling":
            continue
        handling = value.strip().strip('"').lower()
        if handling not in ("strict", "lenient"):
            shown = handling[:80]
            raise Malformed(
                f"Prefer: handling is {shown!r}; strict or lenient is expected", field="Prefer"
            )
        if found not in (None, handling):
            raise Malformed("Prefer: handling is both strict and lenient", field="Prefer")
        found = handling
    return found


def _urgency(raw: bytes | None) -> int:
    """RFC 9218 asks to ignore what cannot be understood, so a bad value means the default, 3."""
    if raw is None:
        return 3
    try:
        value = cast(dict[str, Any], http_sf.parse(raw, tltype="dictionary")).get("u", (3, {}))[0]
    except (StructuredFieldError, ValueError):
        return 3
    return value if type(value) is int and 0 <= value <= 7 else 3  # True is an int, too


def _boolean(values: dict[bytes, bytes], name: bytes) -> bool:
    item = _bare(values, name)
    if item is not None and not isinstance(item, bool):
        raise _malformed(name, values[name], "?1 or ?0 is expected")
    return bool(item)


def _model(values: dict[bytes, bytes]) -> str | None:
    item = _bare(values, b"infer-model")
    if item is None:
        return None
    if not isinstance(item, str | Token):
        raise _malformed(
            b"infer-model", values[b"infer-model"], 'a name such as "fashion" is expected'
        )
    return str(item)


def _bare(values: dict[bytes, bytes], name: bytes) -> Any:
    """The value of an item that takes no parameters, None where the header was not sent."""
    item = _item(values, name)
    if item is None:
        return None
    if item[1]:
        raise _malformed(name, values[name], "no parameters are expected")
    return item[0]


def _malformed(name: bytes, raw: bytes, expected: str) -> Malformed:
    shown = raw[:80].decode("latin-1")
    header = _display(name)
    return Malformed(f"{header}: {shown!r} is malformed: {expected}", field=header)
