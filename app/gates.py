"""What a new artifact must pass before anything is routed to it, and what each gate found.

The file is opened only in throw-away processes (`variants.trial`). The first gate that fails ends
it; what came before is found to have passed, what comes after is not reached.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app import signing
from app.findings import GATES, Finding, Gate
from app.schemas import VariantIn
from app.settings import Options
from app.signing import SignatureRefused
from variants import artifact, runtimes, trial
from variants.agreement import Likeness
from variants.data_folder import DataFolder
from variants.errors import ArtifactRejected, GearshiftError, Invalid, TrialFailed
from variants.evidence import Alike, Interval
from variants.manifest import Artifact, Manifest, manifest_id
from variants.measure import Effort
from variants.registry import ModelRecord
from variants.store import storage_errors
from variants.trial import Request, Result

Tell = Callable[[str, float], None]
OnTrial = Callable[[subprocess.Popen[bytes]], None]

_AT: Mapping[str, Gate] = {
    "format_not_allowed": "format",
    "too_large": "format",
    "signature_mismatch": "signature",
    "load_failed": "load",
    "disagrees": "agreement",
}
"""Where an artifact was refused, by the code; all others speak of its structure."""

_findings: TypeAdapter[tuple[Finding, ...]] = TypeAdapter(tuple[Finding, ...])


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """All gates' findings; `manifest` where all were passed, `error` where one was not."""

    findings: tuple[Finding, ...]
    manifest: Manifest | None = None
    error: GearshiftError | None = None

    def evidence(self, *gates: Gate) -> dict[str, Any]:
        """The findings of these gates, or of all, as an audit keeps them."""
        found = tuple(f for f in self.findings if not gates or f.gate in gates)
        return {"gates": _findings.dump_python(found, mode="json")}


