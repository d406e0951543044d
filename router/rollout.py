"""A new variant on its way in: which requests it gets, and when it has shown enough.

A canary is held against the other variants, which answer the rest of the same traffic at the same
time, so that a busy host or a hard hour counts against neither. Where fewer than `ENOUGH` runs of
the others were seen in its first `ALONE`, as when it gets all the traffic, nothing could ever be
surely worse than they are: then it is also held against bounds of its own. The counts go through
confidence sequences (`sequential.py`), so the verdict may be asked for at any moment.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter

from router import sequential
from router.promise import LATE_RATIO
from router.sequential import Count, difference, rate
from variants.evidence import Interval

Ratio = Annotated[float, Strict(), Field(ge=0, le=1)]
Verdict = Literal["promote", "demote", "wait"]
NOTHING = Count()
ENOUGH = 20
"""From so many runs of the others on, a candidate is held against them alone."""
ALONE = 100
"""Who has had so many runs while the others had fewer than `ENOUGH` gets nearly all the traffic."""
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which requests a candidate gets: every one of `keys`, every one with a header of `headers`
    that has the value given there, and `ratio` of the others.

    `sticky` names a header, as one with a user's id: requests with the same value of it stay on the
    same side, also when `ratio` grows. Without it, or in a request that lacks it, the request's own
    id decides.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ratio: Ratio = 0.05
    keys: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    headers: Annotated[Mapping[HeaderName, str], Field(max_length=16)] = field(default_factory=dict)
    sticky: HeaderName | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Criteria:
    """What a canary must show, each as a share of its runs, at `confidence` for all together.

    `max_error_excess`: failed runs and missed deadlines beyond those of the other variants.
    `max_slow_excess`: runs that take more than `slow_factor` times the p95 that was measured at
    registration, beyond those of the others. `min_agreement`: rows with the reference's answer;
    None asks for none. `promote` and `demote` say whether the verdict is carried out.

    Where it had 100 runs and the others fewer than 20, it is demoted as well once it surely fails
    in more than `max_error_ratio` of its runs, or surely is slow in more than 5 % (what a p95
    leaves out) and `max_slow_excess` together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    confidence: Annotated[float, Strict(), Field(ge=0.5, lt=1)] = 0.95
    max_error_excess: Ratio = 0.02
    max_error_ratio: Ratio = 0.1
    max_slow_excess: Ratio = 0.1
    slow_factor: Annotated[float, Strict(), Field(ge=1, le=100)] = 1.5
    min_agreement: Ratio | None = 0.5
    promote: Annotated[bool, Strict()] = True
    demote: Annotated[bool, Strict()] = True


EVERYONE = Share()
DEFAULT = Criteria()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a variant is tried: whose requests, and what it must show."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    share: Share = EVERYONE
    criteria: Criteria = DEFAULT


PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
"""A plan's form as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was counted of the candidate and of the variants beside it.

    `slow` is None for a shadow: what runs only when nothing else does says little of its speed.
    """

    failed: Count = NOTHING
    slow: Count | None = NOTHING
    others_failed: Count = NOTHING
    others_slow: Count = NOTHING
    agreed: Count = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One criterion: its interval, what it is held against, and whether that is settled.

    `alone`: too little was seen of the others, so this is its own rate against a bound of its own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    criterion: Literal["errors", "latency", "agreement"]
    found: Interval
    limit: float
    standing: Literal["kept", "broken", "open"]
    alone: bool = False


def in_share(
    share: Share, *, seed: str, key: str, headers: Mapping[str, str], request_id: str
) -> bool:
    """Whether a request goes to the candidate.

    `headers` by lower-case name. `seed` is the candidate's own, so that the next one does not get
    the same callers first.
    """
    if key in share.keys:
        return True
    if any(headers.get(name.lower()) == value for name, value in share.headers.items()):
        return True
    sticky = None if share.sticky is None else headers.get(share.sticky.lower())
    return _fraction(seed, request_id if sticky is None else sticky) < share.ratio


def _fraction(seed: str, id: str) -> float:
    """A number from 0 to below 1 that looks random and is always the same."""
    digest = hashlib.blake2b(id.encode(), key=seed.encode()[:64], digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def judge(criteria: Criteria, seen: Seen) -> tuple[Verdict, tuple[Judged, ...]]:
    """The verdict now and each criterion's part in it.

    `demote` once one criterion is surely broken, `promote` once all are surely kept.
    """
    judged = 1 + (seen.slow is not None) + (criteria.min_agreement is not None)
    alpha = (1.0 - criteria.confidence) / judged
    excess, most = criteria.max_error_excess, criteria.max_error_ratio
    findings = [
        _at_most("errors", seen.failed, seen.others_failed, alpha, excess=excess, most=most)
    ]
    if seen.slow is not None:
        excess, most = criteria.max_slow_excess, LATE_RATIO + criteria.max_slow_excess
        findings.append(
            _at_most("latency", seen.slow, seen.others_slow, alpha, excess=excess, most=most)
        )
    if criteria.min_agreement is not None:
        agreed = rate(seen.agreed, alpha)
        findings.append(_at_least("agreement", agreed, criteria.min_agreement))
    standings = {finding.standing for finding in findings}
    if "broken" in standings:
        return "demote", tuple(findings)
    return "wait" if "open" in standings else "promote", tuple(findings)


def told(finding: Judged) -> str:
    """A criterion in words, for a history."""
    interval, limit = sequential.told(finding.found), finding.limit
    if finding.alone:
        what = "failures" if finding.criterion == "errors" else "slow runs"
        return f"{what} {interval}, at most {limit:g}, with too little seen of the others"
    match finding.criterion:
        case "errors":
            return f"failures beyond the others' {interval}, at most {limit:g}"
        case "latency":
            return f"slow runs beyond the others' {interval}, at most {limit:g}"
        case "agreement":
            return f"agreement with the reference {interval}, at least {limit:g}"


def _at_most(
    criterion: Literal["errors", "latency"],
    mine: Count,
    others: Count,
    alpha: float,
    *,
    excess: float,
    most: float,
) -> Judged:
    """What happens to a candidate more often than to the others, or to itself alone.

    The latter by the very sequence that the difference is made of, so it adds nothing to `alpha`.
    """
    found, alone = difference(mine, others, alpha), rate(mine, alpha / 2)
    if found.low > excess:
        return Judged(criterion=criterion, found=found, limit=excess, standing="broken")
    if found.high <= excess:
        return Judged(criterion=criterion, found=found, limit=excess, standing="kept")
    if mine.n >= ALONE and others.n < ENOUGH and alone.low > most:
        return Judged(criterion=criterion, found=alone, limit=most, standing="broken", alone=True)
    return Judged(criterion=criterion, found=found, limit=excess, standing="open")


def _at_least(criterion: Literal["agreement"], found: Interval, limit: float) -> Judged:
    standing: Literal["kept", "broken", "open"] = "open"
    if found.high < limit:
        standing = "broken"
    elif found.low >= limit:
        standing = "kept"
    return Judged(criterion=criterion, found=found, limit=limit, standing=standing)
