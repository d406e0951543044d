"""One variant's whole record, and its only serialised form.

A manifest is immutable. Its `id` covers what the variant *is* (parent, recipe, tool versions,
artifact); measurements are evidence about it and do not change the id.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from variants.errors import Invalid
from variants.evidence import Alike, Cascade, Evaluation, LayerSensitivity
from variants.profile import Accuracy, Profile
from variants.spec import Name

SCHEMA_VERSION: Literal[1] = 1
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One link of a recipe: a technique with its configuration."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    technique: Name
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """The bytes that a runtime loads."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    digest: Digest
    size_bytes: Annotated[int, Field(gt=0)]
    format: Literal["onnx"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What one variant is, where it came from and what was measured about it.

    `accuracy` is None for a variant that was never evaluated; such a variant is never used
    for a hard accuracy constraint. `runtime` names the runtime whose profile was best here.
    `build_key` identifies the work that led to it, so that a build can skip what it has done.
    `cascades` lead from this variant to better ones; `evaluation` is None where no build made it,
    `alike` where no gate held it against a reference.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    id: Digest
    model: Name
    variant: Name
    parent: Digest | None
    recipe: tuple[Step, ...]
    tools: Mapping[str, str]
    artifact: Artifact
    runtime: str
    accuracy: Accuracy | None
    profiles: tuple[Profile, ...]
    build_key: Digest | None
    build_s: float | None = None
    created_at: str
    evaluation: Evaluation | None = None
    sensitivity: tuple[LayerSensitivity, ...] = ()
    cascades: tuple[Cascade, ...] = ()
    alike: Alike | None = None

    @property
    def technique(self) -> str:
        """The recipe in one word, such as `distilled+int8`; `uploaded` where none is known."""
        return "+".join(step.technique for step in self.recipe) or "uploaded"

    @property
    def profile(self) -> Profile | None:
        """The profile on the chosen runtime."""
        return next((p for p in self.profiles if p.runtime == self.runtime), None)


_adapter: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def digest_json(value: object) -> str:
    """SHA-256 of the value's canonical JSON (sorted keys, no spaces; after RFC 8785)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_id(
    *,
    model: str,
    variant: str,
    parent: str | None,
    recipe: tuple[Step, ...],
    tools: Mapping[str, str],
    artifact: Artifact,
) -> str:
    """The identity of a variant: SHA-256 over its names, parent, recipe, tools and artifact.

    The names are part of it, because the same bytes may be registered twice under two names.
    """
    steps = [{"technique": step.technique, "config": dict(step.config)} for step in recipe]
    return digest_json(
        {
            "model": model,
            "variant": variant,
            "parent": parent,
            "recipe": steps,
            "tools": dict(tools),
            "artifact": artifact.digest,
        }
    )


def dumps(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return _adapter.dump_json(manifest, indent=2) + b"\n"


def loads(data: bytes) -> Manifest:
    """The manifest in `data`. Raises `Invalid` naming the field that is wrong."""
    try:
        return _adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"manifest field {field!r}: {first['msg']}", field=field) from error