class Gates:
    """The gates of one gateway, as its options say."""

    def __init__(
        self,
        *,
        data: DataFolder,
        threads: int,
        options: Options,
        signing_key: Path | None,
    ) -> None:
        self._data = data
        self._threads = threads
        self._options = options
        self._signing_key = signing_key
        self._reference: tuple[tuple[str, str], Path] | None = None
        self._kept = contextlib.ExitStack()

    def close(self) -> None:
        """Forget the reference's scores."""
        self._reference = None
        self._kept.close()

    async def admit(self, wanted: VariantIn) -> None:
        """What can be told at once.

        Raises `Invalid` where less agreement is asked for than this gateway's option, `NotFound`
        for an unknown blob, `SignatureRefused`, or `ArtifactRejected` for what is plainly no ONNX
        file.
        """
        self._required(wanted)
        digest = wanted.artifact.digest
        await asyncio.to_thread(self._data.store.blob_size, digest)
        path = await asyncio.to_thread(self._data.store.blob_path, digest)
        if self._signing_key is not None:
            await asyncio.to_thread(signing.check, path, wanted.signature, self._signing_key)
        await asyncio.to_thread(artifact.check_format, path)

    async def check(self, model: str, wanted: VariantIn, tell: Tell, on_trial: OnTrial) -> Checked:
        """Take an artifact through all gates. Raises `NotFound` for an unknown model or blob."""
        found: dict[Gate, Finding] = {}
        if self._signing_key is None:
            found["signing"] = Finding(
                gate="signing", outcome="skipped", detail="this gateway asks for no signature"
            )
        try:
            await self.admit(wanted)
            return await self._check(model, wanted, tell, on_trial, found)
        except SignatureRefused as error:
            return Checked(findings=_all(found, "signing", str(error)), error=error)
        except ArtifactRejected as error:
            gate = _AT.get(error.code, "structure")
            return Checked(findings=_all(found, gate, str(error)), error=error)
        except TrialFailed as error:
            return Checked(findings=_all(found, "load", str(error)), error=error)

    async def _check(
        self,
        model: str,
        wanted: VariantIn,
        tell: Tell,
        on_trial: OnTrial,
        found: dict[Gate, Finding],
    ) -> Checked:
        record = await asyncio.to_thread(self._data.registry.model, model)
        store, digest = self._data.store, record.evaluation_digest
        compared = await asyncio.to_thread(self._compared, record)
        evaluations = {}
        if digest is not None:
            evaluations["test"] = await asyncio.to_thread(store.blob_path, digest)
        scores = None
        if compared is not None:
            tell("scoring the reference", 0.0)
            scores = await asyncio.to_thread(self._scored, record, compared, evaluations, on_trial)
        limits = self._options.now
        request = Request(
            path=await asyncio.to_thread(store.blob_path, wanted.artifact.digest),
            spec=record.spec,
            runtimes=runtimes.installed(),
            evaluations=evaluations,
            reference_scores=scores,
            threads=self._threads,
            effort=Effort(seconds=limits.profile_s),
            timeout_s=limits.trial_timeout_s,
            memory_bytes=limits.trial_memory_bytes,
        )
        result = await asyncio.to_thread(
            trial.run,
            request,
            lambda share: tell("measuring", share),
            on_start=on_trial,
        )
        manifest = await asyncio.to_thread(self._manifest, model, wanted, result, compared)
        found["profile"] = _profiled(result)
        found["accuracy"] = _accurate(result)
        if compared is None or result.likeness is None:
            found["agreement"] = Finding(
                gate="agreement",
                outcome="skipped",
                detail="the model has no reference or no evaluation set to compare with",
            )
        else:
            found["agreement"] = self._agreement(compared, wanted, result.likeness)
        return Checked(findings=_all(found), manifest=manifest)

    def _compared(self, record: ModelRecord) -> Manifest | None:
        """The reference, where there is one and rows to compare on."""
        if record.reference is None or record.evaluation_digest is None:
            return None
        reference = self._data.registry.variant(record.spec.name, record.reference)
        if reference.manifest_id is None:
            return None
        return self._data.store.manifest(reference.manifest_id)

    def _scored(
        self,
        record: ModelRecord,
        reference: Manifest,
        evaluations: Mapping[str, Path],
        on_trial: OnTrial,
    ) -> Path:
        """A file of the reference's scores on the evaluation set; the last one is kept."""
        key = (reference.id, str(record.evaluation_digest))
        if self._reference is None or self._reference[0] != key:
            request = Request(
                path=self._data.store.blob_path(reference.artifact.digest),
                spec=record.spec,
                runtimes=(reference.runtime,),
                evaluations=evaluations,
                threads=self._threads,
            )
            try:
                scores = trial.scores(request, on_trial)
            except (ArtifactRejected, TrialFailed) as error:
                raise ArtifactRejected(
                    "disagrees", f"the reference {reference.variant!r} cannot be scored: {error}"
                ) from error
            self.close()
            file, path = self._kept.enter_context(self._data.store.aside())
            with storage_errors():
                file.write(scores.astype("<f4").tobytes())
                file.flush()
            self._reference = (key, path)
        return self._reference[1]

    def _agreement(self, reference: Manifest, wanted: VariantIn, found: Likeness) -> Finding:
        """Raises `ArtifactRejected` where it agrees too little."""
        required = self._required(wanted)
        interval = found.interval
        evidence = {
            "reference": reference.variant,
            "n": found.n,
            "agreed": found.agreed,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "max_abs_difference": min(found.max_abs_difference, sys.float_info.max),
            "required": required,
        }
        if interval.low < required:
            raise ArtifactRejected(
                "disagrees",
                f"{found.agreed} of {found.n} evaluation rows have the answer of "
                f"{reference.variant!r}: {interval.value:.4f}, 95 % interval "
                f"[{interval.low:.4f}, {interval.high:.4f}], largest difference "
                f"{found.max_abs_difference:.4g}; the lower bound must be at least {required:g}",
            )
        return Finding(gate="agreement", outcome="passed", evidence=evidence)

    def _required(self, wanted: VariantIn) -> float:
        """The agreement that it must have. Raises `Invalid` where it asks for less than is due."""
        asked, least = wanted.min_agreement, self._options.now.min_agreement
        if asked is not None and asked < least:
            raise Invalid(
                f"min_agreement is {asked:g}, and this gateway asks for at least {least:g} "
                "of every variant",
                field="min_agreement",
            )
        return least if asked is None else asked

    def _manifest(
        self, model: str, wanted: VariantIn, result: Result, compared: Manifest | None
    ) -> Manifest:
        parent_id = None
        if wanted.parent is not None:
            parent_id = self._data.registry.variant(model, wanted.parent).manifest_id
        blob = Artifact(
            digest=wanted.artifact.digest,
            size_bytes=self._data.store.blob_size(wanted.artifact.digest),
            format="onnx",
        )
        recipe, tools = tuple(wanted.recipe), {"gearshift": version("gearshift")}
        return Manifest(
            id=manifest_id(
                model=model,
                variant=wanted.name,
                parent=parent_id,
                recipe=recipe,
                tools=tools,
                artifact=blob,
            ),
            model=model,
            variant=wanted.name,
            parent=parent_id,
            recipe=recipe,
            tools=tools,
            artifact=blob,
            runtime=result.runtime,
            accuracy=result.accuracy.get("test"),
            alike=_alike(compared, result.likeness),
            profiles=result.profiles,
            build_key=None,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _alike(reference: Manifest | None, found: Likeness | None) -> Alike | None:
    if reference is None or found is None:
        return None
    share = found.interval
    return Alike(
        reference=reference.variant,
        n=found.n,
        share=Interval(value=share.value, low=share.low, high=share.high),
    )


def _profiled(result: Result) -> Finding:
    best = next(p for p in result.profiles if p.runtime == result.runtime)
    evidence = {
        "runtime": best.runtime,
        "latency_s": {str(n): {"p50": q.p50, "p95": q.p95} for n, q in best.latency_s.items()},
        "memory_bytes": best.memory_bytes,
        "load_s": best.load_s,
        "other_runtimes": dict(result.failures),
    }
    return Finding(gate="profile", outcome="passed", evidence=evidence)


def _accurate(result: Result) -> Finding:
    accuracy = result.accuracy.get("test")
    if accuracy is None:
        return Finding(gate="accuracy", outcome="skipped", detail="the model has no evaluation set")
    evidence = {"value": accuracy.value, "low": accuracy.low, "n": accuracy.n}
    return Finding(gate="accuracy", outcome="passed", evidence=evidence)


def _all(
    found: Mapping[Gate, Finding], failed: Gate | None = None, detail: str = ""
) -> tuple[Finding, ...]:
    """Every gate's finding, with the one that failed if any did."""
    last = len(GATES) if failed is None else GATES.index(failed)
    return tuple(
        Finding(gate=gate, outcome="failed", detail=detail)
        if gate == failed
        else Finding(gate=gate, outcome="not_reached")
        if index > last
        else found.get(gate, Finding(gate=gate, outcome="passed"))
        for index, gate in enumerate(GATES)
    )
