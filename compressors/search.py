"""Looks for better recipes than those of the plan: chains of techniques and their knobs.

    found = search(plan, folder, goal.parse("accuracy>=ref-1pp, minimise=latency"), budget_s=1800)

One trial is a chain of torch steps; whatever it gives is finished in every way that works on the
exported file (int8, fp16, …), because that costs seconds where training costs minutes. Trials are
proposed by Optuna's multi-objective TPE sampler. Source: Y. Ozaki et al., "Multiobjective
tree-structured Parzen estimator" (2022).

A trial ends early where its untrained form is already slower (larger, …) than a variant that will
do, or where a quarter of its training leaves it far below the floor. Accuracy is that of the
selection split; the test rows are looked at once, when the front is published.

The study is a journal in the data folder, so a killed search goes on from its last whole trial.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from compressors import pareto, stage, techniques, training
from compressors.build import SILENT, build
from compressors.build_key import build_key, source_digest
from compressors.findings import Candidate, Found, as_toml
from compressors.goal import Goal
from compressors.outcome import Outcome, Watch
from compressors.pareto import Point
from compressors.plan import Plan, Recipe, TypedStep
from compressors.proposals import NONE, Proposals, Stopped
from compressors.records import Records
from compressors.workshop import Built
from variants import runtimes, trial
from variants.data_folder import DataFolder
from variants.errors import GearshiftError, Invalid
from variants.manifest import digest_json
from variants.measure import Effort, Progress
from variants.profile import Accuracy, Profile

FIRST_SHARE = 0.25
"""Share of the training after which a chain must be near the floor."""
FIRST_MARGIN = 0.10
"""How far below the floor, from 0 to 1, is too far then."""
EFFORT = Effort(seconds=0.2, samples=30)
SLACK = 1.25
"""An untrained form that exceeds the best variant's number by this factor is not trained."""


def search(
    plan: Plan,
    folder: DataFolder,
    goal: Goal,
    *,
    budget_s: float,
    trials: float = math.inf,
    watch: Watch = SILENT,
) -> Found:
    """Build the plan, search for `budget_s` seconds, and publish the front of what was found.

    `trials` ends it earlier, after so many. The trial in hand when the time is over is the last.
    Raises `Invalid` where the reference was not built.
    """
    by_hand = build(plan, folder, watch=watch)
    if not by_hand[0].good:
        raise Invalid(f"the reference {plan.reference.name!r} was not built: {by_hand[0].reason}")
    records = Records(folder.root)
    study_id = digest_json(
        [source_digest(plan), plan.train.model_dump(mode="json"), plan.seed, asdict(goal)]
    )
    with (
        tempfile.TemporaryDirectory(prefix="gearshift-search-") as scratch,
        records.lock(study_id),
    ):
        run = _Search(plan, folder, goal, scratch=Path(scratch), watch=watch)
        journal = folder.root / "builds" / f"{study_id}.study"
        tried, stopped = run.explore(journal, time.monotonic() + budget_s, trials)
        chosen = run.front()
        outcomes: tuple[Outcome, ...] = ()
        if chosen:
            extended = replace(plan, recipes=(*plan.recipes, *(c.recipe for c in chosen)))
            names = [candidate.recipe.name for candidate in chosen]
            outcomes = tuple(
                outcome
                for outcome in build(extended, folder, only=names, watch=watch)
                if outcome.variant in names
            )
            (folder.root / "builds" / f"{plan.model.name}.found.toml").write_text(
                as_toml([candidate.recipe for candidate in chosen]), encoding="utf-8"
            )
        return Found(
            outcomes=outcomes,
            by_hand=run.best(run.by_hand(by_hand)),
            searched=chosen[0] if chosen else None,
            trials=tried,
            stopped_early=stopped,
        )


