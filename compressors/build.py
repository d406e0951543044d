"""The build: every recipe of a plan becomes a measured, published variant, or says why not.

key → skip if it was built → make → measure on this host → gate → publish; at the end the cascades
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from compressors import cascades, evaluate, stage
from compressors.build_key import build_key, tools
from compressors.gates import refusal
from compressors.outcome import Outcome, Silent, Status, Watch
from compressors.plan import Plan, Recipe
from compressors.publish import publish
from compressors.records import BuildRecord, Records
from compressors.scores import Scores
from compressors.stage import Stage
from compressors.workshop import Built, Made, work_s
from variants import runtimes, trial
from variants.data_folder import DataFolder
from variants.errors import Conflict, GearshiftError, NotFound
from variants.evidence import Evaluation
from variants.manifest import Manifest, digest_json, manifest_id
from variants.profile import BATCHES

SILENT = Silent()


def build(
    plan: Plan, folder: DataFolder, *, only: Sequence[str] = (), watch: Watch = SILENT
) -> tuple[Outcome, ...]:
    """Build what is not there yet and tell how each recipe ended, parents first.

    `only` names recipes; their ancestors are built too. A recipe that fails or is refused leaves
    the others untouched, except its children. Two builds may share a data folder: a recipe that
    one has in hand is waited for by the other. Before any work it raises `Conflict` where a name
    is taken by a variant that this plan would not build, and `Invalid` where a technique does not
    suit the model.
    """
    recipes = plan.selected(only)
    with tempfile.TemporaryDirectory(prefix="gearshift-build-") as scratch:
        run = _Run(plan, folder, watch, Path(scratch))
        work = run.work(recipes)
        if work:
            run.hold_plan_against_model()
        watch.begin(work)
        for recipe in recipes:
            watch.end(run.one(recipe))
        run.renew_cascades()
    return tuple(run.outcomes.values())


class _Run:
    """One call of `build`."""

    def __init__(self, plan: Plan, folder: DataFolder, watch: Watch, scratch: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._watch = watch
        self._scratch = scratch
        self._records = Records(folder.root)
        self._stage: Stage | None = None
        self._built: dict[str, Built] = {}
        self._reference: BuildRecord | None = None
        self.outcomes: dict[str, Outcome] = {}

    def work(self, recipes: Sequence[Recipe]) -> dict[str, float]:
        """Estimated seconds per recipe that is still to build. Raises `Conflict`."""
        ids: dict[str, str] = {}
        work: dict[str, float] = {}
        for recipe in recipes:
            record = None
            if recipe.parent is None or recipe.parent in ids:
                key = build_key(self._plan, recipe, ids.get(recipe.parent or ""))
                record = self._records.find(key)
            self._check_name(recipe, record)
            if record is not None and record.manifest_id is not None:
                ids[recipe.name] = record.manifest_id
            else:
                work[recipe.name] = work_s(recipe, self._plan.train.epochs) + self._measuring_s()
        return work

    def _check_name(self, recipe: Recipe, record: BuildRecord | None) -> None:
        """Hold the registry against what this plan would build under the recipe's name."""
        try:
            taken = self._folder.registry.variant(self._plan.model.name, recipe.name)
        except NotFound:
            return
        if record is not None and record.manifest_id is not None:
            planned = self._folder.store.manifest(record.manifest_id)
            if taken.artifact_digest == planned.artifact.digest:
                return
        raise Conflict(
            f"{self._plan.path}: variant {recipe.name!r} of {self._plan.model.name!r} exists and "
            "was built from another plan, model file, data or tool version; variants are "
            "immutable: rename the recipe or use another data folder"
        )

    def hold_plan_against_model(self) -> None:
        """Raise `Invalid` where a technique does not suit the model."""
        self._plan.hold_against(self._staged().workshop.anatomy())

    def one(self, recipe: Recipe) -> Outcome:
        """Build, gate and publish one recipe, unless that is done."""
        parent = None if recipe.parent is None else self._built.get(recipe.parent)
        if recipe.parent is not None and parent is None:
            outcome = self._outcome(recipe, "failed", f"its parent {recipe.parent!r} was not built")
        else:
            outcome = self._with_parent(recipe, parent)
        self.outcomes[recipe.name] = outcome
        return outcome

    def _with_parent(self, recipe: Recipe, parent: Built | None) -> Outcome:
        key = build_key(self._plan, recipe, parent.manifest_id if parent else None)
        with self._records.lock(key):
            record = self._records.find(key)
            if record is None or record.manifest_id is None:
                staged = self._staged()
                try:
                    record = self._make(recipe, key, parent, staged)
                except Exception as error:
                    return self._failed(recipe, key, error, staged.source.note)
            return self._decided(recipe, record, parent)

    def _make(self, recipe: Recipe, key: str, parent: Built | None, staged: Stage) -> BuildRecord:
        """Make, measure and record one variant."""
        started = datetime.now(UTC)
        parent_id = parent.manifest_id if parent else None
        made = staged.workshop.make(
            recipe, key, parent, lambda doing, s: self._watch.phase(recipe.name, doing, s)
        )
        measured = trial.run(
            trial.Request(
                path=made.path,
                spec=staged.source.spec,
                runtimes=runtimes.installed(),
                evaluations=staged.evaluations,
                keep_scores=True,
                threads=self._plan.profile.threads,
                effort=self._plan.profile.effort,
            ),
            self._watch.phase(recipe.name, "measuring", self._measuring_s()),
        )
        scores = {
            split: Scores(values=values, labels=rows.labels)
            for split, rows in staged.source.data.evaluated.items()
            if (values := measured.scores.get(split)) is not None
        }
        self._records.put_scores(key, scores)
        evaluated = self._evaluated(staged, made, scores, is_reference=parent is None)
        artifact = self._folder.store.put_file(made.path)
        steps = tuple(step.record for step in recipe.steps)
        if parent is not None and parent.parent is not None:
            # A chain's manifest tells the whole way from the reference.
            steps = (*self._folder.store.manifest(parent.manifest_id).recipe, *steps)
        used = tools(self._plan, recipe)
        ended = datetime.now(UTC)
        manifest = Manifest(
            id=manifest_id(
                model=self._plan.model.name,
                variant=recipe.name,
                parent=parent_id,
                recipe=steps,
                tools=used,
                artifact=artifact,
            ),
            model=self._plan.model.name,
            variant=recipe.name,
            parent=parent_id,
            recipe=steps,
            tools=used,
            artifact=artifact,
            runtime=measured.runtime,
            accuracy=measured.accuracy["test"],
            profiles=measured.profiles,
            build_key=key,
            build_s=(ended - started).total_seconds(),
            created_at=ended.isoformat(timespec="seconds"),
            evaluation=evaluated,
            sensitivity=made.sensitivity,
        )
        self._folder.store.put_manifest(manifest)
        record = BuildRecord(
            build_key=key,
            model=manifest.model,
            variant=recipe.name,
            status="built",
            note=staged.source.note,
            manifest_id=manifest.id,
            selection=measured.accuracy["selection"],
            finished_at=manifest.created_at,
        )
        self._records.put(record)
        return record

    def _evaluated(
        self, staged: Stage, made: Made, scores: Mapping[str, Scores], *, is_reference: bool
    ) -> Evaluation:
        """What the scores say. Raises `Drifted` where the file is not the module it came from."""
        drift = None
        if made.answers is not None:
            served = scores["selection"].values[: len(made.answers)]
            drift = evaluate.drift(served, made.answers, held=made.exact)
        paired = None
        if not is_reference and self._reference is not None:
            paired = self._records.scores(self._reference.build_key, "test")
        return evaluate.evaluation(
            scores["test"],
            staged.source.spec.labels,
            reference=self._plan.reference.name,
            reference_test=paired,
            drift=drift,
        )

    def renew_cascades(self) -> None:
        """Calibrate the cascades among all active variants, and let the outcomes show them."""
        model, wanted = self._plan.model.name, self._plan.cascades.max_drop_points
        if not any(outcome.good for outcome in self.outcomes.values()):
            return
        with self._records.lock(digest_json(["cascades", model])):
            renewed = cascades.renew(self._folder, self._records, model, wanted)
        for name, outcome in self.outcomes.items():
            if outcome.manifest is not None and (found := renewed.get(name)) is not None:
                self.outcomes[name] = replace(outcome, manifest=found)

    def _decided(self, recipe: Recipe, record: BuildRecord, parent: Built | None) -> Outcome:
        """Gate a built variant and publish it."""
        assert record.manifest_id is not None
        manifest = self._folder.store.manifest(record.manifest_id)
        reference = self._reference if recipe.parent is not None else record
        reason = refusal(self._plan.gates, record, reference)
        if record.reason != reason:
            record = replace(record, reason=reason)
            self._records.put(record)
        if reason:
            return self._outcome(recipe, "refused", reason, record.note, manifest)
        fresh = publish(self._folder, manifest, is_reference=recipe.parent is None)
        if recipe.parent is None:
            self._reference = record
        self._built[recipe.name] = Built(
            recipe=recipe,
            key=record.build_key,
            manifest_id=manifest.id,
            artifact=self._folder.store.blob_path(manifest.artifact.digest),
            parent=parent,
        )
        return Outcome(
            model=manifest.model,
            variant=recipe.name,
            status="published" if fresh else "skipped",
            note=record.note,
            manifest=manifest,
        )

    def _failed(self, recipe: Recipe, key: str, error: Exception, note: str) -> Outcome:
        name = "" if isinstance(error, GearshiftError) else f"{type(error).__name__}: "
        reason = f"{name}{error}".strip().splitlines()[0]
        self._records.put(
            BuildRecord(
                build_key=key,
                model=self._plan.model.name,
                variant=recipe.name,
                status="failed",
                reason=reason,
                note=note,
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
        return self._outcome(recipe, "failed", reason, note)

    def _outcome(
        self,
        recipe: Recipe,
        status: Status,
        reason: str,
        note: str = "",
        manifest: Manifest | None = None,
    ) -> Outcome:
        return Outcome(
            model=self._plan.model.name,
            variant=recipe.name,
            status=status,
            reason=reason,
            note=note,
            manifest=manifest,
        )

    def _staged(self) -> Stage:
        """The source, loaded at the first need, with its model known to the registry."""
        if self._stage is None:
            self._stage = stage.prepare(self._plan, self._folder, self._records, self._scratch)
        return self._stage

    def _measuring_s(self) -> float:
        """About how long a variant is measured, in seconds: batches, evaluation, process starts."""
        batches = len(BATCHES) * self._plan.profile.seconds
        return len(runtimes.installed()) * (batches + 1.5) + 2
