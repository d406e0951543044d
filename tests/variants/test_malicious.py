"""Files made by an adversary, without a gateway; what needs a trial is in `tests/faults`."""

import re
from pathlib import Path

import pytest

from tests import models
from tests.variants.malicious import ARTIFACTS, EVALUATIONS, Malice, MaliceInData
from variants import evaluation
from variants.artifact import REJECTIONS, check_format, check_onnx, check_signature
from variants.errors import ArtifactRejected, Invalid

UNTRIED = [malice for malice in ARTIFACTS if malice.stage != "trial"]


def test_the_set_is_large_and_no_two_files_of_it_are_alike(tmp_path: Path) -> None:
    assert len({malice.name for malice in ARTIFACTS}) == len(ARTIFACTS) >= 60
    assert len({malice.content(tmp_path) for malice in ARTIFACTS}) >= 60


@pytest.mark.parametrize("malice", UNTRIED, ids=lambda malice: malice.name)
def test_a_malicious_file_is_refused_for_its_reason_and_never_runs(
    malice: Malice, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / malice.name
    path.write_bytes(malice.content(canary))
    with pytest.raises(ArtifactRejected, match=malice.words) as refused:
        if malice.stage == "format":
            check_format(path)
        else:
            check_format(path)  # it takes more than this to see what is wrong
            spec = models.tiny_spec()
            check_signature(check_onnx(path), spec.inputs, spec.outputs)
    assert re.fullmatch(malice.code, refused.value.code)
    assert refused.value.code in REJECTIONS
    assert len(str(refused.value)) <= ArtifactRejected.MAX_MESSAGE
    assert str(refused.value).isprintable()
    assert not canary.exists()


@pytest.mark.parametrize("malice", EVALUATIONS, ids=lambda malice: malice.name)
def test_malicious_data_is_refused(malice: MaliceInData, tmp_path: Path) -> None:
    path = tmp_path / "evaluation"
    path.write_bytes(malice.content)
    with pytest.raises(Invalid, match=malice.words):
        evaluation.load(path)