class _Search:
    """The trials of one search."""

    def __init__(
        self, plan: Plan, folder: DataFolder, goal: Goal, *, scratch: Path, watch: Watch
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._goal = goal
        self._records = records = Records(folder.root)
        self._watch = watch
        self._scratch = scratch
        self._stage = stage.prepare(plan, folder, records, scratch)
        self._proposals = Proposals(plan, self._stage.source, self._stage.workshop.anatomy())
        key = build_key(plan, plan.reference, None)
        record = records.find(key)
        assert record is not None and record.manifest_id is not None
        assert record.selection is not None
        manifest = folder.store.manifest(record.manifest_id)
        self._reference = Built(
            recipe=plan.reference,
            key=key,
            manifest_id=manifest.id,
            artifact=folder.store.blob_path(manifest.artifact.digest),
            parent=None,
        )
        self._floor = goal.floor(record.selection.value)
        self._endings: tuple[str, ...] = tuple(self._proposals.names("onnx"))
        self.candidates: list[Candidate] = []

    def explore(self, journal: Path, deadline: float, most: float) -> tuple[int, int]:
        """Run at most `most` trials until the deadline; returns how many, and how many of them
        ended early.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="search",
            sampler=optuna.samplers.TPESampler(seed=self._plan.seed),
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        for old in study.get_trials(deepcopy=False):
            if old.state == TrialState.RUNNING:
                study.tell(old.number, state=TrialState.FAIL)
            self.candidates.extend(self._restored(old.user_attrs.get("candidates", [])))
        if not study.get_trials(deepcopy=False):
            for names in self._proposals.openings():
                study.enqueue_trial(names)
        stopped = 0
        count = 0
        while count < most and time.monotonic() < deadline:
            proposed = study.ask()
            count += 1
            try:
                made = self._try(self._proposals.chain(proposed), deadline)
            except Stopped as why:
                stopped += 1
                proposed.set_user_attr("stopped", str(why))
                study.tell(proposed, state=TrialState.PRUNED)
                continue
            except GearshiftError as error:
                proposed.set_user_attr("failed", str(error))
                study.tell(proposed, state=TrialState.FAIL)
                continue
            proposed.set_user_attr("candidates", [self._stored(c) for c in made])
            self.candidates.extend(made)
            best = self.best(made) or max(made, key=lambda c: c.accuracy.value)
            study.tell(proposed, [best.accuracy.value, best.value])
        return count, stopped

    def front(self) -> list[Candidate]:
        """The candidates that reach the floor, that no other beats and that the plan has not."""
        planned = [recipe.steps for recipe in self._plan.recipes]
        good = [
            c
            for c in self.candidates
            if c.accuracy.value >= self._floor and c.recipe.steps not in planned
        ]
        points = [Point(accuracy=c.accuracy.value, latency_s=c.value) for c in good]
        unique = {c.recipe.name: c for c, on in zip(good, pareto.front(points), strict=True) if on}
        return sorted(unique.values(), key=lambda candidate: candidate.value)

    def best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The candidate with the smallest number among those that reach the floor."""
        good = [c for c in candidates if c.accuracy.value >= self._floor]
        return min(good, key=lambda c: c.value, default=None)

    def by_hand(self, outcomes: Sequence[Outcome]) -> list[Candidate]:
        """The plan's own variants, measured in the same terms."""
        recipes = {recipe.name: recipe for recipe in self._plan.recipes}
        found = []
        for outcome in outcomes:
            manifest = outcome.manifest
            if manifest is None or manifest.build_key is None or manifest.profile is None:
                continue
            record = self._records.find(manifest.build_key)
            if record is None or record.selection is None:
                continue
            value = self._number(manifest.profile, manifest.artifact.size_bytes)
            recipe = recipes[outcome.variant]
            found.append(Candidate(recipe=recipe, accuracy=record.selection, value=value))
        return found

    def _number(self, profile: Profile, size_bytes: int) -> float:
        """What the goal makes small: seconds at batch 1, or bytes."""
        return {
            "latency": profile.latency_s[1].p50,
            "size": float(size_bytes),
            "memory": float(profile.memory_bytes),
        }[self._goal.minimise]

    def _try(self, steps: tuple[TypedStep, ...], deadline: float) -> list[Candidate]:
        """Every way to finish this chain. Raises `Stopped` where it is not worth its training."""
        if not steps:
            made = self._finished(steps, self._reference.artifact)
            self._keep_endings(made)
            return made
        self._hold_untrained(steps)
        started = time.monotonic()
        self._hold_briefly_trained(steps)
        left = deadline - time.monotonic()
        if (needed := (time.monotonic() - started) / FIRST_SHARE) > left:
            raise Stopped(f"its training would take {needed:.0f} s, and {left:.0f} s are left")
        recipe = self._recipe(steps)
        key = build_key(self._plan, recipe, self._reference.manifest_id)
        built = self._stage.workshop.make(recipe, key, self._reference, self._phase(recipe))
        return self._finished(steps, built.path)

    def _hold_untrained(self, steps: tuple[TypedStep, ...]) -> None:
        best = self.best(self.candidates)
        if best is None:
            return
        recipe = self._recipe(tuple(_trained_for(step, 0.0) for step in steps))
        with self._forgotten(recipe) as key:
            built = self._stage.workshop.make(recipe, key, self._reference, self._phase(recipe))
            values = [c.value for c in self._finished(recipe.steps, built.path, trained=False)]
        if min(values) > SLACK * best.value:
            raise Stopped(
                f"{self._goal.minimise} {min(values):.4g} at best, "
                f"{best.recipe.name} has {best.value:.4g}"
            )

    def _hold_briefly_trained(self, steps: tuple[TypedStep, ...]) -> None:
        recipe = self._recipe(tuple(_trained_for(step, FIRST_SHARE) for step in steps))
        with self._forgotten(recipe) as key:
            module = self._stage.workshop.module(recipe, key, self._reference, self._phase(recipe))
        rows = self._stage.source.data.selection
        answers = training.logits(module, rows, self._stage.workshop.bench).argmax(1).numpy()
        accuracy = float((answers == rows.labels).mean())
        if accuracy < self._floor - FIRST_MARGIN:
            raise Stopped(f"accuracy {accuracy:.4f} after {FIRST_SHARE:.0%} of its training")

    def _finished(
        self, steps: tuple[TypedStep, ...], path: Path, *, trained: bool = True
    ) -> list[Candidate]:
        """The file as it is and after each ending, measured; without those that fail."""
        made: list[Candidate] = []
        why: list[str] = []
        for ending in (NONE, *self._endings):
            last: tuple[TypedStep, ...] = ()
            at = path
            if ending != NONE:
                last = (TypedStep(technique=ending, config=techniques.find(ending).Config()),)
            elif not steps:
                continue
            recipe = self._recipe((*steps, *last))
            try:
                if last:
                    at = self._stage.workshop.convert(
                        last[0], path, self._scratch / "ending.onnx", self._phase(recipe)
                    )
                made.append(self._measured(recipe, at, trained))
                if trained and last:
                    self._share_weights(steps, recipe)
            except (GearshiftError, ValueError, RuntimeError) as error:
                why.append(f"{ending}: {error}")  # what a file cannot become is no candidate
        if not made:
            raise Stopped(f"no runtime takes what the chain makes ({'; '.join(why)})")
        return made

    def _share_weights(self, steps: tuple[TypedStep, ...], recipe: Recipe) -> None:
        """Let the whole recipe's build find the weights that its torch steps were trained to."""
        chain = build_key(self._plan, self._recipe(steps), self._reference.manifest_id)
        key = build_key(self._plan, recipe, self._reference.manifest_id)
        for number in range(len(steps)):
            target = self._records.weights_path(key, number)
            if not target.exists():
                target.hardlink_to(self._records.weights_path(chain, number))

    def _measured(self, recipe: Recipe, path: Path, trained: bool) -> Candidate:
        evaluations = {"selection": self._stage.evaluations["selection"]} if trained else {}
        result = trial.run(
            trial.Request(
                path=path,
                spec=self._stage.source.spec,
                runtimes=runtimes.installed(),
                evaluations=evaluations,
                threads=self._plan.profile.threads,
                effort=EFFORT,
            ),
            self._phase(recipe)("measuring", 5.0),
        )
        profile = next(p for p in result.profiles if p.runtime == result.runtime)
        value = self._number(profile, path.stat().st_size)
        accuracy = result.accuracy["selection"] if trained else Accuracy.of(0, 1)
        return Candidate(recipe=recipe, accuracy=accuracy, value=value)

    def _keep_endings(self, made: list[Candidate]) -> None:
        """Keep the endings that made the reference's number smaller."""
        profile = self._folder.store.manifest(self._reference.manifest_id).profile
        assert profile is not None
        whole = self._number(profile, self._reference.artifact.stat().st_size)
        self._endings = tuple(c.recipe.steps[-1].technique for c in made if c.value < whole)

    def _recipe(self, steps: tuple[TypedStep, ...]) -> Recipe:
        """The chain under a name that tells its techniques and differs with every knob."""
        told = "+".join(step.technique for step in steps) or self._plan.reference.name
        digest = digest_json([asdict(step.record) for step in steps])[:6]
        return Recipe(
            name=f"{told[:56]}-{digest}",
            parent=self._plan.reference.name,
            steps=steps,
            index=len(self._plan.recipes),
        )

    @contextmanager
    def _forgotten(self, recipe: Recipe) -> Iterator[str]:
        """The recipe's build key; the weights that are stored under it are removed again."""
        key = build_key(self._plan, recipe, self._reference.manifest_id)
        try:
            yield key
        finally:
            for number in range(len(recipe.steps)):
                self._records.weights_path(key, number).unlink(missing_ok=True)

    def _phase(self, recipe: Recipe) -> Callable[[str, float], Progress]:
        return lambda doing, work: self._watch.phase(recipe.name, doing, work)

    def _stored(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "steps": [asdict(step.record) for step in candidate.recipe.steps],
            "accuracy": asdict(candidate.accuracy),
            "value": candidate.value,
        }

    def _restored(self, stored: list[dict[str, Any]]) -> Iterator[Candidate]:
        for one in stored:
            steps = tuple(
                TypedStep(
                    technique=step["technique"],
                    config=techniques.find(step["technique"]).Config(**step["config"]),
                )
                for step in one["steps"]
            )
            yield Candidate(
                recipe=self._recipe(steps),
                accuracy=Accuracy(**one["accuracy"]),
                value=one["value"],
            )


def _trained_for(step: TypedStep, share: float) -> TypedStep:
    return replace(step, config=replace(step.config, epochs=step.config.epochs * share))
